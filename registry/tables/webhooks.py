"""Who is told of events, how far they were told, and what came of it."""

from datetime import datetime

from sqlalchemy import CheckConstraint, Index, text
from sqlmodel import Field, SQLModel

from registry.tables.columns import json_column, moment

_IS_PARKED = text("state = 'parked'")


class Webhook(SQLModel, table=True):
    """A receiver of events. No secret is here: it is derived (`registry.webhook_signing`)."""

    __tablename__ = "webhook"
    __table_args__ = (CheckConstraint("state in ('active', 'paused', 'ended')", name="webhook_state"),)

    id: str = Field(primary_key=True)
    url: str
    kinds: list[str] = json_column()
    business_unit: str
    task_type: str | None
    holder: str  # who made or resumed it last
    state: str
    reason: str | None  # why it is not active, where none of its admins wanted that
    generation: int  # of its secret
    old_secret_until: datetime | None = moment(nullable=True)
    created_at: datetime = moment()
    cursor: int  # index in the log of the next event to look at
    attempts: int  # so often that event was tried in vain
    next_attempt_at: datetime = moment()
    failing_since: datetime | None = moment(nullable=True)
    lease: str | None  # who delivers now, and for how long nobody else does
    leased_until: datetime | None = moment(nullable=True)


class WebhookDelivery(SQLModel, table=True):
    """What came of telling one receiver of one event; of a replay, the newest outcome."""

    __tablename__ = "webhook_delivery"
    __table_args__ = (
        CheckConstraint("state in ('delivered', 'parked')", name="webhook_delivery_state"),
        Index("webhook_deliveries_parked", "webhook_id", sqlite_where=_IS_PARKED, postgresql_where=_IS_PARKED),
    )

    webhook_id: str = Field(primary_key=True, foreign_key="webhook.id")
    id: str = Field(primary_key=True, foreign_key="event.id")
    state: str
    attempts: int
    at: datetime = moment(index=True)
    answer: str
