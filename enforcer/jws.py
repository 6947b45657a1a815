"""Strict reading of compact JWS, shared by tickets and proofs.

The library (joserfc) does the cryptography; everything a parser can be lenient about is settled here first, because
each leniency was seen to accept something: `==` appended, duplicate members (last one wins), UTF-16 text, `crit: []`.
"""

import base64
import binascii
import json
import re
import warnings
from collections.abc import Collection
from functools import lru_cache
from typing import Any, NoReturn

import orjson
from joserfc import jws
from joserfc.errors import JoseError

from enforcer.keys import SIGNATURE_BYTES, KeyUnusable, PublicKey, Signer

# An `EdDSA` key is an operator's choice, for verifiers that know no other name; the library would say so on each use.
warnings.filterwarnings("ignore", message="EdDSA is deprecated", module="joserfc")

MAX_LENGTH = 8_192
MAX_CONTAINERS = 256
MAX_DEPTH = 16
_COMPACT = re.compile(r"[A-Za-z0-9_-]{1,1024}\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]{86}")


# What other issuers sign may be longer (hundreds of groups) and signed by other keys (an RSA-4096 signature: 683).
_FOREIGN = re.compile(r"[A-Za-z0-9_-]{1,2048}\.[A-Za-z0-9_-]{1,14000}\.[A-Za-z0-9_-]{64,700}")
# Members that say where to find a key, or how to read the token: RFC 7515 sections 4.1.2 to 4.1.6 and 4.1.11, RFC 7797.
_TELLING_US_HOW = frozenset({"jku", "jwk", "x5u", "x5c", "crit", "b64", "zip", "enc"})


class Malformed(ValueError):
    """Not a compact JWS as RFC 7515 and RFC 8725 want it; `step` is the number in `enforcer.tickets.verify`."""

    def __init__(self, step: int, why: str) -> None:
        super().__init__(why)
        self.step = step


def read(
    token: str, header_members: Collection[str], *, max_length: int = MAX_LENGTH
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Header and payload of a token whose signature is *not* checked yet: steps 1 to 4.

    Raises:
        Malformed: length, alphabet, non-canonical base64url, not strict JSON objects, or other header members.
    """
    # 1. Length and alphabet. Signatures of all our algorithms have exactly 86 characters, so nothing can be appended.
    if len(token) > max_length or not _COMPACT.fullmatch(token):
        raise Malformed(1, "it is not three base64url parts with a signature of 64 bytes")
    # 2. One spelling per value: the unused bits of the last character must be zero.
    parts = [_decode(part) for part in token.split(".")]
    # 3. UTF-8 JSON objects without duplicate members, floats, huge integers or deep nesting.
    header, payload = (_strict_object(part) for part in parts[:2])
    # 4. Exactly the header members that we write. No `crit`, `jku`, `x5u`, `zip`, `b64`.
    if set(header) != set(header_members):
        raise Malformed(4, f"its header must hold exactly {', '.join(sorted(header_members))}")
    return header, payload


def read_foreign(token: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Header and payload of another issuer's token, whose signature is *not* checked yet. As strict as `read` on the
    bytes; the header needs `alg` and `kid`, may say more (`x5t`), and may not say which key or encoding to use.

    Raises:
        Malformed: as `read`.
    """
    if not _FOREIGN.fullmatch(token):
        raise Malformed(1, "it is not three base64url parts of bearable length")
    parts = [_decode(part) for part in token.split(".")]
    header, payload = (_strict_object(part) for part in parts[:2])
    if not all(isinstance(header.get(name), str) for name in ("alg", "kid")):
        raise Malformed(4, "its header must hold `alg` and `kid`")
    if told := sorted(_TELLING_US_HOW & set(header)):
        raise Malformed(4, f"its header holds `{told[0]}`, which is no choice of a token")
    return header, payload


def signature_holds(token: str, key: PublicKey) -> bool:
    """Whether `key` signed the token under its own algorithm, whatever algorithm the token names."""
    try:
        jws.deserialize_compact(token, key.jose, algorithms=[key.alg])
    except (JoseError, ValueError):
        return False
    return True


def sign(header: dict[str, Any], payload: dict[str, Any], key: Signer) -> str:
    """A compact JWS. The payload is written compactly, in the order given.

    Raises:
        KeyUnusable: the signer gave no signature of 64 bytes (DER, for example).
    """
    named = "jwk" not in header  # a key names itself the same way over every signature
    first = _header(key.alg, **header) if named else b64url(_written({"alg": key.alg, **header}))
    content = f"{first}.{b64url(_written(payload))}"
    signature = key.sign(content.encode("ascii"))
    if len(signature) != SIGNATURE_BYTES:
        raise KeyUnusable(f"the signer of `{key.kid}` gave {len(signature)} bytes, a JOSE signature has 64")
    return f"{content}.{b64url(signature)}"


@lru_cache(maxsize=64)
def _header(alg: str, **members: str) -> str:
    return b64url(_written({"alg": alg, **members}))


def _written(part: dict[str, Any]) -> bytes:
    return orjson.dumps(part)


def b64url(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def _decode(part: str) -> bytes:
    try:
        content = base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
    except (binascii.Error, ValueError):
        raise Malformed(2, "one of its parts is not base64url") from None
    if b64url(content) != part:
        raise Malformed(2, "one of its parts is not canonical base64url")
    return content


def _strict_object(content: bytes) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        members = dict(pairs)
        if len(members) != len(pairs):
            raise ValueError("a member stands twice")
        return members

    def refuse(literal: str) -> NoReturn:
        raise ValueError(f"the number {literal[:20]} is not an integer of at most 16 digits")

    def integer(literal: str) -> int:
        return int(literal) if len(literal.lstrip("-")) <= 16 else refuse(literal)

    try:
        text = content.decode("utf-8")
        # Counted before parsing, so that a deep document cannot exhaust the parser's stack.
        if text.startswith("\ufeff") or text.count("{") + text.count("[") > MAX_CONTAINERS or _depth(text) > MAX_DEPTH:
            raise ValueError("a byte-order mark, or too many or too deep containers")
        document = json.loads(
            text, object_pairs_hook=unique, parse_float=refuse, parse_constant=refuse, parse_int=integer
        )
        json.dumps(document, ensure_ascii=False).encode("utf-8")  # refuses lone surrogates from \\u escapes
    except (ValueError, RecursionError) as error:
        raise Malformed(3, f"one of its parts is not strict JSON: {error}") from error
    if not isinstance(document, dict):
        raise Malformed(3, "one of its parts is not a JSON object")
    return document


def _depth(text: str) -> int:
    """An upper bound of the nesting; brackets inside strings count too, which no token of ours has in such number."""
    level = deepest = 0
    for character in text:
        if character in "[{":
            level += 1
            deepest = max(deepest, level)
        elif character in "]}":
            level -= 1
    return deepest
