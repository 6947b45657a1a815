"""Task types, their spellings and versions; and the stamp of what tickets rest on."""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, Column
from sqlmodel import Field, SQLModel

from registry.tables.columns import json_column, moment


class Tag(SQLModel, table=True):
    """A task type. Its name never changes; `version` is the one that new runs get."""

    name: str = Field(primary_key=True)
    kind: str
    parent: str | None = Field(default=None, foreign_key="tag.name")
    description: str
    state: str
    version: int
    created_at: datetime = moment()


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
    that ends, a task type, the version in force, the policy. What was read under a stamp holds while the stamp stands.
    `names` is another random word after each change of what names mean; unlike a number, one that was rolled back never
    comes again for something else."""

    id: int = Field(primary_key=True, sa_column_kwargs={"autoincrement": False})
    value: int = Field(sa_column=Column(BigInteger, nullable=False))
    names: str
