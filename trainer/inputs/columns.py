"""From the columns of a file to those of a profile: mapping, texts, labels, and the split that holds rows out.

The same code runs in preflight and, on the bytes whose digests the ticket binds, in the worker: both see the same rows.
"""

import difflib
import hashlib
import itertools
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import orjson

from enforcer.columns import ColumnType
from enforcer.problems import DatasetInvalid
from enforcer.profiles import Profile
from trainer.inputs import conversations, inside, named_files, numbered, proposals
from trainer.inputs.proposals import quoted
from trainer.inputs.rows import Source
from trainer.job import Row

MAX_SHOWN = 5
# Texts that others write as a turn, and whose turn it is.
SPEAKERS = {"prompt": "user", "completion": "assistant", "chosen": "assistant", "rejected": "assistant"}
_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,17}")


def examples(source: Source, profile: Profile, columns: Mapping[str, str], arguments: Mapping[str, Any]) -> list[Row]:
    """The rows of one source, keyed by the profile's columns, each value checked by the type of its column.

    Raises:
        DatasetInvalid: a column that is not there, a value that is missing, empty or of another kind, a row of no form.
    """
    names = _file_columns(source, profile, columns)
    label_names: Sequence[str] | None = arguments.get("label_names")
    spellings = _spellings(label_names or (), source.textual)
    rows: list[Row] = []
    strangers: Counter[str] = Counter()
    first_strange: list[int] = []
    for index, raw in enumerate(source.rows):
        row: dict[str, Any] = {}
        for role, column in names.items():
            value = raw.get(column)
            if value is None and not profile.columns[role].required:
                continue
            kind = profile.columns[role].type
            if kind in ("label", "labels"):
                said = (
                    _labels(value, source, index, column)
                    if kind == "labels"
                    else [_label(value, source, index, column)]
                )
                strange = [str(label) for label in said if label_names is not None and label not in spellings]
                strangers.update(strange)
                first_strange += [index] if strange else []
                named = list(dict.fromkeys(spellings.get(label, str(label)) for label in said))
                row[role] = named if kind == "labels" else named[0]
            else:
                value = conversations.words(value, SPEAKERS[role]) if role in SPEAKERS else value
                row[role] = _value(kind, value, source, index, column)
        _refuse_formless(profile, row, source, index)
        rows.append(row)
    if strangers:
        raise _unknown_labels(source, strangers, first_strange, label_names or ())
    _same_shape(source, rows, [role for role in names if not profile.columns[role].required])
    return rows


def alike(sources: Sequence[Source], parts: Sequence[Sequence[Row]]) -> None:
    """See that all sources bring the same columns; inside each of them `examples` has seen to it.

    Raises:
        DatasetInvalid: one has an optional column that another one lacks.
    """
    for source, part in zip(sources, parts, strict=True):
        if odd := part[0].keys() ^ parts[0][0].keys():
            column = min(odd)
            has, lacks = (source, sources[0]) if column in part[0] else (sources[0], source)
            raise DatasetInvalid(
                f"`{lacks.name}` has no `{column}`, and `{has.name}` has; give it to all files or to none",
                file=lacks.name,
                pointer=f"/{_escaped(column)}",
            )


def not_read(sources: Sequence[Source], profile: Profile, mapping: Mapping[str, str]) -> list[str]:
    """Columns of the files that no column of the profile is read from, as an `input` beside an `instruction`."""
    read = {mapping.get(role, role) for role in profile.columns}
    return list(dict.fromkeys(name for source in sources for name in source.rows[0] if name not in read))


def subject(profile: Profile, rows: Sequence[Row]) -> str:
    """The column that says what rows are about: the query of a pair, the text of a label, a conversation.

    Of the columns that the rows have, the first that holds a text or a conversation.

    Raises:
        DatasetInvalid: there is none.
    """
    for name, column in profile.columns.items():
        if column.type in ("text", "messages") and rows and name in rows[0]:
            return name
    raise DatasetInvalid("no column of this task type holds a text, so no rows can be held out by what they are about")


def about(row: Row, by: str) -> str:
    """What a row is about, by its subject: a text, or a conversation up to where an assistant first speaks."""
    value = row[by]
    if isinstance(value, str):
        return value
    opening = itertools.takewhile(lambda turn: turn["role"] != "assistant", value)
    return content({"messages": list(opening)})


def names_in(sources: Sequence[Source], column: str, *, several: bool = False) -> list[str]:
    """The labels that the data holds, one or `several` to a row, as names, in alphabetical order.

    Raises:
        DatasetInvalid: a value that is no label.
    """
    return sorted(
        {
            str(label)
            for source in sources
            for index, row in enumerate(source.rows)
            if (value := row.get(column)) not in (None, "")
            for label in (_labels(value, source, index, column) if several else [_label(value, source, index, column)])
        }
    )


