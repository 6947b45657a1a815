"""DSSE envelopes (Dead Simple Signing Envelope v1, github.com/secure-systems-lab/dsse): who signed which bytes.

What is signed is the pre-authentication encoding of type and payload, so that neither can be read as something else. An
envelope of ours has one signature and one spelling: whatever differs from it in a single byte is refused, and its
SHA-256 names it.
"""

import base64
import binascii
import json
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from enforcer.keys import PublicKey, Signer

PAYLOAD_TYPE = "application/vnd.in-toto+json"
MAX_BYTES = 48 * 1024


class EnvelopeInvalid(ValueError):
    """Not an envelope in the one form that is taken, or its signature does not hold."""


class _Signature(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    keyid: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{4,128}$")]
    sig: str


class _Envelope(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    payload: str
    payloadType: str  # noqa: N815  # the format's word
    signatures: Annotated[list[_Signature], Field(min_length=1, max_length=1)]


@dataclass(frozen=True)
class Unverified:
    """What an envelope holds before its signature is checked. `payload` proves nothing until `check` has returned."""

    payload: bytes
    keyid: str
    signature: bytes

    def check(self, key: PublicKey) -> bytes:
        """The payload, once `key` is known to have signed it.

        Raises:
            EnvelopeInvalid: it has not.
        """
        if not key.verify(pae(self.payload), self.signature):
            raise EnvelopeInvalid(f"its signature by `{self.keyid}` does not hold")
        return self.payload


def pae(payload: bytes, payload_type: str = PAYLOAD_TYPE) -> bytes:
    """The bytes that are signed: `DSSEv1 LEN(type) type LEN(payload) payload`, lengths in ASCII decimals."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def sign(payload: bytes, key: Signer, keyid: str) -> bytes:
    return _written(payload, keyid, key.sign(pae(payload)))


def read(envelope: bytes) -> Unverified:
    """Take an envelope apart.

    Raises:
        EnvelopeInvalid: too large, not an envelope, of another type, or spelt in another way than `sign` does.
    """
    if len(envelope) > MAX_BYTES:
        raise EnvelopeInvalid(f"it has {len(envelope)} bytes, the limit is {MAX_BYTES}")
    try:
        found = _Envelope.model_validate_json(envelope)
        (signature,) = found.signatures
        content = Unverified(_b64decode(found.payload), signature.keyid, _b64decode(signature.sig))
    except (ValidationError, binascii.Error, ValueError) as error:
        why = error.errors()[0]["msg"].lower() if isinstance(error, ValidationError) else str(error)
        raise EnvelopeInvalid(f"it is not a DSSE envelope: {why}") from None
    if found.payloadType != PAYLOAD_TYPE:
        raise EnvelopeInvalid(f"its type is `{found.payloadType[:100]}`, not `{PAYLOAD_TYPE}`")
    if _written(content.payload, content.keyid, content.signature) != envelope:
        raise EnvelopeInvalid("it is not written in the one form that is taken")
    return content


def _written(payload: bytes, keyid: str, signature: bytes) -> bytes:
    document: dict[str, Any] = {
        "payload": base64.b64encode(payload).decode(),
        "payloadType": PAYLOAD_TYPE,
        "signatures": [{"keyid": keyid, "sig": base64.b64encode(signature).decode()}],
    }
    return json.dumps(document, separators=(",", ":")).encode()


def _b64decode(text: str) -> bytes:
    return base64.b64decode(text, validate=True)
