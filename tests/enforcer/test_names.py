"""Names: the grammar, the layers, and that a variant never gets in while a real name always does."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings, strategies as st
from pydantic import ValidationError

from enforcer import names
from enforcer.names import KnownNames, NameRules, Spelling, Verdict, slips

NOW = datetime(2026, 12, 1, tzinfo=UTC)
RULES = NameRules.model_validate(yaml.safe_load((Path(__file__).parents[2] / "policies" / "names.yaml").read_text()))
VOCABULARY = {
    "dpo": ["direct-preference-optimization"],
    "sft": [],
    "embedding": [],
    "reranker": ["cross-encoder"],
    "sequence-classification": ["seq-cls", "cls", "text-classification"],
    "text-to-sql": [],
    "agent-training": [],
    "image-to-text": [],
}
RESERVED = [Spelling(word, None, reserved.reason) for word, reserved in RULES.reserved.items()]
SPELLINGS = [Spelling(text, tag) for tag, aliases in VOCABULARY.items() for text in (tag, *aliases)] + RESERVED
KNOWN = KnownNames.of(RULES, SPELLINGS)

# None of them is a variant of the vocabulary above.
REAL = """cpo orpo simpo kto ppo grpo gkd rloo reward-modeling pre-training token-classification text-to-image
text-generation question-answering summarization translation fill-mask zero-shot-classification object-detection
product-classification review-sentiment intent-recognition time-series-forecasting keyword-extraction r2-score
test-time-adaptation real-toxicity""".split()


def ruling(name: str, **declared: object) -> names.NameVerdict:
    return names.check_name(name, KNOWN, now=NOW, **declared)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", REAL)
def test_a_real_name_is_fine(name: str) -> None:
    assert ruling(name) == names.NameVerdict(name, Verdict.OK)


@pytest.mark.parametrize(
    ("name", "rule", "suggestion"),
    [
        ("dpo", "exists", "dpo"),
        ("cross-encoder", "alias", "reranker"),
        ("dpo-v2-new", "noise", "dpo"),
        ("dpo-final", "noise", "dpo"),
        ("dpo2", "noise", "dpo"),
        ("dpo-2024-11", "noise", "dpo"),
        ("new-dpo", "noise", "dpo"),
        ("dpo-training", "noise", "dpo"),
        ("agent-training-v3", "noise", "agent-training"),
        ("sequence-classifier", "stems", "sequence-classification"),
        ("seq-classification", "stems", "sequence-classification"),
        ("text2sql", "stems", "text-to-sql"),
        ("text-2-sql", "stems", "text-to-sql"),
        ("embeddings", "stems", "embedding"),
        ("reranking", "stems", "reranker"),
        ("classification-sequence", "order", "sequence-classification"),
        ("sequenceclassification", "separators", "sequence-classification"),
        ("re-ranker-v2", "separators", "reranker"),
        ("dp0", "confusable", "dpo"),
        ("ernbedding", "confusable", "embedding"),
        ("embeding", "typo", "embedding"),
        ("emebdding", "typo", "embedding"),
        ("embeddding", "typo", "embedding"),
        ("emnedding", "typo", "embedding"),
        ("embeding-v2", "typo", "embedding"),
        ("txet-to-sql", "typo", "text-to-sql"),
        ("sequnce-clasification", "typo", "sequence-classification"),
    ],
)
def test_a_variant_is_blocked_by_the_rule_that_sees_it(name: str, rule: str, suggestion: str) -> None:
    verdict = ruling(name)

    assert (verdict.verdict, verdict.suggestion) == (Verdict.BLOCK, suggestion)
    assert [(match.rule, match.tag) for match in verdict.matches] == [(rule, suggestion)]


@pytest.mark.parametrize(
    ("text", "tag"),
    [
        ("CLS", "sequence-classification"),
        ("DpoTask", "dpo"),
        ("SeqCls", "sequence-classification"),
        ("sequence_classification", "sequence-classification"),
        ("TextToSQL", "text-to-sql"),
        ("dpо", "dpo"),  # a Cyrillic о
        ("ｅｍｂｅｄｄｉｎｇ", "embedding"),
        ("émbedding", "embedding"),
        ("em\u200bbedding", "embedding"),
    ],
)
def test_what_is_no_name_still_says_which_tag_it_means(text: str, tag: str) -> None:
    verdict = ruling(text)

    assert verdict.matches[0].rule == "grammar"
    assert [match.tag for match in verdict.matches[1:]] == [tag]
    assert verdict.suggestion == tag


def test_letters_of_another_script_are_named_as_what_they_are() -> None:
    assert [match.rule for match in ruling("dpо").matches] == ["grammar", "confusable"]


def test_around_to_the_order_is_the_meaning() -> None:
    assert ruling("text-to-image").verdict is Verdict.OK


@pytest.mark.parametrize(
    "name", ["", "a", "-dpo", "dpo-", "a--b", "2fast", "x" * 49, "a-b-c-d-e-f", "naïve-name", "a b"]
)
def test_what_breaks_the_grammar_is_blocked(name: str) -> None:
    assert ruling(name).matches[0].rule == "grammar"


@pytest.mark.parametrize(
    ("name", "plain"), [("churn-v2", "churn"), ("my-churn", "churn"), ("churn-v2-rate", "churn-rate"), ("v2-new", None)]
)
def test_noise_is_no_part_of_a_new_name(name: str, plain: str | None) -> None:
    verdict = ruling(name)

    assert (verdict.verdict, verdict.suggestion) == (Verdict.BLOCK, plain)
    assert [match.rule for match in verdict.matches] == ["noise"]


@pytest.mark.parametrize("name", [*RULES.reserved, "Task_Type", "ALL"])
def test_reserved_words_are_blocked(name: str) -> None:
    verdict = ruling(name)

    assert verdict.matches[-1].rule == "reserved"
    assert (verdict.verdict, verdict.suggestion) == (Verdict.BLOCK, None)


def test_a_reservation_ends_at_its_moment() -> None:
    known = KNOWN.plus([Spelling("mixture-of-tasks", None, "a paper calls it so", NOW)])

    before, then = (
        names.check_name("mixture-of-tasks", known, now=at) for at in (NOW - timedelta(microseconds=1), NOW)
    )

    assert (before.verdict, then.verdict) == (Verdict.BLOCK, Verdict.OK)


# --- what has to be said ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "tag"),
    [
        ("dpo-chinese", "dpo"),
        ("chinese-dpo", "dpo"),
        ("chinese-dpo-pairs", "dpo"),
        ("seq-cls-zh", "sequence-classification"),
        ("long-text-classification", "sequence-classification"),
        ("sequence-classifier-zh", "sequence-classification"),
    ],
)
def test_a_name_that_extends_a_tag_has_to_say_why(name: str, tag: str) -> None:
    silent = ruling(name)
    as_child, as_another = ruling(name, parent=tag), ruling(name, distinct_from={tag: "it has a loss of its own"})

    assert (silent.verdict, silent.suggestion) == (Verdict.JUSTIFY, tag)
    assert [(match.rule, match.tag) for match in silent.matches] == [("extends", tag)]
    assert (as_child.verdict, as_another.verdict) == (Verdict.OK, Verdict.OK)
    assert as_child.matches[0].evidence.endswith("its parent")
    assert as_another.matches[0].evidence.endswith("it has a loss of its own")


def test_each_tag_that_a_name_extends_has_to_be_answered() -> None:
    half = ruling("dpo-embedding", parent="dpo")
    whole = ruling("dpo-embedding", parent="dpo", distinct_from={"embedding": "the head is a language model's"})

    assert (half.verdict, half.suggestion) == (Verdict.JUSTIFY, "embedding")
    assert whole.verdict is Verdict.OK


def test_another_parent_is_no_answer() -> None:
    assert ruling("dpo-chinese", parent="sft").verdict is Verdict.JUSTIFY


def test_an_alias_of_the_parent_is_the_parent() -> None:
    assert ruling("seq-cls-zh", parent="cls").verdict is Verdict.OK


def test_a_real_word_a_letter_from_a_tag_can_be_told_apart() -> None:
    known = KNOWN.plus([Spelling("emotion-tagging", "emotion-tagging")])
    because = {"emotion-tagging": "it is about bodies"}

    silent = names.check_name("motion-tagging", known, now=NOW)
    said = names.check_name("motion-tagging", known, now=NOW, distinct_from=because)

    assert (silent.verdict, said.verdict) == (Verdict.BLOCK, Verdict.OK)


@pytest.mark.parametrize("name", ["dpo", "dpo-v2", "seq-cls", "embeddings", "dp0", "classification-sequence"])
def test_what_is_the_same_cannot_be_told_apart(name: str) -> None:
    every_tag = dict.fromkeys(VOCABULARY, "trust me")

    assert ruling(name, distinct_from=every_tag, parent="dpo").verdict is Verdict.BLOCK


# --- slips ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "meant", "slip"),
    [
        ("emedding", "embedding", "`b` is missing"),
        ("embeddding", "embedding", "`d` is one too many"),
        ("emebdding", "embedding", "`be` is swapped"),
        ("embeddinh", "embedding", "`h` stands for `g`"),
        ("imbedding", "embedding", None),
        ("f1-micro", "f1-macro", None),
        ("content", "context", None),
        ("embedding", "embedding", None),
        ("emeddign", "embedding", None),
        ("r2score", "d2score", None),
    ],
)
def test_a_slip_is_one_thing_that_a_hand_does(typed: str, meant: str, slip: str | None) -> None:
    assert slips.one_slip(typed, meant) == slip


letters = st.text("abcdefgh", min_size=1, max_size=12)


@given(letters, letters)
@settings(max_examples=300)
def test_what_is_a_slip_apart_shares_a_neighbour(one: str, other: str) -> None:
    """So none is missed that is only looked for among neighbours."""
    if slips.one_slip(one, other):
        assert set(slips.less_one(one)) & set(slips.less_one(other))


# --- any text ---------------------------------------------------------------------------------------------------------

parts = st.sampled_from([*"dpo seq cls text to sql embedding v2 new training 2 - _ А о rn".split(), ""])
texts = st.text(max_size=80) | st.lists(parts, max_size=7).map("-".join) | st.lists(parts, max_size=7).map("".join)


@given(texts)
@settings(max_examples=400)
def test_any_text_gets_a_verdict_and_a_suggestion_that_can_be_used(text: str) -> None:
    verdict = ruling(text)

    if verdict.verdict is Verdict.OK:
        assert names.is_canonical(text)
        assert text not in KNOWN.spellings
    else:
        assert verdict.sentence.startswith("`")
    if verdict.suggestion not in (None, *VOCABULARY):
        assert ruling(verdict.suggestion).verdict is Verdict.OK


noise = st.sampled_from(sorted(RULES.noise)) | st.integers(1, 2030).map(str) | st.integers(1, 99).map(lambda n: f"v{n}")


@given(st.sampled_from(sorted(VOCABULARY)), st.lists(noise, min_size=1, max_size=3), st.booleans())
def test_no_noise_around_a_tag_gets_it_in_again(tag: str, extra: list[str], in_front: bool) -> None:
    verdict = ruling("-".join([*extra, tag] if in_front else [tag, *extra]))

    assert (verdict.verdict, verdict.suggestion) == (Verdict.BLOCK, tag)


@given(st.lists(st.sampled_from(SPELLINGS), unique=True), st.sampled_from([*REAL, *VOCABULARY, "dpo-v2", "embeding"]))
@settings(max_examples=50)
def test_what_is_learned_later_counts_as_if_it_was_known_before(some: list[Spelling], name: str) -> None:
    at_once = KnownNames.of(RULES, some)
    in_turn = KnownNames(RULES)
    for spelling in some:
        in_turn = in_turn.plus([spelling])

    assert names.check_name(name, at_once, now=NOW) == names.check_name(name, in_turn, now=NOW)


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"abbreviations": {"c": "cls", "cls": "classification"}}, "`c` stands for a word that stands for another"),
        ({"noise": ["gen"], "abbreviations": {"gen": "generation"}}, "`gen` is noise and an abbreviation"),
        ({"noise": ["Old"]}, "noise"),
        ({"reserved": {"x": {"reason": ""}}}, "reason"),
        ({"stopwords": []}, "stopwords"),
    ],
)
def test_words_that_mean_two_things_are_refused(wrong: dict[str, object], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        NameRules.model_validate({"owner": "tag-stewards", **wrong})
