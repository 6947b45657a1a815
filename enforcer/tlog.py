"""The audit log as a Merkle tree: what is in it can be proven, what is changed in it shows.

Tree hashing and inclusion proofs are those of RFC 6962 section 2.1; the signed head is a C2SP tlog-checkpoint (a
signed note with an Ed25519 line). An entry is the RFC 8785 form of the event without its personal part, for which a
salted hash stands: so a name can be erased from the books, salt and all, and every proof stays valid.
"""

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import rfc8785
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from enforcer.keys import KeySet, Signer

EMPTY_ROOT = hashlib.sha256(b"").digest()


class LogInvalid(Exception):
    """A checkpoint, proof or export that does not hold; the message names the first thing that does not fit."""


# What may speak of people. `ERASED` is what stands there when salt and values are gone.
PERSONAL = ("actor", "groups", "reason", "detail")
ERASED: dict[str, Any] = {"actor": "erased", "groups": [], "reason": None, "detail": {}}


def personal_hash(salt: str, event: Mapping[str, Any]) -> str:
    """`sha256:SHA-256(salt || JCS(personal part))`, salt in hex. Without the salt nobody can try names."""
    personal = {name: event[name] for name in PERSONAL}
    return f"sha256:{hashlib.sha256(bytes.fromhex(salt) + rfc8785.dumps(personal)).hexdigest()}"


def entry(event: Mapping[str, Any]) -> bytes:
    """The log entry of an event in the JSON form of `wire.Event`.

    Raises:
        LogInvalid: its personal part is neither what was hashed nor erased.
    """
    if event["salt"] is None:
        fits = all(event[name] == value for name, value in ERASED.items())
    else:
        fits = personal_hash(event["salt"], event) == event["personal_hash"]
    if not fits:
        raise LogInvalid(f"event `{event['id']}`: its personal part is not what was logged")
    return rfc8785.dumps({"v": 1, **{name: value for name, value in event.items() if name not in (*PERSONAL, "salt")}})


def leaf_hash(entry: bytes) -> bytes:
    """RFC 6962 section 2.1: `SHA-256(0x00 || entry)`."""
    return hashlib.sha256(b"\x00" + entry).digest()


