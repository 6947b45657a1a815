"""An NDJSON export: a checkpoint, then events, each with what its proof adds to those of the lines before it.

Every line is RFC 8785 JSON, so it has one spelling: what is hashed is what stands there, for every reader. A proof goes
up from the event only until it meets a node that an earlier line has proven (`Walk`); of a whole log that is one hash a
line, and the first line that does not fit is known when it is read. Written by the registry, checked offline by anybody
who holds the log's keys. The manifest in the last line is `enforcer.exports`.
"""

import binascii
import json
from collections import deque
from collections.abc import Generator, Iterable, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from multiprocessing import get_context
from typing import Any

import orjson

from enforcer import canonical, tlog
from enforcer.keys import KeySet
from enforcer.tiles import HASH_BYTES
from enforcer.tlog import EMPTY_ROOT, Frontier, Head, LogInvalid, node_hash

CHUNK = 2_000


@dataclass(frozen=True)
class Verified:
    """What an export was found to hold. `whole` when it holds every entry of the log up to the checkpoint."""

    head: Head
    events: int
    whole: bool


# --- writing ----------------------------------------------------------------------------------------------------------


def head_line(note: str) -> bytes:
    """The first line: the checkpoint that all proofs lead to."""
    return _line({"checkpoint": note})


def event_line(index: int, event: Mapping[str, Any], path: Iterable[bytes]) -> bytes:
    """`path` holds the hashes of the siblings that `Walk.to` names; one text of base64 holds all of them."""
    proof = binascii.b2a_base64(b"".join(path), newline=False).decode()
    return _line({"event": event, "index": index, "proof": proof})


def manifest_line(token: str) -> bytes:
    """The last line."""
    return _line({"manifest": token})


def _line(record: dict[str, Any]) -> bytes:
    return canonical.dumps(record) + b"\n"


class Walk:
    """The ways to the entries of a log, in the order of an export: the same for who writes it and for who checks it."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._known: dict[int, int] = {}  # by level: the node right of the last way that left it on the left

    def to(self, index: int) -> tuple[list[tuple[int, int]], int | None]:
        """The siblings, as level and position, that lead up from an entry, and the level of the node where an earlier
        way is met; None when they lead to the root (RFC 9162 section 2.1.3.2)."""
        siblings: list[tuple[int, int]] = []
        level, position, last = 0, index, self._size - 1
        while last:
            if position & 1:
                if self._known.get(level) == position:
                    return siblings, level
                siblings.append((level, position - 1))
            elif position < last:  # the last node of a level without a partner moves up unchanged
                siblings.append((level, position + 1))
                self._known[level] = position + 1
            level, position, last = level + 1, position >> 1, last >> 1
        return siblings, None


# --- checking ---------------------------------------------------------------------------------------------------------


def verify(lines: Iterable[bytes], keys: KeySet, *, outside: Sequence[Head] = (), processes: int = 1) -> Verified:
    """Check an export offline: the checkpoint's signature, then each event's inclusion in the tree it signs.

    With more than one of `processes` others read the lines, and what is found is the same. They are started afresh, so
    a script that asks for them needs the `__main__` guard of `multiprocessing`.

    `outside` are verified checkpoints that the auditor brings: this log must begin with each of them. Only an export of
    the whole log can show that, unless they are of the same size.

    Raises:
        LogInvalid: naming the first line that does not fit.
    """
    with closing(_read_in_order(lines, processes)) as found:
        return _follow(found, keys, outside)


def _follow(records: Iterable["_Record"], keys: KeySet, outside: Sequence[Head]) -> Verified:
    log: _Log | None = None
    ended = False
    for number, record in enumerate(records, start=1):
        try:
            if isinstance(record, tuple) and log is not None and not ended:
                log.take(record)
            elif isinstance(record, _Checkpoint) and log is None:
                log = _Log(tlog.open_checkpoint(record.note, keys), outside)
            elif isinstance(record, _Manifest) and log is not None and not ended:
                ended = True
            elif record is not None:
                raise LogInvalid(record.reason if isinstance(record, _Unreadable) else _MISPLACED)
        except LogInvalid as error:
            raise LogInvalid(f"line {number}: {error}") from error
    if log is None:
        raise LogInvalid("the export is empty: it must begin with a checkpoint")
    return log.verified()


def _read_in_order(lines: Iterable[bytes], processes: int) -> Generator["_Record"]:
    """What each line holds, read here or by other processes. Little is read ahead, so it needs no memory."""
    if processes < 2:
        yield from map(_read, lines)
        return
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
        lines, ahead = iter(lines), deque[Future[list[_Record]]]()
        while chunk := list(islice(lines, CHUNK)):
            ahead.append(pool.submit(_read_all, chunk))
            if len(ahead) > 2 * processes:
                yield from ahead.popleft().result()
        while ahead:
            yield from ahead.popleft().result()


def _read_all(chunk: list[bytes]) -> list["_Record"]:
    return [_read(line) for line in chunk]


_MISPLACED = "not a record of an export at this place: first a checkpoint, then events, at last the manifest"
_Entry = tuple[int, str, bytes, bytes]  # index, event's id, leaf hash, proof; no class, since there are millions


@dataclass(frozen=True)
class _Checkpoint:
    note: str


@dataclass(frozen=True)
class _Manifest:
    token: str  # `enforcer.exports` checks it


@dataclass(frozen=True)
class _Unreadable:
    reason: str


_Record = _Checkpoint | _Entry | _Manifest | _Unreadable | None  # None: an empty line


def _read(line: bytes) -> _Record:
    """All that can be said of a line by itself."""
    if line in (b"\n", b""):
        return None
    try:
        record, write = _parse(line)
        if len(record) == 3:
            return _entry_of(record["event"], record["index"], record["proof"], write)
        names = record.keys()
        if names == {"checkpoint"} and type(record["checkpoint"]) is str:
            return _Checkpoint(record["checkpoint"])
        if names == {"manifest"} and type(record["manifest"]) is str:
            return _Manifest(record["manifest"])
    except LogInvalid as error:
        return _Unreadable(str(error))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        return _Unreadable(f"not a record of an export: {error!r}")
    return _Unreadable(_MISPLACED)


def _parse(line: bytes) -> tuple[Any, tlog.Writer]:
    """The line's JSON, and what writes just what stands there."""
    record = orjson.loads(line)
    try:
        if _write(record) + b"\n" == line:
            return record, _write
    except orjson.JSONEncodeError:
        pass
    record = json.loads(line, parse_int=_number)
    if canonical.dumps(record) != line.removesuffix(b"\n"):
        raise LogInvalid("not as RFC 8785 spells it: a name stands twice, or the line was written anew")
    return record, canonical.dumps


