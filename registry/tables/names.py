"""What is known of names: every spelling with its meaning, and the words that the check of names goes by."""

from datetime import datetime
from typing import Any

from sqlalchemy import CheckConstraint
from sqlmodel import Field, SQLModel

from registry.tables.columns import json_column, moment


class KnownName(SQLModel, table=True):
    """A spelling and what it means: a tag's own name (a trigger writes it with the tag), an alias that resolves to one,
    or a reserved word. What a tag or alias means is never changed and never taken away (triggers, migration 0001), so
    nothing that once stood in a ticket ever comes to mean something else. A reserved word can be released."""

    __tablename__ = "known_name"
    __table_args__ = (
        CheckConstraint("kind in ('tag', 'alias', 'reserved')", name="kind"),
        CheckConstraint("(kind = 'reserved') = (tag is null)", name="reserved_for_none"),
        CheckConstraint("(kind = 'tag') = (tag is not null and spelling = tag)", name="its_own_name"),
        CheckConstraint("until is null or kind = 'reserved'", name="only_reserved_ends"),
    )

    spelling: str = Field(primary_key=True)
    kind: str
    tag: str | None = Field(default=None, foreign_key="tag.name", index=True)
    reason: str | None = None
    until: datetime | None = moment(nullable=True)


class NameRules(SQLModel, table=True):
    """The words of `names.yaml` as they were taken over; the highest number counts."""

    __tablename__ = "name_rules"

    number: int = Field(primary_key=True, sa_column_kwargs={"autoincrement": False})
    digest: str
    rules: dict[str, Any] = json_column()
    published_at: datetime = moment()
