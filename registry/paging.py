"""Filters and keyset pages, the same for every list.

A page token is opaque, continues after a key, and belongs to the filter it came with: another filter is refused rather
than answered with a hole in it.
"""

import base64
import hashlib
import json
from datetime import timedelta
from typing import Any, TypeVar

from sqlmodel import Session, SQLModel, col, select

from enforcer.problems import Malformed
from registry import db

Row = TypeVar("Row", bound=SQLModel)


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

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(json.dumps(self.wanted, default=str, sort_keys=True).encode()).hexdigest()[:16]


class Page:
    """Up to `size` rows after the key that the token holds.

    Raises:
        Malformed: a token that is not one of ours, or belongs to another filter.
    """

    def __init__(self, size: int, token: str | None, wanted: Filter) -> None:
        self.size = size
        self.wanted = wanted
        self.after = self._key(token) if token is not None else None

    def newest_first(self, session: Session, table: type[Row], key: str = "id") -> tuple[list[Row], str | None]:
        """By `id`, which sorts by time, or another key that does: `(rows, next_page_token)`."""
        return self._read(session, table, key, descending=True)

    def by_name(self, session: Session, table: type[Row]) -> tuple[list[Row], str | None]:
        return self._read(session, table, "name", descending=False)

    def _read(self, session: Session, table: type[Row], name: str, *, descending: bool) -> tuple[list[Row], str | None]:
        key = col(getattr(table, name))
        query = self.wanted.apply(select(table), table).order_by(key.desc() if descending else key)
        if self.after is not None:
            after = self._typed(table.model_fields[name].annotation)
            query = query.where(key < after if descending else key > after)
        found: list[Row] = list(session.exec(query.limit(self.size + 1)))
        kept = found[: self.size]
        return kept, self._token(str(getattr(kept[-1], name))) if len(found) > self.size else None

    def _typed(self, kind: Any) -> Any:
        try:
            return kind(self.after)
        except ValueError:
            raise Malformed("`page_token` is not one of ours; start again without it") from None

    def _token(self, key: str) -> str:
        return base64.urlsafe_b64encode(f"{self.wanted.fingerprint}:{key}".encode()).decode().rstrip("=")

    def _key(self, token: str) -> str:
        try:
            fingerprint, _, key = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)).decode().partition(":")
        except ValueError:
            fingerprint, key = "", ""
        if fingerprint != self.wanted.fingerprint or not key:
            raise Malformed("`page_token` belongs to another query; start again without it")
        return key
