"""The list of revoked tickets, for those who verify without asking: signed by the ticket key, tiny, fetched with the
JWKS.

A ticket stays on it until it would have expired anyway. A list has an end of its own (`exp`): one that is older says
nothing about now, and a verifier that was told to heed a list refuses without a fresh one.
"""

import json
import time
from collections.abc import Iterable
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from enforcer import jws
from enforcer.keys import KeySet, Signer
from enforcer.problems import TicketInvalid
from enforcer.tickets import LEEWAY_S, MAX_LIFE_S, Clock

TYP = "revoked+jwt"
LIFE_S = MAX_LIFE_S
MAX_LENGTH = 8 * 2**20  # some 150,000 tickets, all revoked within the hour that they live
STEP = 14


class _List(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    iss: str
    iat: int
    exp: int
    jti: list[str] = Field(max_length=200_000)


def sign(revoked: Iterable[str], key: Signer, *, issuer: str, now: Clock = time.time) -> str:
    issued = int(now())
    said = _List(iss=issuer, iat=issued, exp=issued + LIFE_S, jti=sorted(revoked))
    return jws.sign({"typ": TYP, "kid": key.kid}, said.model_dump(), key)


def read(token: str, keys: KeySet, *, issuer: str, now: Clock = time.time) -> frozenset[str]:
    """The revoked tickets' `jti`s.

    Raises:
        TicketInvalid: step 14; not a list by this issuer's key, or not a fresh one.
    """
    try:
        header, payload = jws.read(token, ("alg", "typ", "kid"), max_length=MAX_LENGTH)
        key = keys.get(header["kid"]) if isinstance(header["kid"], str) else None
        ours = key is not None and header["alg"] == key.alg and jws.signature_holds(token, key)
        if header["typ"] != TYP or not ours:
            raise ValueError("it is not signed by a key of this registry")
        said = _List.model_validate(payload)
    except (ValueError, ValidationError) as error:
        raise TicketInvalid(f"the list of revoked tickets is refused: {error}", step=STEP) from error
    if said.iss != issuer:
        raise TicketInvalid(f"the list of revoked tickets is by `{said.iss}`, not by `{issuer}`", step=STEP)
    if not said.iat - LEEWAY_S <= now() <= said.exp + LEEWAY_S:
        raise TicketInvalid("the list of revoked tickets is not of now; fetch `/.well-known/revoked.json`", step=STEP)
    return frozenset(said.jti)


def read_file(path: Path, keys: KeySet, *, issuer: str, now: Clock = time.time) -> frozenset[str]:
    """A copy of `/.well-known/revoked.json`; raises as `read` does."""
    try:
        token = json.loads(path.read_bytes())["revoked"]
        assert isinstance(token, str)
    except (OSError, ValueError, KeyError, TypeError, AssertionError) as error:
        raise TicketInvalid(f"the list of revoked tickets `{path}` cannot be read: {error}", step=STEP) from error
    return read(token, keys, issuer=issuer, now=now)
