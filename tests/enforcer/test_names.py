"""Names: the grammar, and that a variant never gets in while a real name always does."""

import pytest
from hypothesis import given, strategies as st

from enforcer import names
from enforcer.names import Ruling, check_name

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

# Names of real tasks and trainers (Hugging Face pipelines, TRL): none of them is a variant of the vocabulary above.
REAL = """cpo orpo simpo kto ppo grpo gkd rloo reward-modeling pre-training token-classification text-to-image
text-generation question-answering summarization translation fill-mask zero-shot-classification object-detection
image-classification image-segmentation depth-estimation automatic-speech-recognition audio-classification
text-to-speech visual-question-answering document-question-answering feature-extraction sentence-similarity
product-classification review-sentiment intent-recognition time-series-forecasting keyword-extraction""".split()


def ruling(name: str) -> names.NameVerdict:
    return check_name(name, VOCABULARY)


@pytest.mark.parametrize("name", REAL)
def test_a_real_name_is_fine(name: str) -> None:
    assert ruling(name).ruling is Ruling.OK


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [
        ("dpo-v2-new", "dpo"),
        ("dpo-final", "dpo"),
        ("dpo2", "dpo"),
        ("dpo-2024-11", "dpo"),
        ("new-dpo", "dpo"),
        ("CLS", "sequence-classification"),
        ("DpoTask", "dpo"),
        ("Dpo", "dpo"),
        ("SeqCls", "sequence-classification"),
        ("sequence_classification", "sequence-classification"),
        ("sequence-classifier", "sequence-classification"),
        ("seq-classification", "sequence-classification"),
        ("classification-sequence", "sequence-classification"),
        ("sequenceclassification", "sequence-classification"),
        ("text2sql", "text-to-sql"),
        ("text-2-sql", "text-to-sql"),
        ("TextToSQL", "text-to-sql"),
        ("embeddings", "embedding"),
        ("reranking", "reranker"),
        ("cross-encoder", "reranker"),
        ("agent-training-v3", "agent-training"),
        ("dpo", "dpo"),
    ],
)
def test_a_variant_is_blocked_with_the_tag_it_means(name: str, suggestion: str) -> None:
    verdict = ruling(name)

    assert (verdict.ruling, verdict.suggestion) == (Ruling.BLOCK, suggestion)
    assert verdict.matches


def test_around_to_the_order_is_the_meaning() -> None:
    assert ruling("text-to-image").ruling is Ruling.OK


@pytest.mark.parametrize(
    "name", ["", "a", "-dpo", "dpo-", "a--b", "2fast", "x" * 49, "a-b-c-d-e-f", "naïve-name", "a b"]
)
def test_what_breaks_the_grammar_is_blocked(name: str) -> None:
    assert ruling(name).matches[0].rule == "grammar"


@pytest.mark.parametrize("name", sorted(names.RESERVED))
def test_reserved_words_are_blocked(name: str) -> None:
    assert ruling(name).ruling is Ruling.BLOCK


words = st.sampled_from("review sentiment invoice ticket routing product churn topic query intent voice".split())
noise = st.sampled_from(sorted(names.NOISE)) | st.integers(1, 2030).map(str) | st.integers(1, 99).map(lambda n: f"v{n}")


@given(st.sampled_from(sorted(VOCABULARY)), st.lists(noise, min_size=1, max_size=3), st.booleans())
def test_no_noise_around_a_tag_gets_it_in_again(tag: str, extra: list[str], in_front: bool) -> None:
    parts = [*extra, tag] if in_front else [tag, *extra]

    verdict = ruling("-".join(parts))

    assert verdict.ruling is Ruling.BLOCK
    assert verdict.suggestion == tag


@given(st.lists(words, min_size=2, max_size=4, unique=True))
def test_plain_words_make_a_name(parts: list[str]) -> None:
    assert ruling("-".join(parts)).ruling is Ruling.OK


@given(st.text(max_size=80))
def test_any_text_gets_a_verdict_and_only_grammatical_names_pass(text: str) -> None:
    verdict = ruling(text)

    if verdict.ruling is Ruling.OK:
        assert names.is_canonical(text)
    else:
        assert verdict.sentence.startswith("`")


@given(st.text(max_size=80))
def test_a_suggestion_is_always_something_that_can_be_used(text: str) -> None:
    suggestion = ruling(text).suggestion

    assert suggestion is None or suggestion in VOCABULARY or names.is_canonical(suggestion)
