"""The one form of rule files, exceptions and quotas: a diff shows what changed, and nothing else. Comments stay.

An entry a paragraph, its keys in the order of a sentence, lists in one line where they fit:

    - id: nlp-trains-language-models
      effect: allow
      who: group:nlp
      may: [submit, cancel]
      ...
"""

import json
import re
import textwrap
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

import yaml

from enforcer.policy import documents
from enforcer.policy.documents import Document, Items, Keys
from enforcer.policy.folder import kind_of
from enforcer.policy.rules import PolicyInvalid

WIDTH = 120
_ORDER = [
    *("id", "kind", "lifts", "effect", "who", "may", "tag", "unit", "target", "when"),
    *("window", "gpu_hours", "concurrent", "max_gpus"),
    *("level", "overridable", "reason", "reference", "granted_at", "until", "approved_by"),
]
_WHEN = "max_gpus models until hours weekdays zone change_ticket points own_unit".split()
_ONE_OR_MORE = {"who", "tag", "unit", "target"}
_LISTS = {"may", "models", "weekdays", "change_ticket", "points", "approved_by"}


def formatted(content: str, name: str) -> str:
    """The same in the one form. Raises PolicyInvalid: it is not valid."""
    document = documents.read(content, name)
    model = document.as_(kind_of(name))
    if not document.content:
        return content
    comments = _comments(content)
    written = "\n".join(_File(document, comments).lines()) + "\n"
    assert Counter(text for _, text, _ in comments) == Counter(text for _, text, _ in _comments(written))
    assert documents.read(written, name).as_(kind_of(name)) == model
    return written


@dataclass
class _Notes:
    """The comments of one key: on lines above it, and behind it."""

    above: list[str] = field(default_factory=list)
    behind: list[str] = field(default_factory=list)


class _File:
    def __init__(self, document: Document, comments: list[tuple[int, str, bool]]) -> None:
        self._content: Keys = document.content
        self._listed = next((key for key, value in self._content.items() if isinstance(value, Items)), "")
        self._notes: dict[tuple[Any, ...], _Notes] = defaultdict(_Notes)
        self._tail: list[str] = []
        self._attach(comments)

    def lines(self) -> Iterator[str]:
        for key in self._content:
            if key != self._listed:
                yield from self._key((key,), self._content[key], "")
        if self._listed:
            yield from self._entries(self._content[self._listed])
        yield from self._tail

    def _entries(self, entries: Items) -> Iterator[str]:
        notes = self._notes[self._listed,]
        behind = "".join(f"  {comment}" for comment in notes.behind)
        yield from notes.above
        yield f"{self._listed}:{'' if entries else ' []'}{behind}"
        for at, entry in enumerate(entries):
            if at:
                yield ""
            lines = self._entry(at, entry)
            marked = False
            for line in lines:
                comment = line.startswith("#")
                yield f"  {line}" if comment and not marked else f"    {line}" if marked else f"  - {line}"
                marked = marked or not comment

    def _entry(self, at: int, entry: Keys) -> Iterator[str]:
        for key in sorted(entry, key=_ORDER.index):
            yield from self._key((at, key), entry[key], key)

    def _key(self, path: tuple[Any, ...], value: Any, key: str) -> Iterator[str]:
        notes = self._notes[path]
        key = key or path[0]
        yield from notes.above
        yield from notes.behind[:-1]
        first, *more = _pair(key, value)
        behind = f"  {notes.behind[-1]}" if notes.behind else ""
        if behind and (more or len(first) + len(behind) + 4 > WIDTH):
            yield notes.behind[-1]
            behind = ""
        yield first + behind
        yield from more

    def _attach(self, comments: list[tuple[int, str, bool]]) -> None:
        """Each comment to a key: one behind it to the key of its line, one on a line of its own to the next key, or to
        the whole entry that begins there."""
        keys = sorted(self._lines_of_keys(), key=itemgetter(0))
        for line, text, alone in comments:
            if alone:
                path = next((path for at, path in keys if at > line), None)
                (self._notes[self._or_entry(path)].above if path else self._tail).append(text)
            else:
                path = next((path for at, path in reversed(keys) if at <= line), keys[0][1])
                self._notes[path].behind.append(text)

    def _or_entry(self, path: tuple[Any, ...]) -> tuple[Any, ...]:
        if len(path) == 1:
            return path
        at, key = path
        entry: Keys = self._content[self._listed][at]
        begins = entry.lines[key] == min(entry.lines.values())
        return (at, min(entry, key=_ORDER.index)) if begins else path

    def _lines_of_keys(self) -> Iterator[tuple[int, tuple[Any, ...]]]:
        for key, line in self._content.lines.items():
            yield line, (key,)
        for at, entry in enumerate(self._content.get(self._listed, ())):
            for key, line in entry.lines.items():
                yield line, (at, key)


