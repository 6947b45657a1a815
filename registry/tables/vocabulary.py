"""Task types, their spellings and versions; and the stamp of what tickets rest on."""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, CheckConstraint, Column, Index, text
from sqlmodel import Field, SQLModel

from registry.tables.columns import json_column, moment

_IS_DEPRECATED = text("state = 'deprecated'")


class Tag(SQLModel, table=True):
    """A task type. Its name never changes; `version` is the one that new runs get.

    From `deprecated` on the terms of its end stand here, so that a run is refused from `sunset_at` on whether or not
    `state` says so yet (`tag_life.state_at`). Triggers hold the order of states (migration 0001).
    """

    __table_args__ = (
        CheckConstraint("state in ('active', 'deprecated', 'sunset', 'archived')", name="state"),
        CheckConstraint(
            "(state = 'active') = (deprecated_at is null) and (state = 'active') = (sunset_at is null) "
            "and (state = 'active') = (deprecation_reason is null)",
            name="terms_of_the_end",
        ),
        CheckConstraint("replaced_by is null or (state <> 'active' and replaced_by <> name)", name="replacement"),
        Index("sunsets", "sunset_at", sqlite_where=_IS_DEPRECATED, postgresql_where=_IS_DEPRECATED),
    )

    name: str = Field(primary_key=True)
    kind: str
    parent: str | None = Field(default=None, foreign_key="tag.name", index=True)
    description: str
    state: str
    version: int
    created_at: datetime = moment()
    deprecated_at: datetime | None = moment(nullable=True)
    sunset_at: datetime | None = moment(nullable=True)
    replaced_by: str | None = Field(default=None, foreign_key="tag.name", index=True)
    deprecation_reason: str | None = None


class Alias(SQLModel, table=True):
    """Another spelling that resolves to a tag. Names and aliases share one space (checked when proposed)."""

    alias: str = Field(primary_key=True)
    tag: str = Field(foreign_key="tag.name", index=True)


class TagVersion(SQLModel, table=True):
    """One immutable version: the whole profile, inherited parts included."""

    __tablename__ = "tag_version"

    tag: str = Field(primary_key=True, foreign_key="tag.name")
    version: int = Field(primary_key=True)
    profile: dict[str, Any] = json_column()
    profile_digest: str
    proposal_id: str | None = Field(default=None, foreign_key="proposal.id")
    created_at: datetime = moment()


class Stamp(SQLModel, table=True):
    """One row, whose value moves with every change of what a ticket rests on (triggers, migration 0001): an API token
    that ends, a task type, the version in force, an alias, the policy. What was read under a stamp holds while the
    stamp stands."""

    id: int = Field(primary_key=True, sa_column_kwargs={"autoincrement": False})
    value: int = Field(sa_column=Column(BigInteger, nullable=False))
