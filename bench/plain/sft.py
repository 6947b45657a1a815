"""Supervised fine-tuning as TRL's documentation shows it."""

from _common import ASKED, ROWS, Clock, arguments
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed
from trl import SFTConfig, SFTTrainer

set_seed(ASKED["seed"])
rows = [
    {
        "prompt": [{"role": "user", "content": row["prompt"]}],
        "completion": [{"role": "assistant", "content": row["completion"]}],
    }
    for row in ROWS
]
lora = LoraConfig(task_type="CAUSAL_LM", r=16, lora_alpha=32, lora_dropout=0.0, target_modules="all-linear")
trainer = SFTTrainer(
    model=AutoModelForCausalLM.from_pretrained(ASKED["model_name_or_path"], dtype="float32"),
    args=SFTConfig(
        **arguments(
            learning_rate=ASKED.get("learning_rate", 1e-4), lr_scheduler_type="cosine",
            warmup_steps=0.03, weight_decay=0.0,
        ),
        max_length=ASKED["max_length"], gradient_checkpointing=False,
    ),
    train_dataset=Dataset.from_list(rows),
    processing_class=AutoTokenizer.from_pretrained(ASKED["model_name_or_path"]),
    peft_config=lora if ASKED["use_lora"] else None,
    callbacks=[Clock()],
)  # fmt: skip
trainer.train()
