"""Delegations: who reviews in whose name."""

from datetime import datetime

from sqlalchemy import CheckConstraint
from sqlmodel import Field, SQLModel

from registry.tables.columns import json_column, moment


class Delegation(SQLModel, table=True):
    """`groups` are those of the delegator that count, as their credential had them when it was made. What has ended is
    never changed, and nothing but its end ever is (triggers, 0001)."""

    __table_args__ = (
        CheckConstraint("delegator <> delegate", name="to_somebody_else"),
        CheckConstraint("ended_because in ('expired', 'revoked', 'right-lost')", name="ended_because"),
        CheckConstraint("(ended_at is null) = (ended_because is null)", name="ended"),
    )

    id: str = Field(primary_key=True)
    delegator: str = Field(index=True)
    delegate: str = Field(index=True)
    actions: list[str] = json_column()
    groups: list[str] = json_column()
    tag: str | None = None
    unit: str | None = None
    reason: str
    made_at: datetime = moment()
    not_after: datetime = moment()
    ended_at: datetime | None = moment(nullable=True)
    ended_because: str | None = None
