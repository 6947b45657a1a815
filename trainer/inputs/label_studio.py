"""What Label Studio exports, as rows: JSON, JSON-MIN and CSV, told by their fields, each mark under its control's name.

    choices      the choice; a list where the control takes several
    rating       a number;  number  likewise
    textarea     the text; a list of several
    taxonomy     the path, joined by ` / `
    pairwise     `left` or `right`; the two texts that were compared become `chosen` and `rejected`

Other kinds (spans, boxes) are no columns, and refused. A task counts once: by its annotation marked as ground truth,
else by what all of its annotators say. Tasks without an annotation, and those whose annotators differ, are left out and
counted.

Format: labelstud.io/guide/export and /guide/task_format.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from enforcer.problems import DatasetInvalid

RawRow = dict[str, Any]
SIDES = ("left", "right")
NOT_ANNOTATED, DISAGREED = "not-annotated", "annotators-differ"
LEFT_OUT = {
    NOT_ANNOTATED: "have no annotation in Label Studio",
    DISAGREED: "are annotated differently by several people in Label Studio",
}
# Beside the annotations, what JSON-MIN and CSV say of each one.
_OF_ANNOTATIONS = frozenset({"annotator", "annotation_id", "created_at", "updated_at", "lead_time"})


def is_json(document: Sequence[RawRow]) -> bool:
    """Whether these objects are tasks of a JSON export."""
    return bool(document) and all(
        isinstance(task.get("data"), dict) and isinstance(task.get("annotations"), list) for task in document
    )


def is_flat(columns: Iterable[str]) -> bool:
    """Whether these are the columns of a JSON-MIN or CSV export."""
    return _OF_ANNOTATIONS.issubset(columns)


@dataclass(frozen=True)
class Exported:
    """Rows, the numbers of the tasks that they come from, and how many tasks were left out, by reason."""

    rows: list[RawRow] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)

    def take(self, number: int, said: Sequence[RawRow]) -> None:
        if not said:
            self.left_out[NOT_ANNOTATED] += 1
        elif any(other != said[0] for other in said):
            self.left_out[DISAGREED] += 1
        else:
            self.rows.append(said[0])
            self.numbers.append(number)


def of_json(name: str, tasks: Sequence[RawRow]) -> Exported:
    """A JSON export.

    Raises:
        DatasetInvalid: a kind of mark that is no column, or two texts of which nobody can say which were compared.
    """
    found = Exported()
    for number, task in enumerate(tasks, start=1):
        annotations = [a for a in task["annotations"] if a.get("result") and not a.get("was_cancelled")]
        where = f"task {number} of `{name}`"
        said = [_marks(one["result"], task["data"], where) for one in _decisive(annotations)]
        found.take(number, [{**task["data"], **marks} for marks in said])
    return found


def of_flat(name: str, lines: Sequence[RawRow]) -> Exported:
    """A JSON-MIN or CSV export: one line for each annotation, so those of one task are put together.

    Raises:
        DatasetInvalid: two texts of which nobody can say which were compared.
    """
    tasks: dict[str, list[RawRow]] = {}
    first: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        row = {column: _unwrapped(value) for column, value in line.items() if column not in _OF_ANNOTATIONS}
        task = str(row.pop("id", number))
        for column in [column for column, value in row.items() if value in SIDES]:
            row |= _compared(row[column], "", row, f"row {number} of `{name}`")
        tasks.setdefault(task, []).append(row)
        first.setdefault(task, number)
    found = Exported()
    for task, said in tasks.items():
        found.take(first[task], said)
    return found


def _decisive(annotations: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    truth = [one for one in annotations if one.get("ground_truth")]
    return truth[:1] or annotations


def _marks(result: Sequence[Mapping[str, Any]], data: RawRow, where: str) -> RawRow:
    marks: RawRow = {}
    for mark in result:
        kind, value = str(mark.get("type")), mark.get("value") or {}
        if kind not in _VALUES:
            raise DatasetInvalid(
                f"{where}: a `{kind}` mark of Label Studio is no column of a row; export choices, ratings, texts or "
                "pairwise comparisons"
            )
        column = str(mark.get("from_name") or kind)
        marks[column] = _single(value.get(_VALUES[kind]), kind)
        if kind == "pairwise":
            marks |= _compared(str(marks[column]), str(mark.get("to_name") or ""), data, where)
    return marks


_VALUES = {
    "choices": "choices", "rating": "rating", "number": "number", "textarea": "text", "pairwise": "selected",
    "taxonomy": "taxonomy",
}  # fmt: skip


def _single(value: Any, kind: str) -> Any:
    if kind == "taxonomy" and isinstance(value, list):
        value = [" / ".join(map(str, path)) for path in value]
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def _compared(selected: str, controls: str, data: RawRow, where: str) -> RawRow:
    left, right = _sides(controls, data, where)
    return {"chosen": left, "rejected": right} if selected == "left" else {"chosen": right, "rejected": left}


def _sides(controls: str, data: RawRow, where: str) -> tuple[str, str]:
    """The two texts of a comparison. Its `toName` speaks of controls (`txt-1,txt-2`), mostly called as their columns
    are (`txt1`); where it does not help, there is one pair of columns that differ in `1`/`2`, `a`/`b`, `left`/`right`
    alone."""
    by_name = {_bare(column): column for column, value in data.items() if isinstance(value, str)}
    sides = [by_name.get(_bare(control)) for control in controls.split(",")]
    pairs = [
        (by_name[name], by_name[name[: -len(one)] + other])
        for one, other in (("1", "2"), ("a", "b"), ("left", "right"))
        for name in by_name
        if name.endswith(one) and name[: -len(one)] + other in by_name
    ]
    match sides, pairs:
        case ([str() as left, str() as right], _) | (_, [(str() as left, str() as right)]):
            return data[left], data[right]
    raise DatasetInvalid(
        f"{where}: which texts were compared cannot be told; call both columns alike but for `1` and `2` at their ends"
    )


def _bare(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())


def _unwrapped(value: Any) -> Any:
    """Both forms write several choices as `{"choices": [...]}`, a rating as `[{"rating": 4}]`; CSV has that as text."""
    if isinstance(value, str) and value[:1] in ("{", "["):
        try:
            value = json.loads(value)
        except ValueError:
            return value
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], dict):
        value = value[0]
    if isinstance(value, dict):
        for inner in ("choices", "rating", "number", "text", "selected"):
            if inner in value:
                return _single(value[inner], inner)
    return value
