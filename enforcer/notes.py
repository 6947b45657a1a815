"""Signed notes (C2SP signed-note): a text, and under it a line by each of those who vouch for it.

Two kinds of signature are known: Ed25519 over the text, which is the log's own (`0x01`), and a witness's cosignature,
Ed25519 over the text and the time at which it was seen (`0x04`, C2SP tlog-cosignature). Lines by others are left alone,
as the format demands. Only `LogInvalid` leaves this file, whatever comes in.
"""

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from enforcer import jws
from enforcer.keys import KeySet, KeyUnusable, Signer, public_key

ED25519, COSIGNATURE = 0x01, 0x04
MAX_LENGTH = 65_536
MAX_SIGNATURES = 64
_LINE = re.compile(r"\u2014 (?P<name>[^\s+]{1,300}) (?P<signature>[A-Za-z0-9+/]{8,8000}={0,2})")
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f]")


class LogInvalid(Exception):
    """A checkpoint, proof, tile or export that does not hold; the message names the first thing that does not fit."""


@dataclass(frozen=True)
class NoteKey:
    """A public key, the name it signs under, and what its signatures say (`ED25519` or `COSIGNATURE`)."""

    name: str
    kind: int
    public: Ed25519PublicKey

    @classmethod
    def of(cls, key: Signer, name: str, kind: int = ED25519) -> Self:
        public = KeySet.of(key).raw(key.kid)
        assert public is not None
        return cls(name, kind, public)

    @classmethod
    def parse(cls, vkey: str) -> Self:
        """Read `<name>+<key id>+<base64 of kind and key>`, as other tools of the field print it.

        Raises:
            LogInvalid: not such a key, or one that no signature can be trusted under.
        """
        name, _, rest = vkey.strip().partition("+")
        id_, _, material = rest.partition("+")
        blob = b64decode(material, "the verifier key")
        if not _LINE.fullmatch(f"\u2014 {name} AAAAAAAA") or len(blob) != 33 or blob[0] not in (ED25519, COSIGNATURE):
            raise LogInvalid("a verifier key is written `name+id+key`, with an Ed25519 key of kind 01 or 04")
        try:
            public = public_key({"kty": "OKP", "crv": "Ed25519", "x": jws.b64url(blob[1:])}).key
        except KeyUnusable as error:
            raise LogInvalid(f"the verifier key of `{name}` is refused: {error}") from error
        assert isinstance(public, Ed25519PublicKey)
        key = cls(name, blob[0], public)
        if key.id.hex() != id_:
            raise LogInvalid(
                f"the verifier key of `{name}` does not have the key id `{id_[:20]}`; was it copied whole?"
            )
        return key

    @property
    def vkey(self) -> str:
        material = base64.b64encode(bytes([self.kind]) + self.public.public_bytes_raw()).decode()
        return f"{self.name}+{self.id.hex()}+{material}"

    @property
    def id(self) -> bytes:
        """The first four bytes of SHA-256(name || LF || kind || key)."""
        material = self.name.encode() + b"\n" + bytes([self.kind]) + self.public.public_bytes_raw()
        return hashlib.sha256(material).digest()[:4]


@dataclass(frozen=True)
class Note:
    """A note whose signatures are *not* checked yet."""

    text: str
    signatures: tuple[tuple[str, bytes], ...]

    @classmethod
    def parse(cls, note: str) -> Self:
        """Split text and signature lines.

        Raises:
            LogInvalid: not a signed note.
        """
        text, lines = _split(note)
        signatures = []
        for line in lines:
            match = _LINE.fullmatch(line)
            if match is None:
                raise LogInvalid("a signature line of the note is malformed")
            blob = b64decode(match["signature"], "a signature")
            if len(blob) <= 4:
                raise LogInvalid("a signature of the note is too short")
            signatures.append((match["name"], blob))
        return cls(text, tuple(signatures))

    def signed_at(self, key: NoteKey) -> int | None:
        """When `key` signed, in POSIX seconds (0 where its kind tells no time); None when it did not.

        Raises:
            LogInvalid: a line bears its name and id, and the signature does not hold.
        """
        found = None
        for name, blob in self.signatures:
            if (name, blob[:4]) == (key.name, key.id):
                found = _check(self.text, key, blob[4:])
        return found


@dataclass(frozen=True)
class Witnesses:
    """Whose cosignatures count, and how many of them it takes."""

    keys: tuple[NoteKey, ...]
    quorum: int

    def check(self, note: Note) -> None:
        """Raises `LogInvalid` when fewer than the quorum cosigned. One key under two names is one witness."""
        agreed = {key.public.public_bytes_raw() for key in self.keys if note.signed_at(key) is not None}
        if len(agreed) < self.quorum:
            raise LogInvalid(f"{len(agreed)} of the trusted witnesses cosigned the checkpoint, it takes {self.quorum}")


def sign(text: str, name: str, key: Signer) -> str:
    """The signature line of a log under its own text."""
    return _line(NoteKey.of(key, name), key.sign(text.encode()))


def cosign(text: str, name: str, key: Signer, at: int) -> str:
    """A witness's line: it saw this text at this time, and it follows from all that it saw before."""
    stamp = at.to_bytes(8, "big")
    return _line(NoteKey.of(key, name, COSIGNATURE), stamp + key.sign(_cosigned(text, at)))


def attach(note: str, lines: Iterable[str]) -> str:
    """The note with further signature lines; those that stand there already are not doubled."""
    _, present = _split(note)
    added = dict.fromkeys(line for line in lines if line not in present)
    return note + "".join(f"{line}\n" for line in added)


def b64decode(text: str, what: str) -> bytes:
    """Standard base64 (RFC 4648 section 4) in its one canonical spelling, or `LogInvalid`."""
    try:
        content = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise LogInvalid(f"{what} is not base64") from None
    if base64.b64encode(content).decode() != text:
        raise LogInvalid(f"{what} is not canonical base64")
    return content


def _split(note: str) -> tuple[str, list[str]]:
    text, gap, lines = note.rpartition("\n\n")
    try:
        well_formed = len(note.encode()) <= MAX_LENGTH and bool(gap and text) and lines.endswith("\n")
    except UnicodeEncodeError:
        well_formed = False
    if not well_formed or _CONTROL.search(note):
        raise LogInvalid("this is not a signed note: a text, an empty line, signature lines")
    found = lines[:-1].split("\n")
    if len(found) > MAX_SIGNATURES:
        raise LogInvalid(f"the note has more than {MAX_SIGNATURES} signatures")
    return text + "\n", found


def _check(text: str, key: NoteKey, signature: bytes) -> int:
    at, signed = 0, text.encode()
    if key.kind == COSIGNATURE:
        at, signature = int.from_bytes(signature[:8], "big"), signature[8:]
        signed = _cosigned(text, at)
    try:
        key.public.verify(signature, signed)
    except InvalidSignature:
        raise LogInvalid(f"the signature by `{key.name}` does not hold") from None
    if at >= 2**63:
        raise LogInvalid(f"the cosignature by `{key.name}` bears no possible time")
    return at


def _cosigned(text: str, at: int) -> bytes:
    return f"cosignature/v1\ntime {at}\n{text}".encode()


def _line(key: NoteKey, signature: bytes) -> str:
    return f"\u2014 {key.name} {base64.b64encode(key.id + signature).decode()}"
