"""Embeddings as sentence-transformers' documentation shows it."""

from _common import ASKED, ROWS, Clock, arguments
from datasets import Dataset
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)  # fmt: skip
from sentence_transformers.base.sampler import BatchSamplers
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from transformers import set_seed

set_seed(ASKED["seed"])
model = SentenceTransformer(ASKED["model_name_or_path"])
model.max_seq_length = ASKED["max_length"]
trainer = SentenceTransformerTrainer(
    model=model,
    args=SentenceTransformerTrainingArguments(
        **arguments(learning_rate=2e-5, warmup_steps=0.06, weight_decay=0.01), batch_sampler=BatchSamplers.NO_DUPLICATES
    ),
    train_dataset=Dataset.from_dict({name: [row[name] for row in ROWS] for name in ("anchor", "positive")}),
    loss=MultipleNegativesRankingLoss(model, scale=20.0),
    callbacks=[Clock()],
)
trainer.train()
