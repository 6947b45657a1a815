"""Preferences as TRL's documentation shows it."""

from _common import ASKED, ROWS, Clock, arguments
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed
from trl import DPOConfig, DPOTrainer

set_seed(ASKED["seed"])
rows = [
    {
        "prompt": [{"role": "user", "content": row["prompt"]}],
        "chosen": [{"role": "assistant", "content": row["chosen"]}],
        "rejected": [{"role": "assistant", "content": row["rejected"]}],
    }
    for row in ROWS
]
trainer = DPOTrainer(
    model=AutoModelForCausalLM.from_pretrained(ASKED["model_name_or_path"], dtype="float32"),
    args=DPOConfig(
        **arguments(learning_rate=1e-5, lr_scheduler_type="cosine", warmup_steps=0.03, weight_decay=0.0),
        max_length=ASKED["max_length"],
        gradient_checkpointing=False,
        beta=0.1,
    ),
    train_dataset=Dataset.from_list(rows),
    processing_class=AutoTokenizer.from_pretrained(ASKED["model_name_or_path"]),
    peft_config=LoraConfig(task_type="CAUSAL_LM", r=16, lora_alpha=32, lora_dropout=0.0, target_modules="all-linear"),
    callbacks=[Clock()],
)
trainer.train()
