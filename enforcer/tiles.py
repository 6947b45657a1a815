"""The Merkle tree in tiles (C2SP tlog-tiles): any root and any proof from a handful of short, cacheable byte strings.

A tile holds up to 256 hashes of one level of the tree, and each hash of level L + 1 is the root of a full tile of level
L. Full tiles never change; the one at the right edge of each level grows. Roots and proofs are those of RFC 6962
section 2.1 (RFC 9162 section 2.1), whatever tiles they were computed from.
"""

import re
import struct
from collections.abc import Callable, Iterable, Sequence

from enforcer.notes import LogInvalid
from enforcer.tlog import EMPTY_ROOT, node_hash

HEIGHT = 8
WIDTH = 1 << HEIGHT
HASH_BYTES = 32
MAX_UNFOLDED = 256
ReadTile = Callable[[int, int, int], bytes | None]
"""`(level, index, width)` -> the first `width` hashes of that tile, or None when there is none."""


class Tiles:
    """A log of `size` entries. Tiles are read when they are needed, once.

    Whatever is asked raises `LogInvalid` when a tile is missing or cut short; that its hashes are the right ones shows
    only against a signed root.
    """

    def __init__(self, size: int, read: ReadTile) -> None:
        self.size = size
        self._read = read
        self._tiles: dict[tuple[int, int], bytes] = {}
        self._unfolded: dict[tuple[int, int], list[list[bytes]]] = {}

    @property
    def root(self) -> bytes:
        return self._root_of(0, self.size) if self.size else EMPTY_ROOT

    def inclusion(self, index: int) -> list[bytes]:
        """The audit path of one entry, deepest sibling first (RFC 9162 section 2.1.3.1)."""
        if not 0 <= index < self.size:
            raise LogInvalid(f"entry {index} is outside a log of {self.size} entries")
        path, start, end = [], 0, self.size
        while end - start > 1:
            middle = start + _split(end - start)
            if index < middle:
                path.append(self._root_of(middle, end))
                end = middle
            else:
                path.append(self._root_of(start, middle))
                start = middle
        return path[::-1]

    def node(self, level: int, position: int) -> bytes:
        """The hash of the node over the entries from `position << level`, as many as there are below it."""
        start = position << level
        if not 0 <= start < self.size:
            raise LogInvalid(f"node {position} of level {level} is outside a log of {self.size} entries")
        return self._root_of(start, min(start + (1 << level), self.size))

    def consistency(self, old: int) -> list[bytes]:
        """That the log of `old` entries is the beginning of this one (RFC 9162 section 2.1.4.1)."""
        if not 0 < old <= self.size:
            raise LogInvalid(f"a log of {self.size} entries cannot be shown to continue one of {old}")
        path, start, end, whole = list[bytes](), 0, self.size, True
        while old != end:
            middle = start + _split(end - start)
            if old <= middle:
                path.append(self._root_of(middle, end))
                end = middle
            else:
                path.append(self._root_of(start, middle))
                start, whole = middle, False
        return ([] if whole else [self._root_of(start, end)]) + path[::-1]

    def grown(self, leaves: Sequence[bytes]) -> dict[tuple[int, int], bytes]:
        """The tiles, by level and index, that appending these leaf hashes makes or widens. Nothing is changed here."""
        changed: dict[tuple[int, int], bytes] = {}
        level, count, added = 0, self.size, b"".join(leaves)
        while added:
            first, width = divmod(count, WIDTH)
            hashes = (self._tile(level, first) if width else b"") + added
            roots = []
            for index, start in enumerate(range(0, len(hashes), WIDTH * HASH_BYTES), start=first):
                tile = changed[level, index] = hashes[start : start + WIDTH * HASH_BYTES]
                if len(tile) == WIDTH * HASH_BYTES:
                    roots.append(_unfold(tile)[HEIGHT][0])
            level, count, added = level + 1, count // WIDTH, b"".join(roots)
        return changed

    def _root_of(self, start: int, end: int) -> bytes:
        """The hash of entries `[start, end)`, which begin where a subtree of their number begins."""
        parts = []
        while start < end:
            height = (end - start).bit_length() - 1
            parts.append(self._node(height, start >> height))
            start += 1 << height
        root = parts.pop()
        while parts:
            root = node_hash(parts.pop(), root)
        return root

    def _node(self, height: int, index: int) -> bytes:
        level, above = divmod(height, HEIGHT)
        tile, offset = divmod(index << above, WIDTH)
        if above == 0:
            start = offset * HASH_BYTES
            return self._tile(level, tile)[start : start + HASH_BYTES]
        levels = self._unfolded.get((level, tile))
        if levels is None:
            if len(self._unfolded) >= MAX_UNFOLDED:  # proofs in order of index need each tile for a while, then no more
                del self._unfolded[next(iter(self._unfolded))]
            levels = self._unfolded[level, tile] = _unfold(self._tile(level, tile))
        return levels[above][offset >> above]

    def _tile(self, level: int, index: int) -> bytes:
        found = self._tiles.get((level, index))
        if found is None:
            width = min((self.size >> (HEIGHT * level)) - index * WIDTH, WIDTH)
            read = self._read(level, index, width)
            if read is None or len(read) != width * HASH_BYTES:
                raise LogInvalid(f"tile {index} of level {level} is missing or not {width} hashes wide")
            found = self._tiles[level, index] = read
        return found


