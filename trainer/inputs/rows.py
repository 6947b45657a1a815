"""Datasets as rows: `.jsonl`, `.json`, `.csv`, `.tsv` files, what Label Studio exports, lists of dictionaries, and
`datasets.Dataset`.

A file is read once: the bytes that are hashed are the bytes that are parsed. The digest of a file is the SHA-256 of its
bytes (`sha256sum`); of rows that never were a file, the SHA-256 over the rows as JSON Lines with sorted keys.
"""

import csv
import hashlib
import io
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from enforcer.problems import DatasetInvalid
from trainer.inputs import label_studio

IN_MEMORY = "in memory"
UTF_16 = (b"\xff\xfe", b"\xfe\xff")
RawRow = dict[str, Any]
Rows = str | Sequence[str] | Iterable[RawRow]
"""What a caller may give as a dataset: paths, or rows."""


@dataclass(frozen=True)
class Source:
    """One dataset as it was given. `where(i)` names row `i` (from 0) the way the reader of the file counts; `left_out`
    counts what the file holds and no row came of, by reason."""

    name: str
    digest: str
    rows: list[RawRow]
    unit: str = "row"
    first: int = 1
    textual: bool = False  # csv and tsv know no numbers: `1` may be the label number 1
    numbers: Sequence[int] = ()  # where they do not simply count on
    left_out: Mapping[str, int] = field(default_factory=dict)
    folder: Path | None = None  # where the file lies; None: these rows never were one

    def number(self, index: int) -> int:
        return self.numbers[index] if self.numbers else index + self.first

    def where(self, index: int) -> str:
        return f"{self.unit} {self.number(index)} of `{self.name}`"


def read(name: str) -> Source:
    """Read one file.

    Raises:
        DatasetInvalid: missing, another format or encoding, broken, or empty; names the line.
    """
    path = Path(name).expanduser()
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise DatasetInvalid(f"`{name}` is no format of datasets; use {', '.join(_READERS)}", file=name)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DatasetInvalid(f"`{name}` cannot be read: {(error.strerror or '').lower()}", file=name) from error
    source = replace(_from_label_studio(reader(name, content)), folder=path.parent)
    if not source.rows:
        none = "; no task of it has a decided annotation" if source.left_out else ""
        raise DatasetInvalid(f"`{name}` is empty; a dataset needs at least one row{none}", file=name)
    return source


def _from_label_studio(source: Source) -> Source:
    """The same file as rows of columns, where it is an export of Label Studio."""
    if label_studio.is_json(source.rows):
        found = label_studio.of_json(source.name, source.rows)
    elif source.rows and label_studio.is_flat(source.rows[0].keys()):
        found = label_studio.of_flat(source.name, source.rows)
    else:
        return source
    return replace(source, rows=found.rows, numbers=found.numbers, left_out=found.left_out)


def hold(rows: Iterable[RawRow], name: str = IN_MEMORY) -> Source:
    """Take rows that are in memory: a list of dictionaries, or anything shaped like `datasets.Dataset`.

    Raises:
        DatasetInvalid: something else, empty, or values that JSON does not know.
    """
    to_list: Callable[[], list[RawRow]] | None = getattr(rows, "to_list", None)
    try:
        held = to_list() if to_list is not None else [*rows]
    except TypeError as error:
        raise DatasetInvalid(f"a dataset is a path or a list of rows, not `{type(rows).__name__}`") from error
    for number, row in enumerate(held, start=1):
        if not isinstance(row, dict):
            raise DatasetInvalid(
                f"row {number} of the dataset is `{type(row).__name__}`; a row is a dictionary", row=number
            )
    if not held:
        raise DatasetInvalid(f"the dataset {name} is empty; it needs at least one row")
    held = _labels_by_name(held, getattr(rows, "features", None) or {})
    lines = hashlib.sha256()
    for number, row in enumerate(held, start=1):
        try:
            line = json.dumps(row, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False)
            lines.update(line.encode() + b"\n")
        except (TypeError, ValueError) as error:
            raise DatasetInvalid(f"row {number} of the dataset: {error}", row=number) from error
    return Source(name, f"sha256:{lines.hexdigest()}", held)