def split(rows: Sequence[Row], by: str, fraction: float, seed: int) -> tuple[list[Row], list[Row]]:
    """Hold out about `fraction` of the rows: (train, held out), each in the order given.

    Rows are drawn by the hash of seed and what they are `about`. So the draw depends on no random generator and not
    on their order, and rows with the same text stay together: a model is never asked what it was trained to answer.
    """
    if fraction == 0:
        return list(rows), []
    keys = [hashlib.sha256(f"{seed}\0{about(row, by)}".encode()).digest() for row in rows]
    wanted = max(1, round(len(rows) * fraction))
    held_out: set[bytes] = set()
    counts = Counter(keys)
    taken = 0
    for key in sorted(counts):
        if taken >= wanted or len(held_out) == len(counts) - 1:  # one text at least must remain for training
            break
        held_out.add(key)
        taken += counts[key]
    train = [row for row, key in zip(rows, keys, strict=True) if key not in held_out]
    return train, [row for row, key in zip(rows, keys, strict=True) if key in held_out]


def content(row: Row) -> str:
    """What a row says, as one string: equal for equal rows."""
    try:
        return orjson.dumps(row, option=orjson.OPT_SORT_KEYS).decode()
    except TypeError:  # an integer beyond 64 bits
        return json.dumps(row, ensure_ascii=False, sort_keys=True)


def _file_columns(source: Source, profile: Profile, columns: Mapping[str, str]) -> dict[str, str]:
    """Profile column -> file column, for those that the file has."""
    for role in columns:
        if role not in profile.columns:
            close = difflib.get_close_matches(role, profile.columns, n=1)
            hint = f"did you mean `{close[0]}`?" if close else f"it has {quoted(profile.columns)}"
            raise DatasetInvalid(
                f"`columns`: `{role}` is no column of this task type; {hint}", pointer=f"/columns/{role}"
            )
    present = list(dict.fromkeys(name for raw in source.rows for name in raw))
    names: dict[str, str] = {}
    for role, column in profile.columns.items():
        name = columns.get(role, role)
        if name in present:
            names[role] = name
        elif column.required or role in columns:
            raise proposals.missing(source, profile, columns, present, role)
    some_form = not profile.forms or any(names.keys() >= {*form} for form in profile.forms)
    if not some_form and (refusal := proposals.formless(source, profile, columns, present)) is not None:
        raise refusal
    return names


def _text(value: Any, source: Source, index: int, column: str) -> str:
    if isinstance(value, str) and value.strip():
        return value
    if value is None:
        what = "is missing"
    elif isinstance(value, str):
        what = "is empty"
    else:
        what = f"is `{type(value).__name__}`, not text"
    raise _at(source, index, column, f"`{column}` {what}")


def _value(kind: ColumnType, value: Any, source: Source, index: int, column: str) -> Any:
    """A value of any type but labels."""
    if kind == "text":
        return _text(value, source, index, column)
    if kind == "file":
        return _file(value, source, index, column)
    fits, expected = KINDS[kind]
    value = _READ[kind](value) if kind in _READ else value
    if source.textual:
        value = _read_from_text(kind, value)
    if value is None:
        raise _at(source, index, column, f"`{column}` is missing; it holds {expected}")
    if not fits(value):
        if (found := inside.fault(kind, value)) is not None:
            pointer, why = found
            place = f"/{_escaped(column)}{pointer}"
            raise _at(source, index, column, f"`{place}`: {why}; as `{column}` it holds {expected}", place)
        what = (
            "text that is not JSON"
            if kind in _READ and conversations.is_no_json(value)
            else f"`{type(value).__name__}`"
        )
        raise _at(source, index, column, f"`{column}` is {what}; it holds {expected}")
    return value


def _file(value: Any, source: Source, index: int, column: str) -> str:
    """The absolute path of the file that a row points to."""
    name = _text(value, source, index, column)
    try:
        return str(named_files.find(name, source.folder))
    except DatasetInvalid as refusal:
        raise _at(source, index, column, f"`{column}`: {refusal.detail}") from None


def _read_from_text(kind: ColumnType, value: str) -> Any:
    """What a cell of a CSV file stands for, where that is a number."""
    try:
        return float(value) if kind == "score" else value
    except ValueError:
        return value  # and is refused as text


