"""Run tickets: asked for, given, redeemed, revoked."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from enforcer.profiles import Limits, Value
from enforcer.runspec import Digest, Inputs
from enforcer.tickets import Redeem
from enforcer.wire.base import Answer, ArgumentName, Line, Name, Note, Reason, Request, Thumbprint, VersionNumber


class TicketRequest(Request):
    """Ask to run. `arguments` are those the trainer gave; the registry fills in the rest from the profile."""

    task_type: Name
    version: VersionNumber | None = None
    business_unit: Name | None = None
    target: Name = "local"
    gpus: int = Field(default=0, ge=0, le=4096)
    arguments: dict[ArgumentName, Value] = Field(max_length=200)
    inputs: Inputs
    audience: Annotated[str, StringConstraints(pattern=r"^urn:[a-z0-9][A-Za-z0-9:._/-]{0,200}$")]
    jkt: Thumbprint
    client_id: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/+-]{0,100}$")]
    redeem: Redeem = "online"
    change_ticket: Line | None = None


class TicketGrant(Answer):
    """The permit. `run_spec` holds the canonical bytes as text: store it verbatim as `run-spec.json`.

    `checkpoint` is the log's newest signed head (C2SP): whoever keeps it is a witness of the log.
    """

    ticket: str
    jti: str
    run_id: str
    run_spec: str
    run_spec_digest: Digest
    expires_at: datetime
    policy_rule: str
    warnings: list[str]
    checkpoint: Note


class TicketPlan(Answer):
    """What `validate_only` answers: it would be granted, like this."""

    task_type: str
    version: int
    policy_rule: str
    pool: str
    limits: Limits
    arguments: dict[str, Any]
    gates: list[str]
    warnings: list[str]


class TicketStatus(Answer):
    jti: str
    run_id: str
    state: str
    issued_at: datetime
    expires_at: datetime
    redeemed_at: datetime | None
    revoked_at: datetime | None
    redeem: Redeem


class Redemption(Request):
    """`redemption_id` is made by the process that starts the run and kept in its memory: the same process may ask again
    after a lost answer, a second process with the same ticket may not."""

    redemption_id: Annotated[str, StringConstraints(pattern=r"^[0-9a-f-]{36}$")]


OnLeaseLoss = Literal["checkpoint-and-stop", "finish"]


class Lease(Answer):
    """The right to go on training. After `lease_s` and `grace_s` without an answer, `on_lease_loss` says what a run
    does: the organisation's choice, which comes with the lease, so that no client loosens it."""

    run_id: str
    lease_token: str
    expires_at: datetime
    heartbeat_s: int
    checkpoint: Note
    lease_s: int
    grace_s: int
    on_lease_loss: OnLeaseLoss


class Revocation(Request):
    reason: Reason


class RevokedList(Answer):
    """A signed list (JWS, `typ: revoked+jwt`) of the tickets that were taken back and have not expired."""

    revoked: str


class TicketRefusal(Request):
    """Why a worker did not start what a ticket permits: the number of the step that failed (`enforcer.tickets`)."""

    step: int = Field(ge=1, le=16)
    reason: Line


class RefusalNoted(Answer):
    decision_id: str
