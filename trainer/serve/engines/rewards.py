"""Answers as rewards: each document behind the query, read as training read prompt and answer, and the model's logit.

An empty query reads the documents alone, as a run does that was trained on answers without prompts: a run specification
does not tell which it was.
"""

from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

import torch

from trainer.inputs.chat import Reader
from trainer.recipes import _language, reward_modeling as recipe
from trainer.serve.accepted import Servable
from trainer.serve.engines._texts import device

Pair = tuple[str, str]


class Rewards:
    """`counting` and `reading` are readers of one kind: fast tokenizers serve one thread each."""

    def __init__(self, model: Any, tokenizer: Any, readers: tuple[Reader, Reader], max_tokens: int) -> None:
        self.max_tokens = max_tokens
        self._model, self._padding = model.to(device()), tokenizer.pad_token_id
        self._counting, self._reading = readers

    def key(self, _item: Pair) -> Hashable:
        return None

    def count(self, items: Sequence[Pair]) -> list[int]:
        return [len(self._ids(self._counting, pair)) for pair in items]

    @torch.inference_mode()
    def answer(self, items: Sequence[Pair]) -> Sequence[float]:
        """In the model's own units: only differences mean something."""
        rows = [self._ids(self._reading, pair)[: self.max_tokens] for pair in items]
        ids_BT, seen_BT = _language.padded(rows, self._padding, self._model.device)
        rewards_B = self._model(input_ids=ids_BT, attention_mask=seen_BT, use_cache=False).logits.squeeze(-1)
        return [float(reward) for reward in rewards_B.float().cpu()]

    def _ids(self, reader: Reader, pair: Pair) -> Sequence[int]:
        return recipe.answer(reader, pair[0] or None, pair[1])


def load(run: Servable, base: Path | None) -> Rewards:
    model, tokenizer = recipe.load(run.folder.model, base)
    readers = Reader(run.folder.model), Reader(run.folder.model)
    return Rewards(model, tokenizer, readers, run.arguments["max_length"])
