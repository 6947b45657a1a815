"""What is said of some runs only: gates and columns by the words of a parameter."""

from typing import Any

import pytest
from pydantic import ValidationError

from enforcer import gates
from enforcer.columns import Column
from enforcer.gates import Gate, Score, Verdict
from enforcer.inheritance import inherit
from enforcer.problems import ProfileWidens
from enforcer.profile_changes import ChangeClass, diff
from enforcer.profiles import Limits, Parameter, Profile, ProfileOverrides

KINDS = ["word", "number"]
F1 = {"metric": "macro_f1", "value": 0.6, "min_n": 10, "when": {"kind": ["word"]}}
RANKS = {"metric": "spearman", "value": 0.5, "min_n": 10, "when": {"kind": ["number"]}}


def profile(bars: list[dict[str, Any]], **kind: Any) -> Profile:
    return Profile(
        recipe="r",
        parameters={"kind": Parameter(**{"type": "str", "help": "k", "default": "word", "choices": KINDS, **kind})},
        columns={
            "text": Column(type="text", help="t"),
            "label": Column(type="label", help="l", when={"kind": ["word"]}),
            "score": Column(type="score", help="s", when={"kind": ["number"]}),
        },
        metrics=["macro_f1", "spearman"],
        gates=[Gate(**bar) for bar in bars],
        pool="p",
        limits=Limits(max_gpus=0, max_runtime_s=60),
    )


BOTH = profile([F1, RANKS])
FINE = Score(value=0.9, n=10)


def ways_apart(parameters: int, words: list[str], conditions: list[dict[str, list[str]]]) -> Profile:
    """A profile with a gate for each condition on so many parameters that take these words."""
    word = Parameter(type="str", help="p", default=words[0], choices=words)
    bars = [Gate(metric=m, value=0.5, min_n=1, when=w) for m, w in zip(BOTH.metrics, conditions, strict=False)]
    return Profile(
        **BOTH.model_dump(exclude={"parameters", "columns", "gates"}),
        parameters={f"p{number}": word for number in range(parameters)},
        columns={"text": Column(type="text", help="t")},
        gates=bars,
    )


def test_a_run_is_judged_by_the_gates_that_concern_it() -> None:
    (word,) = gates.judge_run(BOTH.gates, {"kind": "word"}, {"macro_f1": FINE})
    (number,) = gates.judge_run(BOTH.gates, {"kind": "number"}, {"macro_f1": FINE})

    assert (word.gate.metric, word.verdict) == ("macro_f1", Verdict.PASS)
    assert (number.gate.metric, number.verdict) == ("spearman", Verdict.FAIL), "nothing was measured that counts here"


def test_a_run_has_the_columns_of_its_word_and_no_others() -> None:
    assert set(BOTH.concerning({"kind": "number"}).columns) == {"text", "score"}
    assert [gate.metric for gate in BOTH.concerning({"kind": "number"}).gates] == ["spearman"]
    assert set(BOTH.concerning({}).columns) == {"text"}, "a word that nobody said is none of them"


def test_no_run_may_go_by_without_any_gate() -> None:
    with pytest.raises(ValidationError, match=r"no gate concerns a run with \{'kind': 'number'\}"):
        profile([F1])

    assert profile([F1], locked=True), "no run can have the other word"
    assert profile([]), "without gates, nothing is promised"
    assert profile([{**F1, "when": {}}])


def test_a_run_that_says_no_word_goes_by_no_gate_either() -> None:
    with pytest.raises(ValidationError, match=r"no gate concerns a run with \{'kind': None\}"):
        profile([F1, RANKS], default=None)

    assert profile([F1, RANKS], default=None, required=True)


def test_a_condition_is_on_words_that_can_be_counted() -> None:
    """Of any other word it would not be known whether a gate concerns it."""
    with pytest.raises(
        ValidationError, match="the gate on `macro_f1` is for runs by their `kind`, which takes any word"
    ):
        profile([F1, RANKS], choices=None)


def test_many_words_are_looked_through_as_the_gates_tell_them_apart() -> None:
    words = [f"w{number}" for number in range(100)]

    assert ways_apart(3, words, [{"p0": words, "p1": words, "p2": words}]), "a million ways, and one gate for all"
    with pytest.raises(ValidationError, match=r"no gate concerns a run with \{.*'p2': 'w99'\}"):
        ways_apart(3, words, [{"p0": words, "p1": words, "p2": words[:-1]}])


def test_more_ways_than_can_be_looked_through_are_refused() -> None:
    names = [f"p{number}" for number in range(14)]

    with pytest.raises(ValidationError, match=r"the gates tell 16,384 ways to run apart, by 'p0, p1, .*let fewer"):
        ways_apart(14, ["a", "b"], [{name: ["a"] for name in names}, {}])


@pytest.mark.parametrize("name", ["length", "kin"])
def test_a_condition_speaks_of_a_parameter_that_there_is(name: str) -> None:
    with pytest.raises(ValidationError, match=f"by their `{name}`, which is no parameter of words"):
        profile([{**F1, "when": {name: ["word"]}}, {**RANKS, "when": {}}])


def test_a_gate_that_concerns_more_runs_is_harder_and_one_of_fewer_easier() -> None:
    everybody = profile([{**F1, "when": {}}, RANKS])

    (tighter,) = diff(BOTH, everybody)
    (looser,) = diff(everybody, BOTH)

    assert (tighter.change_class, tighter.widens) == (ChangeClass.TIGHTENING, False)
    assert (looser.change_class, looser.widens) == (ChangeClass.LOOSENING, True)


def test_a_child_may_hold_more_runs_to_a_gate_and_never_fewer() -> None:
    harder = inherit(BOTH, ProfileOverrides(gates=[{**F1, "value": 0.9, "when": {}}]))

    assert next(gate for gate in harder.gates if gate.metric == "macro_f1").when == {}
    with pytest.raises(ProfileWidens, match="concerns other runs"):
        inherit(BOTH, ProfileOverrides(gates=[{**RANKS, "when": {"kind": ["word"]}}, {**F1, "when": {}}]))


def test_what_a_plan_says_of_a_gate_names_its_runs() -> None:
    (change,) = diff(profile([F1, {**RANKS, "when": {}}]), profile([F1, RANKS]))

    assert "spearman >= 0.5 on 10 samples, where kind is number" in change.sentence
