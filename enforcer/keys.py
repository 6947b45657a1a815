"""Signing keys: one purpose each, and the algorithm as a property of the key, never of a token.

Three algorithms, all with signatures of 64 bytes (86 base64url characters):

Ed25519   the default (RFC 9864)
EdDSA     the same curve and the same bytes under the name that RFC 9864 deprecates, for verifiers that know no other
          (the Go libraries, PyJWT)
ES256     ECDSA on P-256 with SHA-256, signature r || s (RFC 7518 section 3.4), for KMS and FIPS

A key made by the service on its own carries a `dev-` key id. Verifiers refuse such keys unless the issuer lives on
loopback (`allow_dev`), so that a ticket from somebody's laptop never starts a run on a cluster.
"""

import base64
import hashlib
import json
import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, Self

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDSA,
    SECP256R1,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
    generate_private_key,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
    load_pem_private_key,
)
from joserfc.jwk import ECKey, OKPKey

ED25519, EDDSA, ES256 = "Ed25519", "EdDSA", "ES256"
ALGORITHMS = (ED25519, EDDSA, ES256)
SIGNATURE_BYTES = 64
DEV_PREFIX = "dev-"
MAX_KEY_FILE_BYTES = 1024 * 1024
_KID = re.compile(r"[A-Za-z0-9_-]{4,64}")


class KeyUnusable(Exception):
    """A key that cannot be trusted or read. The message names it and the repair."""


class Signer(Protocol):
    """What signs: a key in this process, or one in an HSM or KMS (entry point group `tagwarden.signers`)."""

    @property
    def kid(self) -> str: ...
    @property
    def alg(self) -> str: ...
    def public_jwk(self) -> dict[str, str]:
        """The public key with `kid`, `alg` and `use` (RFC 7517)."""
        ...

    def sign(self, content: bytes) -> bytes:
        """The 64 bytes of a JOSE signature over `content`; for ES256 r || s and not DER."""
        ...


