"""The run ticket: a signed permit to start one run, once, soon, here.

A compact JWS with `typ: run-ticket+jwt` and exactly the header members `alg typ kid`. Registered claims come
first; claims are appended, never renamed. The ticket is no access token and authenticates nobody by itself: redeeming
it takes a proof by the run's own key (`cnf.jkt`, `enforcer.proofs`).

`verify` is the only place that makes a `VerifiedTicket`; what takes one as an argument cannot be reached unchecked.
"""

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NoReturn

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from enforcer import jws
from enforcer.keys import DEV_PREFIX, KeySet, Signer
from enforcer.notes import LogInvalid, Witnesses
from enforcer.problems import TicketInvalid
from enforcer.runspec import Digest, RunSpec, digest
from enforcer.tlog import Logged, Proof, origin_of

TYP = "run-ticket+jwt"
TTL_S = 15 * 60
MAX_LIFE_S = 60 * 60
LEEWAY_S = 60
Clock = Callable[[], float]
Redeem = Literal["online", "offline"]

Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9]*(-[a-z0-9]+)*$", max_length=48)]
Text = Annotated[str, StringConstraints(min_length=1, max_length=300)]


class _Claim(BaseModel):
    # strict: `"exp": "123"` and `"gpus": 1.0` are refused, not converted.
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Confirmation(_Claim):
    jkt: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{43}$")]


class TrainingRun(_Claim):
    """The `authorization_details` entry (RFC 9396)."""

    type: Literal["training_run"]
    pool: Text
    gpus: int = Field(ge=0)
    max_runtime_s: int = Field(ge=1)
    actions: list[Literal["train"]] = Field(min_length=1, max_length=1)


class Claims(_Claim):
    iss: Text
    sub: Text
    aud: Text
    iat: int
    nbf: int
    exp: int
    jti: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")]
    cnf: Confirmation
    txn: Text
    client_id: Text
    authorization_details: list[TrainingRun] = Field(min_length=1, max_length=1)
    ver: Literal[1]
    task_type: Name
    task_version: int = Field(ge=1)
    business_unit: Text
    run_spec_digest: Digest
    policy_digest: Digest
    policy_rule: Text
    decision_id: Text
    redeem: Redeem


_ONLY_THE_VERIFIER = object()


@dataclass(frozen=True)
class VerifiedTicket:
    """A ticket that passed every step of `verify`, and the specification it binds."""

    claims: Claims
    spec: RunSpec
    token: str
    _made_by: object

    def __post_init__(self) -> None:
        if self._made_by is not _ONLY_THE_VERIFIER:
            raise TypeError("a VerifiedTicket is only made by enforcer.tickets.verify")


def sign(claims: Claims, key: Signer) -> str:
    return sign_claims(claims.model_dump(), key)


def sign_claims(checked: dict[str, Any], key: Signer) -> str:
    """The same of claims as JSON, which nobody checks here: for the issuer, who made them of checked parts."""
    return jws.sign({"typ": TYP, "kid": key.kid}, checked, key)


def verify(
    token: str,
    run_spec: bytes,
    keys: KeySet,
    *,
    issuer: str,
    audience: str,
    allow_dev: bool = False,
    revoked: Collection[str] = (),
    now: Clock = time.time,
) -> VerifiedTicket:
    """Check a ticket offline against the run specification that is about to be executed.

    `revoked` are the tickets of a list that `enforcer.revoked.read` took; without one, revocation shows at redemption.
    Whoever starts the run goes on (all sixteen are listed in `enforcer/README.md`): 13 possession of the key
    (`enforcer.proofs`), 14 redemption, 15 proof of issuance where that is required (`check_logged`), 16 digests of what
    was loaded.

    Raises:
        TicketInvalid: with the number of the first step that failed.
    """
    claims = _signed_claims(token, keys, allow_dev=allow_dev)
    # 9. This registry, this machine. Exact strings, one audience.
    if claims.iss != issuer:
        _refuse(9, f"it was issued by `{claims.iss}`, not by `{issuer}`")
    if claims.aud != audience:
        _refuse(9, f"it is for `{claims.aud}`, this is `{audience}`")
    # 10. Time. The lifetime is capped here too, whatever the issuer wrote.
    _check_time(claims, now())
    # 11. The bytes on disk are those that were signed.
    spec = RunSpec.read(run_spec, expected_digest=claims.run_spec_digest)
    # 12. The values about to be used are those the permit speaks of.
    _check_agreement(claims, spec)
    # 14, as far as it can be seen offline: nobody took the permit back.
    if claims.jti in revoked:
        _refuse(14, "it was revoked; ask for a new ticket")
    return VerifiedTicket(claims, spec, token, _ONLY_THE_VERIFIER)


