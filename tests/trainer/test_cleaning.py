"""Rows that nobody should train on: told, dropped and counted, or refused, as the profile says."""

from typing import Any

import pytest

from enforcer.columns import CleaningRule, Column
from enforcer.problems import DatasetInvalid
from enforcer.profiles import Limits, Profile
from trainer.inputs.cleaning import Cleaned, clean

PAIR = {name: Column(type="text", help="h") for name in ("prompt", "chosen", "rejected")}


def profile(*rules: dict[str, Any], share: float = 0.5) -> Profile:
    return Profile(
        recipe="dpo",
        parameters={},
        columns=PAIR,
        cleaning=[CleaningRule(**rule) for rule in rules],
        max_dropped_share=share,
        metrics=[],
        pool="a100",
        limits=Limits(max_gpus=0, max_runtime_s=60),
    )


def row(prompt: str, chosen: str = "yes", rejected: str = "no") -> dict[str, str]:
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


EQUAL = {"check": "equal", "columns": ["chosen", "rejected"]}
ROWS = [row("a"), row("a"), row("b", "same", " same "), row("c")]
HELD_OUT = [row("a", "maybe"), row("d")]


def cleaned(*rules: dict[str, Any], share: float = 0.5) -> Cleaned:
    return clean(profile(*rules, share=share), ROWS, HELD_OUT)


def test_without_rules_every_row_stays() -> None:
    assert (cleaned().train, cleaned().eval, cleaned().dropped, cleaned().findings) == (ROWS, HELD_OUT, {}, [])


def test_each_check_drops_what_it_names_and_says_how_many() -> None:
    all_three = ({**EQUAL, "action": "drop"}, *({"check": c, "action": "drop"} for c in ("duplicate", "leaked")))

    left = cleaned(*all_three)

    assert left.train == [row("a"), row("c")]
    assert left.eval == [row("d")]
    assert left.dropped == {"equal": 1, "duplicate": 1, "leaked": 1}
    assert left.findings == [
        "1 of 6 rows have the same `chosen` and `rejected` and are left out",
        "1 of 6 rows say the same as another training row and are left out",
        "1 of 6 rows are held out and have a training row's `prompt` and are left out",
    ]


def test_what_is_only_told_stays() -> None:
    told = cleaned({**EQUAL, "action": "report"}, {"check": "duplicate", "action": "report"})

    assert (told.train, told.dropped) == (ROWS, {})
    assert told.findings == ["1 of 6 rows have the same `chosen` and `rejected`"]


def test_a_task_type_may_take_none_at_all() -> None:
    with pytest.raises(DatasetInvalid, match="1 of 6 rows have the same `chosen` and `rejected`; this task type takes"):
        cleaned({**EQUAL, "action": "refuse"})


def test_more_than_the_task_type_allows_is_refused_and_not_dropped() -> None:
    with pytest.raises(
        DatasetInvalid, match=r"leave out 1 of 4 training rows \(25.0%\), and this task type allows 10%"
    ):
        cleaned({**EQUAL, "action": "drop"}, share=0.1)


def test_rows_that_stay_held_out_do_not_make_up_for_training_rows_that_are_lost() -> None:
    train = [row(str(i)) for i in range(36)] + [row("same")] * 5  # 4 of 41 are repeats

    with pytest.raises(DatasetInvalid, match=r"4 of 41 training rows \(9.8%\).* `allow_row_loss: 0.1`"):
        clean(profile({"check": "duplicate", "action": "drop"}, share=0.05), train, [row(f"h{i}") for i in range(60)])


def test_nobody_is_advised_to_lose_every_training_row() -> None:
    with pytest.raises(DatasetInvalid, match="no row to train on") as refused:
        clean(profile({**EQUAL, "action": "drop"}, share=0.05), [row("a", "b", "b")], HELD_OUT)
    assert "allow_row_loss" not in refused.value.detail


def test_a_rule_compares_columns_that_there_are() -> None:
    with pytest.raises(ValueError, match="a column `answer`, which there is not"):
        profile({"check": "equal", "columns": ["chosen", "answer"], "action": "drop"})
    with pytest.raises(ValueError, match="`equal` compares at least two"):
        CleaningRule(check="equal", action="drop", columns=["chosen"])


def test_what_leaves_nothing_to_evaluate_on_is_refused() -> None:
    leaky = profile({"check": "leaked", "action": "drop"}, share=1)

    with pytest.raises(DatasetInvalid, match="no row to evaluate on: 1 of 5 rows"):
        clean(leaky, ROWS, [row("a", "maybe")])
    assert clean(leaky, ROWS, []).eval == []