@dataclass(frozen=True)
class SigningKey:
    """A private key in this process, and its id. Never printed: the representation shows the id only."""

    kid: str
    alg: str
    private: Ed25519PrivateKey | EllipticCurvePrivateKey = field(repr=False)

    @classmethod
    def generate(cls, alg: str = ED25519, *, dev: bool = False) -> Self:
        private = generate_private_key(SECP256R1()) if alg == ES256 else Ed25519PrivateKey.generate()
        return cls._of(private, alg, dev=dev)

    @classmethod
    def load(cls, path: Path, alg: str | None = None) -> Self:
        """Read a PKCS#8 PEM. The key id is the thumbprint; a file named `dev-*` makes a development key.

        Raises:
            KeyUnusable: a link, somebody else's file, readable by others, or not a private key for `alg`.
        """
        try:
            return cls.from_pkcs8(read_private(path), alg, dev=path.name.startswith(DEV_PREFIX))
        except ValueError as error:
            raise KeyUnusable(f"`{path}` {error}") from error

    @classmethod
    def from_pkcs8(cls, content: bytes, alg: str | None = None, *, dev: bool = False) -> Self:
        """A key from PKCS#8, PEM or DER. Without `alg`, the kind of key decides: Ed25519 or ES256.

        Raises:
            ValueError: not an unencrypted private key of a kind we sign with, or not one for `alg`.
        """
        try:
            load = load_pem_private_key if content.lstrip().startswith(b"-----") else load_der_private_key
            private = load(content, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            raise ValueError("is not an unencrypted private key in PKCS#8 form") from None
        if isinstance(private, Ed25519PrivateKey):
            fitting: tuple[str, ...] = (ED25519, EDDSA)
        elif isinstance(private, EllipticCurvePrivateKey) and isinstance(private.curve, SECP256R1):
            fitting = (ES256,)
        else:
            raise ValueError(f"is neither an Ed25519 nor a P-256 private key; signing knows {', '.join(ALGORITHMS)}")
        if alg is not None and alg not in fitting:
            raise ValueError(f"holds a private key for {' or '.join(fitting)}, not for {alg}")
        return cls._of(private, alg or fitting[0], dev=dev)

    @classmethod
    def _of(cls, private: Ed25519PrivateKey | EllipticCurvePrivateKey, alg: str, *, dev: bool) -> Self:
        return cls((DEV_PREFIX if dev else "") + thumbprint(_members(private.public_key()))[:16], alg, private)

    def save(self, path: Path) -> None:
        """Write a new 0600 PEM file; raises `FileExistsError` rather than overwrite a key."""
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(self.to_pem())
            file.flush()
            os.fsync(file.fileno())

    def to_pem(self) -> bytes:
        """The private key in PKCS#8 PEM form, unencrypted."""
        return self.private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    @cached_property
    def thumbprint(self) -> str:
        """RFC 7638 thumbprint, as in `cnf.jkt`."""
        return thumbprint(_members(self.private.public_key()))

    def sign(self, content: bytes) -> bytes:
        """RFC 8032, or r || s of ECDSA with SHA-256: 64 bytes in both cases."""
        if isinstance(self.private, Ed25519PrivateKey):
            return self.private.sign(content)
        r, s = decode_dss_signature(self.private.sign(content, ECDSA(SHA256())))
        return r.to_bytes(32) + s.to_bytes(32)

    def public_jwk(self) -> dict[str, str]:
        return {**_members(self.private.public_key()), "kid": self.kid, "alg": self.alg, "use": "sig"}


@dataclass(frozen=True)
class PublicKey:
    """A public key and the one algorithm that it verifies. Only `public_key` makes it, so it was checked."""

    alg: str
    key: Ed25519PublicKey | EllipticCurvePublicKey = field(repr=False)

    @cached_property
    def thumbprint(self) -> str:
        """RFC 7638 thumbprint, as in `cnf.jkt`."""
        return thumbprint(_members(self.key))

    @cached_property
    def jose(self) -> OKPKey | ECKey:
        """The same key for the JOSE library."""
        return OKPKey.import_key(self.key) if isinstance(self.key, Ed25519PublicKey) else ECKey.import_key(self.key)

    def verify(self, content: bytes, signature: bytes) -> bool:
        """Whether the signature holds, for formats that are not JOSE. Exactly 64 bytes, r || s for ES256."""
        if len(signature) != SIGNATURE_BYTES:
            return False
        try:
            if isinstance(self.key, Ed25519PublicKey):
                self.key.verify(signature, content)
            else:
                r, s = int.from_bytes(signature[:32]), int.from_bytes(signature[32:])
                self.key.verify(encode_dss_signature(r, s), content, ECDSA(SHA256()))
        except InvalidSignature:
            return False
        return True


class KeySet:
    """The public keys that a verifier has pinned, by key id."""

    def __init__(self, keys: Mapping[str, PublicKey]) -> None:
        self._keys = dict(keys)

    @classmethod
    def of(cls, *keys: Signer) -> Self:
        return cls.from_jwks({"keys": [key.public_jwk() for key in keys]})

    @classmethod
    def from_jwks(cls, jwks: Mapping[str, Any]) -> Self:
        """Take the signing keys of a JWKS whose `alg` we know; others, and those marked `compromised_at`, are left.

        Raises:
            KeyUnusable: not a JWKS, a private key in it, a malformed key, or two keys of one id.
        """
        members = jwks.get("keys") if isinstance(jwks, dict) else None
        if not isinstance(members, list):
            raise KeyUnusable("not a JWKS: the member `keys` is missing")
        keys: dict[str, PublicKey] = {}
        for jwk in members:
            if not isinstance(jwk, dict) or jwk.get("alg") not in ALGORITHMS or jwk.get("use") != "sig":
                continue
            kid = jwk.get("kid")
            if not isinstance(kid, str) or not _KID.fullmatch(kid):
                raise KeyUnusable("the JWKS holds a key without a proper `kid`")
            if kid in keys:
                raise KeyUnusable(f"the JWKS holds two keys of the id `{kid}`")
            key = public_key(jwk, jwk["alg"])
            if jwk.get("compromised_at") is None:
                keys[kid] = key
        return cls(keys)

    @classmethod
    def load(cls, path: Path) -> Self:
        try:
            return cls.from_jwks(json.loads(path.read_bytes()))
        except (OSError, ValueError, RecursionError) as error:
            raise KeyUnusable(f"`{path}` cannot be read as a JWKS: {error}") from error

    def get(self, kid: str) -> PublicKey | None:
        return self._keys.get(kid)

    def raw(self, kid: str) -> Ed25519PublicKey | None:
        """The bare Ed25519 key, for formats that know no other algorithm; None for a key of another kind."""
        key = self._keys.get(kid)
        return key.key if key is not None and isinstance(key.key, Ed25519PublicKey) else None

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)


