"""What quotas count."""

from datetime import datetime

from sqlalchemy import BigInteger, Column, Index, text
from sqlmodel import Field, SQLModel

from registry.tables.columns import moment

_HOLDS = text("holds")


class QuotaUse(SQLModel, table=True):
    """What a quota counts: runs and GPUs at once under the period `now`, GPU seconds under each period of its window,
    reserved and used together."""

    __tablename__ = "quota_use"

    quota: str = Field(primary_key=True)
    period: str = Field(primary_key=True)
    runs: int
    gpus: int
    gpu_s: int = Field(sa_column=Column(BigInteger, nullable=False))


class QuotaHold(SQLModel, table=True):
    """What one run counts for in one quota. While it `holds`, its GPU seconds are the most that it may take; then what
    it took. A ticket that nobody redeems until `lapses_at` holds nothing."""

    __tablename__ = "quota_hold"
    __table_args__ = (Index("lapsing_holds", "lapses_at", sqlite_where=_HOLDS, postgresql_where=_HOLDS),)

    run_id: str = Field(primary_key=True, foreign_key="run.id")
    quota: str = Field(primary_key=True)
    period: str | None = None
    holds: bool
    gpus: int
    most_gpu_s: int = Field(sa_column=Column(BigInteger, nullable=False))
    gpu_s: int = Field(sa_column=Column(BigInteger, nullable=False))
    lapses_at: datetime = moment()
