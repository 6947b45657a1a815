"""YAML as people write it, read strictly into a model; what is wrong is said by file and line.

- Words are those of YAML 1.2: `off`, `on`, `yes` and `no` are words, not booleans, so `level: off` says what it says.
- A key stands once. YAML lets the last one win, and a rule would silently lose its first `when`.
- No anchors, aliases or tags: a rule says all it says where it stands, and ten lines cannot grow into a gigabyte. The
  vocabulary, where task types share most of what they say, has anchors, and a bound to what they may grow into.
- An unknown key is refused, and the one that was probably meant is named.
"""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from enforcer.policy.rules import Fault, PolicyInvalid, did_you_mean

MAX_BYTES = 1 << 20
MAX_DEPTH = 16
MAX_VALUES = 500_000  # once every alias is written out
Model = TypeVar("Model", bound=BaseModel)

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml is ten times as fast
_PLAIN_WORDS: dict[str, Any] = {"": None, "~": None, "null": None, "Null": None, "NULL": None}
_PLAIN_WORDS |= dict.fromkeys(("true", "True", "TRUE"), True) | dict.fromkeys(("false", "False", "FALSE"), False)
_INT = re.compile(r"[-+]?[0-9]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")

_OF_FORM = {"string_pattern_mismatch", "model_type"}
_WRITE = {  # in place of a regular expression
    "": "keys and values are expected here",
    "id": "write lower-case words with `-` between them",
    "who": "write `group:<name>`, or `user:`, `ci:`, `service:`, `workload:` and an id",
    "hours": "write two times of day like `08:00-20:00`",
}


class Keys(dict[Any, Any]):
    """A mapping that knows the line of each key."""

    def __init__(self, line: int) -> None:
        self.line = line
        self.lines: dict[Any, int] = {}


class Items(list[Any]):
    """A list that knows the line of each item."""

    def __init__(self, line: int) -> None:
        self.line = line
        self.lines: list[int] = []


class Document(NamedTuple):
    """A YAML file: `content` is made of `Keys`, `Items`, str, int, float, bool and None."""

    name: str
    content: Any

    def line_of(self, path: tuple[Any, ...]) -> int:
        """Where this is written, or else what holds it."""
        return self._follow(path)[0]

    def _follow(self, path: tuple[Any, ...]) -> tuple[int, list[str]]:
        """The line of this path, and the keys to it from the entry of a list that it is in. Steps that are not in the
        file are passed over: pydantic tells of some inside of it."""
        at, line = self.content, getattr(self.content, "line", 1)
        keys: list[str] = []
        for step in path:
            with contextlib.suppress(LookupError, TypeError, AttributeError):
                at, line = at[step], at.lines[step]
                keys = [*keys, step] if isinstance(step, str) else [] if isinstance(at, Keys) else keys
        return line, keys

    def as_(self, kind: type[Model]) -> Model:
        """Raises PolicyInvalid with all that is wrong, each with its line."""
        try:
            return kind.model_validate(self.content)
        except ValidationError as error:
            words = sorted(_field_names(kind))
            faults = [self._fault(e, words) for e in error.errors() if not _of_another_form(e)]
            raise PolicyInvalid(*dict.fromkeys(faults)) from error

    def _fault(self, error: ErrorDetails, words: list[str]) -> Fault:
        line, keys = self._follow(error["loc"])
        return Fault(_say(error, keys, words), file=self.name, line=line)


def text_of(file: Path, name: str | None = None, *, most: int = MAX_BYTES) -> str:
    """Raises PolicyInvalid: it cannot be read, is not UTF-8, or is larger than a person would write."""
    try:
        with file.open("rb") as stream:
            content = stream.read(most + 1)
        return _bounded(content, name or file.name, most).decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PolicyInvalid(Fault(f"cannot be read: {error}", file=name or str(file))) from error


def read(content: str, name: str, *, anchors: bool = False, most: int = MAX_BYTES) -> Document:
    """With `anchors`, what they stand for and what `<<` merges is written out.

    Raises:
        PolicyInvalid: it is no YAML, or more of it than is taken here.
    """
    try:
        _bounded(content.encode("utf-8"), name, most)
        return Document(name, _Builder(name, yaml.parse(content, Loader=_LOADER), anchors=anchors).document())
    except UnicodeEncodeError as error:
        raise PolicyInvalid(Fault(f"is not Unicode: {error}", file=name)) from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        said = ", ".join(part for part in (error.context, error.problem) if part)
        quote = '; a lone `*` is quoted: `"*"`' if "alias" in said else ""
        line = mark.line + 1 if mark else None
        raise PolicyInvalid(Fault(f"is no YAML: {said}{quote}", file=name, line=line)) from error
    except yaml.YAMLError as error:
        raise PolicyInvalid(Fault(f"is no YAML: {error}", file=name)) from error


def parse(kind: type[Model], file: Path) -> Model:
    """A YAML file as this model. Raises PolicyInvalid."""
    return read(text_of(file), file.name).as_(kind)


def _bounded(content: bytes, name: str, most: int) -> bytes:
    if len(content) > most:
        raise PolicyInvalid(Fault(f"is larger than {most >> 20} MiB; split it", file=name))
    return content


