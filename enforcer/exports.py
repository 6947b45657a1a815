"""Exports of the audit log: the signed manifest that says what a file holds.

It is the last record of every export, in the form that the format gives to an event, so that one download is one piece
of evidence and every reader of the format still reads the file. It covers each byte before its own token. A file
without one is a download that broke off.
"""

import hashlib
import re
from collections.abc import Iterable
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from enforcer import jws
from enforcer.keys import KeySet, Signer

TYP = "audit-export+jwt"
Format = Literal["ndjson", "csv", "cef", "ocsf"]
# What may stand after the token: the closing marks of JSON, CSV and the line.
_LAST = re.compile(rb'(?P<before>.*?)(?P<token>[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]{86})["},\r\n]*', re.DOTALL)


class ExportInvalid(Exception):
    """An export that does not hold; the message names the first thing that does not fit."""


class Manifest(BaseModel):
    """What an export holds. `sha256` is over all bytes before the manifest's token, in hex; `first` and `last` are
    event ids; `filter` is what was asked for, `made_at` when reading began (RFC 3339), `export_id` the event of that.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    v: Literal[1]
    export_id: str
    format: Format
    filter: dict[str, str]
    origin: str
    checkpoint: str
    first: str | None
    last: str | None
    count: int
    sha256: str
    made_at: str
    made_by: str


def sign(manifest: Manifest, key: Signer) -> str:
    """A compact JWS by the attestation key."""
    return jws.sign({"typ": TYP, "kid": key.kid}, manifest.model_dump(), key)


def verify(lines: Iterable[bytes], keys: KeySet) -> Manifest:
    """Check a whole export, given as lines with their ends, against the manifest at its end.

    Raises:
        ExportInvalid: no manifest, one signed by nobody in `keys`, or other bytes than it was made for.
    """
    seen, last = hashlib.sha256(), b""
    for line in lines:
        seen.update(last)
        last = line
    match = _LAST.fullmatch(last)
    if match is None:
        raise ExportInvalid("it does not end with a manifest; the download broke off, or the end was cut away")
    seen.update(match["before"])
    manifest = _open(match["token"].decode(), keys)
    if manifest.sha256 != seen.hexdigest():
        raise ExportInvalid("its bytes are not those that the manifest was signed for")
    return manifest


def _open(token: str, keys: KeySet) -> Manifest:
    try:
        header, payload = jws.read(token, {"alg", "typ", "kid"})
    except jws.Malformed as error:
        raise ExportInvalid(f"its manifest is no signed token: {error}") from error
    key = keys.get(_text(header["kid"]))
    if header["typ"] != TYP or key is None or header["alg"] != key.alg:
        raise ExportInvalid("its manifest is signed by no key that this verifier knows")
    if not jws.signature_holds(token, key):
        raise ExportInvalid("the signature of its manifest does not hold")
    try:
        return Manifest.model_validate(payload)
    except ValidationError as error:
        raise ExportInvalid(f"its manifest is not one of ours: {error.errors()[0]['msg']}") from error


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
