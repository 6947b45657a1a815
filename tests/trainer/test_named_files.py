"""Rows may point to files: those beside their dataset, each digested once."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from enforcer.columns import Column
from enforcer.problems import DatasetInvalid
from enforcer.profiles import Limits, Profile
from trainer.inputs import named_files, rows
from trainer.inputs.columns import examples

PROFILE = Profile(
    recipe="r", parameters={}, metrics=[], pool="p", limits=Limits(max_gpus=0, max_runtime_s=60),
    columns={"prompt": Column(type="text", help="p"), "database": Column(type="file", help="d")},
)  # fmt: skip


def dataset(folder: Path, *names: Any) -> rows.Source:
    folder.mkdir(exist_ok=True)
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps({"prompt": "p", "database": name}) + "\n" for name in names))
    return rows.read(str(path))


@pytest.mark.parametrize("lies_at", ["geo", "geo.sqlite", "geo/geo.sqlite", "database/geo/geo.sqlite"])
def test_a_database_is_found_where_benchmarks_put_it(tmp_path: Path, lies_at: str) -> None:
    file = tmp_path / "data" / lies_at
    file.parent.mkdir(parents=True)
    file.write_bytes(b"x")

    (row,) = examples(dataset(tmp_path / "data", "geo"), PROFILE, {}, {})

    assert row["database"] == str(file)


@pytest.mark.parametrize("name", ["../secret.sqlite", "/etc/passwd", "a/../../secret.sqlite", "none.sqlite", ".", ""])
def test_a_dataset_reaches_no_file_outside_of_its_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / "secret.sqlite").write_bytes(b"x")

    with pytest.raises(DatasetInvalid, match="line 1 of") as refused:
        examples(dataset(tmp_path / "data", name), PROFILE, {}, {})

    assert refused.value.facts["pointer"] == "/database"


def test_rows_in_memory_may_name_any_file_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.sqlite").write_bytes(b"x")
    monkeypatch.chdir(tmp_path)

    found = examples(
        rows.hold([{"prompt": "p", "database": name} for name in (str(tmp_path / "a.sqlite"), "a")]), PROFILE, {}, {}
    )

    assert {row["database"] for row in found} == {str(tmp_path / "a.sqlite")}


def test_each_file_is_listed_once_with_the_rows_that_point_to_it(tmp_path: Path) -> None:
    for folder in ("train", "eval"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.sqlite").write_bytes(folder.encode())
    sources = [dataset(tmp_path / "train", "a", "a.sqlite", "a"), dataset(tmp_path / "eval", "a")]

    found = named_files.listed(sources, PROFILE, {})

    assert [(file.role, file.name, file.rows) for file in found] == [("file", "a", 3), ("file", "a", 1)]
    assert [file.digest for file in found] == [
        f"sha256:{hashlib.sha256(name).hexdigest()}" for name in (b"train", b"eval")
    ]


def test_many_files_have_one_digest_that_changes_with_any_of_them(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    names = [f"{i}.sqlite" for i in range(named_files.MAX_LISTED + 1)]
    for name in names:
        (tmp_path / "data" / name).write_bytes(name.encode())
    source = dataset(tmp_path / "data", *names)

    (before,) = named_files.listed([source], PROFILE, {})
    (tmp_path / "data" / names[7]).write_bytes(b"changed")
    (after,) = named_files.listed([source], PROFILE, {})

    assert (before.name, before.rows) == ("33 files", 33)
    assert after.digest != before.digest


def test_a_profile_without_files_lists_none(tmp_path: Path) -> None:
    without = PROFILE.model_copy(update={"columns": {"prompt": Column(type="text", help="p")}})

    assert named_files.listed([dataset(tmp_path / "data", "a")], without, {}) == []


def test_what_is_no_name_of_a_file_is_refused_in_words(tmp_path: Path) -> None:
    for name in ("CREATE TABLE city (name TEXT); " * 40, "a\0b"):
        with pytest.raises(DatasetInvalid, match="there is no file"):
            named_files.find(name, tmp_path)


def test_many_datasets_leave_less_room_for_names_of_files(tmp_path: Path) -> None:
    names = [f"d{i}.sqlite" for i in range(30)]
    for name in names:
        (tmp_path / name).write_bytes(name.encode())
    source = dataset(tmp_path, *names)

    assert len(named_files.listed([source], PROFILE, {})) == 30
    assert len(named_files.listed([source] * 40, PROFILE, {})) == 1