class _Builder:
    """Values from the parser's events: half the time of PyYAML's own way over nodes, and lines are at hand."""

    def __init__(self, name: str, events: Iterator[Any], *, anchors: bool = False) -> None:
        self._name = name
        self._events = events
        self._anchored: dict[str, tuple[Any, int]] | None = {} if anchors else None  # with how many values each is
        self._values = 0

    def document(self) -> Any:
        next(self._events)  # the start of the stream
        event = next(self._events)
        if isinstance(event, yaml.StreamEndEvent):
            raise PolicyInvalid(Fault("is empty", file=self._name))
        content = self._value(next(self._events), 0)
        next(self._events)  # the end of the document
        if not isinstance(event := next(self._events), yaml.StreamEndEvent):
            raise self._fault(event, "holds a second document (`---`); write one file for each")
        return content

    def _value(self, event: Any, depth: int) -> Any:
        if depth > MAX_DEPTH:
            raise self._fault(event, f"is nested more than {MAX_DEPTH} deep")
        if self._anchored is None and (isinstance(event, yaml.AliasEvent) or event.anchor is not None):
            raise self._fault(
                event, "anchors (`&`) and aliases (`*`) are not read here; write it out, or quote the `*`"
            )
        if isinstance(event, yaml.AliasEvent):
            return self._anchor(event)
        before = self._values
        self._values += 1
        value = self._plain_value(event, depth)
        if self._anchored is not None and event.anchor is not None:
            self._anchored[event.anchor] = value, self._values - before
        return value

    def _anchor(self, event: Any) -> Any:
        value, size = (self._anchored or {}).get(event.anchor, (None, 0))
        if not size:
            raise self._fault(event, f"`*{event.anchor}` stands for nothing: there is no `&{event.anchor}` above it")
        self._values += size
        if self._values > MAX_VALUES:
            raise self._fault(event, f"holds more than {MAX_VALUES:,} values once its aliases (`*`) are written out")
        return value

    def _plain_value(self, event: Any, depth: int) -> Any:
        if event.tag not in {None, "!"}:
            raise self._fault(event, f"the tag `{event.tag}` is not read here")
        if isinstance(event, yaml.ScalarEvent):
            return _scalar(event.value) if event.implicit[0] else event.value
        return self._keys(event, depth) if isinstance(event, yaml.MappingStartEvent) else self._items(event, depth)

    def _keys(self, start: Any, depth: int) -> Keys:
        found = Keys(start.start_mark.line + 1)
        merged: list[Keys] = []
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            key = self._value(event, depth + 1)
            if isinstance(key, Keys | Items):
                raise self._fault(event, "a key is a word; quote it when it begins with `{` or `[`")
            if key == "<<" and self._anchored is not None:
                merged += self._merged(next(self._events), depth)
                continue
            if key in found:
                raise self._fault(event, f"`{key}` stands twice, first in line {found.lines[key]}")
            found.lines[key] = event.start_mark.line + 1
            found[key] = self._value(next(self._events), depth + 1)
        for other in merged:  # what stands here wins, and of what is merged, what comes first
            for key in other.keys() - found.keys():
                found[key], found.lines[key] = other[key], other.lines[key]
        return found

    def _merged(self, event: Any, depth: int) -> list[Keys]:
        value = self._value(event, depth + 1)
        parts = value if isinstance(value, Items) else [value]
        if not all(isinstance(part, Keys) for part in parts):
            raise self._fault(event, "`<<` merges mappings, one or a list of them")
        return list(parts)

    def _items(self, start: Any, depth: int) -> Items:
        found = Items(start.start_mark.line + 1)
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            found.lines.append(event.start_mark.line + 1)
            found.append(self._value(event, depth + 1))
        return found

    def _fault(self, event: Any, said: str) -> PolicyInvalid:
        return PolicyInvalid(Fault(said, file=self._name, line=event.start_mark.line + 1))


def _scalar(text: str) -> Any:
    """A plain word, as the core schema of YAML 1.2 has it. Dates stay text, which the models read."""
    if text in _PLAIN_WORDS:
        return _PLAIN_WORDS[text]
    if text[0] in "+-.0123456789" and len(text) <= 32:
        if _INT.fullmatch(text):
            return int(text)
        if _FLOAT.fullmatch(text):
            return float(text)
    return text


def _say(error: ErrorDetails, keys: list[str], words: list[str]) -> str:
    """One mistake in words: under which key, what is wrong, what was given. The line says which entry of a list."""
    if error["type"] == "missing":
        return f"`{error['loc'][-1]}` is missing"
    key, last = ".".join(keys), keys[-1] if keys else ""
    if error["type"] == "extra_forbidden":
        return f"unknown key `{key}`{did_you_mean(last, words)}"
    said = _WRITE.get(last, error["msg"]) if error["type"] in _OF_FORM else error["msg"]
    said = said.removeprefix("Value error, ").replace("Input should be", "write")
    given = error["input"]
    said = said if isinstance(given, dict | list) else f"{said}, not `{given}`"
    return f"`{key}`: {said}" if key else said


def _of_another_form(error: ErrorDetails) -> bool:
    """A word that could have been a mapping, or the other way round: pydantic tells of both, one is enough."""
    form = next((step for step in error["loc"] if str(step).startswith(("literal[", "dict["))), None)
    return form is not None and (error["type"] == "dict_type" or isinstance(error["input"], dict))


def _field_names(kind: Any) -> set[str]:
    """The keys that this model and those inside of it take."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        fields = kind.model_fields
        return set(fields).union(*(_field_names(field.annotation) for field in fields.values()))
    return set().union(*(_field_names(inner) for inner in get_args(kind)))
