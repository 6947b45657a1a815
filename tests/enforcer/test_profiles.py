"""Profiles: what they accept, and that a child never accepts what its parent would refuse."""

from typing import Any

import pytest
from hypothesis import given, strategies as st
from pydantic import ValidationError

from enforcer.inheritance import inherit, refuse_contradictions, refuse_cycle
from enforcer.problems import ArgumentInvalid, BoundsContradict, ParentCycle, ProfileInvalid, ProfileWidens
from enforcer.profiles import Parameter, ParameterOverride, Profile, ProfileOverrides


def profile(**parameters: Parameter) -> Profile:
    return Profile(
        recipe="embedding",
        parameters=parameters,
        columns={},
        metrics=["accuracy"],
        pool="t4",
        limits={"max_gpus": 2, "max_runtime_s": 3600},  # type: ignore[arg-type]
    )


BASE = profile(
    size=Parameter(type="int", help="a size", default=8, minimum=1, maximum=64),
    rate=Parameter(type="float", help="a rate", default=0.1, minimum=0.0, maximum=1.0),
    shape=Parameter(type="str", help="a shape", default="cosine", choices=["linear", "cosine"]),
    seed=Parameter(type="int", help="a seed", default=1),
)


def test_defaults_are_filled_in() -> None:
    assert BASE.resolve({"size": 4}) == {"size": 4, "rate": 0.1, "shape": "cosine", "seed": 1}


def test_two_and_two_point_zero_are_one_value_and_one_digest() -> None:
    assert BASE.resolve({"rate": 1}) == BASE.resolve({"rate": 1.0})
    assert isinstance(BASE.resolve({"rate": 1})["rate"], float)


@pytest.mark.parametrize(
    ("given_", "says"),
    [
        ({"sizes": 3}, "did you mean `size`"),
        ({"size": 0}, "below the minimum 1"),
        ({"size": 65}, "above the maximum 64"),
        ({"size": "8"}, "not of type int"),
        ({"size": True}, "not of type int"),
        ({"seed": 2**53}, "not of type int"),
        ({"rate": float("nan")}, "not of type float"),
        ({"shape": "square"}, "not one of linear, cosine"),
    ],
)
def test_an_argument_outside_the_profile_is_refused_in_words(given_: dict[str, Any], says: str) -> None:
    with pytest.raises(ArgumentInvalid, match=says):
        BASE.resolve(given_)


def test_a_locked_parameter_takes_only_its_value() -> None:
    locked = inherit(BASE, ProfileOverrides(parameters={"seed": ParameterOverride(default=7, locked=True)}))

    assert locked.resolve({"seed": 7})["seed"] == 7
    with pytest.raises(ArgumentInvalid, match="locks it"):
        locked.resolve({"seed": 8})
    with pytest.raises(ProfileWidens, match="`seed` `default` 7 -> 8"):
        inherit(locked, ProfileOverrides(parameters={"seed": ParameterOverride(default=8)}))


def test_a_default_must_keep_its_own_rules() -> None:
    with pytest.raises(ValidationError, match="its own default"):
        Parameter(type="int", help="x", default=9, maximum=8)


def test_a_gate_on_an_undeclared_metric_is_refused() -> None:
    with pytest.raises(ValidationError, match="not among the metrics"):
        Profile(**{**BASE.model_dump(), "gates": [{"metric": "f1", "value": 0.9, "min_n": 1}]})


bounds = st.none() | st.integers(-10, 80).map(float)
overrides = st.builds(
    ParameterOverride,
    default=st.none() | st.integers(-10, 80),
    minimum=bounds,
    maximum=bounds,
    locked=st.none() | st.booleans(),
)


