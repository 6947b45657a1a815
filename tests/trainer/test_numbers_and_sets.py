"""Scores of predicted numbers and of sets of labels: by hand in the docstrings, or held against other libraries."""

import numpy as np
import pytest

from trainer import evaluate


def test_a_regression_is_measured_in_four_ways() -> None:
    """Given 1, 2, 3, 4; predicted 1, 3, 2, 6. Errors 0, 1, -1, 2: mae 1, rmse sqrt(6/4), r2 1 - 6/5 = -0.2.
    Ranks 1, 3, 2, 4 against 1, 2, 3, 4: 1 - 6 * 2 / (4 * 15) = 0.8."""
    scores = evaluate.regression_scores(np.array([1.0, 3, 2, 6]), np.array([1.0, 2, 3, 4]), seed=0)

    assert {name: score.value for name, score in scores.items()} == pytest.approx(
        {"mae": 1.0, "rmse": 1.5**0.5, "r2": -0.2, "spearman": 0.8}
    )
    assert all(score.n == 4 and score.low is not None for score in scores.values())


def test_spearman_and_its_interval_are_those_of_scipy_with_ties() -> None:
    from scipy import stats

    random = np.random.default_rng(3)
    given = random.integers(0, 6, 150) / 5
    predicted = np.round(given + random.normal(0, 0.5, 150), 1)

    score = evaluate.spearman(predicted, given, seed=1)

    assert score.value == pytest.approx(stats.spearmanr(predicted, given).statistic)
    one_by_one = [
        stats.spearmanr(predicted[rows], given[rows]).statistic for rows in random.integers(0, 150, (1_000, 150))
    ]
    assert (score.low, score.high) == pytest.approx(tuple(np.quantile(one_by_one, [0.025, 0.975])), abs=0.02)


def test_what_never_differs_goes_with_nothing() -> None:
    same, given = np.ones(3), np.array([1.0, 2, 3])

    assert evaluate.spearman(same, given, seed=0).low is None
    assert evaluate.spearman(same, given, seed=0).value == 0
    assert "r2" not in evaluate.regression_scores(given, same, seed=0)
    with pytest.raises(ValueError, match="not finite"):
        evaluate.regression_scores(np.array([np.nan, 1, 2]), given, seed=0)


TRUTH = np.array([[1, 0], [1, 1], [0, 0], [0, 1]], bool)
SAID = np.array([[1, 0], [1, 0], [0, 1], [0, 1]], bool)


def test_sets_of_labels_are_right_as_a_whole_or_label_by_label() -> None:
    """Rows 1 and 4 are right as a whole: 2/4. Decisions: TP 3, FP 1, FN 1: micro 6/8.
    First label 2 TP: F1 1. Second 1 TP, 1 FP, 1 FN: 2/4. Macro 0.75."""
    scores = evaluate.multilabel_scores(TRUTH, SAID, seed=0)

    assert {name: score.value for name, score in scores.items()} == pytest.approx(
        {"accuracy": 0.5, "micro_f1": 0.75, "macro_f1": 0.75}
    )
    assert evaluate.per_label(TRUTH, SAID, ["a", "b"])[1] == {
        "label": "b", "precision": 0.5, "recall": 0.5, "f1": 0.5, "support": 2,
        "true_positives": 1, "false_positives": 1, "false_negatives": 1, "true_negatives": 1,
    }  # fmt: skip


def test_sets_of_labels_score_as_in_scikit_learn() -> None:
    from sklearn.metrics import f1_score

    random = np.random.default_rng(0)
    truth, said = random.random((200, 5)) < 0.3, random.random((200, 5)) < 0.4

    scores = evaluate.multilabel_scores(truth, said, seed=0)

    for kind in ("micro", "macro"):
        score = scores[f"{kind}_f1"]
        assert score.value == pytest.approx(f1_score(truth, said, average=kind))
        assert score.low is not None
        assert 0.02 < score.high - score.low < 0.15


def test_a_label_without_rows_leaves_the_mean_without_an_interval() -> None:
    without = np.c_[TRUTH, np.zeros(4, bool)]

    scores = evaluate.multilabel_scores(without, np.c_[SAID, np.zeros(4, bool)], seed=0)

    assert (scores["macro_f1"].value, scores["macro_f1"].low) == (0.75, None)
    assert scores["micro_f1"].low is not None


def test_where_nobody_has_a_label_and_none_is_given_there_is_no_f1() -> None:
    nothing = np.zeros((3, 2), bool)

    scores = evaluate.multilabel_scores(nothing, nothing, seed=0)

    assert set(scores) == {"accuracy"}
    assert scores["accuracy"].value == 1.0


def test_the_best_threshold_takes_the_right_rows_and_no_others() -> None:
    """Probabilities 0.9, 0.6, 0.6, 0.1 of yes, yes, no, no. From 0.9: F1 2/3. From 0.6, which takes both of them:
    2 * 2 / (3 + 2) = 0.8. From 0.1: 4/6."""
    probabilities = np.array([[0.9], [0.6], [0.6], [0.1]])

    assert evaluate.best_thresholds(probabilities, np.array([[1], [1], [0], [0]], bool)) == [(0.6, 0.8)]
    assert evaluate.best_thresholds(probabilities, np.zeros((4, 1), bool)) == [(0.5, 0.0)]


def test_confidence_that_is_too_high_is_an_error_of_calibration() -> None:
    """Two answers at 0.9, one right: |0.9 - 0.5| = 0.4. Two at 0.5, one right: 0. Together 0.2."""
    error = evaluate.calibration_error(np.array([0.9, 0.9, 0.5, 0.5]), np.array([True, False, True, False]))

    assert error == pytest.approx(0.2)