def in_memory(leaves: Iterable[bytes]) -> Tiles:
    """A whole log from its leaf hashes."""
    hashes = list(leaves)
    grown = Tiles(0, lambda *_: None).grown(hashes)

    def read(level: int, index: int, width: int) -> bytes | None:
        tile = grown.get((level, index))
        return tile and tile[: width * HASH_BYTES]

    return Tiles(len(hashes), read)


def tile_number(path: str) -> tuple[int, int]:
    """Index and width from `x001/x234/067` or `x001/x234/067.p/12`.

    Raises:
        LogInvalid: not the one spelling that C2SP tlog-tiles gives a tile.
    """
    match = re.fullmatch(r"(?P<index>(x[0-9]{3}/){0,5}[0-9]{3})(?:\.p/(?P<width>[1-9][0-9]{0,2}))?", path, re.ASCII)
    width = int(match["width"] or WIDTH) if match else 0
    index = int(match["index"].replace("x", "").replace("/", "")) if match else 0
    if match is None or width > WIDTH or (match["width"] and width == WIDTH) or tile_path(index, width) != path:
        raise LogInvalid(f"`{path[:80]}` is not a tile; it looks like `x001/234` or `x001/234.p/12`")
    return index, width


def tile_path(index: int, width: int = WIDTH) -> str:
    digits = f"{index % 1000:03}"
    while index := index // 1000:
        digits = f"x{index % 1000:03}/{digits}"
    return digits if width == WIDTH else f"{digits}.p/{width}"


def bundle(entries: Iterable[bytes]) -> bytes:
    """Entries as C2SP tlog-tiles serves them: each after its length, as two bytes."""
    return b"".join(struct.pack(">H", len(entry)) + entry for entry in entries)


def unbundle(content: bytes) -> list[bytes]:
    """Raises `LogInvalid` when the content ends within an entry."""
    entries, position = [], 0
    while position < len(content):
        start = position + 2
        position = start + int.from_bytes(content[position:start], "big")
        if position > len(content) or start > len(content):
            raise LogInvalid("the entry bundle ends within an entry")
        entries.append(content[start:position])
    return entries


def _split(count: int) -> int:
    """The largest power of two below `count`."""
    return 1 << ((count - 1).bit_length() - 1)


def _unfold(hashes: bytes) -> list[list[bytes]]:
    """The whole subtrees within a tile, level by level, its own hashes first."""
    levels = [[hashes[start : start + HASH_BYTES] for start in range(0, len(hashes), HASH_BYTES)]]
    while len(levels[-1]) > 1:
        below = levels[-1]
        levels.append([node_hash(below[at], below[at + 1]) for at in range(0, len(below) - 1, 2)])
    return levels