@given(overrides, overrides, st.integers(-20, 100))
def test_what_a_descendant_accepts_its_ancestors_accept(
    child: ParameterOverride, grandchild: ParameterOverride, value: int
) -> None:
    """Narrowing is checked against what validation really does, over two generations."""
    family = [BASE]
    for override in (child, grandchild):
        try:
            family.append(inherit(family[-1], ProfileOverrides(parameters={"size": override})))
        except ProfileInvalid:
            return

    accepted = [accepts(one, value) for one in family]

    assert accepted == sorted(accepted, reverse=True)


def accepts(one: Profile, value: int) -> bool:
    try:
        one.resolve({"size": value})
    except ArgumentInvalid:
        return False
    return True


def test_the_digest_is_of_the_content_and_nothing_else() -> None:
    same = Profile.model_validate_json(BASE.model_dump_json())

    assert same.digest() == BASE.digest()
    assert (
        inherit(BASE, ProfileOverrides(gates=[{"metric": "accuracy", "value": 0.5, "min_n": 1}])).digest()
        != BASE.digest()
    )  # type: ignore[list-item]


@pytest.mark.parametrize(
    "rules",
    [
        {"type": "int", "minimum": 3, "maximum": 2},
        {"type": "int", "minimum": 0.2, "maximum": 0.8},
        {"type": "float", "minimum": 0.8, "maximum": 0.2},
        {"type": "str", "choices": []},
        {"type": "str", "choices": [""]},
        {"type": "int", "choices": ["1"]},
        {"type": "strings", "minimum": 2},
        {"type": "bool", "locked": True},
        {"type": "int", "default": 9, "maximum": 8},
    ],
)
def test_a_parameter_that_nothing_can_satisfy_is_refused(rules: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as refusal:
        Parameter(help="x", **rules)

    assert refusal.value.errors()[0]["type"] == "bounds-contradict"


def test_two_gates_on_one_metric_are_refused() -> None:
    gates = [{"metric": "accuracy", "value": value, "min_n": 1} for value in (0.8, 0.9)]

    with pytest.raises(ValidationError, match="two gates bound the same metric") as refusal:
        Profile(**{**BASE.model_dump(), "gates": gates})

    assert refusal.value.errors()[0]["type"] == "bounds-contradict"


@pytest.mark.parametrize(
    ("metric", "op", "better"), [("accuracy", "<=", 'a higher `accuracy`.*">="'), ("eval_loss", ">=", 'a lower.*"<="')]
)
def test_a_gate_that_lets_the_worse_pass_is_refused_with_what_to_write(metric: str, op: str, better: str) -> None:
    gates = [{"metric": metric, "op": op, "value": 0.9, "min_n": 1}]

    with pytest.raises(ValidationError, match=f"`{metric} {op} 0.9` lets the worse pass: {better}") as refusal:
        Profile(**{**BASE.model_dump(), "metrics": [metric], "gates": gates})

    assert refusal.value.errors()[0]["type"] == "gate-against-direction"


def test_labels_of_another_type_than_they_are_taken_for_are_refused() -> None:
    with pytest.raises(ValidationError, match="`label_names` is of type strings"):
        profile(label_names=Parameter(type="int", help="x"))


def test_two_locks_that_cannot_hold_at_once_are_refused() -> None:
    names = Parameter(type="strings", help="x", default=["a", "b"], locked=True)

    with pytest.raises(BoundsContradict, match="`label_names` and `num_labels`"):
        refuse_contradictions(
            profile(label_names=names, num_labels=Parameter(type="int", help="x", default=3, locked=True))
        )
    refuse_contradictions(
        profile(label_names=names, num_labels=Parameter(type="int", help="x", default=2, locked=True))
    )


def test_a_circle_of_parents_is_named() -> None:
    refuse_cycle({"a": "b", "b": None, "c": "b", "d": "c"})

    with pytest.raises(ParentCycle, match="`b` -> `c` -> `d` -> `b`"):
        refuse_cycle({"a": "b", "b": "c", "c": "d", "d": "b"})
    with pytest.raises(ParentCycle, match="`a` -> `a`"):
        refuse_cycle({"a": "a"})