def _number(digits: str) -> int | float:
    """RFC 8785 writes floats up to 1e21 without a point; beyond 2^53 a whole number was one."""
    number = int(digits)
    return number if abs(number) < 2**53 else float(number)


_SORTED = orjson.OPT_SORT_KEYS | orjson.OPT_STRICT_INTEGER  # refuses what is beyond 2^53


def _write(document: dict[str, Any]) -> bytes:
    """RFC 8785 but for floats and names that are not ASCII. It may stand for the true form wherever it gives the line
    as it is: what is hashed then are the bytes that stand there, and the log's hashes are of the true form only."""
    return orjson.dumps(document, None, _SORTED)


def _entry_of(event: Any, index: Any, proof: str, write: tlog.Writer) -> _Entry:
    if type(index) is not int:
        raise ValueError("`index` is a whole number")
    return index, event["id"], tlog.leaf_hash(tlog.entry(event, write)), _path_of(proof) if proof != "" else b""


def _path_of(proof: str) -> bytes:
    path = binascii.a2b_base64(proof, strict_mode=True)
    if binascii.b2a_base64(path, newline=False) != proof.encode():
        raise ValueError("`proof` is base64, in its one spelling")
    return path


class _Log:
    """The log as far as the lines have shown it."""

    def __init__(self, head: Head, outside: Sequence[Head]) -> None:
        self._head, self._size = head, head.size
        self._roots = _roots_of(outside, head)
        self._walk = Walk(head.size)
        self._right: dict[int, bytes] = {}  # by level: the hash of the node that the walk remembers
        self._edge = Frontier()
        self._first = 0  # so many entries from the start, without a gap
        self._beyond: set[int] = set()

    def take(self, entry: _Entry) -> None:
        """Raises `LogInvalid` when this is not the log's entry at that place, or was here before."""
        index, event_id, leaf, path = entry
        if not 0 <= index < self._size:
            raise LogInvalid(f"index {index} is outside a log of {self._size} entries")
        if index < self._first or index in self._beyond:
            raise LogInvalid(f"entry {index} stands twice")
        siblings, met = self._walk.to(index)
        if len(path) != HASH_BYTES * len(siblings):
            short = len(path) < HASH_BYTES * len(siblings)
            raise LogInvalid(f"the proof of entry {index} is too {'short' if short else 'long'}")
        node, start = leaf, 0
        for level, position in siblings:
            sibling = path[start : start + HASH_BYTES]
            start += HASH_BYTES
            if position & 1:
                node = node_hash(node, sibling)
                self._right[level] = sibling
            else:
                node = node_hash(sibling, node)
        if node != (self._head.root if met is None else self._right[met]):
            raise LogInvalid(f"event `{event_id}` is not in the log as it stands here")
        if index != self._first:
            self._beyond.add(index)
            return
        self._first += 1
        if self._roots:
            self._compare(leaf)

    def _compare(self, leaf: bytes) -> None:
        self._edge.append(leaf)
        size = self._edge.size
        if self._roots.pop(size, None) not in (None, self._edge.root):
            raise LogInvalid(f"the log's first {size} entries are not those of the checkpoint you hold")

    def verified(self) -> Verified:
        if self._roots:
            raise LogInvalid(
                f"the export is not of the whole log up to {min(self._roots)} entries, so it cannot be compared with "
                "the checkpoint you hold; export the whole log, or check the database"
            )
        events = self._first + len(self._beyond)
        return Verified(self._head, events, events == self._head.size)


def _roots_of(outside: Sequence[Head], head: Head) -> dict[int, bytes]:
    """The roots still to be met, by size."""
    roots: dict[int, bytes] = {}
    for known in outside:
        if known.size > head.size:
            raise LogInvalid(
                f"the log went backwards: {head.size} entries, and you hold a checkpoint over {known.size}"
            )
        if roots.setdefault(known.size, known.root) != known.root:
            raise LogInvalid(f"the checkpoints that you hold over {known.size} entries contradict each other")
    if roots.pop(0, EMPTY_ROOT) != EMPTY_ROOT or roots.pop(head.size, head.root) != head.root:
        raise LogInvalid(f"the log is not the one of the checkpoint you hold over {head.size} entries")
    return roots
