"""What is told before a ticket is asked for: refusals with numbers, findings about the data, in about a second."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny import LABELS, labelled_rows, pair_rows

from enforcer.problems import ArgumentInvalid, DatasetInvalid, OutputInvalid, Problem
from enforcer.profiles import Profile
from trainer import preflight
from trainer.arguments import TrainingArguments


def shipped(tag: str) -> Profile:
    text = (Path(__file__).parents[2] / "policies" / "vocabulary" / "1-heads.yaml").read_text()
    return Profile.model_validate(next(t["profile"] for t in yaml.safe_load(text)["tags"] if t["name"] == tag))


@pytest.fixture
def check(tmp_path: Path, encoder: Path) -> Any:
    def run(rows: Any = None, held_out: Any = None, tag: str = "sequence-classification", **changes: Any) -> Any:
        given = {"label_names": list(LABELS)} if tag == "sequence-classification" else {}
        args = TrainingArguments(
            **{"task_type": tag, "model_name_or_path": str(encoder), "output_dir": str(tmp_path / "out"),
               "max_length": 32, **given, **changes}
        )  # fmt: skip
        given = None if args.dataset else labelled_rows(60, 1) if rows is None else rows
        return preflight.check(args, shipped(tag), given, held_out)

    return run


def test_a_run_in_order_is_resolved_split_and_digested(check: Any) -> None:
    checked = check()

    assert (len(checked.train_rows), len(checked.eval_rows)) == (54, 6)
    assert checked.arguments["num_labels"] == 3
    assert checked.arguments["seed"] == 42, "a default of the profile"
    assert [(d.role, d.rows) for d in checked.inputs.datasets] == [("train", 60)]
    assert checked.facts["longest"] <= 32


def test_texts_that_are_too_long_are_counted_and_the_length_that_would_do_is_named(check: Any) -> None:
    long = [{"text": "chip " * 98, "label": LABELS[0]}] * 2  # 98 words and two special tokens
    rows = [*labelled_rows(98, 1), *long]

    with pytest.raises(DatasetInvalid) as refused:
        check(rows, max_length=16)
    with pytest.raises(ArgumentInvalid, match="more than the 64 tokens that this model reads"):
        check(rows, max_length=128)
    cut = check(rows, max_length=16, truncation=True)

    assert (
        "2 of 100 rows (2.0%) are longer than `max_length` 16 (row 99, 100 of `train_dataset`)" in refused.value.detail
    )
    assert "the longest has 100 tokens" in refused.value.detail
    assert "100 is the smallest `max_length` that keeps 99 % whole" in refused.value.detail
    assert refused.value.facts["over_max_length"] == 2
    assert any("will be cut" in finding for finding in cut.findings)


def test_duplicates_leaks_and_uneven_labels_are_found_and_do_not_forbid(check: Any) -> None:
    rows = [{"text": f"the chip {i}", "label": LABELS[0]} for i in range(40)] + [
        {"text": "goal", "label": LABELS[1]}
    ] * 2

    findings = " | ".join(check(rows, held_out=rows[:3]).findings)

    assert "1 of 42 training rows say the same as another one" in findings
    assert "3 of 3 evaluation rows have a training row's `text`: scores will flatter" in findings
    assert f"no training row has the label `{LABELS[2]}`" in findings
    assert f"no evaluation row has the label `{LABELS[1]}`, `{LABELS[2]}`: `macro_f1` will have no interval" in findings


def test_a_column_that_nothing_is_read_from_is_a_finding(check: Any) -> None:
    rows = [{**row, "input": "more"} for row in labelled_rows(30, 1)]

    assert "nothing is read from `input`" in check(rows).findings


def test_labels_that_were_not_named_are_read_from_the_data_into_the_refusal(check: Any) -> None:
    stars = [{"text": f"the {i}", "label": i % 3} for i in range(9)]

    with pytest.raises(ArgumentInvalid, match=r"the data holds `label_names: \[体育, 科技, 财经\]`"):
        check(label_names=None)
    with pytest.raises(ArgumentInvalid, match=r"the data holds `label_names: \['0', '1', '2'\]`"):
        check(stars, label_names=None)
    with pytest.raises(
        DatasetInvalid, match="`label` is a list; a row takes one label, several are for `problem_type: multi-label`"
    ):
        check([{"text": "a", "label": ["a", "b"]}], label_names=None)


@pytest.mark.parametrize(
    ("changes", "kind", "says"),
    [
        ({"num_labels": 5}, ArgumentInvalid, "`num_labels` is 5, but `label_names` holds 3 names"),
        ({"label_names": ["a", "a"]}, ArgumentInvalid, "holds a name twice"),
        ({"lora_rank": 4096}, ArgumentInvalid, "is above the maximum 1024"),
        ({"pooling_method": "mean"}, ArgumentInvalid, "`pooling_method` is not a parameter of this task type"),
        ({"warmup_ratio": 1.0}, ArgumentInvalid, "is above the maximum 0.99"),
        ({"max_steps": 0}, ArgumentInvalid, "0 steps train nothing"),
        ({"num_train_epochs": 0}, ArgumentInvalid, "0 passes over the data train nothing"),
        ({"output_dir": "/proc/x"}, OutputInvalid, "cannot be written"),
        ({"rows": [{"text": "a", "label": LABELS[0]}]}, None, ""),
        ({"rows": []}, DatasetInvalid, "is empty"),
    ],
)
def test_what_forbids_a_run_is_said_before_anything_is_asked(
    check: Any, changes: dict[str, Any], kind: type[Problem] | None, says: str
) -> None:
    if kind is None:
        assert check(**changes).eval_rows == [], "one row cannot be held out"
        return

    with pytest.raises(kind) as refused:
        check(**changes)

    assert says in refused.value.detail


def test_no_dataset_at_all_is_told(encoder: Path, tmp_path: Path) -> None:
    args = TrainingArguments(task_type="embedding", model_name_or_path=str(encoder), output_dir=str(tmp_path / "o"))

    with pytest.raises(DatasetInvalid, match="there is no dataset; name one with `dataset`"):
        preflight.check(args, shipped("embedding"))


def test_pairs_are_measured_by_their_longest_text(check: Any) -> None:
    checked = check(pair_rows(50, 1), tag="embedding")

    assert checked.facts["train_rows"] == 45
    assert "labels" not in checked.facts


def test_no_query_stands_on_both_sides_of_the_split(check: Any) -> None:
    rows = [{"anchor": f"q {i % 20}", "positive": f"d {i}"} for i in range(100)]

    checked = check(rows, tag="embedding", eval_fraction=0.2)

    assert len(checked.eval_rows) == 20
    assert not {row["anchor"] for row in checked.train_rows} & {row["anchor"] for row in checked.eval_rows}
    assert check(rows[:50], held_out=rows[50:], tag="embedding").facts["leaked"] == 50


def test_a_search_among_few_documents_is_told_to_say_little(check: Any) -> None:
    def findings(documents: int) -> str:
        return " | ".join(check(pair_rows(50, 1), held_out=pair_rows(documents, 2), tag="embedding").findings)

    assert "hold 10 distinct `positive`, and every search looks at 10: its scores will have no interval" in findings(10)
    assert "hold 40 distinct `positive`: chance alone finds 10 of them in every search" in findings(40)
    assert "distinct" not in findings(100)


PAIR = {"anchor": "q", "positive": "d"}


@pytest.mark.parametrize(
    ("rows", "changes", "says"),
    [
        (pair_rows(9, 1), {"use_inbatch_negatives": False}, "`use_inbatch_negatives` is off and the rows have no"),
        (pair_rows(9, 1), {"per_device_train_batch_size": 1}, "in a batch of 1 no other row is a negative"),
        ([PAIR], {}, "all training rows have the same `anchor`"),
        ([PAIR, {**PAIR, "anchor": "r"}, {**PAIR, "anchor": "s"}], {}, "all training rows have the same `positive`"),
    ],
    ids=["turned off", "a batch of one", "one row", "one document"],
)
def test_pairs_without_anything_to_tell_them_from_are_refused(
    check: Any, rows: list[Any], changes: dict[str, Any], says: str
) -> None:
    with pytest.raises(Problem, match=says):
        check(rows, tag="embedding", **changes)

    own = [{**row, "negative": "n"} for row in rows]
    assert check(own, tag="embedding", eval_fraction=0, **changes).train_rows == own


def test_files_with_different_columns_are_refused(check: Any, tmp_path: Path) -> None:
    files = []
    for name, rows in (("a.jsonl", pair_rows(9, 1, negatives=True)), ("b.jsonl", pair_rows(9, 2))):
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        files.append(str(tmp_path / name))

    with pytest.raises(DatasetInvalid, match=r"`.*b.jsonl` has no `negative`, and `.*a.jsonl` has"):
        check(tag="embedding", dataset=files)


def test_a_model_without_a_fast_tokenizer_is_told_and_goes_on(check: Any, encoder: Path, tmp_path: Path) -> None:
    import shutil

    slow = shutil.copytree(encoder, tmp_path / "slow", ignore=shutil.ignore_patterns("tokenizer.json"))

    checked = check(model_name_or_path=str(slow))

    assert any("lengths were not checked" in finding for finding in checked.findings)


def test_ten_thousand_rows_take_about_a_second_and_no_torch(encoder: Path, tmp_path: Path) -> None:
    file = tmp_path / "d.jsonl"
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in labelled_rows(10_000, 1)))
    program = f"""
import sys, time
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_preflight import shipped
from trainer import preflight
from trainer.arguments import TrainingArguments
args = TrainingArguments(task_type="sequence-classification", model_name_or_path={str(encoder)!r}, max_length=32,
    dataset={str(file)!r}, label_names={list(LABELS)!r}, output_dir={str(tmp_path / "o")!r})
profile = shipped("sequence-classification")
started = time.process_time()
preflight.check(args, profile)
print(time.process_time() - started, *sorted({{"torch", "transformers", "numpy"}} & set(sys.modules)))
"""

    seconds, *heavy = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    ).stdout.split()

    assert heavy == []
    assert float(seconds) < 3, "a second on a quiet machine"
