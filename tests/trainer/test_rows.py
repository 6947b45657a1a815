"""Reading datasets: what is taken, and how a broken file is told."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from enforcer.problems import DatasetInvalid
from trainer.inputs import rows

ROWS = [{"text": "好", "label": "a"}, {"text": "line\u2028separator", "label": "b"}]


def written(tmp_path: Path, name: str, content: bytes | str) -> str:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("d.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)),
        ("d.jsonl", "\ufeff" + "\r\n".join(json.dumps(row) for row in ROWS) + "\r\n\r\n"),
        ("d.json", json.dumps(ROWS)),
        ("d.csv", "text,label\n好,a\nline\u2028separator,b\n"),
        ("d.tsv", "text\tlabel\n好\ta\nline\u2028separator\tb\n"),
    ],
    ids=["jsonl", "jsonl from Windows", "json", "csv", "tsv"],
)
def test_four_formats_give_the_same_rows_and_the_digest_of_sha256sum(tmp_path: Path, name: str, content: str) -> None:
    source = rows.read(written(tmp_path, name, content))

    assert source.rows == ROWS
    assert source.digest == f"sha256:{hashlib.sha256(content.encode()).hexdigest()}"


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("d.jsonl", "", "is empty; a dataset needs at least one row"),
        ("d.json", "", "is empty"),
        ("d.csv", "text,label\n", "is empty"),
        ("d.jsonl", '{"text": "a"}\n{"text": \n', "line 2 of"),
        ("d.jsonl", '{"text": "a"}\n\n{"text": "b"}\n', "line 2 of"),
        ("d.jsonl", '["a"]\n', "is `list`; a row is an object"),
        ("d.json", '{"text": "a"}\n{"text": "b"}', "call it `.jsonl`"),
        ("d.json", '{"text": "a"}', "must hold a list of objects"),
        ("d.csv", "text,label\na,b,c\n", "has more fields than the header"),
        ("d.csv", "text,label\na\n", "has fewer fields than the header"),
        ("d.csv", "text,text\na,b\n", "has the column `text` twice"),
        ("d.csv", "text,label\n新闻,科技\n".encode("gb18030"), "try `iconv -f GB18030 -t UTF-8`"),
        ("d.csv", "text,label\na,b\n".encode("utf-16"), "try `iconv -f UTF-16 -t UTF-8`"),
        ("d.parquet", "PAR1", "is no format of datasets"),
    ],
)
def test_a_broken_file_is_told_with_its_place_and_its_repair(
    tmp_path: Path, name: str, content: Any, says: str
) -> None:
    path = written(tmp_path, name, content)

    with pytest.raises(DatasetInvalid) as refused:
        rows.read(path)

    assert says in refused.value.detail
    assert refused.value.facts["file"] == path


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetInvalid, match=r"`.*none.jsonl` cannot be read: no such file"):
        rows.read(str(tmp_path / "none.jsonl"))


def test_a_field_longer_than_the_csv_modules_own_limit_is_read(tmp_path: Path) -> None:
    long = "x" * 200_000  # its default limit is 131,072

    assert rows.read(written(tmp_path, "d.csv", f"text,label\n{long},a\n")).rows[0]["text"] == long


def test_rows_in_memory_have_a_digest_of_their_content_and_not_of_their_spelling() -> None:
    class LikeADataset:
        def to_list(self) -> list[dict[str, Any]]:
            return [{"label": "a", "text": "好"}]

    held, other = rows.hold([{"text": "好", "label": "a"}]), rows.hold(LikeADataset())  # type: ignore[arg-type]

    by_hand = hashlib.sha256('{"label":"a","text":"好"}\n'.encode()).hexdigest()
    assert held.digest == other.digest == f"sha256:{by_hand}"


@pytest.mark.parametrize(
    ("given", "says"),
    [([], "is empty"), (["a"], "row 1 of the dataset is `str`"), (3, "not `int`"), ([{"a": object()}], "row 1")],
)
def test_what_is_no_dataset_is_told_so(given: Any, says: str) -> None:
    with pytest.raises(DatasetInvalid) as refused:
        rows.hold(given)

    assert says in refused.value.detail


def test_a_class_label_is_its_name_and_not_its_place() -> None:
    from datasets import ClassLabel, Dataset, Features, Value

    features = Features({"text": Value("string"), "label": ClassLabel(names=["good", "bad"])})
    dataset = Dataset.from_dict({"text": ["a", "b", "c"], "label": [0, 1, -1]}, features)

    held = rows.hold(dataset)

    assert [row["label"] for row in held.rows] == ["good", "bad", None]
    assert rows.hold(held.rows).digest == held.digest, "the worker holds the same rows again"


@pytest.mark.parametrize(("name", "unit"), [("d.jsonl", "line"), ("d.json", "row")])
def test_half_a_character_is_told_with_its_row(tmp_path: Path, name: str, unit: str) -> None:
    lines = ['{"text": "\\ud83d\\ude00"}', '{"text": "cut \\ud83d"}']
    path = written(tmp_path, name, "\n".join(lines) if unit == "line" else f"[{','.join(lines)}]")

    with pytest.raises(DatasetInvalid, match=rf"{unit} 2 of .* holds half a character \(`\\ud83d`\)") as refused:
        rows.read(path)

    assert refused.value.facts["row"] == 2
