"""What a safetensors file says of itself: names, kinds and shapes of its tensors, and whether it is all there.

Only the header is read (8 bytes of length, then JSON: github.com/huggingface/safetensors, "Format"), so a file of 14 GB
takes a millisecond and no library.
"""

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path

LENGTH = struct.Struct("<Q")
MAX_HEADER = 100_000_000  # what the format's own reader takes


class Broken(ValueError):
    """The file is no safetensors file, or not the whole of it; the message is the end of a sentence."""


@dataclass(frozen=True)
class Tensor:
    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        return prod(self.shape)


def tensors(path: Path) -> list[Tensor]:
    """The tensors of one file.

    Raises:
        Broken: another format, a broken header, or fewer bytes than the header speaks of.
    """
    has = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(LENGTH.size)
        if len(start) < LENGTH.size:
            raise Broken(f"has {has} bytes, which is no safetensors file")
        (length,) = LENGTH.unpack(start)
        if length > MAX_HEADER:
            raise Broken("does not begin as a safetensors file does")
        header = file.read(length)
    if len(header) < length:
        raise Broken(f"is cut off inside its header ({has:,} bytes)")
    try:
        described = json.loads(header)
        described.pop("__metadata__", None)
        found = [Tensor(name, str(one["dtype"]), tuple(map(int, one["shape"]))) for name, one in described.items()]
        needs = LENGTH.size + length + max((int(one["data_offsets"][1]) for one in described.values()), default=0)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise Broken("has a header that cannot be read") from error
    if has != needs:
        raise Broken(
            f"has {has:,} bytes, and its header speaks of {needs:,}: {'cut off' if has < needs else 'too long'}"
        )
    return found


def all_tensors(folder: Path) -> Iterator[Tensor]:
    """The tensors of every safetensors file right in a folder."""
    for path in sorted(folder.glob("*.safetensors")):
        yield from tensors(path)
