"""Bindings: one spelling for each version of a framework, forward; the tag that a record of a run means, backward."""

from itertools import product
from typing import Any

import pytest
from hypothesis import example, given, settings, strategies as st
from packaging.specifiers import SpecifierSet
from pydantic import ValidationError

from enforcer.bindings import Binding, BoundTag, Reading, spelling, tags_of
from enforcer.problems import BindingInvalid, NotBound, from_validation
from enforcer.profiles import Profile


def bound(args: dict[str, Any], versions: str = ">=4.0,<5", **more: Any) -> Binding:
    return Binding(framework="ms-swift", versions=versions, **{"command": "rlhf", "args": args, **more})


def read(tags: list[BoundTag], version: str = "4.6.0", **recorded: Any) -> Reading:
    return tags_of(tags, "ms-swift", version, {"rlhf"}, recorded)


CPO = BoundTag("cpo", None, [bound({"rlhf_type": "cpo"}, forbids={"loss_type": ["simpo"]})])
SIMPO = BoundTag("simpo", None, [bound({"rlhf_type": "simpo"}, recorded=[{"rlhf_type": "cpo", "loss_type": "simpo"}])])
DPO = BoundTag("dpo", None, [bound({"rlhf_type": "dpo"})])
CHAT_DPO = BoundTag("chat-preference", "dpo", DPO.bindings)


# --- what a binding may say -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"versions": "4.x"}, "no range of versions"),
        ({"versions": ">=5,<4"}, "holds no version"),
        ({"versions": " , "}, "`versions` is empty"),
        ({"versions": "===4.0"}, "use `==`"),
        ({"forbids": {"rlhf_type": ["dpo", "kto"]}}, "forbids what it says itself: rlhf_type=dpo"),
        ({"recorded": [{"beta": 1}], "forbids": {"beta": [1]}}, "forbids what it says itself: beta=1"),
    ],
)
def test_a_binding_that_cannot_be_meant_is_refused_by_a_problem_of_its_own(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError) as caught:
        bound({"rlhf_type": "dpo"}, **changes)

    problem = from_validation(caught.value.errors())  # type: ignore[arg-type]
    assert isinstance(problem, BindingInvalid)
    assert says in problem.detail


def test_two_bindings_may_not_speak_for_one_version_of_a_framework() -> None:
    with pytest.raises(ValidationError, match=r"`>=4\.0,<4\.7` and `>=4\.6`; end one where"):
        profile(bound({"a": "x"}, ">=4.0,<4.7"), bound({"a": "y"}, ">=4.6"))

    profile(bound({"a": "x"}, ">=4.0,<4.6"), bound({"a": "y"}, ">=4.6"))


def profile(*bindings: Binding) -> Profile:
    return Profile(
        recipe="dpo",
        parameters={},
        columns={},
        metrics=[],
        pool="a100",
        limits={"max_gpus": 1, "max_runtime_s": 60},  # type: ignore[arg-type]
        bindings=list(bindings),
    )


NUMBERS = st.sampled_from(["1", "1.0", "1.1", "2", "2.1"])
CLAUSES = st.one_of(
    st.builds("{}{}".format, st.sampled_from([">=", "<=", "<", ">", "==", "!="]), NUMBERS),
    st.builds("{}{}.*".format, st.sampled_from(["==", "!="]), NUMBERS),
    st.builds("~={}".format, st.sampled_from(["1.0", "1.1", "2.1"])),
)
RANGES = st.lists(CLAUSES, min_size=1, max_size=3).map(",".join)
# Between and at all the numbers above, before and after each of them.
GRID = [f"{release}{tail}" for release, tail in product(["0.9", "1.0", "1.0.5", "1.1", "1.1.5", "1.5", "2.0", "2.0.5",
        "2.1", "2.1.5", "2.5", "3.0"], ["", ".dev0", "rc1", ".post1"])]  # fmt: skip


@settings(max_examples=200)
@given(RANGES, RANGES)
@example(">=1.0,<1.1", ">=1.1")
@example(">=1.0,<1.1", ">=1.1.dev0")
@example("!=2.1.*", "~=2.1")
def test_ranges_overlap_exactly_when_some_version_is_in_both(one: str, other: str) -> None:
    shared = [v for v in GRID if all(SpecifierSet(r).contains(v, prereleases=True) for r in (one, other))]
    try:
        first, second = bound({}, one), bound({}, other)
    except ValidationError:
        assert shared == []
        return

    assert first.overlaps(second) == second.overlaps(first) == bool(shared)
    assert [v for v in GRID if first.covers(v) and second.covers(v)] == shared


