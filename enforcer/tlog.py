"""The audit log as a Merkle tree: what is in it can be proven, what is changed in it shows.

Tree hashing and proofs are those of RFC 6962 section 2.1, checked here and made in `enforcer.tiles`; the signed head is
a C2SP tlog-checkpoint, a proof on its own a C2SP tlog-proof. An entry is the RFC 8785 form of the event without its
personal part, for which a salted hash stands: so a name can be erased from the books, salt and all, and every proof
stays valid. Only `LogInvalid` leaves this file, whatever comes in.
"""

import base64
import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from enforcer import canonical, notes
from enforcer.keys import KeySet, Signer
from enforcer.local import is_loopback_url
from enforcer.notes import LogInvalid as LogInvalid, Note, NoteKey, Witnesses

EMPTY_ROOT = hashlib.sha256(b"").digest()
LOCAL = "localhost/tlog"

# What may speak of people. `ERASED` is what stands there when salt and values are gone.
PERSONAL = ("actor", "groups", "reason", "detail")
ERASED: dict[str, Any] = {"actor": "erased", "groups": [], "reason": None, "detail": {}}
Writer = Callable[[dict[str, Any]], bytes]


def personal_hash(salt: str, event: Mapping[str, Any]) -> str:
    """`sha256:SHA-256(salt || JCS(personal part))`, salt in hex. Without the salt nobody can try names."""
    return _salted(bytes.fromhex(salt), canonical.dumps({name: event[name] for name in PERSONAL}))


def entry(event: Mapping[str, Any], write: Writer = canonical.dumps) -> bytes:
    """The log entry of an event in the JSON form of `wire.Event`. A reader that knows how it
    is spelt brings a quicker writer than that of RFC 8785.

    Raises:
        LogInvalid: its personal part is neither what was hashed nor erased, or it holds a member that no event has.
    """
    logged, personal = {**event, "v": 1}, {}
    for name in PERSONAL:
        personal[name] = logged.pop(name)
    salt = logged.pop("salt")
    if salt is None:
        fits = personal == ERASED
    else:
        raw = bytes.fromhex(salt)
        fits = _salted(raw, write(personal)) == logged["personal_hash"] and raw.hex() == salt
    if not fits:
        raise LogInvalid(f"event `{event['id']}`: its personal part is not what was logged")
    if "v" in event:
        raise LogInvalid(f"event `{event['id']}` has a member `v`, which only its entry in the log has")
    return write(logged)


def entry_as_hashed(event: Mapping[str, Any]) -> bytes:
    """The log entry of an event whose `personal_hash` is taken as it stands: for whoever has just made it."""
    logged = {**event, "v": 1}
    for name in (*PERSONAL, "salt"):
        del logged[name]
    return canonical.dumps(logged)


def _salted(salt: bytes, personal: bytes) -> str:
    return f"sha256:{hashlib.sha256(salt + personal).hexdigest()}"


def leaf_hash(entry: bytes) -> bytes:
    """RFC 6962 section 2.1: `SHA-256(0x00 || entry)`."""
    return hashlib.sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


class Frontier:
    """The right edge of a tree that only grows: the root at any moment from at most one hash a level."""

    def __init__(self) -> None:
        self.size = 0
        self._edge: list[tuple[int, bytes]] = []

    def append(self, leaf: bytes) -> None:
        height, node = 0, leaf
        while self._edge and self._edge[-1][0] == height:
            node = node_hash(self._edge.pop()[1], node)
            height += 1
        self._edge.append((height, node))
        self.size += 1

    @property
    def root(self) -> bytes:
        if not self._edge:
            return EMPTY_ROOT
        root = self._edge[-1][1]
        for _, node in self._edge[-2::-1]:
            root = node_hash(node, root)
        return root


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
            node = node_hash(sibling, node)
            while position % 2 == 0 and position:
                position, last = position // 2, last // 2
        else:
            node = node_hash(node, sibling)
        position, last = position // 2, last // 2
    if last != 0:
        raise LogInvalid(f"the proof of entry {index} is too short")
    return node


def check_consistency(old: int, old_root: bytes, size: int, root: bytes, path: Sequence[bytes]) -> None:
    """That the log of `size` entries begins with the one of `old` entries (RFC 9162 section 2.1.4.2).

    Raises:
        LogInvalid: it does not, the proof is none, or `old` is 0: the empty log proves nothing about any other.
    """
    if not 0 < old <= size:
        raise LogInvalid(f"a log of {size} entries is not the continuation of one of {old}")
    if old == size:
        if path or old_root != root:
            raise LogInvalid(f"two logs of {size} entries have different roots")
        return
    # A log whose size is a power of two is a node of the larger tree, so its root is not sent.
    path = [old_root, *path] if old & (old - 1) == 0 else list(path)
    position, last = old - 1, size - 1
    while position % 2:
        position, last = position // 2, last // 2
    if not path:
        raise LogInvalid("the consistency proof is empty")
    was = now = path[0]
    for node in path[1:]:
        if last == 0:
            raise LogInvalid("the consistency proof is too long")
        if position % 2 or position == last:
            was, now = node_hash(node, was), node_hash(node, now)
            while position % 2 == 0 and position:
                position, last = position // 2, last // 2
        else:
            now = node_hash(now, node)
        position, last = position // 2, last // 2
    if last != 0 or was != old_root or now != root:
        raise LogInvalid(f"the log of {size} entries does not continue the one of {old}")


