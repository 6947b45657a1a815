"""What the engines share that read texts: a device, and a tokenizer that is theirs alone."""

import copy
from collections.abc import Hashable, Sequence
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging as logging_of_transformers

logging_of_transformers.disable_progress_bar()  # a log is no terminal


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


class TextEngine:
    """Any batch will do, and inputs are counted as the model's tokenizer reads them."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_tokens: int) -> None:
        self.max_tokens = max_tokens
        self._counter = copy.deepcopy(tokenizer)

    def key(self, _item: Any) -> Hashable:
        return None

    def count(self, items: Sequence[Any]) -> list[int]:
        """Texts, or pairs of texts that are read together."""
        pairs = items if items and isinstance(items[0], tuple) else [(text, None) for text in items]
        first, second = [a for a, _ in pairs], [b for _, b in pairs]
        read = self._counter(first, second if second[0] is not None else None, truncation=False, verbose=False)
        return [len(ids) for ids in read["input_ids"]]
