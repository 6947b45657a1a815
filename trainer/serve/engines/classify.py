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
        logits_BK = self._model(**batch).logits.float().cpu()
        return [told(row, self._kind, self._labels) for row in logits_BK]


def told(logits_K: torch.Tensor, kind: str, labels: list[str]) -> dict[str, Any]:
    """What one row of logits says, as `wire.Classified` without its index."""
    if kind == "regression":
        return {"label": None, "probs": [], "num_classes": 0, "score": float(logits_K[0])}
    if kind == "multi_label_classification":
        probs = logits_K.sigmoid().tolist()
        held = [name for name, p in zip(labels, probs, strict=True) if p >= HOLDS]
        return {"label": _likeliest(probs, labels), "probs": probs, "num_classes": len(labels), "labels": held}
    probs = logits_K.softmax(0).tolist()
    return {"label": _likeliest(probs, labels), "probs": probs, "num_classes": len(labels)}


def _likeliest(probs: list[float], labels: list[str]) -> str:
    return labels[max(range(len(probs)), key=probs.__getitem__)]


def load(run: Servable, base: Path | None) -> Classify:
    model, tokenizer = recipe.load(run.folder.model, base)
    return Classify(model, tokenizer, run.arguments["max_length"])
