"""Signatures the Standard Webhooks way, by secrets that are stored nowhere.

A signer needs the secret itself, and whoever reads the database must not be able to sign. So each secret is derived
(HKDF-SHA256, RFC 5869) from one key file beside the key ring, with the webhook's id and the generation of its secret.
"""

import base64
import contextlib
import hashlib
import hmac
import os
import secrets
from datetime import datetime
from pathlib import Path

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from enforcer import keys
from enforcer.keys import KeyUnusable

BYTES = 32


def root_key(folder: Path) -> bytes:
    """The key of `folder`, made where it is missing. Processes that share the folder get the same one.

    Raises:
        KeyUnusable: it can be read by others, or is not one.
    """
    file = folder / "webhooks.key"
    if not os.path.lexists(file):
        _make(file)
    key = keys.read_private(file)
    if len(key) != BYTES:
        raise KeyUnusable(
            f"`{file}` is not {BYTES} bytes; put it back from its backup, or remove it: all secrets change"
        )
    return key


def secret(root: bytes, webhook_id: str, generation: int) -> str:
    info = f"tagwarden webhook {webhook_id} {generation}".encode()
    derived = HKDF(SHA256(), BYTES, salt=None, info=info).derive(root)
    return f"whsec_{base64.b64encode(derived).decode()}"


def headers(message_id: str, at: datetime, body: bytes, by: list[str]) -> dict[str, str]:
    """One signature for each live secret, the newest first."""
    stamp = str(int(at.timestamp()))
    signed = f"{message_id}.{stamp}.".encode() + body
    made = [base64.b64encode(hmac.digest(_key(one), signed, hashlib.sha256)).decode() for one in by]
    return {
        "webhook-id": message_id,
        "webhook-timestamp": stamp,
        "webhook-signature": " ".join(f"v1,{signature}" for signature in made),
    }


def _key(of: str) -> bytes:
    return base64.b64decode(of.removeprefix("whsec_"))


def _make(file: Path) -> None:
    """Whole or not at all, and never over one that another process made meanwhile."""
    draft = file.with_name(f".webhooks.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as out:
            out.write(secrets.token_bytes(BYTES))
            out.flush()
            os.fsync(out.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(draft, file)
    finally:
        draft.unlink()
