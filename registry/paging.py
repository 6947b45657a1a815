"""Filters and keyset pages, the same for every list.

A page token is opaque, continues after a key, and belongs to the filter and order it came with: others are refused
rather than answered with a hole in them. It is not signed: all that it can say is after which row to go on, within
what its bearer may read anyway.
"""

import base64
import hashlib
import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, ClassVar, TypeVar

import sqlalchemy as core
from pydantic import BaseModel, ConfigDict, Field, field_validator
from sqlalchemy import ColumnElement, and_, or_
from sqlmodel import Session, SQLModel, col, select

from enforcer.problems import PageTokenInvalid
from registry import db
from registry.filters import MAX_LENGTH, Listing, moment

Row = TypeVar("Row", bound=SQLModel)
_GRAMMAR = "`field = value`, also `!= < <= > >=` and `:` (has), with AND, OR, NOT and parentheses; "


class PageQuery(BaseModel):
    """What every list takes. An unknown parameter is refused: a misspelt filter must not widen the answer."""

    model_config = ConfigDict(extra="forbid")
    most: ClassVar[int] = 500

    page_size: int = Field(default=50, ge=1, description="items on a page; more than there ever are is taken as most")
    page_token: str | None = Field(default=None, max_length=2_000, description="`next_page_token` of the page before")

    @field_validator("page_size")
    @classmethod
    def _at_most(cls, size: int) -> int:
        """As AIP-158 has it: whoever asks for more than a page holds gets a page and a token, not an error."""
        return min(size, cls.most)


class ListQuery(PageQuery):
    """What a list with published fields takes."""

    filter: str | None = Field(
        default=None, max_length=MAX_LENGTH, description=_GRAMMAR + "fields: `x-filterable-fields` of this operation"
    )
    order_by: str | None = Field(
        default=None, max_length=200, description="`field` or `field desc`, by comma; `x-sortable-fields`"
    )


class Filter:
    """What to look for: exact matches by column; `since` and `until` bound the column `at`, half open.

    A table with the column `at` has an id made of that moment (`db.uuid7`), so the bounds are given for both: the exact
    one for the answer, the one by id for the index that the page is read in.
    """

    def __init__(self, **wanted: Any) -> None:
        self.wanted = {name: value for name, value in wanted.items() if value is not None}

    def apply(self, query: Any, table: Any) -> Any:
        for name, value in self.wanted.items():
            if name == "since":
                query = query.where(col(table.at) >= value, col(table.id) >= db.uuid7_floor(value))
            elif name == "until":
                after = db.uuid7_floor(value + timedelta(milliseconds=1))
                query = query.where(col(table.at) < value, col(table.id) < after)
            elif name == "business_unit" and self.wanted.keys() & {"run_id", "ticket_id"}:
                # A run has a handful of events. Compared as an expression, so that no planner without statistics
                # (SQLite) walks the unit's index through millions instead of the run's.
                query = query.where(col(table.business_unit).concat("") == value)
            else:
                query = query.where(getattr(table, name) == value)
        return query


class Page:
    """Up to `asked.page_size` rows after the key that the token holds.

    Raises:
        PageTokenInvalid: a token that is not one of ours, or belongs to another filter or order.
        FilterInvalid: no filter, or no order, over the fields of this list.
    """

    def __init__(self, asked: PageQuery, wanted: Filter, listing: Listing) -> None:
        text, order = (asked.filter, asked.order_by) if isinstance(asked, ListQuery) else (None, None)
        self._size = asked.page_size
        self._wanted = wanted
        self._where = listing.where(text)
        self._order = listing.order(order)
        bound = json.dumps([wanted.wanted, text, order], default=str, sort_keys=True)
        self._fingerprint = hashlib.sha256(bound.encode()).hexdigest()[:16]
        self._after = self._key(asked.page_token) if asked.page_token is not None else None

    def rows(self, session: Session, table: type[Row]) -> tuple[list[Row], str | None]:
        """`(rows, next_page_token)`."""
        return self.cut(session.exec(self.query(select(table), table)).all())

    def documents(
        self, document: ColumnElement[str], session: Session, table: type[SQLModel]
    ) -> tuple[list[str], str | None]:
        """The same, each row as the text that the database makes of it."""
        keys = [column for column, _ in self._order]
        kept, token = self.cut(session.execute(self.query(core.select(*keys, document.label("document")), table)).all())
        return [row.document for row in kept], token

    def query(self, query: Any, table: type[SQLModel]) -> Any:
        """What selects the page from `query`. One row more than asked for tells whether there is another page."""
        query = self._wanted.apply(query, table)
        if self._where is not None:
            query = query.where(self._where)
        if self._after is not None:
            query = query.where(self._behind(self._after))
        return query.order_by(*self.sorting()).limit(self._size + 1)

    def sorting(self, columns: Any = None) -> list[Any]:
        """How rows are sorted; of `columns` (a subquery's) where some are given."""
        named = [(column if columns is None else columns[column.key], desc) for column, desc in self._order]
        return [column.desc() if descending else column.asc() for column, descending in named]

    def cut(self, found: Sequence[Any]) -> tuple[list[Any], str | None]:
        """What is on the page of rows that have the sorted columns, and the token of the next."""
        kept = list(found[: self._size])
        return kept, self._token(kept[-1]) if len(found) > self._size else None

    def _behind(self, after: Sequence[Any]) -> ColumnElement[bool]:
        """(a, b) > (x, y) as a > x or (a = x and b > y): columns may run in two directions."""
        found: list[ColumnElement[bool]] = []
        same: list[ColumnElement[bool]] = []
        for (column, descending), value in zip(self._order, after, strict=True):
            found.append(and_(*same, column < value if descending else column > value))
            same.append(column == value)
        return or_(*found)

    def _token(self, row: Any) -> str:
        values = [getattr(row, column.key) for column, _ in self._order]
        said = [value.isoformat() if isinstance(value, datetime) else value for value in values]
        return base64.urlsafe_b64encode(json.dumps([self._fingerprint, *said]).encode()).decode().rstrip("=")

    def _key(self, token: str) -> list[Any]:
        try:
            fingerprint, *said = json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
            values = [_typed(column, value) for (column, _), value in zip(self._order, said, strict=True)]
        except (ValueError, TypeError, RecursionError):
            raise PageTokenInvalid(
                "`page_token` is not one that this list gives out as it is asked for; start again without it"
            ) from None
        if fingerprint != self._fingerprint:
            raise PageTokenInvalid(
                "`page_token` belongs to another filter or order; go on with those it came with, or start again "
                "without it"
            )
        return values


def _typed(column: Any, value: Any) -> Any:
    """Raises ValueError, TypeError."""
    kind = getattr(column.type, "impl_instance", column.type).python_type
    if kind is datetime:
        return moment(value)
    if type(value) is not kind or (kind is str and "\x00" in value):
        raise TypeError
    if kind is int and abs(value) >= 2**63:
        raise ValueError
    if kind is str:
        value.encode()  # half of a surrogate pair is JSON, and nothing that a database takes
    return value
