"""The vocabulary in files: task types as `vocabulary/*.yaml` has them, read with their lines and written in one form.

Read is what people write, with anchors under `x-...:` keys. Written is one text for one vocabulary: parents before
their children, else by name, nothing that is a default, and everything spelt out where it stands.
"""

import functools
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field

from enforcer import wire
from enforcer.compatibility import Compatibility
from enforcer.inheritance import inherit
from enforcer.policy import documents
from enforcer.policy.documents import Document, Items, Keys
from enforcer.policy.rules import Fault, PolicyInvalid
from enforcer.problems import Problem
from enforcer.profiles import Kind, Parameter, ParameterOverride, Profile, ProfileOverrides

MAX_BYTES = 16 << 20
WIDTH = 120


class Entry(BaseModel):
    """One task type: a whole `profile` at the root, `overrides` of what it inherits below."""

    model_config = ConfigDict(extra="forbid")

    name: wire.Name
    kind: Kind
    parent: wire.Name | None = None
    description: wire.Line
    aliases: list[wire.Name] = Field(default_factory=list, max_length=20)
    distinct_from: list[wire.DistinctFrom] = Field(default_factory=list, max_length=5)
    compatibility: Compatibility | None = None
    profile: Profile | None = None
    overrides: ProfileOverrides | None = None


@dataclass(frozen=True)
class Placed:
    """An entry, and where it stands."""

    entry: Entry
    file: str
    line: int

    def fault(self, said: str) -> Fault:
        return Fault(f"`{self.entry.name}`: {said}", about=self.entry.name, file=self.file, line=self.line)


def read(texts: Mapping[str, str]) -> list[Placed]:
    """What these files say, in their order.

    Raises:
        PolicyInvalid: with everything that can be seen to be wrong without asking a registry.
    """
    faults: list[Fault] = []
    found: list[Placed] = []
    for file, text in texts.items():
        try:
            entries, wrong = _entries(documents.read(text, file, anchors=True, most=MAX_BYTES))
        except PolicyInvalid as error:
            faults += error.faults
        else:
            found += entries
            faults += wrong
    faults += _twice(found)
    if faults:
        raise PolicyInvalid(*faults)
    return found


def _entries(document: Document) -> tuple[list[Placed], list[Fault]]:
    content = document.content
    keys = content if isinstance(content, Keys) else Keys(1)
    strange = [key for key in keys if key != "tags" and not str(key).startswith("x-")]
    if strange or not isinstance(keys.get("tags"), Items):
        said = "a vocabulary file holds `tags:`, a list, and anchors under `x-...:`"
        raise PolicyInvalid(Fault(said, file=document.name, line=keys.lines[strange[0]] if strange else 1))
    found: list[Placed] = []
    faults: list[Fault] = []
    for at, line in enumerate(content["tags"].lines):
        given = content["tags"][at]
        name = given.get("name") if isinstance(given, Keys) else None
        try:
            if not isinstance(given, Keys):
                raise PolicyInvalid(Fault("a task type is keys and values", line=line))
            placed = Placed(Document(document.name, given).as_(Entry), document.name, line)
            faults += _of_one_form(placed)
            found.append(placed)
        except PolicyInvalid as error:
            who = f"`{name}`" if isinstance(name, str) else f"entry {at + 1}"
            faults += [Fault(f"{who}: {one.message}", file=document.name, line=one.line) for one in error.faults]
    return found, faults


def _of_one_form(placed: Placed) -> Iterator[Fault]:
    entry = placed.entry
    if entry.parent is None and (entry.profile is None or entry.overrides is not None):
        yield placed.fault("a task type without parent needs a whole `profile`, and no `overrides`")
    if entry.parent is not None and entry.profile is not None:
        yield placed.fault(
            f"a child of `{entry.parent}` inherits its profile; say what is narrower in `overrides`, not in `profile`"
        )


def _twice(found: Iterable[Placed]) -> Iterator[Fault]:
    """A name or alias stands for one task type."""
    first: dict[str, Placed] = {}
    for placed in found:
        for word in (placed.entry.name, *placed.entry.aliases):
            if (other := first.setdefault(word, placed)) is not placed:
                yield placed.fault(f"`{word}` stands for `{other.entry.name}` in {other.file}:{other.line} already")


# --- what a child says ------------------------------------------------------------------------------------------------


def narrowed(parent: Profile, child: Profile) -> ProfileOverrides | None:
    """The least that makes this child of this parent; None where the parent has moved, so that nothing does."""
    gates = {(gate.metric, gate.op): gate for gate in parent.gates}
    said: dict[str, Any] = {
        "columns": {name: column for name, column in child.columns.items() if parent.columns.get(name) != column},
        "cleaning": [rule for rule in child.cleaning if rule not in parent.cleaning],
        "artifacts": [name for name in child.artifacts if name not in parent.artifacts],
        "metrics": [name for name in child.metrics if name not in parent.metrics],
        "gates": [gate for gate in child.gates if gates.get((gate.metric, gate.op)) != gate],
        "parameters": {
            name: override
            for name, parameter in child.parameters.items()
            if name in parent.parameters and (override := _of_parameter(parent.parameters[name], parameter))
        },
    }
    for name in ("recipe", "forms", "max_dropped_share", "bindings", "pool", "limits"):
        if getattr(child, name) != getattr(parent, name):
            said[name] = getattr(child, name)
    overrides = ProfileOverrides.model_validate(said)
    try:
        return overrides if inherit(parent, overrides).digest() == child.digest() else None
    except Problem:
        return None