def public_key(jwk: Mapping[str, Any], alg: str | None = None) -> PublicKey:
    """A public key from the members that make one. Without `alg`, the kind of key decides: Ed25519 or ES256.

    Raises:
        KeyUnusable: another kind of key, one that does not fit `alg`, a private one, a point that is not on the curve,
            or one of the eight low-order points of Ed25519, for which one signature fits many texts.
    """
    kind, x, y = (jwk.get("kty"), jwk.get("crv")), jwk.get("x"), jwk.get("y")
    if "d" in jwk:
        raise KeyUnusable("this is a private key; only its public half may be handed out")
    if kind == ("OKP", "Ed25519") and alg in {None, ED25519, EDDSA}:
        point = _coordinate(x)
        if point in _LOW_ORDER:
            raise KeyUnusable("a low-order Ed25519 public key is refused")
        try:
            return PublicKey(alg or ED25519, Ed25519PublicKey.from_public_bytes(point))
        except ValueError as error:
            raise KeyUnusable("not a well-formed Ed25519 public key") from error
    if kind == ("EC", "P-256") and alg in {None, ES256}:
        try:
            point = b"\x04" + _coordinate(x) + _coordinate(y)
            return PublicKey(ES256, EllipticCurvePublicKey.from_encoded_point(SECP256R1(), point))
        except ValueError as error:
            raise KeyUnusable("not a point of P-256") from error
    raise KeyUnusable("only Ed25519 keys (for Ed25519 or EdDSA) and P-256 keys (for ES256) are taken")


def thumbprint(members: Mapping[str, str]) -> str:
    """RFC 7638: SHA-256 over the required members, sorted, without spaces."""
    required = {name: members[name] for name in ("crv", "kty", "x", "y") if name in members}
    return _b64url(hashlib.sha256(json.dumps(required, sort_keys=True, separators=(",", ":")).encode()).digest())


def read_private(path: Path) -> bytes:
    """A secret file of this user.

    Raises:
        KeyUnusable: missing, a link, somebody else's, or readable by others.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise KeyUnusable(f"`{path}` cannot be opened as a key file: {error.strerror}") from error
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise KeyUnusable(f"`{path}` is not a regular file")
        if status.st_uid != os.getuid():
            raise KeyUnusable(f"`{path}` belongs to another user; a signing key must be your own")
        if stat.S_IMODE(status.st_mode) & 0o077:
            raise KeyUnusable(f"`{path}` can be read by others; run `chmod 600 {path}`")
        content = file.read(MAX_KEY_FILE_BYTES + 1)
    if len(content) > MAX_KEY_FILE_BYTES:
        raise KeyUnusable(f"`{path}` is larger than a key file can be")
    return content


def _members(key: Ed25519PublicKey | EllipticCurvePublicKey) -> dict[str, str]:
    if isinstance(key, Ed25519PublicKey):
        return {"kty": "OKP", "crv": "Ed25519", "x": _b64url(key.public_bytes_raw())}
    point = key.public_numbers()
    return {"kty": "EC", "crv": "P-256", "x": _b64url(point.x.to_bytes(32)), "y": _b64url(point.y.to_bytes(32))}


def _coordinate(value: object) -> bytes:
    """32 bytes from their one base64url spelling, so that a key has one form (and one thumbprint)."""
    try:
        content = base64.urlsafe_b64decode(f"{value}=") if isinstance(value, str) else b""
    except ValueError:
        content = b""
    if len(content) != 32 or _b64url(content) != value:
        raise KeyUnusable("a coordinate of the public key is not 32 bytes in base64url")
    return content


def _b64url(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


# The encodings of points of order 1, 2, 4 and 8, canonical and not (C2SP/CCTV ed25519, "low order").
_LOW_ORDER = frozenset(
    bytes.fromhex(point)
    for point in (
        "0100000000000000000000000000000000000000000000000000000000000000",
        "0100000000000000000000000000000000000000000000000000000000000080",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
        "0000000000000000000000000000000000000000000000000000000000000000",
        "0000000000000000000000000000000000000000000000000000000000000080",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    )
)
