"""Proposals, who had a part in them, and their reviews."""

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, CheckConstraint, Column, Index, UniqueConstraint, text
from sqlmodel import Field, SQLModel

from registry.tables.columns import json_column, moment

STATES = ("draft", "open", "approved", "applied", "rejected", "withdrawn", "expired", "superseded")
_BROKE_GLASS = text("provisional is not null")


class Proposal(SQLModel, table=True):
    """A governed change. `digest` binds `change`, the `result` it leads to, its `base` and its reason, which is what
    reviewers agree to; each edit begins a `round`, in which none has agreed yet.

    `subject` is what it changes: `tag:<name>`, `policy`, or `exception:<id>`. `terms` (none of a draft) are what was
    asked when it was opened. A reminder and an escalation that were told have no time any more. `provisional` is what
    became of a change that took effect before others agreed, for an incident. What has ended is never changed (trigger,
    0001).
    """

    __table_args__ = (
        CheckConstraint(f"state in {STATES}", name="state"),
        CheckConstraint("provisional in ('in-effect', 'ratified', 'reverted', 'not-reverted')", name="provisional"),
        CheckConstraint(
            "(provisional is null) = (incident is null) and (provisional is null) = (provisional_until is null)",
            name="provisional_for_an_incident",
        ),
        CheckConstraint("provisional <> 'in-effect' or state in ('open', 'approved')", name="no_end_in_effect"),
        Index(
            "provisional", "provisional", "provisional_until", sqlite_where=_BROKE_GLASS, postgresql_where=_BROKE_GLASS
        ),
    )

    id: str = Field(primary_key=True)
    kind: str
    subject: str = Field(index=True)
    change: dict[str, Any] = json_column()
    result: dict[str, Any] = json_column()
    base: dict[str, Any] | None = Field(default=None, sa_column=Column(JSON(none_as_null=True)))
    digest: str
    reason: str
    author: str
    state: str = Field(index=True)
    round: int = 1
    terms: dict[str, Any] | None = Field(default=None, sa_column=Column(JSON(none_as_null=True)))
    terms_digest: str | None = None
    approvals_needed: int
    version: int | None = None
    policy_revision: str | None = None
    incident: str | None = None
    incident_reason: str | None = None
    provisional: str | None = None
    provisional_until: datetime | None = moment(nullable=True)
    opened_at: datetime = moment()
    not_before: datetime | None = moment(nullable=True)
    remind_at: datetime | None = moment(nullable=True)
    escalate_at: datetime | None = moment(nullable=True)
    expires_at: datetime | None = moment(nullable=True)
    decided_at: datetime | None = moment(nullable=True)


class Contributor(SQLModel, table=True):
    """Somebody other than the author who edited a proposal."""

    proposal_id: str = Field(primary_key=True, foreign_key="proposal.id")
    who: str = Field(primary_key=True)


class ProposedFile(SQLModel, table=True):
    """A file of a policy that was proposed; the proposal's `change` of that round has its digest."""

    __tablename__ = "proposed_file"

    proposal_id: str = Field(primary_key=True, foreign_key="proposal.id")
    round: int = Field(default=1, primary_key=True, sa_column_kwargs={"autoincrement": False})
    name: str = Field(primary_key=True)
    content: str


class Review(SQLModel, table=True):
    """One reviewer, one review in each round, for the unit that was theirs then; or in the name of somebody else and
    for theirs, whose review it is then. That the author is neither, and that what has ended takes none, is held by
    triggers as well (migration 0001)."""

    __table_args__ = (
        CheckConstraint("verdict in ('approve', 'reject')", name="verdict"),
        CheckConstraint("(on_behalf_of is null) = (delegation_id is null)", name="delegated"),
        UniqueConstraint("proposal_id", "round", "on_behalf_of", name="one_voice"),
    )

    proposal_id: str = Field(primary_key=True, foreign_key="proposal.id")
    round: int = Field(default=1, primary_key=True, sa_column_kwargs={"autoincrement": False})
    reviewer: str = Field(primary_key=True)
    on_behalf_of: str | None = None
    delegation_id: str | None = Field(default=None, foreign_key="delegation.id")
    business_unit: str
    verdict: str
    digest: str
    reason: str
    at: datetime = moment()


class LostApproval(SQLModel, table=True):
    """An approval by somebody who may give it no longer. It does not come back: they would have to read it again."""

    __tablename__ = "lost_approval"

    proposal_id: str = Field(primary_key=True, foreign_key="proposal.id")
    round: int = Field(primary_key=True, sa_column_kwargs={"autoincrement": False})
    reviewer: str = Field(primary_key=True)
    reason: str
    at: datetime = moment()
