"""Scores with intervals, in numpy alone, so that anybody can judge a run's numbers without torch.

Shapes: N rows, K classes, C occupied cells of a confusion matrix, Q queries, D documents, E dimensions, R resamples.
A confusion matrix `confusion_KK` counts truth in rows and prediction in columns.

Intervals are percentile bootstraps (Efron & Tibshirani 1993, chapter 13) except for accuracy, a proportion, which has
the Wilson interval. A percentile interval of a biased statistic can miss its own point estimate; it is then widened to
hold it. Where the rows cannot tell how sure a score is (a class without rows, no more documents than are looked at), it
has no interval, and a gate that asks for confidence stays inconclusive.
"""

# ruff: noqa: N803, N806 -- names end in their shape

from collections.abc import Sequence
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from enforcer.gates import Score

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.int64]

CONFIDENCE = 0.95
RESAMPLES = 2_000
CELLS_AT_ONCE = 4_000_000  # of any array with resamples or queries in rows: 32 MB


def wilson(successes: int, n: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """The Wilson score interval of a proportion (Wilson 1927, JASA 22:209; Brown, Cai & DasGupta 2001, eq. 4).

    (p + z^2/2n  +-  z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n), with p = successes/n. Unlike p +- z*se it never leaves
    [0, 1].
    """
    if not 0 <= successes <= n or n == 0:
        raise ValueError(f"{successes} successes in {n} trials make no proportion")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    p = successes / n
    center = p + z * z / (2 * n)
    spread = z * float(np.sqrt(p * (1 - p) / n + z * z / (4 * n * n)))
    scale = 1 + z * z / n
    # Rounding can put a bound an ulp past p when p is 0 or 1.
    return max(0.0, min((center - spread) / scale, p)), min(1.0, max((center + spread) / scale, p))


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
    return _between(value, n, np.concatenate(parts), confidence)


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


def top_documents(queries_QE: Floats, documents_DE: Floats, k: int) -> Ints:
    """The k nearest documents of each query by cosine, best first: (Q, min(k, D)). The earlier document wins a tie.

    Raises:
        ValueError: a vector with NaN or infinity in it, which is near nothing.
    """
    if not (np.isfinite(queries_QE).all() and np.isfinite(documents_DE).all()):
        raise ValueError("the model gives vectors that are not finite; it has diverged or was damaged")
    documents = _unit(documents_DE)
    step = max(1, CELLS_AT_ONCE // max(1, len(documents)))
    parts = [
        np.argsort(-(_unit(queries_QE[start : start + step]) @ documents.T), axis=1, kind="stable")[:, :k]
        for start in range(0, len(queries_QE), step)
    ]
    return np.concatenate(parts).astype(np.int64)


def retrieval_scores(
    ranked_QK: Ints, relevant: Sequence[set[int]], documents: int, k: int, seed: int, confidence: float = CONFIDENCE
) -> dict[str, Score]:
    """`ndcg@k`, `mrr@k` and `recall@k` over queries that may have several relevant documents each; n = Q.

    Among no more than k `documents` every model finds every one of them, so then there is no interval.

    With rel_i in {0, 1} at rank i and R relevant documents in all (Manning, Raghavan & Schuetze 2008, chapter 8;
    Jarvelin & Kekalainen 2002 for the discount):
        ndcg@k   = sum_{i<=k} rel_i / log2(i + 1), over the same sum for the best ranking: min(R, k) ones first
        mrr@k    = 1 / rank of the first relevant document, 0 when it is not among the first k
        recall@k = relevant documents among the first k / R
    The bootstrap draws whole queries: the documents of one query are not independent of each other.
    """
    ranked_QK = ranked_QK[:, :k]
    hits_QK = np.array([[d in wanted for d in row] for row, wanted in zip(ranked_QK.tolist(), relevant, strict=True)])
    wanted_Q = np.array([len(wanted) for wanted in relevant])
    if not wanted_Q.size or wanted_Q.min() == 0:
        raise ValueError("every query needs at least one relevant document")

    discount_K = 1 / np.log2(np.arange(k) + 2)
    best_Q = np.cumsum(discount_K)[np.minimum(wanted_Q, k) - 1]
    ndcg_Q = hits_QK @ discount_K[: hits_QK.shape[1]] / best_Q
    mrr_Q = np.where(hits_QK.any(axis=1), 1 / (hits_QK.argmax(axis=1) + 1), 0.0)
    recall_Q = hits_QK.sum(axis=1) / wanted_Q
    measured = {f"ndcg@{k}": ndcg_Q, f"mrr@{k}": mrr_Q, f"recall@{k}": recall_Q}
    if documents <= k:
        return {name: Score(value=float(values_Q.mean()), n=len(values_Q)) for name, values_Q in measured.items()}
    return {name: bootstrap_mean(values_Q, seed, confidence) for name, values_Q in measured.items()}


def bootstrap_mean(values_N: Floats, seed: int, confidence: float = CONFIDENCE, resamples: int = RESAMPLES) -> Score:
    """The mean of N independent values, with its percentile bootstrap interval."""
    n = len(values_N)
    step = max(1, CELLS_AT_ONCE // n)
    random = np.random.default_rng(seed)
    means = [
        values_N[random.integers(0, n, size=(min(step, resamples - done), n))].mean(axis=1)
        for done in range(0, resamples, step)
    ]
    return _between(float(values_N.mean()), n, np.concatenate(means), confidence)


def bootstrap_ratio(
    over_N: Floats, under_N: Floats, seed: int, confidence: float = CONFIDENCE, resamples: int = RESAMPLES
) -> Score:
    """sum(over) / sum(under) over N independent rows, as a loss a token, with a bootstrap interval over rows."""
    n = len(over_N)
    step = max(1, CELLS_AT_ONCE // n)
    random = np.random.default_rng(seed)
    ratios = []
    for done in range(0, resamples, step):
        drawn_RN = random.integers(0, n, size=(min(step, resamples - done), n))
        ratios.append(over_N[drawn_RN].sum(axis=1) / under_N[drawn_RN].sum(axis=1))
    return _between(float(over_N.sum() / under_N.sum()), n, np.concatenate(ratios), confidence)


def _sum_by(class_C: Ints, counts_RC: Ints, classes: int) -> NDArray[np.float64]:
    """The counts of each class in each row: (R, K)."""
    rows = len(counts_RC)
    place_RC = np.arange(rows)[:, None] * classes + class_C
    sums = np.bincount(place_RC.ravel(), counts_RC.ravel(), rows * classes)
    return sums.astype(np.float64).reshape(rows, classes)  # of nothing, bincount makes integers


def _between(value: float, n: int, resampled_R: Floats, confidence: float) -> Score:
    low, high = np.quantile(resampled_R, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Score(value=value, n=n, low=min(float(low), value), high=max(float(high), value), confidence=confidence)


def _unit(vectors_NE: Floats) -> Floats:
    norms = np.linalg.norm(vectors_NE, axis=1, keepdims=True)
    return np.asarray(vectors_NE / np.maximum(norms, 1e-12))