def _of_parameter(before: Parameter, after: Parameter) -> ParameterOverride | None:
    said = {
        name: getattr(after, name)
        for name in ParameterOverride.model_fields
        if getattr(after, name) != getattr(before, name)
    }
    return ParameterOverride.model_validate(said) if said else None


# --- the one form -----------------------------------------------------------------------------------------------------


def written(entries: Iterable[Entry]) -> str:
    """All of it as the text of one file. The same entries in any order are the same bytes."""
    paragraphs = ["\n".join(_entry(entry)) + "\n" for entry in in_order(entries)]
    return "tags:\n" + "\n".join(paragraphs) if paragraphs else "tags: []\n"


def _entry(entry: Entry) -> list[str]:
    said = _plain(entry.model_copy(update={"aliases": sorted(entry.aliases)}))
    first, *more = [line for key, value in said.items() for line in _lines(key, value, 4)]
    return [f"  - {first}", *(f"    {line}" for line in more)]


def in_order(entries: Iterable[Entry]) -> list[Entry]:
    """By name, each parent followed by its children."""
    every = sorted(entries, key=lambda entry: entry.name)
    names = {entry.name for entry in every}
    below: dict[str | None, list[Entry]] = {}
    for entry in every:
        below.setdefault(entry.parent if entry.parent in names else None, []).append(entry)

    def walk(parent: str | None) -> Iterator[Entry]:
        for entry in below.get(parent, ()):
            yield entry
            yield from walk(entry.name)

    return list(walk(None))


def _plain(value: Any) -> Any:
    """Fields in their order without those that are defaults; keys that people chose, by name."""
    if isinstance(value, BaseModel):
        said = {}
        for name, field in type(value).model_fields.items():
            one = getattr(value, name)
            if field.is_required() or name == "op" or one != field.get_default(call_default_factory=True):
                said[name] = int(one) if _whole(one) and field.annotation in (float, float | None) else _plain(one)
        return said
    if isinstance(value, dict):
        return {key: _plain(value[key]) for key in sorted(value)}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value.value if isinstance(value, Enum) else value


def _whole(value: Any) -> bool:
    return isinstance(value, float) and value.is_integer() and abs(value) < 2**53


def _lines(key: str, value: Any, indent: int) -> list[str]:
    """A key with its value: on one line where that fits, else a line for each part."""
    whole = f"{_word(key)}: {_word(value, flow=False) if isinstance(value, str) else _flow(value)}"
    if len(whole) + indent <= WIDTH and not _tall(value):
        return [whole]
    if isinstance(value, dict) and value:
        parts = [line for name, part in value.items() for line in _lines(name, part, indent + 2)]
        return [f"{_word(key)}:", *(f"  {line}" for line in parts)]
    if isinstance(value, list) and value:
        return [f"{_word(key)}:", *(line for item in value for line in _item(item, indent + 2))]
    return [whole]


def _item(item: Any, indent: int) -> list[str]:
    whole = f"  - {_flow(item)}"
    if len(whole) + indent <= WIDTH or not isinstance(item, dict) or not item:
        return [whole]
    parts = [line for name, part in item.items() for line in _lines(name, part, indent + 4)]
    return [f"  - {parts[0]}", *(f"    {line}" for line in parts[1:])]


def _tall(value: Any) -> bool:
    """What holds mappings reads better in lines."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return any(isinstance(one, dict) for one in inner)


def _flow(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_word(key)}: {_flow(part)}" for key, part in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_flow, value)) + "]"
    if isinstance(value, str):
        return _word(value)
    if isinstance(value, float):
        # YAML 1.1, which the seed is read by, takes no number for one without a point.
        return re.sub(r"^(-?\d+)(e.*)$", r"\1.0\2", json.dumps(value))
    return json.dumps(value)


@functools.lru_cache(maxsize=10_000)
def _word(text: str, *, flow: bool = True) -> str:
    """Plain where every reader of YAML, of 1.1 and 1.2, reads it back as it is; else quoted."""
    places = {f"[{text}]": [text], f"- {text}": [text]} if flow else {f"k: {text}": {"k": text}}
    try:
        plain = all(
            documents.read(there, "").content == means and yaml.safe_load(there) == means
            for there, means in places.items()
        )
    except (PolicyInvalid, yaml.YAMLError, ValueError):
        plain = False
    if plain and "#" not in text and text.isprintable():
        return text
    quoted = json.dumps(text, ensure_ascii=False)
    return "".join(char if char.isprintable() else f"\\U{ord(char):08x}" for char in quoted)
