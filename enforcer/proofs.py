"""Proof of possession of a run's key: DPoP (RFC 9449), bound to one request and one ticket.

The launcher makes a key for each run, the ticket names its thumbprint (`cnf.jkt`), and whoever redeems the ticket signs
a proof over method, URL, time and the ticket's hash. A ticket seen in a log or an annotation redeems nothing.
"""

import hashlib
import time
import uuid
from dataclasses import dataclass
from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError

from enforcer import jws
from enforcer.keys import KeyUnusable, SigningKey, public_key
from enforcer.problems import TicketInvalid
from enforcer.tickets import LEEWAY_S, Clock

TYP = "dpop+jwt"
Form = TypeVar("Form", bound=BaseModel)


class _Proof(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    jti: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9-]{16,64}$")]
    htm: str
    htu: str
    iat: int
    ath: str


@dataclass(frozen=True)
class ProvenKey:
    """The key that signed: its thumbprint and the id of this proof."""

    thumbprint: str
    proof_id: str


def prove(key: SigningKey, *, method: str, url: str, ticket: str, now: Clock = time.time) -> str:
    claims = _Proof(jti=str(uuid.uuid4()), htm=method, htu=url, iat=int(now()), ath=hash_of(ticket))
    return write(key, TYP, claims)


def check(proof: str, *, method: str, url: str, ticket: str, now: Clock = time.time) -> ProvenKey:
    """The key behind a proof (RFC 9449 section 4.3). The caller compares its thumbprint with the ticket's `cnf.jkt`.

    Raises:
        TicketInvalid: step 13, with the reason.
    """
    thumbprint, claims = read(proof, typ=TYP, form=_Proof, what="proof of possession")
    if (claims.htm, claims.htu, claims.ath) != (method, url, hash_of(ticket)):
        raise TicketInvalid("the proof of possession is refused: it was made for another request", step=13)
    if abs(now() - claims.iat) > LEEWAY_S:
        raise TicketInvalid("the proof of possession is refused: it is too old; check this machine's clock", step=13)
    return ProvenKey(thumbprint, claims.jti)


def write(key: SigningKey, typ: str, claims: BaseModel) -> str:
    """A statement by the run's key, which stands in its header (RFC 7515 section 4.1.3)."""
    jwk = {name: value for name, value in key.public_jwk().items() if name in {"kty", "crv", "x", "y"}}
    return jws.sign({"typ": typ, "jwk": jwk}, claims.model_dump(), key)


def read(token: str, *, typ: str, form: type[Form], what: str) -> tuple[str, Form]:
    """The thumbprint of the key that made a statement, and what it says.

    Raises:
        TicketInvalid: step 13, with the reason.
    """
    try:
        header, payload = jws.read(token, ("alg", "typ", "jwk"))
        if header["typ"] != typ or not isinstance(header["jwk"], dict):
            raise ValueError(f"its header is not that of a {what}")
        # The key comes with the statement, so the kind of key decides the algorithm: Ed25519 or ES256.
        key = public_key(header["jwk"])
        if header["alg"] != key.alg:
            raise ValueError(f"its `alg` is not that of its key, {key.alg}")
        claims = form.model_validate(payload)
    except (ValueError, ValidationError, KeyUnusable) as error:
        raise TicketInvalid(f"the {what} is refused: {error}", step=13) from error
    if not jws.signature_holds(token, key):
        raise TicketInvalid(f"the {what} is refused: its signature does not hold", step=13)
    return key.thumbprint, claims


def hash_of(ticket: str) -> str:
    """`ath` (RFC 9449 section 4.2): which ticket a statement is about."""
    return jws.b64url(hashlib.sha256(ticket.encode()).digest())
