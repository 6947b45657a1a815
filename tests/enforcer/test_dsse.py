"""DSSE envelopes: the encoding is the standard's, there is one spelling, and a signature is of one key."""

import base64
import json

import pytest

from enforcer import dsse
from enforcer.dsse import EnvelopeInvalid
from enforcer.keys import KeySet, SigningKey

KEY = SigningKey.generate()
ENVELOPE = dsse.sign(b'{"a":1}', KEY, KEY.thumbprint)


def public(key: SigningKey):  # type: ignore[no-untyped-def]
    found = KeySet.of(key).get(key.kid)
    assert found is not None
    return found


def test_the_encoding_is_the_one_of_the_specification_s_example() -> None:
    """protocol.md of DSSE v1: type `http://example.com/HelloWorld`, payload `hello world`."""
    assert dsse.pae(b"hello world", "http://example.com/HelloWorld") == (
        b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )


def test_what_was_signed_opens_with_its_key_and_with_no_other() -> None:
    unverified = dsse.read(ENVELOPE)

    assert unverified.check(public(KEY)) == b'{"a":1}'
    with pytest.raises(EnvelopeInvalid, match="does not hold"):
        unverified.check(public(SigningKey.generate()))


def test_the_reference_library_reads_what_we_sign() -> None:
    library = pytest.importorskip("securesystemslib.dsse")
    signer = pytest.importorskip("securesystemslib.signer")

    envelope = library.Envelope.from_dict(json.loads(ENVELOPE))
    key = signer.SSlibKey(KEY.thumbprint, "ed25519", "ed25519", {"public": _raw_hex()})

    assert envelope.pae() == dsse.pae(b'{"a":1}')
    assert set(envelope.verify([key], 1)) == {KEY.thumbprint}


def _raw_hex() -> str:
    x = KEY.public_jwk()["x"]
    return base64.urlsafe_b64decode(x + "=").hex()


DOCUMENT = json.loads(ENVELOPE)
SIGNATURE = DOCUMENT["signatures"][0]


@pytest.mark.parametrize(
    ("envelope", "why"),
    [
        (json.dumps(DOCUMENT).encode(), "one form"),
        (ENVELOPE + b"\n", "one form"),
        (ENVELOPE.replace(b'{"payload"', b'{"payload":"e30=","payload"', 1), "one form"),
        (json.dumps({**DOCUMENT, "more": 1}, separators=(",", ":")).encode(), "extra"),
        (json.dumps({**DOCUMENT, "payloadType": "text/plain"}, separators=(",", ":")).encode(), "type is `text/plain`"),
        (json.dumps({**DOCUMENT, "signatures": []}, separators=(",", ":")).encode(), "at least 1"),
        (json.dumps({**DOCUMENT, "signatures": [SIGNATURE] * 2}, separators=(",", ":")).encode(), "at most 1"),
        (json.dumps({**DOCUMENT, "payload": "e30"}, separators=(",", ":")).encode(), "padding"),
        (b"\xff", "not a DSSE envelope"),
        (b"[" * 40_000, "not a DSSE envelope"),
        (b"", "not a DSSE envelope"),
        (b" " * (dsse.MAX_BYTES + 1), "the limit is"),
    ],
)  # fmt: skip
def test_an_envelope_has_one_spelling(envelope: bytes, why: str) -> None:
    with pytest.raises(EnvelopeInvalid, match=why):
        dsse.read(envelope)
