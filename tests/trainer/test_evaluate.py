"""Every number here is worked out by hand in its docstring; the intervals are held against their definitions."""

import time
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, strategies as st

from enforcer.gates import Gate, Verdict, judge
from trainer import evaluate
from trainer.evaluate import classification, intervals

# Truth a, a, a, b; predicted a, a, b, b.
TWO_CLASSES = np.array([[2, 1], [0, 1]])


def test_accuracy_is_the_share_on_the_diagonal_with_wilsons_interval() -> None:
    """3 of 4. z = 1.96, z^2 = 3.8415: center (0.75 + 0.4802) / 1.9604 = 0.6275, spread
    1.96 sqrt(0.1875/4 + 3.8415/64) / 1.9604 = 1.96 * sqrt(0.046875 + 0.060023) / 1.9604 = 0.3269."""
    score = evaluate.accuracy(TWO_CLASSES)

    assert (score.value, score.n, score.confidence) == (0.75, 4, 0.95)
    assert score.low == pytest.approx(0.6275 - 0.3269, abs=2e-4)
    assert score.high == pytest.approx(0.6275 + 0.3269, abs=2e-4)


def test_wilson_matches_a_published_table() -> None:
    """81 of 263 gives [0.2553, 0.3662] (Newcombe 1998, Statistics in Medicine 17:857, table I, method 3)."""
    low, high = evaluate.wilson(81, 263)

    assert (round(low, 4), round(high, 4)) == (0.2553, 0.3662)


def test_macro_f1_is_the_plain_mean_over_classes() -> None:
    """a: TP 2, FP 0, FN 1 -> 4/5. b: TP 1, FP 1, FN 0 -> 2/3. Mean 11/15."""
    score = evaluate.macro_f1(TWO_CLASSES, seed=0)

    assert score.value == pytest.approx(11 / 15)
    assert score.n == 4


def test_macro_f1_leaves_out_a_class_that_never_occurs() -> None:
    """A third class without truth or prediction has F1 0/0: the mean stays 11/15 and is not pulled down to 22/45."""
    padded = np.pad(TWO_CLASSES, (0, 1))

    assert evaluate.macro_f1(padded, seed=0).value == pytest.approx(11 / 15)


def test_rows_of_one_class_do_not_pass_the_gate_of_a_task_with_three() -> None:
    """100 rows of the first class, all right: F1 1 over the only class that occurs. Of the others nothing is known."""
    one_class = np.diag([100, 0, 0])

    score = evaluate.macro_f1(one_class, seed=0)

    assert (score.value, score.n) == (1.0, 100)
    assert judge(Gate(metric="macro_f1", value=0.6, min_n=1, confidence=0.95), score).verdict == Verdict.INCONCLUSIVE


def test_macro_f1_counts_a_class_that_is_predicted_but_never_true() -> None:
    """Truth a, a; predicted a, b. a: 2/3, b: 0. Mean 1/3."""
    assert evaluate.macro_f1(np.array([[1, 1], [0, 0]]), seed=0).value == pytest.approx(1 / 3)


def test_per_class_gives_precision_recall_f1_and_support() -> None:
    """a: 2/2, 2/3, 4/5, 3 rows. b: 1/2, 1/1, 2/3, 1 row."""
    rows = evaluate.per_class(TWO_CLASSES, ["科技", "b"])

    assert rows[0] == {"label": "科技", "precision": 1.0, "recall": 2 / 3, "f1": 4 / 5, "support": 3}
    assert rows[1] == {"label": "b", "precision": 0.5, "recall": 1.0, "f1": 2 / 3, "support": 1}


def test_confusion_matrix_has_truth_in_rows() -> None:
    assert evaluate.confusion_matrix([0, 0, 0, 1], [0, 0, 1, 1], 2).tolist() == TWO_CLASSES.tolist()


def test_confusion_matrix_refuses_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="2 labels but 1 predictions"):
        evaluate.confusion_matrix([0, 1], [0], 2)
    with pytest.raises(ValueError, match=r"0\.\.1"):
        evaluate.confusion_matrix([0, 2], [0, 1], 2)


