"""Judged pairs, looked at before a ticket is asked for: whatever a reranker could not learn from is said then."""

from pathlib import Path
from typing import Any

import pytest
from test_preflight import shipped
from tiny import ranked_rows

from enforcer.problems import ArgumentInvalid, DatasetInvalid
from trainer import preflight
from trainer.arguments import TrainingArguments
from trainer.inputs import relevance
from trainer.job import Row


def rows(*labels: float, query: str = "q{0}") -> list[Row]:
    return [{"query": query.format(i), "document": f"d{i}", "label": label} for i, label in enumerate(labels)]


def check(train: list[Row], held_out: list[Row] | None = None, **changes: Any) -> list[str]:
    arguments = {"use_inbatch_negatives": False, "loss_type": "pointwise", "per_device_train_batch_size": 16, **changes}
    return relevance.check(arguments, train, held_out or [])


def test_a_reranker_is_held_out_by_query_and_asks_for_no_negative_column(encoder: Path, tmp_path: Path) -> None:
    args = TrainingArguments(
        task_type="reranker", model_name_or_path=str(encoder), output_dir=str(tmp_path / "out"), max_length=32
    )

    checked = preflight.check(args, shipped("reranker"), ranked_rows(40, 1))

    assert len(checked.train_rows) + len(checked.eval_rows) == 160
    sides = [{row["query"] for row in side} for side in (checked.train_rows, checked.eval_rows)]
    assert all(sides)
    assert not sides[0] & sides[1]


@pytest.mark.parametrize("label", [-1, 31, -0.5])
def test_a_label_that_is_no_grade_is_refused_in_either_part(label: float) -> None:
    for train, held_out in ((rows(0, 1, label), rows(0, 1)), (rows(0, 1), rows(label))):
        with pytest.raises(DatasetInvalid, match=f"the label {label:g} is no grade"):
            check(train, held_out)


def test_where_every_document_is_as_good_as_any_other_nothing_is_learned() -> None:
    with pytest.raises(DatasetInvalid, match="all training rows have the label 1") as refused:
        check(rows(1, 1, 1))

    assert "`use_inbatch_negatives`" in refused.value.detail
    assert check(rows(1, 1, 1), use_inbatch_negatives=True) == []


def test_a_list_needs_documents_of_different_labels_and_says_which_queries_have_none() -> None:
    with pytest.raises(DatasetInvalid, match="no query has documents of different labels"):
        check(rows(0, 1), loss_type="listwise")

    findings = check([*rows(0, 1, query="one"), *rows(1)], loss_type="listwise")

    assert findings == ["1 of 2 queries have documents of one label only: `listwise` learns nothing from them"]


def test_in_batch_negatives_say_which_rows_they_leave_aside() -> None:
    (finding,) = check(rows(1, 0, 1, 0), use_inbatch_negatives=True)

    assert finding.startswith("2 of 4 training rows have the label 0")


@pytest.mark.parametrize(
    ("train", "changes", "refusal", "message"),
    [
        (rows(1, 1), {"loss_type": "listwise"}, ArgumentInvalid, "takes the place of `loss_type: listwise`"),
        (rows(1, 1), {"per_device_train_batch_size": 1}, ArgumentInvalid, "in a batch of 1"),
        (rows(1, 0), {}, DatasetInvalid, "there are not two of them"),
        (rows(1, 1, query="same"), {}, DatasetInvalid, "there are not two of them"),
    ],
    ids=["two kinds of negatives", "a batch of one", "one right pair", "one query"],
)
def test_in_batch_negatives_without_any_negative_are_refused(
    train: list[Row], changes: dict[str, Any], refusal: type[Exception], message: str
) -> None:
    with pytest.raises(refusal, match=message):
        check(train, use_inbatch_negatives=True, **changes)