def _labels_by_name(held: list[RawRow], features: Mapping[str, Any]) -> list[RawRow]:
    """`datasets.ClassLabel` keeps a label as its place in a list of its own (-1: none), and `label_names` may have
    another order."""
    names: dict[str, dict[Any, str]] = {
        column: dict(enumerate(feature.names)) for column, feature in features.items() if hasattr(feature, "int2str")
    }
    return [{**row, **{column: by_place.get(row.get(column)) for column, by_place in names.items()}} for row in held]


def _read_jsonl(name: str, content: bytes) -> Source:
    # Not str.splitlines: U+2028 may stand inside a JSON string.
    lines = _text(name, content).rstrip().split("\n")
    rows: list[RawRow] = []
    for number, line in enumerate(lines if lines != [""] else [], start=1):
        try:
            row = json.loads(line)
        except ValueError as error:
            what = f"is not JSON: {error}" if line.strip() else "is empty"
            raise DatasetInvalid(f"line {number} of `{name}` {what}", file=name, row=number) from error
        rows.append(_an_object(row, f"line {number} of `{name}`", file=name, row=number))
    return Source(name, _digest(content), rows, unit="line")


def _read_json(name: str, content: bytes) -> Source:
    try:
        document = json.loads(_text(name, content) or "[]")
    except ValueError as error:
        raise DatasetInvalid(
            f"`{name}` is not JSON: {error}; for one object in each line, call it `.jsonl`", file=name
        ) from error
    if not isinstance(document, list):
        raise DatasetInvalid(f"`{name}` must hold a list of objects, not `{type(document).__name__}`", file=name)
    rows = [
        _an_object(row, f"row {number} of `{name}`", file=name, row=number)
        for number, row in enumerate(document, start=1)
    ]
    return Source(name, _digest(content), rows)


def _read_separated(delimiter: str) -> Callable[[str, bytes], Source]:
    def reader(name: str, content: bytes) -> Source:
        csv.field_size_limit(sys.maxsize)  # the default, 128 KiB, is less than one long document
        table = csv.DictReader(io.StringIO(_text(name, content), newline=""), delimiter=delimiter, strict=True)
        rows: list[RawRow] = []
        try:
            header = list(table.fieldnames or [])
            if twice := {column for column in header if header.count(column) > 1}:
                raise DatasetInvalid(f"`{name}` has the column `{min(twice)}` twice", file=name)
            for number, row in enumerate(table, start=1):
                if None in row or None in row.values():
                    how = "more" if None in row else "fewer"
                    raise DatasetInvalid(
                        f"row {number} of `{name}` (line {table.line_num}) has {how} fields than the header; "
                        "quote fields that hold the separator",
                        file=name,
                        row=number,
                    )
                rows.append(row)
        except csv.Error as error:
            raise DatasetInvalid(
                f"line {table.line_num} of `{name}`: {error}", file=name, row=table.line_num
            ) from error
        return Source(name, _digest(content), rows, textual=True)

    return reader


_READERS: dict[str, Callable[[str, bytes], Source]] = {
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".csv": _read_separated(","),
    ".tsv": _read_separated("\t"),
}


def _an_object(found: object, where: str, **facts: Any) -> RawRow:
    if not isinstance(found, dict):
        raise DatasetInvalid(f"{where} is `{type(found).__name__}`; a row is an object with columns", **facts)
    try:
        json.dumps(found, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:  # an escape like \ud83d without its other half
        half = ascii(error.object[error.start])[1:-1]
        raise DatasetInvalid(
            f"{where} holds half a character (`{half}`); write it whole, or leave it out", **facts
        ) from error
    return found


def _text(name: str, content: bytes) -> str:
    if b"\0" in content[:4_096] or content[:2] in UTF_16:  # no text of these formats holds the character NUL
        raise DatasetInvalid(
            f"`{name}` is UTF-16 text, or no text at all; for UTF-16, try `iconv -f UTF-16 -t UTF-8`", file=name
        )
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        likely = _likely_encoding(content)
        repair = f"; it reads as {likely}, so try `iconv -f {likely} -t UTF-8`" if likely else "; save it as UTF-8"
        raise DatasetInvalid(f"`{name}` is not UTF-8 (byte {error.start + 1}){repair}", file=name) from error


def _likely_encoding(content: bytes) -> str | None:
    try:
        content.decode("gb18030")
    except UnicodeDecodeError:
        return None
    return "GB18030"


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"
