"""Past decisions made again: what was decided then against what a candidate says, with the facts of then."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from enforcer.policy import folder
from enforcer.policy.conditions import Context
from enforcer.policy.decision import Request
from enforcer.policy.replay import EXAMPLES, Past, Tally, compare
from enforcer.policy.snapshot import Snapshot

GATE = Snapshot(folder.load(Path("policies")), folder.tag_tree(Path("policies")))
THEN = datetime(2026, 3, 1, 12, tzinfo=UTC)


def asked(tag: str = "embedding", unit: str = "retail") -> Request:
    context = Context(now=THEN, gpus=1, unit=unit, own_units=frozenset({"retail"}))
    return Request(("user:wang", "group:trainers"), "submit", context, tag, unit, "local")


@pytest.mark.parametrize(
    ("past", "outcome"),
    [
        (Past("1", asked(), "allow", "trainers-train-retrieval"), "same"),
        (Past("2", asked(), "no-matching-rule", None), "deny->allow"),
        (Past("3", asked("dpo"), "allow", "a-pilot"), "allow->deny"),
        (Past("4", asked("dpo"), "explicit-deny", "a-freeze"), "same"),
        (Past("5", asked(), "not-in-scope", None, aside=True), "same"),
        (Past("6", asked("dpo"), "allow", "owner", aside=True), "same"),
    ],
)
def test_what_was_decided_then_counts_and_what_no_policy_decides_does_not(past: Past, outcome: str) -> None:
    assert compare(past, GATE.decide(past.request)) == outcome


def test_an_engine_that_fails_is_an_error_and_no_denial() -> None:
    class Broken(Snapshot):
        def _answer(self, _request: Request) -> object:  # type: ignore[override]
            raise RuntimeError("a bug")

    broken = Broken(GATE.policy, GATE.tag_parents)

    assert compare(Past("1", asked(), "no-matching-rule", None), broken.decide(asked())) == "error"


def test_outcomes_are_counted_by_unit_and_tag_with_a_few_examples_of_each() -> None:
    tally = Tally()
    for number in range(2 * EXAMPLES):
        tally.add(Past(f"a{number}", asked(), "no-matching-rule", None), GATE)
        tally.add(Past(f"b{number}", asked("dpo", "search"), "allow", "a-pilot"), GATE)
    tally.add(Past("c", asked(), "allow", "trainers-train-retrieval"), GATE)

    assert tally.counts == {
        ("retail", "embedding", "deny->allow"): 20,
        ("search", "dpo", "allow->deny"): 20,
        ("retail", "embedding", "same"): 1,
    }
    assert [tally.total(kind) for kind in ("same", "allow->deny", "deny->allow", "error")] == [1, 20, 20, 0]  # type: ignore[arg-type]
    assert [example.past.id for example in tally.examples[:2]] == ["a0", "b0"]
    assert len(tally.examples) == 2 * EXAMPLES
