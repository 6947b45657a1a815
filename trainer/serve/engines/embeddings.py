"""Texts as vectors: sentence-transformers' `encode`, nothing around it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from trainer.recipes import embedding as recipe
from trainer.serve.accepted import Servable
from trainer.serve.engines._texts import TextEngine


class Embeddings(TextEngine):
    def __init__(self, model: Any) -> None:
        super().__init__(model.tokenizer, model.max_seq_length)
        self._model = model
        self.width: int = model.get_embedding_dimension()

    @torch.inference_mode()
    def answer(self, items: Sequence[str]) -> Sequence[Any]:
        vectors = self._model.encode(list(items), batch_size=len(items), convert_to_numpy=True, show_progress_bar=False)
        return [*vectors]


def load(run: Servable, base: Path | None) -> Embeddings:
    """Pooling and normalisation stand in the model folder, as training left them."""
    return Embeddings(recipe.load(run.folder.model, base))
