"""Proposals and their reviews."""

from datetime import datetime
from typing import Any

from sqlalchemy import CheckConstraint, Index, text
from sqlmodel import Field, SQLModel

from registry.tables.columns import json_column, moment

_IS_OPEN = text("state = 'open'")


class Proposal(SQLModel, table=True):
    """A governed change. `digest` binds `change` and the `result` it leads to, which is what reviewers agree to.

    `subject` is what it changes: `tag:<name>`, `policy`, or `exception:<id>`.
    """

    __table_args__ = (
        CheckConstraint("state in ('open', 'applied', 'rejected', 'withdrawn')", name="state"),
        Index("one_open_proposal", "subject", unique=True, sqlite_where=_IS_OPEN, postgresql_where=_IS_OPEN),
    )

    id: str = Field(primary_key=True)
    kind: str
    subject: str = Field(index=True)
    change: dict[str, Any] = json_column()
    result: dict[str, Any] = json_column()
    digest: str
    reason: str
    author: str
    state: str = Field(index=True)
    approvals_needed: int
    version: int | None = None
    policy_revision: str | None = None
    opened_at: datetime = moment()
    decided_at: datetime | None = moment(nullable=True)


class ProposedFile(SQLModel, table=True):
    """A file of a policy that was proposed; the proposal's `change` has its digest."""

    __tablename__ = "proposed_file"

    proposal_id: str = Field(primary_key=True, foreign_key="proposal.id")
    name: str = Field(primary_key=True)
    content: str


class Review(SQLModel, table=True):
    """One reviewer, one review. That the author is no reviewer is held by a trigger as well (migration 0001)."""

    __table_args__ = (CheckConstraint("verdict in ('approve', 'reject')", name="verdict"),)

    proposal_id: str = Field(primary_key=True, foreign_key="proposal.id")
    reviewer: str = Field(primary_key=True)
    verdict: str
    digest: str
    reason: str
    at: datetime = moment()
