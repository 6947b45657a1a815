"""Pairs of query and document as scores: sentence-transformers' `CrossEncoder.predict`, nothing around it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from trainer.recipes import reranker as recipe
from trainer.serve.accepted import Servable
from trainer.serve.engines._texts import TextEngine

Pair = tuple[str, str]


class Rerank(TextEngine):
    def __init__(self, model: Any) -> None:
        super().__init__(model.tokenizer, model.max_seq_length)
        self._model = model
        self._prompted = "message" in model[0].modality_config

    def count(self, items: Sequence[Pair]) -> list[int]:
        if not self._prompted:
            return super().count(items)
        texts = [recipe.PROMPT.format(query=query, document=document) for query, document in items]
        return [len(ids) for ids in self._counter(texts, truncation=False, add_special_tokens=False)["input_ids"]]

    @torch.inference_mode()
    def answer(self, items: Sequence[Pair]) -> Sequence[float]:
        """From 0 to 1: the sigmoid that the model was trained with."""
        scores = self._model.predict(list(items), batch_size=len(items), show_progress_bar=False)
        return [float(score) for score in scores]


def load(run: Servable, base: Path | None) -> Rerank:
    return Rerank(recipe.load(run.folder.model, base))
