"""Runs and their manifests."""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, CheckConstraint, Column, Index, LargeBinary, text
from sqlmodel import Field, SQLModel

from registry.tables.columns import json_column, moment

_IS_RUNNING = text("state = 'running'")


IS_ALIVE = "state in ('permitted', 'running', 'lost')"
_IS_ALIVE = text(IS_ALIVE)


OPEN_RUNS = ("permitted", "running", "lost")  # a lost run comes back by being heard of


class Run(SQLModel, table=True):
    """One run, from its permit on."""

    __table_args__ = (
        CheckConstraint("state in ('permitted', 'running', 'lost', 'finished', 'failed', 'interrupted')", name="state"),
        Index("silent_runs", "lease_expires_at", sqlite_where=_IS_RUNNING, postgresql_where=_IS_RUNNING),
        Index("runs_alive", "actor", "id", sqlite_where=_IS_ALIVE, postgresql_where=_IS_ALIVE),
        Index("run_by_unit", "business_unit", "id"),
        Index("run_by_tag", "task_type", "id"),
    )

    id: str = Field(primary_key=True)
    jti: str = Field(unique=True)
    task_type: str
    version: int
    business_unit: str
    actor: str
    state: str
    target: str
    pool: str
    policy_rule: str
    run_spec_digest: str
    created_at: datetime = moment()
    started_at: datetime | None = moment(nullable=True)
    ended_at: datetime | None = moment(nullable=True)
    heartbeat_at: datetime | None = moment(nullable=True)
    lease_sha256: bytes | None = Field(default=None, sa_column=Column(LargeBinary, nullable=True))
    lease_expires_at: datetime | None = moment(nullable=True)
    stop: str | None = None
    step: int = Field(default=0, sa_column=Column(BigInteger, nullable=False))
    total_steps: int = Field(default=0, sa_column=Column(BigInteger, nullable=False))
    logs: dict[str, Any] = json_column()
    scores: dict[str, Any] = json_column()
    gates: list[dict[str, Any]] = json_column()
    verdict: str | None = None
    report_digest: str | None = None


class RunManifest(SQLModel, table=True):
    """What a run signed at its end, and what we signed on it, byte for byte. Rows are never changed (trigger, 0001)."""

    __tablename__ = "run_manifest"

    run_id: str = Field(primary_key=True, foreign_key="run.id")
    digest: str
    manifest: str
    receipt: str
    event_id: str = Field(foreign_key="event.id")