def test_ranking_with_several_positives_for_a_query() -> None:
    """k = 3. Query 1 wants {0, 1}, sees 0, 2, 1: DCG 1/log2(2) + 1/log2(4) = 1.5, best 1 + 1/log2(3) = 1.63093;
    ndcg 0.91972, mrr 1, recall 1. Query 2 wants {3, 4}, sees 0, 3, 1: DCG 1/log2(3) = 0.63093, over the same best:
    0.38685, mrr 1/2, recall 1/2. Query 3 wants {4}, sees none: 0. Means 0.43552, 0.5, 0.5."""
    ranked = np.array([[0, 2, 1], [0, 3, 1], [0, 1, 2]])

    scores = evaluate.retrieval_scores(ranked, [{0, 1}, {3, 4}, {4}], documents=5, k=3, seed=0)

    assert scores["ndcg@3"].value == pytest.approx(0.43552, abs=1e-5)
    assert scores["mrr@3"].value == pytest.approx(0.5)
    assert scores["recall@3"].value == pytest.approx(0.5)
    assert {score.n for score in scores.values()} == {3}


def test_a_perfect_ranking_of_more_positives_than_k_has_ndcg_one_and_recall_below() -> None:
    """4 relevant, 2 shown, both relevant: ndcg 1 (the best two ranks are full), recall 2/4."""
    scores = evaluate.retrieval_scores(np.array([[2, 0]]), [{0, 1, 2, 3}], documents=4, k=2, seed=0)

    assert scores["ndcg@2"].value == pytest.approx(1.0)
    assert scores["recall@2"].value == pytest.approx(0.5)


def test_a_corpus_smaller_than_k_is_no_reason_to_fail() -> None:
    """One of two documents, second rank: ndcg 1/log2(3) = 0.63093."""
    scores = evaluate.retrieval_scores(np.array([[0, 1]]), [{1}], documents=2, k=10, seed=0)

    assert scores["ndcg@10"].value == pytest.approx(0.63093, abs=1e-5)


def test_where_every_document_is_shown_no_gate_on_confidence_is_passed() -> None:
    """Ten documents, ten shown: recall@10 is 1 whatever the model does. With an eleventh it says something."""
    ranked = np.array([range(10)] * 60)

    shown, eleven = (
        evaluate.retrieval_scores(ranked, [{0}] * 60, documents=n, k=10, seed=0)["recall@10"] for n in (10, 11)
    )

    gate = Gate(metric="recall@10", value=0.3, min_n=1, confidence=0.95)
    assert judge(gate, shown).verdict == Verdict.INCONCLUSIVE
    assert judge(gate, eleven).verdict == Verdict.PASS


def test_vectors_that_are_not_finite_are_ranked_nowhere() -> None:
    fine, spoilt = np.ones((2, 3)), np.array([[1.0, np.nan, 0.0], [1.0, np.inf, 0.0]])

    for queries, documents in ((fine, spoilt), (spoilt, fine)):
        with pytest.raises(ValueError, match="vectors that are not finite"):
            evaluate.top_documents(queries, documents, 1)


def test_a_query_without_a_relevant_document_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one relevant"):
        evaluate.retrieval_scores(np.array([[0]]), [set()], documents=1, k=1, seed=0)


def test_top_documents_go_by_cosine_and_not_by_length() -> None:
    documents = np.array([[10.0, 10.0], [0.1, 0.0], [0.0, 5.0]])

    assert evaluate.top_documents(np.array([[1.0, 0.0]]), documents, 2).tolist() == [[1, 0]]


