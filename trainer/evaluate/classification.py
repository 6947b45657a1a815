"""Scores of labels given to rows.

Shapes: N rows, K classes, C occupied cells of a confusion matrix, R resamples. A confusion matrix `confusion_KK` counts
truth in rows and prediction in columns. Where a class has no rows, nobody can tell how sure the mean over classes is.
"""

# ruff: noqa: N803, N806 -- names end in their shape

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from enforcer.gates import Score
from trainer.evaluate.intervals import CELLS_AT_ONCE, CONFIDENCE, RESAMPLES, Floats, Ints, between, wilson


def confusion_matrix(truth_N: Sequence[int] | Ints, predicted_N: Sequence[int] | Ints, classes: int) -> Ints:
    """Count (truth, prediction) pairs into (K, K)."""
    truth, predicted = np.asarray(truth_N, np.int64), np.asarray(predicted_N, np.int64)
    if truth.shape != predicted.shape:
        raise ValueError(f"{truth.size} labels but {predicted.size} predictions")
    if truth.size and (min(truth.min(), predicted.min()) < 0 or max(truth.max(), predicted.max()) >= classes):
        raise ValueError(f"class numbers must lie in 0..{classes - 1}")
    return np.bincount(truth * classes + predicted, minlength=classes * classes).reshape(classes, classes)


def accuracy(confusion_KK: Ints, confidence: float = CONFIDENCE) -> Score:
    """The share of rows on the diagonal, with its Wilson interval."""
    hits, n = int(np.trace(confusion_KK)), int(confusion_KK.sum())
    low, high = wilson(hits, n, confidence)
    return Score(value=hits / n, n=n, low=low, high=high, confidence=confidence)


def macro_f1(confusion_KK: Ints, seed: int, confidence: float = CONFIDENCE, resamples: int = RESAMPLES) -> Score:
    """The unweighted mean over classes of F1 = 2 TP / (2 TP + FP + FN), with a bootstrap interval over rows.

    A class that neither occurs nor is predicted has no F1 and is left out of the mean, in the score and in each
    resample (scikit-learn's default for `average="macro"`). Nothing is known of a class without rows, so then there is
    no interval. Drawing N rows with replacement is one multinomial draw over the cells of the matrix, so the cost does
    not grow with N.
    """
    n = int(confusion_KK.sum())
    truth_C, predicted_C = np.nonzero(confusion_KK)  # C is at most min(N, K * K)
    counts_C = confusion_KK[truth_C, predicted_C]
    right_C = truth_C == predicted_C
    classes = len(confusion_KK)

    def mean_f1(draws_RC: Ints) -> Floats:
        true_positives_RK = _sum_by(truth_C[right_C], draws_RC[:, right_C], classes)
        occurrences_RK = _sum_by(truth_C, draws_RC, classes) + _sum_by(predicted_C, draws_RC, classes)  # 2 TP + FP + FN
        f1_RK = 2 * true_positives_RK / np.maximum(occurrences_RK, 1)
        return np.asarray(f1_RK.sum(axis=1) / (occurrences_RK > 0).sum(axis=1), np.float64)

    value = float(mean_f1(counts_C[None, :])[0])
    if not confusion_KK.sum(axis=1).all():
        return Score(value=value, n=n)
    random = np.random.default_rng(seed)
    step = max(1, CELLS_AT_ONCE // max(len(counts_C), classes))
    parts = [
        mean_f1(random.multinomial(n, counts_C / n, size=min(step, resamples - done)))
        for done in range(0, resamples, step)
    ]
    return between(value, n, np.concatenate(parts), confidence)


def calibration_error(confidence_N: Floats, right_N: NDArray[np.bool_], bins: int = 15) -> float:
    """Expected calibration error (Guo et al. 2017, eq. 3, arXiv:1706.04599): how far the confidence in an answer is
    from the share of right answers, averaged over `bins` of equal width."""
    bin_N = np.minimum((confidence_N * bins).astype(np.int64), bins - 1)
    gap_B = np.bincount(bin_N, confidence_N, bins) - np.bincount(bin_N, right_N, bins)
    return float(np.abs(gap_B).sum() / len(confidence_N))


def per_class(confusion_KK: Ints, names: Sequence[str]) -> list[dict[str, Any]]:
    """Precision TP/(TP+FP), recall TP/(TP+FN), F1 and support of each class; 0.0 where a ratio has no denominator."""
    hits_K = np.diag(confusion_KK).astype(np.float64)
    support_K, predicted_K = confusion_KK.sum(axis=1), confusion_KK.sum(axis=0)
    precision_K, recall_K = hits_K / np.maximum(predicted_K, 1), hits_K / np.maximum(support_K, 1)
    f1_K = 2 * hits_K / np.maximum(support_K + predicted_K, 1)
    return [
        {"label": name, "precision": float(p), "recall": float(r), "f1": float(f), "support": int(s)}
        for name, p, r, f, s in zip(names, precision_K, recall_K, f1_K, support_K, strict=True)
    ]


def _sum_by(class_C: Ints, counts_RC: Ints, classes: int) -> NDArray[np.float64]:
    """The counts of each class in each row: (R, K)."""
    rows = len(counts_RC)
    place_RC = np.arange(rows)[:, None] * classes + class_C
    sums = np.bincount(place_RC.ravel(), counts_RC.ravel(), rows * classes)
    return sums.astype(np.float64).reshape(rows, classes)  # of nothing, bincount makes integers
