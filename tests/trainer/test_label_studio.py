"""Label Studio's exports are datasets as they are."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from enforcer.problems import DatasetInvalid
from trainer.inputs import rows
from trainer.inputs.rows import Source


def mark(kind: str, value: dict[str, Any], name: str = "topic", to: str = "text") -> dict[str, Any]:
    return {"id": "r1", "type": kind, "from_name": name, "to_name": to, "value": value}


def task(number: int, *annotations: Any, **data: Any) -> dict[str, Any]:
    said = [one if isinstance(one, dict) else {"result": one, "was_cancelled": False} for one in annotations]
    return {
        "id": number,
        "project": 3,
        "data": data or {"text": f"text {number}"},
        "annotations": said,
        "predictions": [],
    }


def choice(*choices: str) -> list[dict[str, Any]]:
    return [mark("choices", {"choices": list(choices)})]


def read(tmp_path: Path, document: Any, name: str = "export.json") -> Source:
    (tmp_path / name).write_text(document if isinstance(document, str) else json.dumps(document))
    return rows.read(str(tmp_path / name))


def test_marks_become_columns_named_as_their_controls(tmp_path: Path) -> None:
    both = [
        *choice("news", "sport"),
        mark("rating", {"rating": 4}, "stars"),
        mark("textarea", {"text": ["why"]}, "note"),
    ]

    source = read(tmp_path, [task(1, choice("news")), task(2, both), task(3, [mark("number", {"number": 7}, "n")])])

    assert source.rows == [
        {"text": "text 1", "topic": "news"},
        {"text": "text 2", "topic": ["news", "sport"], "stars": 4, "note": "why"},
        {"text": "text 3", "n": 7},
    ]


@pytest.mark.parametrize(
    ("names", "to"),
    [(("left", "right"), "left,right"), (("txt1", "txt2"), "txt-1,txt-2"), (("answer_a", "answer_b"), "pane,other")],
)
def test_a_comparison_becomes_a_chosen_and_a_rejected_text(tmp_path: Path, names: tuple[str, str], to: str) -> None:
    data = {"prompt": "p", names[0]: "one", names[1]: "two"}
    said = [mark("pairwise", {"selected": "right"}, "pw", to)]

    (row,) = read(tmp_path, [task(1, said, **data)]).rows

    assert row == {**data, "pw": "right", "chosen": "two", "rejected": "one"}


def test_a_comparison_of_nobody_knows_what_is_refused(tmp_path: Path) -> None:
    said = [mark("pairwise", {"selected": "left"}, "pw", "x,y")]

    with pytest.raises(DatasetInvalid, match=r"task 1 of .* which texts were compared cannot be told"):
        read(tmp_path, [task(1, said, prompt="p", good="a", bad="b")])


def test_what_nobody_decided_is_left_out_and_counted_and_rows_keep_their_tasks_numbers(tmp_path: Path) -> None:
    skipped = {"result": choice("a"), "was_cancelled": True}
    truth = {"result": choice("b"), "ground_truth": True}
    tasks = [
        task(1), task(2, choice("a"), choice("b")), task(3, skipped), task(4, choice("a"), choice("a")),
        task(5, choice("a"), truth),
    ]  # fmt: skip

    source = read(tmp_path, tasks)

    assert [row["topic"] for row in source.rows] == ["a", "b"]
    assert source.left_out == {"not-annotated": 2, "annotators-differ": 1}
    assert source.where(0).startswith("row 4 of")


def test_marks_that_are_no_columns_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetInvalid, match="a `rectanglelabels` mark of Label Studio is no column"):
        read(tmp_path, [task(1, [mark("rectanglelabels", {"x": 1})])])


def test_an_export_without_any_annotation_is_empty_and_says_why(tmp_path: Path) -> None:
    with pytest.raises(DatasetInvalid, match=r"is empty; .* no task of it has a decided annotation"):
        read(tmp_path, [task(1), task(2)])


FLAT = {"annotator": 1, "annotation_id": 9, "created_at": "2026-01-01", "updated_at": "2026-01-01", "lead_time": 4.2}
LINES = [
    {"text": "t1", "id": 1, "topic": "news", "stars": [{"rating": 4}], **FLAT},
    {"text": "t2", "id": 2, "topic": {"choices": ["news", "sport"]}, "stars": [{"rating": 2}], **FLAT},
    {"text": "t3", "id": 3, "topic": "news", "stars": [{"rating": 1}], **FLAT},
    {"text": "t3", "id": 3, "topic": "sport", "stars": [{"rating": 1}], **FLAT},
]


def test_json_min_and_csv_are_put_together_by_task(tmp_path: Path) -> None:
    table = io.StringIO()
    writer = csv.DictWriter(table, LINES[0].keys())
    writer.writeheader()
    for line in LINES:
        writer.writerow({k: json.dumps(v) if isinstance(v, list | dict) else v for k, v in line.items()})

    small, separated = read(tmp_path, LINES), read(tmp_path, table.getvalue(), "export.csv")

    expected = [
        {"text": "t1", "topic": "news", "stars": 4},
        {"text": "t2", "topic": ["news", "sport"], "stars": 2},
    ]
    assert (small.rows, separated.rows) == (expected, expected)
    assert small.left_out == separated.left_out == {"annotators-differ": 1}


def test_a_comparison_in_json_min_finds_its_texts(tmp_path: Path) -> None:
    line = {"id": 1, "prompt": "p", "answer1": "one", "answer2": "two", "pw": [{"selected": "left"}], **FLAT}

    (row,) = read(tmp_path, [line]).rows

    assert (row["chosen"], row["rejected"]) == ("one", "two")