# --- checkpoints and proofs -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Head:
    """A verified checkpoint, and the id of the key that signed it."""

    origin: str
    size: int
    root: bytes
    kid: str


_CHECKPOINT = re.compile(
    r"(?P<origin>[^\n]{1,300})\n(?P<size>0|[1-9][0-9]{0,17})\n(?P<root>[A-Za-z0-9+/=]{44})\n(?:[^\n]+\n)*"
)


def origin_of(issuer: str) -> str:
    """The first line of every checkpoint: which log this is (C2SP: a URL without its scheme). On loopback an address
    names nothing to anybody else, and its port changes from start to start: such a log is `LOCAL`, told by its keys."""
    return LOCAL if is_loopback_url(issuer) else f"{issuer.partition('://')[2]}/tlog"


def sign_checkpoint(origin: str, size: int, root: bytes, key: Signer) -> str:
    """A C2SP tlog-checkpoint: origin, size, root, and the log's signature under its origin."""
    text = f"{origin}\n{size}\n{base64.b64encode(root).decode()}\n"
    return f"{text}\n{notes.sign(text, origin, key)}\n"


def read_checkpoint(note: Note) -> Head:
    """What a checkpoint says, whoever signed it; for those who check the signature by themselves.

    Raises:
        LogInvalid: not a checkpoint.
    """
    match = _CHECKPOINT.fullmatch(note.text)
    root = notes.b64decode(match["root"], "the checkpoint's root") if match else b""
    if match is None or len(root) != 32:
        raise LogInvalid("the signed note is not a checkpoint: origin, size, root")
    return Head(match["origin"], int(match["size"]), root, kid="")


def open_checkpoint(note: str, keys: KeySet, *, witnesses: Witnesses | None = None) -> Head:
    """Check a checkpoint against pinned keys of the log, and cosignatures where a quorum of them is asked for.

    Raises:
        LogInvalid: not a checkpoint, signed by nobody in `keys`, or by too few of the witnesses.
    """
    parsed = Note.parse(note)
    head = read_checkpoint(parsed)
    for kid in keys:
        public = keys.raw(kid)
        if public is not None and parsed.signed_at(NoteKey(head.origin, notes.ED25519, public)) is not None:
            if witnesses is not None:
                witnesses.check(parsed)
            return replace(head, kid=kid)
    raise LogInvalid("the checkpoint is signed by no key that this verifier knows")


PROOF_FORMAT = "c2sp.org/tlog-proof@v1"
MAX_PROOF_LENGTH = 256 * 1024


@dataclass(frozen=True)
class Proof:
    """A `.tlog-proof` (C2SP tlog-proof): that `extra`, the bytes of an entry, stands at `index` under a checkpoint."""

    index: int
    path: tuple[bytes, ...]
    checkpoint: str
    extra: bytes | None

    def write(self) -> str:
        lines = [PROOF_FORMAT]
        if self.extra is not None:
            lines.append(f"extra {base64.b64encode(self.extra).decode()}")
        lines.append(f"index {self.index}")
        lines += [base64.b64encode(node).decode() for node in self.path]
        return "\n".join(lines) + "\n\n" + self.checkpoint

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the form, and check nothing else.

        Raises:
            LogInvalid: not in this form.
        """
        top, _, checkpoint = text.partition("\n\n")
        lines = top.split("\n")
        if len(text) > MAX_PROOF_LENGTH or lines.pop(0) != PROOF_FORMAT:
            raise LogInvalid(f"this is not a `{PROOF_FORMAT}`")
        extra = None
        if lines and lines[0].startswith("extra "):
            extra = notes.b64decode(lines.pop(0).removeprefix("extra "), "the proof's extra data")
        index = re.fullmatch(r"index (0|[1-9][0-9]{0,17})", lines.pop(0), re.ASCII) if lines else None
        path = tuple(notes.b64decode(line, "a line of the proof") for line in lines)
        if index is None or len(path) > 63 or any(len(node) != 32 for node in path):
            raise LogInvalid("the proof needs an index line and at most 63 hashes")
        return cls(int(index[1]), path, checkpoint, extra)

    def verify(self, keys: KeySet, *, origin: str, witnesses: Witnesses | None = None) -> "Logged":
        """Check the checkpoint, that it is of this log, and that `extra` stands in it.

        Raises:
            LogInvalid: naming the first of these that does not hold.
        """
        head = open_checkpoint(self.checkpoint, keys, witnesses=witnesses)
        if head.origin != origin:
            raise LogInvalid(f"the proof is of the log `{head.origin}`, not of `{origin}`")
        if self.extra is None:
            raise LogInvalid("the proof does not bring the entry that it proves")
        if root_of_path(leaf_hash(self.extra), self.index, head.size, self.path) != head.root:
            raise LogInvalid(f"the entry is not at {self.index} in the log as it stands in the checkpoint")
        try:
            entry = json.loads(self.extra)
        except (ValueError, RecursionError) as error:
            raise LogInvalid("the entry is not JSON") from error
        if not isinstance(entry, dict):
            raise LogInvalid("the entry is not an event")
        return Logged(head, self.index, entry)


@dataclass(frozen=True)
class Logged:
    """An entry that is proven to stand in the log."""

    head: Head
    index: int
    entry: dict[str, Any]