def _is_score(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_texts(value: Any) -> bool:
    return _is_some(value, lambda text: isinstance(text, str) and bool(text.strip()))


def _is_conversation(value: Any) -> bool:
    return _is_some(value, _is_turn)


def _is_turn(turn: Any) -> bool:
    """What calls a tool may say nothing beside it."""
    if not isinstance(turn, dict) or turn.get("role") not in inside.ROLES:
        return False
    calls = turn.get("tool_calls")
    return isinstance(turn.get("content"), str) and (
        not calls or _is_some(calls, lambda call: inside.not_a_call(call) is None)
    )


def _is_schemas(value: Any) -> bool:
    """None at all is a conversation that may call nothing."""
    return isinstance(value, list) and all(map(_is_schema, value))


def _is_schema(tool: Any) -> bool:
    function = tool.get("function") if isinstance(tool, dict) else None
    return isinstance(function, dict) and isinstance(function.get("name"), str)


def _is_some(value: Any, fits: Callable[[Any], bool]) -> bool:
    return isinstance(value, list) and bool(value) and all(map(fits, value))


KINDS: Mapping[ColumnType, tuple[Callable[[Any], bool], str]] = {
    "score": (_is_score, "a number"),
    "flag": (lambda value: isinstance(value, bool), "true or false"),
    "texts": (_is_texts, "a list of texts, none of them empty"),
    "messages": (
        _is_conversation,
        f"a conversation: a list of {{role, content}}, the role one of {', '.join(inside.ROLES)}, and each of "
        "`tool_calls` a name with an object of arguments",
    ),
    "tools": (_is_schemas, "a list of tools, each an object with a name and the JSON schema of its parameters"),
}
_READ: Mapping[ColumnType, Callable[[Any], Any]] = {"messages": conversations.turns, "tools": conversations.tools}


def _refuse_formless(profile: Profile, row: Row, source: Source, index: int) -> None:
    if profile.forms and not any(row.keys() >= set(form) for form in profile.forms):
        has = f"has {quoted(row)}" if row else "has none of the columns"
        why = f"the row {has}; rows of this task type have {proposals.forms(profile)}"
        raise _at(source, index, profile.forms[0][0], why)


def _spellings(names: Sequence[str], textual: bool) -> dict[str | int, str]:
    """Every value that may stand for a label, and the name it stands for.

    A number counts into `names`, from 0, unless one of them is a number itself: where they go from 1 to 5, 1 means `1`.
    """
    counted: dict[str | int, str] = {str(i) if textual else i: name for i, name in enumerate(names)}
    meant = {int(name): name for name in names if _INTEGER.fullmatch(name)}
    return {name: name for name in names} | (meant if any(map(numbered.is_number, names)) else counted)


def _label(value: Any, source: Source, index: int, column: str) -> str | int:
    """A label as the row spells it."""
    if value is None or value == "":
        raise _at(source, index, column, f"`{column}` is missing; every row needs a label")
    if isinstance(value, list):
        raise _at(
            source,
            index,
            column,
            f"`{column}` is a list; a row takes one label, several are for `problem_type: multi-label`",
        )
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise _at(source, index, column, f"`{column}` is `{type(value).__name__}`; a label is a name or its number")
    return value


def _labels(value: Any, source: Source, index: int, column: str) -> list[str | int]:
    """Any number of labels, none too, as the row spells them. In a CSV file: a JSON list, or one label."""
    if source.textual and isinstance(value, str):
        try:
            value = json.loads(value) if value.lstrip().startswith("[") else [value]
        except ValueError as error:
            raise _at(source, index, column, f"`{column}` is no JSON list: {error}") from None
    if not isinstance(value, list):
        raise _at(source, index, column, f"`{column}` is `{type(value).__name__}`; it holds a list of labels, by name")
    return [_label(label, source, index, column) for label in value]


def _unknown_labels(
    source: Source, strangers: Counter[str], indexes: list[int], names: Sequence[str]
) -> DatasetInvalid:
    shown = ", ".join(f"`{label[:80]}` ({count})" for label, count in strangers.most_common(MAX_SHOWN))
    more = f" and {len(strangers) - MAX_SHOWN} others" if len(strangers) > MAX_SHOWN else ""
    first = ", ".join(str(source.number(index)) for index in indexes[:MAX_SHOWN])
    close = {label: difflib.get_close_matches(label, names, n=1) for label in list(strangers)[:MAX_SHOWN]}
    hints = [f"`{label}` -> `{match[0]}`?" for label, match in close.items() if match]
    hint = f" ({' '.join(hints)})" if hints else ""
    return DatasetInvalid(
        f"`{source.name}` has {len(indexes)} rows whose label is not in `label_names`: {shown}{more}; "
        f"first {source.unit}s: {first}; `label_names` holds {quoted(names[:20])}{hint}. "
        "Correct the rows or add the labels",
        file=source.name,
        row=source.number(indexes[0]),
        labels=dict(strangers.most_common(20)),
    )


def _same_shape(source: Source, rows: Sequence[Row], optional: Sequence[str]) -> None:
    for role in optional:
        have = sum(role in row for row in rows)
        if 0 < have < len(rows):
            index = next(i for i, row in enumerate(rows) if role not in row)
            why = f"{have} of {len(rows)} rows have a `{role}`; give it to all rows or to none"
            raise _at(source, index, role, f"{why} (this row has none)")


def _at(source: Source, index: int, column: str, what: str, pointer: str | None = None) -> DatasetInvalid:
    return DatasetInvalid(
        f"{source.where(index)}: {what}",
        file=source.name,
        row=source.number(index),
        pointer=pointer or f"/{_escaped(column)}",
    )


def _escaped(column: str) -> str:
    """One reference token of a JSON pointer (RFC 6901 section 3)."""
    return column.replace("~", "~0").replace("/", "~1")
