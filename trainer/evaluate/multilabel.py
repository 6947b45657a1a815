"""Scores of rows that may have several labels, or none.

Shapes: N rows, K labels, R resamples. `truth_NK` and `predicted_NK` say of each row and label yes or no.
"""

# ruff: noqa: N803, N806 -- names end in their shape

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from enforcer.gates import Score
from trainer.evaluate.intervals import (
    CONFIDENCE,
    RESAMPLES,
    Floats,
    Ints,
    between,
    bootstrap_ratio,
    drawn,
    wilson,
)

Yes = NDArray[np.bool_]


def multilabel_scores(truth_NK: Yes, predicted_NK: Yes, seed: int, confidence: float = CONFIDENCE) -> dict[str, Score]:
    """`accuracy`: share of rows given all of their labels and no other, Wilson interval; `micro_f1` = 2 TP / (2 TP + FP
    + FN) over all decisions; `macro_f1`: its mean over labels. Bootstraps draw rows: the labels of one row are not
    independent. Without any label, given or predicted, there is no F1.
    """
    n = len(truth_NK)
    right = int((truth_NK == predicted_NK).all(axis=1).sum())
    low, high = wilson(right, n, confidence)
    scores = {"accuracy": Score(value=right / n, n=n, low=low, high=high, confidence=confidence)}
    hits_N = 2.0 * (truth_NK & predicted_NK).sum(axis=1)
    said_N = (truth_NK.sum(axis=1) + predicted_NK.sum(axis=1)).astype(np.float64)
    if not said_N.any():
        return scores
    micro = bootstrap_ratio(
        hits_N, np.maximum(said_N, 1e-12), seed, confidence
    )  # rows without labels count for nothing
    return {**scores, "micro_f1": micro, "macro_f1": _macro_f1(truth_NK, predicted_NK, seed, confidence)}


def _macro_f1(truth_NK: Yes, predicted_NK: Yes, seed: int, confidence: float) -> Score:
    """As for single labels: a label that neither occurs nor is predicted is left out of the mean, and of one without
    rows nothing is known, so then there is no interval."""
    n = len(truth_NK)
    hits_NK = 2 * (truth_NK & predicted_NK).astype(np.int64)
    said_NK = truth_NK.astype(np.int64) + predicted_NK

    def mean_f1(counts_RN: Ints) -> Floats:
        hits_RK, said_RK = counts_RN @ hits_NK, counts_RN @ said_NK
        f1_RK = hits_RK / np.maximum(said_RK, 1)
        return np.asarray(f1_RK.sum(axis=1) / np.maximum((said_RK > 0).sum(axis=1), 1), np.float64)

    value = float(mean_f1(np.ones((1, n), np.int64))[0])
    if not truth_NK.any(axis=0).all():
        return Score(value=value, n=n)
    resampled_R = np.concatenate([mean_f1(counts_RN) for counts_RN in drawn(n, seed, RESAMPLES)])
    return between(value, n, resampled_R, confidence)


def per_label(truth_NK: Yes, predicted_NK: Yes, names: Sequence[str]) -> list[dict[str, Any]]:
    """Precision, recall, F1 and support of each label, and the four counts; 0.0 where a ratio has no denominator."""
    table = []
    for k, name in enumerate(names):
        truth_N, predicted_N = truth_NK[:, k], predicted_NK[:, k]
        hits, wrong, missed = (
            int(part.sum()) for part in (truth_N & predicted_N, ~truth_N & predicted_N, truth_N & ~predicted_N)
        )
        table.append(
            {
                "label": name,
                "precision": hits / max(hits + wrong, 1),
                "recall": hits / max(hits + missed, 1),
                "f1": 2 * hits / max(2 * hits + wrong + missed, 1),
                "support": hits + missed,
                "true_positives": hits,
                "false_positives": wrong,
                "false_negatives": missed,
                "true_negatives": len(truth_N) - hits - wrong - missed,
            }
        )
    return table


def best_thresholds(probability_NK: Floats, truth_NK: Yes) -> list[tuple[float, float]]:
    """For each label the threshold with the highest F1 on these rows, and that F1, which flatters: it was chosen on
    them. A label without rows keeps 0.5, with an F1 of 0. The lowest probability that is taken is the threshold."""
    found = []
    for probability_N, truth_N in zip(probability_NK.T, truth_NK.T, strict=True):
        order_N = np.argsort(-probability_N, kind="stable")
        f1_N = 2 * np.cumsum(truth_N[order_N]) / (np.arange(1, len(order_N) + 1) + max(truth_N.sum(), 1))
        last_of_equals_N = np.diff(probability_N[order_N], append=-1.0) != 0  # equal ones are taken together
        best = int(np.argmax(np.where(last_of_equals_N, f1_N, -1.0)))
        found.append((float(probability_N[order_N][best]), float(f1_N[best])) if truth_N.any() else (0.5, 0.0))
    return found
