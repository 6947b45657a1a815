"""Drift: what a framework has, held against what is bound to it."""

from enforcer.bindings import Binding, BoundTag
from enforcer.drift import Finding, Framework, drift

SWIFT = Framework(
    "ms-swift",
    "4.6.0",
    axes={"command": frozenset({"sft", "rlhf"}), "task_type": frozenset({"seq_cls", "reranker", "decision"})},
    others={"loss_type": frozenset({"infonce", "contrastive"})},
)


def tag(name: str, versions: str = ">=4.0,<5", command: str = "sft", **args: str) -> BoundTag:
    return BoundTag(name, None, [Binding(framework="ms-swift", versions=versions, command=command, args=dict(args))])


HEADS = [tag("sequence-classification", task_type="seq_cls"), tag("reranker", task_type="reranker")]
REST = {"command": {"rlhf": "later"}, "task_type": {"decision": "a head of its own"}}


def test_all_bound_or_known_is_no_drift() -> None:
    found = drift(SWIFT, HEADS, REST)

    assert found.is_none
    assert found.unbound == [Finding("command", "rlhf", "later"), Finding("task_type", "decision", "a head of its own")]


def test_what_nobody_bound_and_nobody_wrote_down_is_new() -> None:
    found = drift(SWIFT, HEADS, {"command": {"rlhf": "later"}})

    assert found.new == [Finding("task_type", "decision", "")]
    assert not found.is_none


def test_what_is_bound_and_gone_names_the_task_types_that_lose_it() -> None:
    found = drift(SWIFT, [*HEADS, tag("labels", task_type="token_cls"), tag("spans", task_type="token_cls")], REST)

    assert found.removed == [Finding("task_type", "token_cls", "labels, spans")]
    assert not found.is_none


def test_a_command_a_class_of_arguments_and_a_loss_can_be_gone_too() -> None:
    gone = Binding(framework="ms-swift", versions=">=4", command="pt", config="PtConfig", args={"loss_type": "gone"})
    seen = Framework("ms-swift", "4.6.0", SWIFT.axes, {**SWIFT.others, "config": frozenset({"SftConfig"})})

    found = drift(seen, [*HEADS, BoundTag("pre-training", None, [gone])], REST)

    assert [(one.axis, one.value) for one in found.removed] == [
        ("command", "pt"),
        ("config", "PtConfig"),
        ("loss_type", "gone"),
    ]


def test_what_is_only_looked_up_is_never_new() -> None:
    assert "contrastive" not in {one.value for one in drift(SWIFT, HEADS, REST).new}


def test_words_of_the_record_count_as_bound() -> None:
    words = [{"task_type": "reranker"}, {"task_type": "decision"}]
    binding = Binding(framework="ms-swift", versions=">=4", command="sft", args=words[0], recorded=words)

    found = drift(SWIFT, [HEADS[0], BoundTag("reranker", None, [binding])], {"command": {"rlhf": "later"}})

    assert found.is_none


def test_a_task_type_bound_to_other_versions_is_outside_and_its_words_count_for_nothing() -> None:
    tags = [HEADS[0], tag("reranker", ">=3,<4", task_type="reranker")]

    found = drift(SWIFT, tags, REST)

    assert found.outside == ["reranker"]
    assert found.new == [Finding("task_type", "reranker", "")]


def test_to_be_outside_is_drift_even_where_no_word_is_new() -> None:
    assert not drift(SWIFT, [*HEADS, tag("labels", ">=3,<4", task_type="seq_cls")], REST).is_none


def test_a_task_type_of_another_framework_is_not_spoken_of() -> None:
    other = BoundTag("dpo", None, [Binding(framework="trl", versions=">=1", command="DPOTrainer")])

    assert drift(SWIFT, [*HEADS, other], REST).is_none
