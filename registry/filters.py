"""`filter` and `order_by` of lists: a subset of AIP-160 and AIP-132 over the fields that a list publishes.

    filter      any          state = active AND (kind = head OR NOT parent:*)
    any         term { AND term } | term { OR term }
    term        [ NOT ] ( comparison | "(" any ")" )
    comparison  field operator value                 operators: = != < <= > >= and `:` (has)
    value       a word, or text in double quotes with \\" and \\\\ in it

AND and OR in one group take parentheses: AIP-160 binds OR closer, every programming language AND, and a filter that
two people read differently shows one of them the wrong rows. `text:word` is a text that holds the word in any case,
`list:word` a list with that element, `field:*` a field that has a value. A field without one equals nothing, so
`verdict != pass` finds runs without a verdict too. What was parsed are expressions of SQLAlchemy with bound values.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from sqlalchemy import ColumnElement, and_, not_, or_

from enforcer.problems import FilterInvalid

MAX_LENGTH = 1_000
MAX_DEPTH = 8
MAX_COMPARISONS = 30
MAX_KEYS = 3
_KINDS: Mapping[str, tuple[str, ...]] = {
    "text": ("=", "!=", "<", "<=", ">", ">=", ":"),
    "word": ("=", "!=", ":"),
    "number": ("=", "!=", "<", "<=", ">", ">=", ":"),
    "moment": ("=", "!=", "<", "<=", ">", ">=", ":"),
    "list": (":",),
}
_MOMENT = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}(:\d{2}(\.\d{1,6})?)?(Z|[+-]\d{2}:\d{2})", re.ASCII)
_SPACE = re.compile(r"\s*")
_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*", re.ASCII)
_OPERATOR = re.compile(r"<=|>=|!=|=|<|>|:")
_BARE = re.compile(r"[^\s()\"']+")
_QUOTED = re.compile(r'"((?:[^"\\]|\\["\\])*)"')


@dataclass(frozen=True)
class Field:
    """One field of a list. `holds` makes the expression for a value (None: for any) of what is no plain column; `sort`
    is the column that `order_by` sorts by, never null, where that is welcome."""

    column: Any
    kind: Literal["text", "word", "number", "moment", "list"] = "text"
    values: tuple[str, ...] = ()
    holds: Callable[[str | None], ColumnElement[bool]] | None = None
    sort: Any = None


@dataclass(frozen=True)
class Listing:
    """What a list may be asked for, and how its rows are sorted else: by `key`, which is unique."""

    key: Any
    descending: bool = False
    fields: Mapping[str, Field] = field(default_factory=dict)

    def where(self, text: str | None) -> ColumnElement[bool] | None:
        """Raises FilterInvalid, which says where and what there is instead."""
        return _Parser(text, self.fields).parse() if text is not None and text.strip() else None

    def order(self, text: str | None) -> list[tuple[Any, bool]]:
        """Columns and whether each descends; the last is unique, so that every row has one place."""
        keys: list[tuple[Any, bool]] = []
        for part in (text or "").split(",") if text and text.strip() else ():
            name, *direction = part.split()[:3] or [""]
            known = self.fields.get(name)
            if known is None or known.sort is None:
                raise FilterInvalid(f"`{name[:60]}` is not a field to order by; {_listed(self.sortable)}")
            if direction not in ([], ["asc"], ["desc"]):
                raise FilterInvalid(f"`{part.strip()[:80]}` is no order; write `{name}`, or `{name} desc`")
            if any(known.sort is column for column, _ in keys):
                raise FilterInvalid(f"`{name}` stands twice in `order_by`")
            keys.append((known.sort, direction == ["desc"]))
        if len(keys) > MAX_KEYS:
            raise FilterInvalid(f"`order_by` takes {MAX_KEYS} fields at most")
        if not any(column is self.key for column, _ in keys):
            keys.append((self.key, keys[-1][1] if keys else self.descending))
        return keys

    @property
    def sortable(self) -> list[str]:
        return [name for name, known in self.fields.items() if known.sort is not None]

    @property
    def published(self) -> dict[str, Any]:
        """For the operation in the OpenAPI document."""
        fields = {
            name: {"type": known.kind, "operators": list(_KINDS[known.kind])}
            | ({"values": list(known.values)} if known.values else {})
            for name, known in self.fields.items()
        }
        return {"x-filterable-fields": fields, "x-sortable-fields": self.sortable}


class _Parser:
    """Recursive descent over the text itself: what a word may hold depends on where it stands (`user:li` is one)."""

    def __init__(self, text: str, fields: Mapping[str, Field]) -> None:
        if len(text) > MAX_LENGTH:
            raise FilterInvalid(f"`filter` is longer than {MAX_LENGTH} characters")
        self._text = text
        self._fields = fields
        self._at = 0
        self._comparisons = 0

    def parse(self) -> ColumnElement[bool]:
        found = self._any(depth=0)
        if self._rest():
            raise self._refused("`AND`, `OR` or the end")
        return found

    def _any(self, depth: int) -> ColumnElement[bool]:
        if depth > MAX_DEPTH:
            raise FilterInvalid(f"`filter` is nested deeper than {MAX_DEPTH} levels")
        terms, joint = [self._term(depth)], None
        while (word := self._keyword("AND", "OR")) is not None:
            if joint not in (None, word):
                raise FilterInvalid(
                    f"`filter` mixes AND and OR at {self._at}; say which belong together: `a AND (b OR c)`"
                )
            joint = word
            terms.append(self._term(depth))
        return or_(*terms) if joint == "OR" else and_(*terms)

    def _term(self, depth: int) -> ColumnElement[bool]:
        if self._keyword("NOT"):
            return not_(self._term_itself(depth))
        return self._term_itself(depth)

    def _term_itself(self, depth: int) -> ColumnElement[bool]:
        if self._rest().startswith("("):
            self._at += 1
            found = self._any(depth + 1)
            if not self._rest().startswith(")"):
                raise self._refused("`)`")
            self._at += 1
            return found
        return self._comparison()

    def _comparison(self) -> ColumnElement[bool]:
        self._comparisons += 1
        if self._comparisons > MAX_COMPARISONS:
            raise FilterInvalid(f"`filter` makes more than {MAX_COMPARISONS} comparisons")
        name = self._take(_WORD, "a field").group()
        known = self._fields.get(name)
        if known is None:
            raise FilterInvalid(f"`{name[:60]}` is not a field of this list; {_listed(self._fields)}")
        operator = self._take(_OPERATOR, "one of = != < <= > >= :").group()
        if operator not in _KINDS[known.kind]:
            raise FilterInvalid(f"`{name}` takes {_ticked(_KINDS[known.kind])}, not `{operator}`")
        quoted = self._rest().startswith('"')
        value = (
            self._take(_QUOTED, "text in double quotes").group(1) if quoted else self._take(_BARE, "a value").group()
        )
        if quoted:
            value = re.sub(r"\\(.)", r"\1", value)
        return _expression(name, known, operator, value, any_value=operator == ":" and not quoted and value == "*")

    def _rest(self) -> str:
        space = _SPACE.match(self._text, self._at)
        self._at = space.end() if space else self._at
        return self._text[self._at :]

    def _keyword(self, *words: str) -> str | None:
        found = _WORD.match(self._rest())
        if found is None or found.group() not in words:
            return None
        self._at += found.end()
        return found.group()

    def _take(self, pattern: re.Pattern[str], what: str) -> re.Match[str]:
        found = pattern.match(self._rest())
        if found is None:
            raise self._refused(what)
        self._at += found.end()
        return found

    def _refused(self, what: str) -> FilterInvalid:
        rest = self._rest()[:20]
        seen = f"`{rest}`" if rest else "nothing"
        return FilterInvalid(f"`filter` has {seen} at {self._at} where {what} belongs", position=self._at)


def _expression(name: str, known: Field, operator: str, text: str, *, any_value: bool) -> ColumnElement[bool]:
    if known.holds is not None:
        found = known.holds(None if any_value else _value(name, known, text))
        return not_(found) if operator == "!=" else found
    column = known.column
    if any_value:
        present: ColumnElement[bool] = column.is_not(None)
        return present
    value = _value(name, known, text)
    if operator == ":" and known.kind == "text":
        return _where_there(column, column.icontains(value, autoescape=True))
    if operator == "!=":
        differs: ColumnElement[bool] = column != value
        return or_(column.is_(None), differs) if column.nullable else differs
    compare = {"=": "__eq__", ":": "__eq__", "<": "__lt__", "<=": "__le__", ">": "__gt__", ">=": "__ge__"}
    return _where_there(column, getattr(column, compare[operator])(value))


def _where_there(column: Any, expression: ColumnElement[bool]) -> ColumnElement[bool]:
    """False, not unknown, for a field without a value, so that NOT turns it into true."""
    return and_(column.is_not(None), expression) if column.nullable else expression


def _value(name: str, known: Field, text: str) -> Any:
    if known.values and text not in known.values:
        raise FilterInvalid(f"`{name}` is never `{text[:60]}`; it is one of {_ticked(known.values)}")
    if known.kind == "number":
        if re.fullmatch(r"-?[0-9]{1,15}", text) is None:
            raise FilterInvalid(f"`{name}` is a whole number, and `{text[:60]}` is none")
        return int(text)
    if known.kind == "moment":
        try:
            return moment(text)
        except ValueError:
            raise FilterInvalid(
                f"`{name}` is a time with its zone, such as `2026-11-24T18:00:00Z`, and `{text[:60]}` is none"
            ) from None
    if "\x00" in text:
        raise FilterInvalid(f"`{name}` never holds a NUL")
    return text


def moment(text: str) -> datetime:
    """Raises ValueError."""
    if _MOMENT.fullmatch(text) is None:
        raise ValueError("no time with its zone")
    found = datetime.fromisoformat(text)
    if not 1970 <= found.year < 9000:
        raise ValueError("not every database can compare it after moving it to UTC")
    return found.astimezone(UTC)


def _ticked(words: object) -> str:
    assert isinstance(words, tuple | list | Mapping)
    return ", ".join(f"`{word}`" for word in words)


def _listed(words: object) -> str:
    return f"there are {_ticked(words)}" if words else "this list has none"