def _node_hash(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


class Tree:
    """All levels of the tree over given leaf hashes, for roots and inclusion proofs at their full size."""

    def __init__(self, leaves: Iterable[bytes]) -> None:
        self._levels: list[list[bytes]] = [list(leaves)]
        while len(self._levels[-1]) > 1:
            below = self._levels[-1]
            pairs = [_node_hash(below[i], below[i + 1]) for i in range(0, len(below) - 1, 2)]
            # An odd node moves up unchanged: the same tree as RFC 6962's split at the largest power of two.
            self._levels.append(pairs + below[-1:] * (len(below) % 2))

    def __len__(self) -> int:
        return len(self._levels[0])

    @property
    def root(self) -> bytes:
        return self._levels[-1][0] if self._levels[-1] else EMPTY_ROOT

    def proof(self, index: int) -> list[bytes]:
        """The audit path of one leaf, deepest sibling first (RFC 6962 section 2.1.1)."""
        path = []
        for level in self._levels[:-1]:
            sibling = index ^ 1
            if sibling < len(level):
                path.append(level[sibling])
            index //= 2
        return path


def root_of_path(leaf: bytes, index: int, size: int, path: Sequence[bytes]) -> bytes:
    """The root that an audit path leads to (RFC 9162 section 2.1.3.2).

    Raises:
        LogInvalid: the path has the wrong length for this index and size.
    """
    if not 0 <= index < size:
        raise LogInvalid(f"index {index} is outside a log of {size} entries")
    node, position, last = leaf, index, size - 1
    for sibling in path:
        if last == 0:
            raise LogInvalid(f"the proof of entry {index} is too long")
        if position % 2 or position == last:
            node = _node_hash(sibling, node)
            while position % 2 == 0 and position:
                position, last = position // 2, last // 2
        else:
            node = _node_hash(node, sibling)
        position, last = position // 2, last // 2
    if last != 0:
        raise LogInvalid(f"the proof of entry {index} is too short")
    return node


@dataclass(frozen=True)
class Head:
    """A verified checkpoint."""

    origin: str
    size: int
    root: bytes
    kid: str


def sign_checkpoint(origin: str, size: int, root: bytes, key: Signer) -> str:
    """A C2SP signed note: origin, size, root, and one Ed25519 signature line named by the key id."""
    body = f"{origin}\n{size}\n{base64.b64encode(root).decode()}\n"
    signature = key.sign(body.encode())
    public = KeySet.of(key).raw(key.kid)
    assert public is not None, "log keys are always Ed25519"
    line = base64.b64encode(_key_hash(key.kid, public) + signature).decode()
    return f"{body}\n\u2014 {key.kid} {line}\n"


_NOTE = re.compile(
    r"(?P<body>(?P<origin>[^\n]+)\n(?P<size>0|[1-9][0-9]{0,17})\n(?P<root>[A-Za-z0-9+/=]{44})\n)"
    r"\n(?P<lines>(?:\u2014 \S+ \S+\n)+)"
)


def open_checkpoint(note: str, keys: KeySet) -> Head:
    """Check a checkpoint against pinned keys.

    Raises:
        LogInvalid: not a checkpoint, or signed by nobody in `keys`.
    """
    match = _NOTE.fullmatch(note)
    if match is None:
        raise LogInvalid("the checkpoint is not a signed note")
    for line in match["lines"].splitlines():
        _, kid, encoded = line.split(" ")
        public = keys.raw(kid)
        if public is None:
            continue
        try:
            blob = base64.b64decode(encoded, validate=True)
            if blob[:4] != _key_hash(kid, public):
                continue
            public.verify(blob[4:], match["body"].encode())
        except (binascii.Error, InvalidSignature):
            raise LogInvalid(f"the checkpoint's signature by `{kid}` does not hold") from None
        return Head(match["origin"], int(match["size"]), base64.b64decode(match["root"]), kid)
    raise LogInvalid("the checkpoint is signed by no key that this verifier knows")


@dataclass(frozen=True)
class Verified:
    """What an export was found to hold. `whole` when it holds every entry of the log up to the checkpoint."""

    head: Head
    events: int
    whole: bool


def export_head(note: str) -> str:
    """The first line of an NDJSON export: the checkpoint that all its proofs lead to."""
    return _line({"checkpoint": note})


def export_line(index: int, event: Mapping[str, Any], path: Sequence[bytes]) -> str:
    return _line({"index": index, "event": event, "proof": [base64.b64encode(node).decode() for node in path]})


def verify_export(lines: Iterable[str], keys: KeySet) -> Verified:
    """Check an export offline: the checkpoint's signature, then each event's inclusion in the tree it signs.

    Raises:
        LogInvalid: naming the first line that does not fit.
    """
    head: Head | None = None
    seen: set[int] = set()
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            if head is None:
                head = open_checkpoint(record["checkpoint"], keys)
                continue
            if record.keys() == {"manifest"}:  # the last line, which `enforcer.exports` checks
                continue
            if not isinstance(record["event"], dict) or not isinstance(record["index"], int):
                raise ValueError("`event` is an object and `index` a number")
            index, path = record["index"], [base64.b64decode(node, validate=True) for node in record["proof"]]
            root = root_of_path(leaf_hash(entry(record["event"])), index, head.size, path)
        except LogInvalid as error:
            raise LogInvalid(f"line {number}: {error}") from error
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise LogInvalid(f"line {number} is not a record of an export: {error!r}") from error
        if root != head.root:
            raise LogInvalid(f"line {number}: event `{record['event'].get('id')}` is not in the log as it stands here")
        if index in seen:
            raise LogInvalid(f"line {number}: entry {index} stands twice")
        seen.add(index)
    if head is None:
        raise LogInvalid("the export is empty: it must begin with a checkpoint")
    return Verified(head, len(seen), len(seen) == head.size)


def _key_hash(kid: str, public: Ed25519PublicKey) -> bytes:
    """C2SP signed-note key id: SHA-256(name || LF || 0x01 || key), first four bytes."""
    return hashlib.sha256(kid.encode() + b"\n\x01" + public.public_bytes_raw()).digest()[:4]


def _line(record: dict[str, Any]) -> str:
    return json.dumps(record, ensure_ascii=False, separators=(",", ":")) + "\n"
