"""Classification as transformers' documentation shows it."""

from _common import ASKED, ROWS, Clock, arguments
from datasets import Dataset
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
    set_seed,
)  # fmt: skip

set_seed(ASKED["seed"])
tokenizer = AutoTokenizer.from_pretrained(ASKED["model_name_or_path"])
encoded = tokenizer([row["text"] for row in ROWS], truncation=True, max_length=ASKED["max_length"])
labels = [ASKED["label_names"].index(row["label"]) for row in ROWS]
trainer = Trainer(
    model=AutoModelForSequenceClassification.from_pretrained(
        ASKED["model_name_or_path"], num_labels=len(ASKED["label_names"]), dtype="float32"
    ),
    args=TrainingArguments(**arguments(learning_rate=2e-5, warmup_steps=0.06, weight_decay=0.01)),
    train_dataset=Dataset.from_dict({**encoded, "labels": labels}),
    data_collator=DataCollatorWithPadding(tokenizer),
    callbacks=[Clock()],
)
trainer.train()