# --- forward ----------------------------------------------------------------------------------------------------------


def test_each_version_of_a_framework_has_its_own_spelling() -> None:
    old, new = bound({"rlhf_type": "dpo"}, ">=3,<4", command="dpo"), bound({"rlhf_type": "dpo"})

    assert spelling("dpo", [old, new], "ms-swift", "3.9") == old
    assert spelling("dpo", [old, new], "ms-swift", "4.6.0.dev0") == new


@pytest.mark.parametrize(
    ("framework", "version", "says", "facts"),
    [
        ("ms-swift", "5.0", "is bound to `ms-swift` >=4.0,<5, not to 5.0", {"versions": [">=4.0,<5"]}),
        ("axolotl", "1.0", "not bound to `axolotl`; it is bound to `ms-swift`", {"frameworks": ["ms-swift"]}),
    ],
)
def test_what_is_not_bound_names_what_is(framework: str, version: str, says: str, facts: dict[str, Any]) -> None:
    with pytest.raises(NotBound, match=says) as caught:
        spelling("dpo", DPO.bindings, framework, version)

    assert caught.value.facts == facts


def test_a_tag_without_bindings_says_so() -> None:
    with pytest.raises(NotBound, match="bound to no framework"):
        spelling("ours", [], "ms-swift", "4.6.0")


# --- backward ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("recorded", "tag"),
    [
        ({"rlhf_type": "dpo", "task_type": "causal_lm"}, "dpo"),
        ({"rlhf_type": "cpo", "loss_type": "sigmoid"}, "cpo"),
        ({"rlhf_type": "cpo", "loss_type": "simpo"}, "simpo"),
        ({"rlhf_type": "cpo", "loss_type": ["simpo"]}, "simpo"),
    ],
)
def test_what_says_most_about_a_run_is_its_tag(recorded: dict[str, Any], tag: str) -> None:
    assert [match.tag for match in read([CPO, SIMPO, DPO], **recorded).matches] == [tag]


def test_a_forbidden_value_is_told() -> None:
    reading = read([CPO], rlhf_type="cpo", loss_type="simpo")

    assert reading.matches == []
    assert reading.forbidden == {"cpo": ["loss_type=simpo"]}


def test_a_child_that_is_spelt_as_its_parent_is_told_with_it() -> None:
    grandchild = BoundTag("support-preference", "chat-preference", DPO.bindings)

    (match,) = read([CHAT_DPO, grandchild, DPO], rlhf_type="dpo").matches

    assert (match.tag, sorted(match.narrower)) == ("dpo", ["chat-preference", "support-preference"])


def test_a_child_with_words_of_its_own_is_an_answer_of_its_own() -> None:
    child = BoundTag("chat-preference", "dpo", [bound({"rlhf_type": "dpo", "template": "chat"})])

    assert [match.tag for match in read([DPO, child], rlhf_type="dpo", template="chat").matches] == ["chat-preference"]
    assert [match.tag for match in read([DPO, child], rlhf_type="dpo").matches] == ["dpo"]


def test_two_tags_with_the_same_words_are_ambiguous() -> None:
    twin = BoundTag("dpo-two", None, DPO.bindings)

    assert [match.tag for match in read([DPO, twin], rlhf_type="dpo").matches] == ["dpo", "dpo-two"]


@pytest.mark.parametrize(
    ("version", "recorded"),
    [("5.0.0", {"rlhf_type": "dpo"}), ("4.6.0", {"rlhf_type": "kto"}), ("4.6.0", {"task_type": "causal_lm"})],
)
def test_another_version_or_other_words_are_no_tag(version: str, recorded: dict[str, Any]) -> None:
    assert read([DPO], version, **recorded).matches == []


def test_true_is_not_one() -> None:
    flagged = BoundTag("flagged", None, [bound({"flag": True})])

    assert read([flagged], flag=1).matches == []
    assert [match.tag for match in read([flagged], flag=True).matches] == ["flagged"]