def check_logged(ticket: VerifiedTicket, proof: str, log_keys: KeySet, *, witnesses: Witnesses | None = None) -> Logged:
    """Step 15, for strict workers: the registry put on record that it issued exactly this ticket, offline.

    A thief of the ticket key can sign tickets; without the log's key, and unseen by its witnesses, not this. `log_keys`
    are the worker's own pinned ones, never what lies beside the ticket.

    Raises:
        TicketInvalid: step 15: the proof does not hold, or is of something else.
    """
    claims = ticket.claims
    try:
        logged = Proof.parse(proof).verify(log_keys, origin=origin_of(claims.iss), witnesses=witnesses)
    except LogInvalid as error:
        _refuse(15, f"its issuance is not proven: {error}")
    expected = {
        "kind": "ticket.issued",
        "outcome": "done",
        "id": claims.decision_id,
        "ticket_id": claims.jti,
        "run_id": claims.txn,
        "digest": digest(ticket.token.encode()),
    }
    for name, value in expected.items():
        if logged.entry.get(name) != value:
            _refuse(15, f"the proof is of another event: its `{name}` is not the ticket's")
    return logged


def recognise(token: str, keys: KeySet, *, issuer: str) -> Claims:
    """What the issuer itself checks of a ticket handed back to it: steps 1 to 9 without audience and time.

    Redemption must answer "expired" or "used" from the books, not "invalid", so time is judged there.

    Raises:
        TicketInvalid: not one of this issuer's tickets.
    """
    claims = _signed_claims(token, keys, allow_dev=True)
    if claims.iss != issuer:
        _refuse(9, f"it was issued by `{claims.iss}`, not by `{issuer}`")
    return claims


def unverified_claims(token: str) -> dict[str, Any]:
    """The payload for showing to people, checked for nothing but its form.

    Raises:
        TicketInvalid: not a ticket at all.
    """
    try:
        return jws.read(token, ("alg", "typ", "kid"))[1]
    except jws.Malformed as error:
        raise TicketInvalid(f"this is not a run ticket: {error}", step=error.step) from error


def _signed_claims(token: str, keys: KeySet, *, allow_dev: bool) -> Claims:
    # 1-4. Form: alphabet, base64url, strict JSON, exactly three header members.
    try:
        header, payload = jws.read(token, ("alg", "typ", "kid"))
    except jws.Malformed as error:
        raise TicketInvalid(f"the ticket is refused: {error}", step=error.step) from error
    # 5. Its own type: an access token or a proof is never a permit (RFC 8725 section 3.11).
    if header["typ"] != TYP:
        _refuse(5, f"its `typ` is not `{TYP}`")
    # 6. A pinned key; the algorithm is the key's, never the token's choice (RFC 8725 section 3.1).
    kid = header["kid"]
    key = keys.get(kid) if isinstance(kid, str) else None
    if key is None:
        _refuse(6, "it is signed with a key that this verifier does not know; fetch the key set again")
    if header["alg"] != key.alg:
        _refuse(6, f"its `alg` is not the key's, {key.alg}")
    if kid.startswith(DEV_PREFIX) and not allow_dev:
        _refuse(6, f"`{kid}` is a development key; only a registry on loopback may use one")
    # 7. Signature.
    if not jws.signature_holds(token, key):
        _refuse(7, "its signature does not hold")
    # 8. Every claim there, of its type, and no other.
    try:
        return Claims.model_validate(payload)
    except ValidationError as error:
        first = error.errors()[0]
        _refuse(8, f"claim `{'.'.join(map(str, first['loc']))}`: {first['msg'].lower()}")


def _check_time(claims: Claims, now: float) -> None:
    if not 0 < claims.exp - claims.iat <= MAX_LIFE_S:
        _refuse(10, f"it claims to live {claims.exp - claims.iat} s, the limit is {MAX_LIFE_S} s")
    if now > claims.exp + LEEWAY_S:
        _refuse(10, f"it expired {now - claims.exp:.0f} s ago; ask for a new ticket")
    ahead = max(claims.nbf, claims.iat) - now
    if ahead > LEEWAY_S:
        _refuse(10, f"it is valid only {ahead:.0f} s from now; is this machine's clock right?")


def _check_agreement(claims: Claims, spec: RunSpec) -> None:
    permit = claims.authorization_details[0]
    pairs = (
        ("task type", claims.task_type, spec.task_type),
        ("version", claims.task_version, spec.version),
        ("run", claims.txn, spec.run_id),
        ("business unit", claims.business_unit, spec.business_unit),
        ("pool", permit.pool, spec.profile.pool),
        ("GPUs", permit.gpus, spec.gpus),
        ("runtime limit", permit.max_runtime_s, spec.limits.max_runtime_s),
        ("profile", spec.profile.digest(), spec.profile_digest),
    )
    for what, permitted, specified in pairs:
        if permitted != specified:
            _refuse(12, f"it permits {what} `{permitted}`, the specification says `{specified}`")


def _refuse(step: int, why: str) -> NoReturn:
    raise TicketInvalid(f"the ticket is refused: {why}", step=step)
