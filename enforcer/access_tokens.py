"""The registry's own access token: what a CI job or workload gets for its token (RFC 8693, RFC 9068).

A compact JWS with `typ: at+jwt`, signed by the key whose only purpose this is. It opens the API of the registry that
issued it, and nothing else: a run ticket has another `typ` and another key.
"""

import time
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from enforcer import jws
from enforcer.keys import KeySet, Signer
from enforcer.problems import Unauthenticated
from enforcer.tickets import Clock

TYP = "at+jwt"
MAX_LIFE_S = 900
LEEWAY_S = 30

Text = Annotated[str, StringConstraints(min_length=1, max_length=300)]


class _Claim(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Acting(_Claim):
    """RFC 8693 section 4.1: who really acts for the principal, as the token that was traded said."""

    iss: Text
    sub: Annotated[str, StringConstraints(min_length=1, max_length=1_000)]
    run: Text | None = None  # the CI run
    pod: Text | None = None  # the uid of the Kubernetes pod

    @property
    def facts(self) -> dict[str, str]:
        """For the record, beside what was done."""
        return {f"acting_{name}": value for name, value in self.model_dump(exclude_none=True).items()}


class Claims(_Claim):
    iss: Text
    sub: Text
    aud: Text
    iat: int
    exp: int
    jti: Text
    client_id: Text  # the trust rule
    scope: str
    groups: list[str] = Field(max_length=200)
    business_unit: Text
    act: Acting


def sign(claims: Claims, key: Signer) -> str:
    return jws.sign({"typ": TYP, "kid": key.kid}, claims.model_dump(exclude_none=True), key)


def verify(token: str, keys: KeySet, *, issuer: str, now: Clock = time.time) -> Claims:
    """Check a token that this registry issued for itself (RFC 9068 section 4).

    Raises:
        Unauthenticated: with the first thing that does not hold.
    """
    try:
        header, payload = jws.read(token, ("alg", "typ", "kid"))
        key = keys.get(header["kid"]) if isinstance(header["kid"], str) else None
        if header["typ"] != TYP or key is None or header["alg"] != key.alg:
            raise ValueError("it is not signed as one by a key of ours")
        if not jws.signature_holds(token, key):
            raise ValueError("its signature does not hold")
        claims = Claims.model_validate(payload)
    except ValidationError as error:
        first = error.errors()[0]
        raise _refused(f"claim `{'.'.join(map(str, first['loc']))}`: {first['msg'].lower()}") from error
    except ValueError as error:
        raise _refused(str(error)) from error
    if (claims.iss, claims.aud) != (issuer, issuer):
        raise _refused("it is for another registry")
    if not 0 < claims.exp - claims.iat <= MAX_LIFE_S or claims.iat - now() > LEEWAY_S:
        raise _refused("its times cannot be meant")
    if now() > claims.exp + LEEWAY_S:
        raise Unauthenticated("this access token has expired; trade your job's token for a new one at `POST /v1/token`")
    return claims


def _refused(why: str) -> Unauthenticated:
    return Unauthenticated(f"this access token is refused: {why}")
