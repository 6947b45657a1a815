"""Events, proofs and erasure."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import StringConstraints

from enforcer.runspec import Digest
from enforcer.wire.base import Answer, Name, Reason, Request


class Event(Answer):
    """One thing that happened or was refused. `enforcer.tlog.entry` makes the log entry from exactly this.

    `digest` is that of what the event is about (the ticket, the manifest), `groups_digest` that of the caller's
    groups. `salt` (hex) opens `personal_hash`, which stands in the log for actor, groups, reason and detail; when these
    were erased, so was the salt.
    """

    id: str
    at: datetime
    kind: str
    outcome: Literal["done", "refused"]
    actor: str
    groups: list[str]
    business_unit: str
    task_type: str | None
    version: int | None
    rule: str | None
    policy_revision: str | None
    run_id: str | None
    ticket_id: str | None
    proposal_id: str | None
    digest: Digest | None
    groups_digest: Digest
    reason: str | None
    detail: dict[str, Any]
    personal_hash: Digest
    salt: str | None


class EventPage(Answer):
    items: list[Event]
    next_page_token: str | None


class ErasureRequest(Request):
    """Erase what is personal about `actor`. The reason stays on record, so it does not name them."""

    actor: Annotated[str, StringConstraints(pattern=r"^[a-z]+:[A-Za-z0-9._:@/|+=~-]{1,200}$")]
    business_unit: Name | None = None
    reason: Reason


class ErasureReceipt(Answer):
    """How much was erased. `person_digest` stands in the log; whoever kept `salt` (hex) can show later whose it is:
    `sha256(salt || actor)`."""

    person_digest: Digest
    salt: str
    events: int
    runs: int
    answers: int


class ConsistencyProof(Answer):
    """That the log of `size` entries begins with the one of `old` (RFC 9162 section 2.1.4), hashes in base64."""

    old: int
    size: int
    proof: list[str]
