"""The Merkle tree by its definition, to hold ours against; and a log that tests may fork."""

import base64
import hashlib
from dataclasses import dataclass, field

from enforcer import tiles, tlog
from enforcer.keys import SigningKey
from enforcer.notes import NoteKey


def definition(leaves: list[bytes]) -> bytes:
    """MTH of RFC 6962 section 2.1, word for word."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    return hashlib.sha256(b"\x01" + definition(leaves[:split]) + definition(leaves[split:])).digest()


def leaves_of(count: int) -> list[bytes]:
    return [tlog.leaf_hash(b"%d" % number) for number in range(count)]


@dataclass
class Log:
    """Somebody's log, as large as it is asked to be."""

    origin: str = "registry.example/tlog"
    salt: bytes = b""
    signing: SigningKey = field(default_factory=SigningKey.generate)

    @property
    def key(self) -> NoteKey:
        return NoteKey.of(self.signing, self.origin)

    def tree(self, size: int) -> tiles.Tiles:
        return tiles.in_memory(tlog.leaf_hash(self.salt + b"%d" % number) for number in range(size))

    def note(self, size: int) -> str:
        return tlog.sign_checkpoint(self.origin, size, self.tree(size).root, self.signing)

    def request(self, old: int, size: int) -> str:
        """The body of `add-checkpoint`."""
        proof = self.tree(size).consistency(old) if 0 < old < size else []
        lines = [f"old {old}", *(base64.b64encode(node).decode() for node in proof), "", self.note(size)]
        return "\n".join(lines)
