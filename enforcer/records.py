"""What a run that redeems its ticket offline writes down, signed by its own key, and uploads later.

record   this ticket was redeemed then, on this host, under this redemption id     typ redemption-record+jwt
proof    that redemption ended with exactly this report                            typ run-report+jwt

The key is the one that the ticket names (`cnf.jkt`), so a record needs the key just as an online redemption does. Its
time is the host's word: whoever holds the key can write another one.
"""

import time
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from enforcer import proofs
from enforcer.keys import SigningKey
from enforcer.problems import TicketInvalid
from enforcer.runspec import Digest
from enforcer.tickets import Clock

RECORD_TYP, REPORT_TYP = "redemption-record+jwt", "run-report+jwt"
Uuid = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")]


class Record(BaseModel):
    """`redeemed_at` in seconds since 1970; `host` is where, `ath` the hash of the ticket's text (RFC 9449)."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    jti: Uuid
    redemption_id: Uuid
    redeemed_at: int = Field(ge=0, lt=2**40)
    host: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._:/-]{1,200}$")]
    ath: str


class _ReportProof(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    jti: Uuid
    redemption_id: Uuid
    report_digest: Digest


def record(key: SigningKey, *, ticket: str, jti: str, redemption_id: str, host: str, now: Clock = time.time) -> str:
    said = Record(jti=jti, redemption_id=redemption_id, redeemed_at=int(now()), host=host, ath=proofs.hash_of(ticket))
    return proofs.write(key, RECORD_TYP, said)


def check_record(token: str, *, ticket: str, jti: str, jkt: str) -> Record:
    """The record of a redemption of this ticket by the key that it names. Its time is *not* checked.

    Raises:
        TicketInvalid: step 13.
    """
    thumbprint, said = proofs.read(token, typ=RECORD_TYP, form=Record, what="redemption record")
    if thumbprint != jkt:
        raise TicketInvalid("the redemption record is by another key than the ticket names (`cnf.jkt`)", step=13)
    if (said.jti, said.ath) != (jti, proofs.hash_of(ticket)):
        raise TicketInvalid("the redemption record is of another ticket", step=13)
    return said


def prove_report(key: SigningKey, *, jti: str, redemption_id: str, report_digest: str) -> str:
    said = _ReportProof(jti=jti, redemption_id=redemption_id, report_digest=report_digest)
    return proofs.write(key, REPORT_TYP, said)


def check_report(proof: str, *, of: Record, jkt: str, report_digest: str) -> None:
    """Raises `TicketInvalid` (step 13) unless the run's key says that this redemption ended with this report."""
    thumbprint, said = proofs.read(proof, typ=REPORT_TYP, form=_ReportProof, what="report's proof")
    if thumbprint != jkt or (said.jti, said.redemption_id) != (of.jti, of.redemption_id):
        raise TicketInvalid("the report's proof is not by the run that redeemed the ticket", step=13)
    if said.report_digest != report_digest:
        raise TicketInvalid("the report is not the one that the run signed", step=13)
