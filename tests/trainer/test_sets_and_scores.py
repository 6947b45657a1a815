"""Classification beyond one label: sets of labels and numbers, from the file to the folder that answers."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_preflight import shipped
from tiny import CLASSIFICATION, GIVEAWAY, LABELS, labelled_rows, losses, make_job

from enforcer.problems import ArgumentInvalid, DatasetInvalid
from trainer import preflight
from trainer.arguments import TrainingArguments
from trainer.export import export
from trainer.job import Job, Row
from trainer.recipes import sequence_classification

SETS = [[], ["科技"], ["体育", "财经"], ["科技", "体育", "财经"], ["财经"]]


def sets(count: int) -> list[Row]:
    """Each label of a row is given away by its word."""
    chosen = [SETS[i % len(SETS)] for i in range(count)]
    noise = [row["text"].rsplit(" ", 1)[0] for row in labelled_rows(count, count)]
    return [
        {"text": " ".join([text, *map(GIVEAWAY.get, labels)]), "labels": labels}
        for text, labels in zip(noise, chosen, strict=True)
    ]  # type: ignore[list-item]


def numbers(count: int) -> list[Row]:
    """The giveaway says the number: 0, 1 or 2."""
    return [{"text": row["text"], "score": LABELS.index(row["label"])} for row in labelled_rows(count, count)]


def job(root: Path, model: Path, problem_type: str, **changes: Any) -> Job:
    make, names = (sets, list(LABELS)) if problem_type == "multi-label" else (numbers, ["stars"])
    given = {"problem_type": problem_type, "label_names": names, "num_labels": len(names)}
    rows = {"train_rows": make(160), "eval_rows": make(60)}
    return make_job(root, model, CLASSIFICATION, **{**given, **rows, **changes})


@pytest.mark.parametrize("problem_type", ["multi-label", "regression"])
def test_it_computes_what_a_plain_script_computes(problem_type: str, encoder: Path, tmp_path: Path) -> None:
    from datasets import Dataset
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        Trainer,
        TrainingArguments as Plain,
        set_seed,
    )

    run = job(tmp_path, encoder, problem_type, max_steps=6)
    ours = losses(sequence_classification.train(run))

    set_seed(7)
    tokenizer = AutoTokenizer.from_pretrained(encoder)
    several = problem_type == "multi-label"
    kind = "multi_label_classification" if several else "regression"
    model = AutoModelForSequenceClassification.from_pretrained(
        encoder, num_labels=3 if several else 1, problem_type=kind
    )

    def target(row: Row) -> Any:
        return [float(name in row["labels"]) for name in LABELS] if several else float(row["score"])

    tokens = tokenizer([row["text"] for row in run.train_rows])
    plain = Trainer(
        model=model,
        args=Plain(
            str(tmp_path / "plain"), learning_rate=3e-3, max_steps=6, per_device_train_batch_size=16, warmup_steps=0.1,
            seed=7, logging_steps=1, report_to="none", save_strategy="no", disable_tqdm=True,
        ),
        train_dataset=Dataset.from_dict({**tokens, "labels": [target(row) for row in run.train_rows]}),
        data_collator=DataCollatorWithPadding(tokenizer),
    )  # fmt: skip
    plain.train()

    theirs = [entry["loss"] for entry in plain.state.log_history if "loss" in entry]
    assert ours == pytest.approx(theirs, abs=1e-4)


def test_sets_of_labels_are_learned_and_their_thresholds_told(encoder: Path, tmp_path: Path) -> None:
    run = job(tmp_path, encoder, "multi-label", max_steps=60, learning_rate=5e-3)

    outcome = sequence_classification.train(run)

    assert outcome.scores["micro_f1"].value > 0.8
    assert set(outcome.scores) == {"accuracy", "micro_f1", "macro_f1"}
    assert {score.n for score in outcome.scores.values()} == {60}
    assert [row["label"] for row in outcome.details["per_class"]] == list(LABELS)
    assert [row["label"] for row in outcome.details["best_thresholds"]] == list(LABELS)
    assert all(0 < row["threshold"] < 1 for row in outcome.details["best_thresholds"])
    config = json.loads((run.folder.model / "config.json").read_text("utf-8"))
    assert config["problem_type"] == "multi_label_classification"
    assert not (run.folder.root / "confusion-matrix.png").exists()


def test_a_number_is_learned_and_named(encoder: Path, tmp_path: Path) -> None:
    run = job(tmp_path, encoder, "regression", max_steps=60, learning_rate=5e-3)

    outcome = sequence_classification.train(run)

    assert outcome.scores["spearman"].value > 0.8
    assert outcome.scores["r2"].value > 0.5
    assert set(outcome.scores) == {"spearman", "mae", "rmse", "r2"}
    config = json.loads((run.folder.model / "config.json").read_text("utf-8"))
    assert (config["problem_type"], config["id2label"]) == ("regression", {"0": "stars"})


@pytest.mark.parametrize("problem_type", ["multi-label", pytest.param("regression", marks=pytest.mark.slow)])
def test_an_adapter_of_either_kind_can_be_merged(problem_type: str, encoder: Path, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification

    run = job(tmp_path, encoder, problem_type, use_lora=True, max_steps=3)
    outcome = sequence_classification.train(run)

    merged = AutoModelForSequenceClassification.from_pretrained(export(run, outcome, "merged", tmp_path / "merged"))

    adapted, tokenizer = sequence_classification.load(run.folder.model, encoder)
    batch = tokenizer([row["text"] for row in run.eval_rows], padding=True, return_tensors="pt")
    with torch.inference_mode():
        assert torch.allclose(merged(**batch).logits, adapted(**batch).logits, atol=1e-5)


# From the file to the rows


@pytest.fixture
def check(encoder: Path, tmp_path: Path) -> Any:
    def run(rows: Any = None, **changes: Any) -> Any:
        args = TrainingArguments(
            **{"task_type": "sequence-classification", "model_name_or_path": str(encoder), "max_length": 32,
               "output_dir": str(tmp_path / "out"), **changes}
        )  # fmt: skip
        return preflight.check(args, shipped("sequence-classification"), rows)

    return run


def test_rows_have_the_column_of_their_problem_and_no_other(check: Any, tmp_path: Path) -> None:
    rows = [{**row, "label": LABELS[0], "score": 1.5} for row in sets(40)]

    several = check(rows, problem_type="multi-label", label_names=list(LABELS))
    number = check([{**row, "score": i} for i, row in enumerate(rows)], problem_type="regression")

    assert set(several.train_rows[0]) == {"text", "labels"}
    assert several.facts["labels"]["科技"] == sum("科技" in row["labels"] for row in several.train_rows)
    assert set(number.train_rows[0]) == {"text", "score"}
    assert (number.arguments["label_names"], number.arguments["num_labels"]) == (["score"], 1)


def test_labels_of_a_set_go_by_name_or_number_and_strangers_are_refused(check: Any) -> None:
    given = {"problem_type": "multi-label", "label_names": list(LABELS)}
    rows = [{"text": f"the {i}", "labels": [0, "体育", "体育"] if i % 2 else []} for i in range(20)]

    assert {tuple(row["labels"]) for row in check(rows, **given).train_rows} == {("科技", "体育"), ()}
    with pytest.raises(DatasetInvalid, match=r"1 rows whose label is not in `label_names`: `体肓` \(1\)"):
        check([*rows, {"text": "a", "labels": ["体肓"]}], **given)


def test_a_csv_file_holds_sets_as_json_lists(check: Any, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text('text,tags\na,"[""科技"", ""财经""]"\nb,体育\nc,[]\nd,体育\n', "utf-8")
    given = {"problem_type": "multi-label", "label_names": list(LABELS), "columns": {"labels": "tags"}}

    checked = check(dataset=str(path), eval_fraction=0.0, **given)

    assert [row["labels"] for row in checked.train_rows] == [["科技", "财经"], ["体育"], [], ["体育"]]
    path.write_text('text,tags\na,"[科技"\n', "utf-8")
    with pytest.raises(DatasetInvalid, match="`tags` is no JSON list"):
        check(dataset=str(path), **given)


def test_labels_that_were_not_named_are_read_from_the_sets(check: Any) -> None:
    with pytest.raises(ArgumentInvalid, match=r"the data holds `label_names: \[体育, 科技, 财经\]`"):
        check(sets(10), problem_type="multi-label")


@pytest.mark.parametrize(
    ("rows", "changes", "message"),
    [
        ([{"text": "a", "label": ["x"]}], {"label_names": ["x", "y"]}, "several are for `problem_type: multi-label`"),
        ([{"text": "a", "label": ["x"]}], {"problem_type": "multi-label", "label_names": ["x"]},
         "`labels` <- `label`? Map it with `columns: {labels: label}`"),
        ([{"text": "a", "label": 3}], {"problem_type": "regression"}, "`score` <- `label`?"),
        ([{"text": "a", "score": "good"}], {"problem_type": "regression"}, "it holds a number"),
        ([{"text": "a", "score": True}], {"problem_type": "regression"}, "it holds a number"),
    ],
    ids=["a set for one label", "a set under another name", "a number under another name", "a word", "a truth"],
)  # fmt: skip
def test_rows_of_another_problem_are_refused_with_what_to_do(
    rows: list[Row], changes: dict[str, Any], message: str, check: Any
) -> None:
    with pytest.raises(DatasetInvalid) as refused:
        check(rows, **changes)

    assert message in refused.value.detail


def test_the_number_of_labels_must_suit_the_problem(check: Any) -> None:
    with pytest.raises(ArgumentInvalid, match="of one label every text has it"):
        check([{"text": "a", "label": "x"}], label_names=["x"])
    with pytest.raises(ArgumentInvalid, match="a regression predicts one number"):
        check(numbers(9), problem_type="regression", label_names=["a", "b"])


def test_runs_of_either_kind_are_held_against_their_own_gates() -> None:
    profile = shipped("sequence-classification")

    gates = {
        problem: [gate.metric for gate in profile.gates if gate.concerns({"problem_type": problem})]
        for problem in ("single-label", "multi-label", "regression")
    }

    assert gates == {"single-label": ["macro_f1"], "multi-label": ["macro_f1"], "regression": ["spearman"]}


def test_the_confusion_matrix_is_a_table_for_programs_too(encoder: Path, tmp_path: Path) -> None:
    run = make_job(tmp_path, encoder, CLASSIFICATION, max_steps=2)

    outcome = sequence_classification.train(run)

    table = json.loads((run.folder.root / "confusion-matrix.json").read_text("utf-8"))
    assert table["labels"] == list(LABELS)
    assert np.sum(table["rows_are_truth"]) == 60
    assert table["per_class"] == outcome.details["per_class"]
    assert 0 <= outcome.details["calibration_error"] <= 1
