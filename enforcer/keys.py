"""Signing keys: one purpose each, Ed25519, the algorithm as a property of the key and never of a token.

A key made by the service on its own carries a `dev-` key id. Verifiers refuse such keys unless the issuer lives on
loopback (`allow_dev`), so that a ticket from somebody's laptop never starts a run on a cluster.
"""

import json
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from joserfc.errors import JoseError
from joserfc.jwk import OKPKey

ALGORITHM = "Ed25519"
DEV_PREFIX = "dev-"
_KID = re.compile(r"[A-Za-z0-9_-]{4,64}")


class KeyUnusable(Exception):
    """A key file that cannot be trusted or read. The message names the file and the repair."""


@dataclass(frozen=True)
class SigningKey:
    """A private key and its id. Never printed: the representation shows the id only."""

    kid: str
    private: OKPKey

    def __repr__(self) -> str:
        return f"SigningKey({self.kid})"

    @classmethod
    def generate(cls, *, dev: bool = False) -> Self:
        key = OKPKey.generate_key("Ed25519", auto_kid=False)
        return cls((DEV_PREFIX if dev else "") + key.thumbprint()[:16], key)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a PKCS#8 PEM. The key id is the thumbprint; a file named `dev-*` makes a development key.

        Raises:
            KeyUnusable: a link, somebody else's file, readable by others, or not an Ed25519 key.
        """
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        except OSError as error:
            raise KeyUnusable(f"`{path}` cannot be opened as a key file: {error.strerror}") from error
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(file.fileno())
            if status.st_uid != os.getuid():
                raise KeyUnusable(f"`{path}` belongs to another user; a signing key must be your own")
            if stat.S_IMODE(status.st_mode) & 0o077:
                raise KeyUnusable(f"`{path}` can be read by others; run `chmod 600 {path}`")
            pem = file.read(16_384)
        try:
            key = OKPKey.import_key(pem.decode())
        except (JoseError, ValueError, TypeError) as error:
            raise KeyUnusable(f"`{path}` is not an Ed25519 private key in PKCS#8 PEM form") from error
        if key.curve_name != "Ed25519" or not key.is_private:
            raise KeyUnusable(f"`{path}` is not an Ed25519 private key")
        return cls((DEV_PREFIX if path.name.startswith(DEV_PREFIX) else "") + key.thumbprint()[:16], key)

    def save(self, path: Path) -> None:
        """Write a new 0600 PEM file; raises `FileExistsError` rather than overwrite a key."""
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(self.private.as_pem(private=True))

    @property
    def thumbprint(self) -> str:
        """RFC 7638 thumbprint, as in `cnf.jkt`."""
        return self.private.thumbprint()

    def sign(self, content: bytes) -> bytes:
        """A raw Ed25519 signature (RFC 8032), for formats that are not JOSE."""
        private = self.private.private_key
        assert isinstance(private, Ed25519PrivateKey)
        return private.sign(content)

    def public_jwk(self) -> dict[str, str]:
        public = self.private.as_dict(private=False)
        return {"kty": "OKP", "crv": "Ed25519", "x": str(public["x"]), "kid": self.kid, "alg": ALGORITHM, "use": "sig"}


class KeySet:
    """The public keys that a verifier has pinned, by key id."""

    def __init__(self, keys: Mapping[str, OKPKey]) -> None:
        self._keys = dict(keys)

    @classmethod
    def of(cls, *keys: SigningKey) -> Self:
        return cls.from_jwks({"keys": [key.public_jwk() for key in keys]})

    @classmethod
    def from_jwks(cls, jwks: Mapping[str, Any]) -> Self:
        """Take the Ed25519 signing keys of a JWKS; others are left aside, private ones refused.

        Raises:
            KeyUnusable: not a JWKS, a private key in it, or a malformed key.
        """
        members = jwks.get("keys") if isinstance(jwks, dict) else None
        if not isinstance(members, list):
            raise KeyUnusable("not a JWKS: the member `keys` is missing")
        keys: dict[str, OKPKey] = {}
        for jwk in members:
            if not isinstance(jwk, dict) or jwk.get("alg") != ALGORITHM or jwk.get("use") != "sig":
                continue
            kid = jwk.get("kid")
            if "d" in jwk or not isinstance(kid, str) or not _KID.fullmatch(kid):
                raise KeyUnusable("the JWKS holds a private key or a key without a proper `kid`")
            keys[kid] = public_key(jwk)
        return cls(keys)

    @classmethod
    def load(cls, path: Path) -> Self:
        try:
            return cls.from_jwks(json.loads(path.read_bytes()))
        except (OSError, ValueError, RecursionError) as error:
            raise KeyUnusable(f"`{path}` cannot be read as a JWKS: {error}") from error

    def get(self, kid: str) -> OKPKey | None:
        return self._keys.get(kid)

    def raw(self, kid: str) -> Ed25519PublicKey | None:
        """The bare public key, for signatures that are not JOSE."""
        key = self._keys.get(kid)
        if key is None:
            return None
        assert isinstance(key.public_key, Ed25519PublicKey)
        return key.public_key

    def __len__(self) -> int:
        return len(self._keys)


def public_key(jwk: Mapping[str, Any]) -> OKPKey:
    """An Ed25519 public key from the three members that make one.

    Raises:
        KeyUnusable: any other key type, or one of the eight low-order points, for which one signature fits many texts.
    """
    if jwk.get("kty") != "OKP" or jwk.get("crv") != "Ed25519" or not isinstance(jwk.get("x"), str):
        raise KeyUnusable("only Ed25519 keys are taken")
    try:
        key = OKPKey.import_key({"kty": "OKP", "crv": "Ed25519", "x": jwk["x"]})
        raw = key.public_key.public_bytes_raw()
    except (JoseError, ValueError, TypeError) as error:
        raise KeyUnusable("not a well-formed Ed25519 public key") from error
    if raw in _LOW_ORDER:
        raise KeyUnusable("a low-order Ed25519 public key is refused")
    return key


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
