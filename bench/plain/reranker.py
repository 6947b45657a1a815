"""A cross-encoder as sentence-transformers' documentation shows it."""

from _common import ASKED, ROWS, Clock, arguments
from datasets import Dataset
from sentence_transformers import CrossEncoder, CrossEncoderTrainer, CrossEncoderTrainingArguments
from sentence_transformers.cross_encoder.losses import BinaryCrossEntropyLoss
from transformers import set_seed

set_seed(ASKED["seed"])
model = CrossEncoder(ASKED["model_name_or_path"], num_labels=1, max_length=ASKED["max_length"])
trainer = CrossEncoderTrainer(
    model=model,
    args=CrossEncoderTrainingArguments(**arguments(learning_rate=2e-5, warmup_steps=0.06, weight_decay=0.01)),
    train_dataset=Dataset.from_dict({name: [row[name] for row in ROWS] for name in ("query", "document", "label")}),
    loss=BinaryCrossEntropyLoss(model),
    callbacks=[Clock()],
)
trainer.train()
