"""How long the texts are in the model's own tokens, told before any training library loads.

Stands on `tokenizers` alone: about a second for 10,000 rows, where importing torch would take five.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

from trainer.inputs.folders import weights_folder
from trainer.job import Row

KEPT = 0.99
BATCH = 4_096


@dataclass(frozen=True)
class Lengths:
    """Token counts of the longest text of each row, special tokens included, ascending."""

    counts: Sequence[int]

    @property
    def longest(self) -> int:
        return self.counts[-1]

    def over(self, limit: int) -> int:
        return sum(count > limit for count in self.counts)

    def keeping(self, share: float = KEPT) -> int:
        """The smallest `max_length` that leaves this share of the rows whole."""
        return self.counts[ceil(share * len(self.counts)) - 1]

    def histogram(self) -> dict[str, int]:
        """Rows by the next power of two: `{"<=8": 3, "<=16": 40}`."""
        bins: dict[str, int] = {}
        for count in self.counts:
            name = f"<={1 << max(0, count - 1).bit_length()}"
            bins[name] = bins.get(name, 0) + 1
        return bins


class NoTokenizer(Exception):
    """Lengths cannot be counted here; the message says why."""


def measure(rows: Iterable[Row], text_columns: Sequence[str], model: Path, *, together: bool = False) -> list[int]:
    """Tokens of every row, in order: of its longest text, or of its texts read `together`, as one pair.

    Raises:
        NoTokenizer: no `tokenizer.json`, or the package `tokenizers` is not installed.
    """
    reader = tokenizer(model)
    held = [[row[column] for column in text_columns if column in row] for row in rows]
    if together:
        pairs = [(texts[0], texts[1]) if len(texts) > 1 else texts[0] for texts in held]
        return [len(tokens) for part in _batches(pairs) for tokens in reader.encode_batch_fast(part)]
    texts = list({text: None for row in held for text in row})
    count: dict[str, int] = {}
    for part in _batches(texts):
        count.update(zip(part, map(len, reader.encode_batch_fast(part)), strict=True))
    return [max(count[text] for text in row) for row in held]


def _batches(items: list[Any]) -> Iterator[list[Any]]:
    for start in range(0, len(items), BATCH):
        yield items[start : start + BATCH]


def tokenizer(model: Path) -> Any:
    """The fast tokenizer of a model folder, cutting and padding nothing.

    Raises:
        NoTokenizer: no `tokenizer.json`, or the package `tokenizers` is not installed.
    """
    path = weights_folder(model) / "tokenizer.json"
    if not path.is_file():
        raise NoTokenizer("the model folder has no `tokenizer.json`")
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise NoTokenizer("the package `tokenizers` is not installed") from None
    try:
        read = Tokenizer.from_file(str(path))
    except Exception as error:  # the Rust side raises bare Exception
        raise NoTokenizer(f"`{path}` cannot be read: {error}") from error
    read.no_truncation()
    read.no_padding()
    return read
