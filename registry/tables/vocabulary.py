"""Task types, their spellings and versions; and the stamp of what tickets rest on."""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, CheckConstraint, Column
from sqlmodel import Field, SQLModel

from registry.tables.columns import json_column, moment


class Tag(SQLModel, table=True):
    """A task type. Its name never changes; `version` is the one that new runs get. What a next one has to keep of the
    ones before is its `compatibility` (enforcer/compatibility.py)."""

    __table_args__ = (
        CheckConstraint(
            "compatibility in ('NONE', 'BACKWARD', 'BACKWARD_TRANSITIVE', 'FORWARD', 'FORWARD_TRANSITIVE', 'FULL', "
            "'FULL_TRANSITIVE')",
            name="compatibility",
        ),
        CheckConstraint("parent <> name", name="not_its_own_parent"),
    )

    name: str = Field(primary_key=True)
    kind: str
    parent: str | None = Field(default=None, foreign_key="tag.name")
    description: str
    state: str
    version: int
    compatibility: str
    created_at: datetime = moment()


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