@given(st.integers(1, 10_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_holds_the_share_and_stays_between_0_and_1(trial: tuple[int, int]) -> None:
    successes, n = trial

    low, high = evaluate.wilson(successes, n)

    assert 0 <= low <= successes / n <= high <= 1


@given(st.integers(1, 50), st.integers(1, 50))
def test_wilson_narrows_with_more_rows(successes: int, failures: int) -> None:
    n = successes + failures
    narrow, wide = evaluate.wilson(10 * successes, 10 * n), evaluate.wilson(successes, n)

    assert narrow[1] - narrow[0] < wide[1] - wide[0]


@given(st.lists(st.lists(st.integers(0, 20), min_size=3, max_size=3), min_size=3, max_size=3), st.integers(0, 99))
def test_the_bootstrap_of_macro_f1_holds_its_value(cells: list[list[int]], seed: int) -> None:
    confusion = np.array(cells) + np.eye(3, dtype=np.int64)

    score = evaluate.macro_f1(confusion, seed=seed, resamples=50)

    assert score.low is not None
    assert score.high is not None
    assert 0 <= score.low <= score.value <= score.high <= 1
    assert score == evaluate.macro_f1(confusion, seed=seed, resamples=50)


def test_an_interval_that_misses_its_value_is_widened_to_hold_it() -> None:
    """400 classes of two rows, one right, the other taken for the next class: F1 2/4 each. A resample loses rows of
    most classes and F1 is concave, so nearly all resamples lie below 0.5: the percentiles alone would miss it."""
    half = np.eye(400, dtype=np.int64) + np.roll(np.eye(400, dtype=np.int64), 1, axis=1)

    score = evaluate.macro_f1(half, seed=0)

    assert score.value == pytest.approx(0.5)
    assert score.high == score.value


def test_the_bootstrap_of_a_mean_is_as_wide_as_theory_says() -> None:
    """1,000 fair coins: standard error 0.5 / sqrt(1000) = 0.0158, so the interval spans 2 * 1.96 * 0.0158 = 0.062."""
    coins = np.repeat([0.0, 1.0], 500)

    score = evaluate.bootstrap_mean(coins, seed=1)

    assert score.low is not None
    assert score.high is not None
    assert score.high - score.low == pytest.approx(0.062, rel=0.1)


def test_the_bootstrap_draws_the_same_when_it_draws_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.linspace(0, 1, 100)
    whole = evaluate.bootstrap_mean(values, seed=3)

    monkeypatch.setattr(intervals, "CELLS_AT_ONCE", 1_500)

    assert evaluate.bootstrap_mean(values, seed=3) == whole


def test_the_bootstrap_of_many_classes_stays_in_the_memory_of_a_small_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """500 classes, 20,000 rows, 300 resamples: 19,000 cells times 500 classes are 78 MB, of which there were three."""
    random = np.random.default_rng(0)
    truth = np.arange(20_000) % 500
    confusion = evaluate.confusion_matrix(truth, random.permutation(truth), 500)

    tracemalloc.start()
    whole = evaluate.macro_f1(confusion, seed=0, resamples=300)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    monkeypatch.setattr(classification, "CELLS_AT_ONCE", 1_000_000)

    assert peak_bytes < 250e6
    assert evaluate.macro_f1(confusion, seed=0, resamples=300) == whole, "parts draw what the whole draws"


def test_macro_f1_bootstrap_agrees_with_drawing_rows_one_by_one() -> None:
    """The multinomial over cells is the row bootstrap, drawn differently: both intervals agree up to sampling noise."""
    confusion = np.array([[60, 15], [20, 105]])
    pairs = np.repeat(np.arange(4), confusion.ravel())
    random = np.random.default_rng(5)
    drawn = [np.bincount(random.choice(pairs, pairs.size), minlength=4).reshape(2, 2) for _ in range(2_000)]
    by_rows = [sum(row["f1"] for row in evaluate.per_class(matrix, ["a", "b"])) / 2 for matrix in drawn]

    score = evaluate.macro_f1(confusion, seed=5)

    assert (score.low, score.high) == pytest.approx(tuple(np.quantile(by_rows, [0.025, 0.975])), abs=0.01)


def test_two_thousand_resamples_of_two_thousand_rows_take_well_under_a_second() -> None:
    random = np.random.default_rng(0)
    confusion = evaluate.confusion_matrix(random.integers(0, 77, 2_000), random.integers(0, 77, 2_000), 77)
    ranked = random.integers(0, 500, (2_000, 10))

    started = time.process_time()
    evaluate.macro_f1(confusion, seed=0)
    evaluate.retrieval_scores(ranked, [{i % 500} for i in range(2_000)], documents=500, k=10, seed=0)

    assert time.process_time() - started < 1.5  # CPU seconds for four intervals; 0.4 on a quiet core
