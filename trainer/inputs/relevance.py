"""What rows of a query, a document and a label must be, so that a reranker has something to learn from them.

Stands on no torch: preflight looks here before a ticket is asked for, and recipes take it for granted.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from enforcer.problems import ArgumentInvalid, DatasetInvalid
from trainer.job import Row

HIGHEST = 30  # a gain of 2^30 - 1; what lies above is a score of something else, and no grade
COLUMNS = ("query", "document", "label")


def check(arguments: Mapping[str, Any], train: Sequence[Row], held_out: Sequence[Row]) -> list[str]:
    """See that the loss has something to tell apart; returns what a person should know of rows that it does not use.

    Raises:
        DatasetInvalid: a label that is no grade, or rows that the loss learns nothing from.
        ArgumentInvalid: arguments that contradict each other, or a batch too small for in-batch negatives.
    """
    _refuse_what_is_no_grade((*train, *held_out))
    if arguments.get("use_inbatch_negatives"):
        return _in_batch(arguments, train)
    if len({row["label"] for row in train}) < 2:
        answers = train[0]["label"] > 0
        missing = (
            "that do not answer, or turn `use_inbatch_negatives` on where all of them do" if answers else "that answer"
        )
        raise DatasetInvalid(
            f"all training rows have the label {train[0]['label']:g}, so every document is as good as any other; add "
            f"documents {missing}",
            pointer="/label",
        )
    return _lists(train) if arguments.get("loss_type") == "listwise" else []


def refuse_one_score(train: Sequence[Row]) -> None:
    """Raise `DatasetInvalid` where all rows have one score: nothing can be learned from them, and no order."""
    if "score" in train[0] and len({row["score"] for row in train}) < 2:
        raise DatasetInvalid(
            f"all training rows have the score {train[0]['score']:g}, so there is nothing to tell apart; give rows of "
            "other scores",
            pointer="/score",
        )


def refuse_grades_of_nothing(rows: Iterable[Row]) -> None:
    """Raise `DatasetInvalid` for a `grade` of a positive that says it is none."""
    for row in rows:
        if not 0 < row.get("grade", 1) <= HIGHEST:
            raise DatasetInvalid(
                f"the grade {row['grade']:g} is none of a `positive`: it goes from above 0 to {HIGHEST} at most; leave "
                f"out what does not answer (anchor: {row['anchor'][:80]!r})",
                pointer="/grade",
            )


def _refuse_what_is_no_grade(rows: Iterable[Row]) -> None:
    for row in rows:
        if not 0 <= row["label"] <= HIGHEST:
            raise DatasetInvalid(
                f"the label {row['label']:g} is no grade: it goes from 0 (does not answer) to {HIGHEST} at most; scale "
                f"it (query: {row['query'][:80]!r})",
                pointer="/label",
            )


def _in_batch(arguments: Mapping[str, Any], train: Sequence[Row]) -> list[str]:
    if arguments.get("loss_type") == "listwise":
        raise ArgumentInvalid(
            "`use_inbatch_negatives` takes the place of `loss_type: listwise`, which has its own negatives; choose one",
            pointer="/use_inbatch_negatives",
        )
    if arguments["per_device_train_batch_size"] < 2:
        raise ArgumentInvalid(
            "`per_device_train_batch_size`: in a batch of 1 no other row is a negative; take 2 or more",
            pointer="/per_device_train_batch_size",
        )
    right = [row for row in train if row["label"] > 0]
    if min(len({row[name] for row in right}) for name in ("query", "document")) < 2:
        raise DatasetInvalid(
            "with `use_inbatch_negatives` the right documents of other queries are the wrong ones of a query, and "
            "there are not two of them; give more rows with a label above 0",
            pointer="/label",
        )
    unused = len(train) - len(right)
    if not unused:
        return []
    return [
        f"{unused:,} of {len(train):,} training rows have the label 0: `use_inbatch_negatives` draws its negatives "
        "from the batch, and does not train on them"
    ]


def _lists(train: Sequence[Row]) -> list[str]:
    labels: dict[str, set[float]] = {}
    for row in train:
        labels.setdefault(row["query"], set()).add(row["label"])
    alike = sum(len(found) < 2 for found in labels.values())
    if alike == len(labels):
        raise DatasetInvalid(
            "`listwise` orders the documents of one query, and no query has documents of different labels; give each "
            "query all of its rows, or take `loss_type: pointwise`",
            pointer="/label",
        )
    if not alike:
        return []
    return [
        f"{alike:,} of {len(labels):,} queries have documents of one label only: `listwise` learns nothing from them"
    ]
