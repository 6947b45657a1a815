"""Texts as labels: the classifier's logits, through the function that its loss goes with.

single label   softmax (cross-entropy); the likeliest
multi label    sigmoid (binary cross-entropy); all at or above 0.5
regression     the logit itself (mean squared error)

`PretrainedConfig.problem_type` says which; transformers' text-classification pipeline does the same.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from trainer.recipes import sequence_classification as recipe
from trainer.serve.accepted import Servable
from trainer.serve.engines._texts import TextEngine, device

HOLDS = 0.5


class Classify(TextEngine):
    def __init__(self, model: Any, tokenizer: Any, max_tokens: int) -> None:
        super().__init__(tokenizer, max_tokens)
        self._model, self._tokenizer = model.to(device()), tokenizer
        config = model.config
        self._kind = config.problem_type or "single_label_classification"
        self._labels: list[str] = [config.id2label[i] for i in range(config.num_labels)]

    @torch.inference_mode()
    def answer(self, items: Sequence[str]) -> Sequence[dict[str, Any]]:
        batch = self._tokenizer(
            list(items), truncation=True, max_length=self.max_tokens, padding=True, return_tensors="pt"
        ).to(self._model.device)
        return [self._told(row) for row in self._model(**batch).logits.float().cpu()]

    def _told(self, logits_K: torch.Tensor) -> dict[str, Any]:
        classes = len(self._labels)
        if self._kind == "regression":
            values = logits_K.tolist()
            return {"label": None, "probs": [], "num_classes": 0, "score": values[0] if classes == 1 else None}
        if self._kind == "multi_label_classification":
            probs = logits_K.sigmoid().tolist()
            held = [name for name, p in zip(self._labels, probs, strict=True) if p >= HOLDS]
            return {"label": self._likeliest(probs), "probs": probs, "num_classes": classes, "labels": held}
        probs = logits_K.softmax(0).tolist()
        return {"label": self._likeliest(probs), "probs": probs, "num_classes": classes}

    def _likeliest(self, probs: list[float]) -> str:
        return self._labels[max(range(len(probs)), key=probs.__getitem__)]


def load(run: Servable, base: Path | None) -> Classify:
    model, tokenizer = recipe.load(run.folder.model, base)
    return Classify(model, tokenizer, run.arguments["max_length"])
