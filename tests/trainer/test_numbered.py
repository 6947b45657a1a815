"""Labels given as numbers count into `label_names` from 0, and numbers that count otherwise are refused."""

from typing import Any

import pytest
from test_columns import CLASSIFIER

from enforcer.problems import DatasetInvalid
from trainer import preflight
from trainer.inputs import rows
from trainer.inputs.rows import Source

FIVE = ["a", "b", "c", "d", "e"]


def check(labels: list[Any], names: list[str], textual: bool = False, **more: Any) -> None:
    raw = [{"text": f"t {i}", "label": label, **{k: v[i] for k, v in more.items()}} for i, label in enumerate(labels)]
    held = rows.hold(raw)
    source = Source(held.name, held.digest, held.rows, textual=textual)
    preflight.rows_of(preflight.Sources([source], []), CLASSIFIER, {}, {"label_names": names, "seed": 0}, 0.0)


@pytest.mark.parametrize("textual", [False, True])
@pytest.mark.parametrize("names", [FIVE, FIVE[:4]])
def test_labels_that_count_from_1_are_refused(names: list[str], textual: bool) -> None:
    with pytest.raises(DatasetInvalid, match="count into `label_names` from 0, and no row has 0: `label` holds from 1"):
        check([str(i) if textual else i for i in (1, 2, 3, 4)], names, textual)


def test_a_column_that_holds_the_names_is_proposed() -> None:
    with pytest.raises(DatasetInvalid, match=r"map it with `columns: \{label: name\}`"):
        check([1, 2, 3], FIVE, topic=["x", "y", "z"], name=["a", "b", "c"])


def test_a_gap_is_refused_with_the_name_that_nothing_has() -> None:
    with pytest.raises(DatasetInvalid, match=r"never 2 \(`c`\), so they may not count .* write the names instead"):
        check([0, 1, 3, 4], FIVE)


@pytest.mark.parametrize(
    ("labels", "names"), [([0, 1, 2], FIVE), (["a", "b", "d", "e"], FIVE), ([1, 2, 4], ["1", "2", "3", "4"])]
)
def test_numbers_from_0_on_names_and_names_that_are_numbers_pass(labels: list[Any], names: list[str]) -> None:
    check(labels, names)


def test_a_number_without_a_name_is_told_as_such() -> None:
    with pytest.raises(DatasetInvalid, match="label is not in `label_names`: `7`"):
        check([0, 7], FIVE)
