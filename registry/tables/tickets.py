"""Tickets, and what was answered to those who asked."""

from datetime import datetime

from sqlalchemy import CheckConstraint, Column, Index, LargeBinary, text
from sqlmodel import Field, SQLModel

from registry.tables.columns import json_column, moment

_IS_REVOKED = text("state = 'revoked'")


class Ticket(SQLModel, table=True):
    """An issued ticket and the bytes it binds. Everything is keyed on `jti`, never on the token's text."""

    __table_args__ = (
        CheckConstraint("state in ('issued', 'redeemed', 'revoked')", name="state"),
        CheckConstraint("redeem in ('online', 'offline')", name="redeem"),
        Index("revoked_tickets", "expires_at", sqlite_where=_IS_REVOKED, postgresql_where=_IS_REVOKED),
    )

    jti: str = Field(primary_key=True)
    run_id: str = Field(unique=True)
    jkt: str
    state: str
    run_spec: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    issued_at: datetime = moment()
    expires_at: datetime = moment()
    redeemed_at: datetime | None = moment(nullable=True)
    redemption_id: str | None = None
    redeem: str = "online"
    revoked_at: datetime | None = moment(nullable=True)


class IdempotentAnswer(SQLModel, table=True):
    """What a ticket request with this Idempotency-Key was answered, so that a retry gets the same, to the byte: the
    ticket itself, the head and the warnings that came with it. The rest stands in the rows of ticket and run."""

    __tablename__ = "idempotent_answer"

    actor: str = Field(primary_key=True)
    key: str = Field(primary_key=True)
    request_digest: str
    jti: str
    ticket: str
    checkpoint: str
    warnings: list[str] = json_column()
    created_at: datetime = moment(index=True)
