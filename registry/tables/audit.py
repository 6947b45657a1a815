"""Events and the log that proves them."""

from datetime import datetime
from typing import Any

from sqlalchemy import Column, Index, LargeBinary, UniqueConstraint, text
from sqlmodel import Field, SQLModel

from registry.tables.columns import json_column, moment

_IS_REFUSED = text("outcome = 'refused'")


_HAS_TICKET = text("ticket_id is not null")


class Event(SQLModel, table=True):
    """One thing that happened or was refused. Rows are never deleted, and updated only to erase what is personal
    (triggers, migration 0001)."""

    __table_args__ = (
        Index("event_by_unit", "business_unit", "id"),
        Index("event_by_tag", "task_type", "id"),
        Index("event_by_actor", "actor", "id"),
        Index("event_by_kind", "kind", "id"),
        # A unit's own auditor filters inside the unit: each of these finds a rare few among the unit's millions.
        # Of two that fit as well, SQLite takes the one made last: an actor is rarer than a tag, a tag than a kind.
        # What stands behind the id answers a second filter from the index, without a look at each row.
        Index("event_by_unit_kind", "business_unit", "kind", "id", "outcome"),
        Index("event_by_unit_tag", "business_unit", "task_type", "id", "kind"),
        Index("event_by_unit_actor", "business_unit", "actor", "id", "task_type", "kind", "outcome"),
        Index(
            "event_refused",
            "business_unit",
            "id",
            "kind",
            "task_type",
            "actor",
            sqlite_where=_IS_REFUSED,
            postgresql_where=_IS_REFUSED,
        ),
        Index("event_by_ticket", "ticket_id", "id", sqlite_where=_HAS_TICKET, postgresql_where=_HAS_TICKET),
    )

    id: str = Field(primary_key=True)
    at: datetime = moment()
    kind: str
    outcome: str
    actor: str
    groups: list[str] = json_column()
    business_unit: str
    task_type: str | None = None
    version: int | None = None
    rule: str | None = None
    policy_revision: str | None = None
    run_id: str | None = Field(default=None, index=True)
    ticket_id: str | None = None
    proposal_id: str | None = None
    digest: str | None = None
    groups_digest: str
    reason: str | None = None
    detail: dict[str, Any] = json_column()
    personal_hash: str
    salt: str | None = None


class PendingEntry(SQLModel, table=True):
    """An event that has no place in the log yet. Written with the event, taken away when it is sequenced.

    The leaf is hashed when the event is written, so that a row changed before it was sequenced shows as well.
    """

    __tablename__ = "pending_entry"

    event_id: str = Field(primary_key=True, foreign_key="event.id")
    leaf_hash: bytes = Field(sa_column=Column(LargeBinary, nullable=False))


class LogEntry(SQLModel, table=True):
    """The place of an event in the Merkle log. Gap-free by construction: one sequencer, counting from what is there."""

    __tablename__ = "log_entry"
    __table_args__ = (UniqueConstraint("event_id"),)

    index: int = Field(primary_key=True, sa_column_kwargs={"autoincrement": False})
    event_id: str = Field(foreign_key="event.id")
    leaf_hash: bytes = Field(sa_column=Column(LargeBinary, nullable=False))


class LogTile(SQLModel, table=True):
    """A tile of the tree (C2SP tlog-tiles): up to 256 hashes of a level. Full ones never change (trigger, 0001)."""

    __tablename__ = "log_tile"

    level: int = Field(primary_key=True, sa_column_kwargs={"autoincrement": False})
    index: int = Field(primary_key=True, sa_column_kwargs={"autoincrement": False})
    width: int
    hashes: bytes = Field(sa_column=Column(LargeBinary, nullable=False))


class LogCheckpoint(SQLModel, table=True):
    """The newest signed head of the log, and the newest that witnesses cosigned; older ones are taken away."""

    __tablename__ = "log_checkpoint"

    size: int = Field(primary_key=True, sa_column_kwargs={"autoincrement": False})
    note: str
    witnessed: bool


class LegalHold(SQLModel, table=True):
    """Until it is released, what is personal in the events that fit all of its filters is not erased."""

    __tablename__ = "legal_hold"

    id: str = Field(primary_key=True)
    reason: str
    placed_by: str
    placed_at: datetime = moment()
    released_at: datetime | None = moment(nullable=True)
    business_unit: str | None = None
    actor: str | None = None
    run_id: str | None = None
