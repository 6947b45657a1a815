"""An NDJSON export: a checkpoint, then events, each with the proof that it stands in the log under that checkpoint.

Written line by line by the registry, checked offline by anybody who holds the log's keys. The manifest in its last line
is `enforcer.exports`.
"""

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic_core import from_json

from enforcer.keys import KeySet
from enforcer.tlog import EMPTY_ROOT, Frontier, Head, LogInvalid, entry, leaf_hash, node_hash, open_checkpoint


@dataclass(frozen=True)
class Verified:
    """What an export was found to hold. `whole` when it holds every entry of the log up to the checkpoint."""

    head: Head
    events: int
    whole: bool


def head_line(note: str) -> str:
    """The first line: the checkpoint that all its proofs lead to."""
    return _line({"checkpoint": note})


def event_line(index: int, event: Mapping[str, Any], path: Sequence[bytes]) -> str:
    return _line({"index": index, "event": event, "proof": [base64.b64encode(node).decode() for node in path]})


def verify(lines: Iterable[str], keys: KeySet, *, outside: Sequence[Head] = ()) -> Verified:
    """Check an export offline: the checkpoint's signature, then each event's inclusion in the tree it signs.

    `outside` are verified checkpoints that the auditor brings: this log must begin with each of them. Only an export of
    the whole log can show that, unless they are of the same size.

    Raises:
        LogInvalid: naming the first line that does not fit.
    """
    head: Head | None = None
    seen: set[int] = set()
    edge = Frontier()
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = from_json(line)
            if head is None:
                head = open_checkpoint(record["checkpoint"], keys)
                included = _Included(head)
                roots = _roots_of(outside, head)
                continue
            if record.keys() == {"manifest"}:  # the last line, which `enforcer.exports` checks
                continue
            event, index = record["event"], record["index"]
            if not isinstance(event, dict) or type(index) is not int:
                raise ValueError("`event` is an object and `index` a number")
            leaf = leaf_hash(entry(event))
            fits = included.check(index, leaf, record["proof"])
        except LogInvalid as error:
            raise LogInvalid(f"line {number}: {error}") from error
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise LogInvalid(f"line {number} is not a record of an export: {error!r}") from error
        if not fits:
            raise LogInvalid(f"line {number}: event `{event.get('id')}` is not in the log as it stands here")
        if index in seen:
            raise LogInvalid(f"line {number}: entry {index} stands twice")
        seen.add(index)
        if index == edge.size and roots:
            edge.append(leaf)
            if edge.size in roots and roots.pop(edge.size) != edge.root:
                raise LogInvalid(f"the log's first {edge.size} entries are not those of the checkpoint you hold")
    if head is None:
        raise LogInvalid("the export is empty: it must begin with a checkpoint")
    if roots:
        raise LogInvalid(
            f"the export is not of the whole log up to {min(roots)} entries, so it cannot be compared with the "
            "checkpoint you hold; export the whole log, or check the database"
        )
    return Verified(head, len(seen), len(seen) == head.size)


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


class _Included:
    """Which leaves are in the tree. Neighbours prove each other: a path that meets a node which is already proven need
    not be walked to the root, so an export in order costs about one hash a line."""

    def __init__(self, head: Head) -> None:
        self._head = head
        self._proven: dict[int, tuple[int, bytes]] = {}  # by level: the node right of the last path

    def check(self, index: int, leaf: bytes, path: Sequence[str]) -> bool:
        """RFC 9162 section 2.1.3.2. Raises `LogInvalid` or `ValueError` when the path is none."""
        size = self._head.size
        if not 0 <= index < size:
            raise LogInvalid(f"index {index} is outside a log of {size} entries")
        level, node, position, last, used = 0, leaf, index, size - 1, 0
        right: list[tuple[int, int, bytes]] = []
        while last:
            if position == last and not position & 1:  # the last node of a level without a partner moves up unchanged
                level, position, last = level + 1, position >> 1, last >> 1
                continue
            proven = self._proven.get(level)
            if proven is not None and proven[0] == position:
                break
            if used == len(path):
                raise LogInvalid(f"the proof of entry {index} is too short")
            sibling = base64.b64decode(path[used], validate=True)
            used += 1
            if position & 1:
                node = node_hash(sibling, node)
            else:
                right.append((level, position + 1, sibling))
                node = node_hash(node, sibling)
            level, position, last = level + 1, position >> 1, last >> 1
        else:
            if used != len(path):
                raise LogInvalid(f"the proof of entry {index} is too long")
            proven = (0, self._head.root)
        if node != proven[1]:
            return False
        for at, place, sibling in right:
            self._proven[at] = (place, sibling)
        return True


def _line(record: dict[str, Any]) -> str:
    return json.dumps(record, ensure_ascii=False, separators=(",", ":")) + "\n"