def _pair(key: str, value: Any) -> list[str]:
    """A key with its value: on one line where it fits in, else a line for each part."""
    if isinstance(value, str | Items) and key in _ONE_OR_MORE | _LISTS:
        parts = [value] if isinstance(value, str) else value
        value = parts[0] if key in _ONE_OR_MORE and len(parts) == 1 else Items(0)
        if isinstance(value, Items):
            value.extend(parts)
    if isinstance(value, Keys):
        return _mapping(key, value)
    line = f"{key}: {_flow(value) if isinstance(value, Items) else _scalar(value, flow=False)}"
    if len(line) + 4 <= WIDTH:
        return [line]
    if isinstance(value, Items):
        return [f"{key}:", *(f"  - {_scalar(part, flow=False)}" for part in value)]
    folded = [f"{key}: >-", *(f"  {part}" for part in textwrap.wrap(str(value), WIDTH - 10, break_long_words=False))]
    return folded if documents.read("\n".join(folded), "").content == {key: value} else [line]


def _mapping(key: str, value: Keys) -> list[str]:
    order = _WHEN if key == "when" else list(value)
    inner = {name: value[name] for name in sorted(value, key=order.index)}
    flow = ", ".join(f"{name}: {_flow_pair(name, part)}" for name, part in inner.items())
    line = f"{key}: {{{flow}}}"
    if len(line) + 4 <= WIDTH or not inner:
        return [line]
    return [f"{key}:", *(f"  {part}" for name, said in inner.items() for part in _pair(name, said))]


def _flow_pair(name: str, value: Any) -> str:
    return f"[{_scalar(value)}]" if name in _LISTS and isinstance(value, str) else _flow(value)


def _flow(value: Any) -> str:
    return f"[{', '.join(map(_scalar, value))}]" if isinstance(value, Items) else _scalar(value)


def _scalar(value: Any, *, flow: bool = True) -> str:
    """Plain where it is read back as itself, else quoted."""
    if not isinstance(value, str):
        return json.dumps(value)
    try:
        back = documents.read(f"[{value}]" if flow else f"key: {value}", "").content
    except PolicyInvalid:
        back = None
    plain = "#" not in value and back == ([value] if flow else {"key": value})
    return value if plain else json.dumps(value, ensure_ascii=False)


def _comments(content: str) -> list[tuple[int, str, bool]]:
    """All comments with their lines, and whether a line is nothing else: what begins with `#` between two tokens."""
    found = []
    end = 0
    for token in yaml.scan(content, Loader=yaml.SafeLoader):
        gap = content[end : token.start_mark.index]
        if isinstance(token, yaml.ScalarToken) and token.style in ("|", ">"):
            gap += content[token.start_mark.index :].partition("\n")[0]  # `>-  # a comment`
        for match in re.finditer(r"(?:^|(?<=\s))#[^\n]*", gap):
            at = end + match.start()
            alone = not content[content.rfind("\n", 0, at) + 1 : at].strip()
            found.append((content.count("\n", 0, at) + 1, match[0].rstrip(), alone))
        end = max(end, token.end_mark.index)
    return found
