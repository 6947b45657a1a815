"""Scores of numbers that a model predicts.

Shapes: N rows, R resamples, U distinct values. Intervals are bootstraps over rows. Where all predictions, or all given
numbers, are the same, nothing can go with anything: then there is no interval, and no r2 of given numbers without
variance.
"""

# ruff: noqa: N803, N806 -- names end in their shape

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from enforcer.gates import Score
from trainer.evaluate.intervals import CONFIDENCE, RESAMPLES, Floats, Ints, between, bootstrap_mean, drawn


def regression_scores(
    predicted_N: Floats, given_N: Floats, seed: int, confidence: float = CONFIDENCE
) -> dict[str, Score]:
    """`spearman`, `mae` = mean |p - y|, `rmse` = sqrt mean (p - y)^2, `r2` = 1 - sum (p - y)^2 / sum (y - mean y)^2.

    Raises:
        ValueError: a prediction that is not finite.
    """
    error_N = _finite(predicted_N) - np.asarray(given_N, np.float64)
    squared = bootstrap_mean(error_N**2, seed, confidence)
    assert squared.low is not None
    assert squared.high is not None
    scores = {
        "spearman": spearman(predicted_N, given_N, seed, confidence),
        "mae": bootstrap_mean(np.abs(error_N), seed, confidence),
        "rmse": Score(
            value=squared.value**0.5, n=squared.n, low=squared.low**0.5, high=squared.high**0.5, confidence=confidence
        ),
    }
    return scores if _constant(given_N) else {**scores, "r2": _r2(error_N, given_N, seed, confidence)}


def spearman(
    predicted_N: Floats, given_N: Floats, seed: int, confidence: float = CONFIDENCE, resamples: int = RESAMPLES
) -> Score:
    """Pearson's correlation of the ranks (Spearman 1904), equal values sharing the mean of their ranks.

    A resample is a count of each row, so its ranks come from sums over values that were sorted once.

    Raises:
        ValueError: a prediction that is not finite.
    """
    codes = [np.unique(values_N, return_inverse=True)[1] for values_N in (_finite(predicted_N), given_N)]
    n = len(codes[0])
    if _constant(predicted_N) or _constant(given_N):
        return Score(value=0.0, n=n)

    def correlations(counts_RN: Ints) -> Floats:
        ranks = [_ranks(code_N, counts_RN) - (n + 1) / 2 for code_N in codes]  # n / 2 + 1 / 2 is the mean of any ranks
        across_R = (counts_RN * ranks[0] * ranks[1]).sum(axis=1)
        spread_R = np.sqrt(np.prod([(counts_RN * rank_RN**2).sum(axis=1) for rank_RN in ranks], axis=0))
        return np.asarray(np.divide(across_R, spread_R, out=np.zeros(len(across_R)), where=spread_R > 0))

    value = float(correlations(np.ones((1, n), np.int64))[0])
    return between(value, n, _resampled(correlations, n, seed, resamples), confidence)


def _r2(error_N: Floats, given_N: Floats, seed: int, confidence: float) -> Score:
    given_N = np.asarray(given_N, np.float64) - np.mean(given_N)  # the variance of small differences survives rounding
    n = len(given_N)

    def explained(counts_RN: Ints) -> Floats:
        spread_R = counts_RN @ given_N**2 - (counts_RN @ given_N) ** 2 / n
        missed_R = counts_RN @ error_N**2
        return np.asarray(1 - np.divide(missed_R, spread_R, out=np.ones(len(missed_R)), where=spread_R > 1e-12))

    value = float(explained(np.ones((1, n), np.int64))[0])
    return between(value, n, _resampled(explained, n, seed, RESAMPLES), confidence)


def _resampled(statistic: Callable[[Ints], Floats], n: int, seed: int, resamples: int) -> Floats:
    return np.concatenate([statistic(counts_RN) for counts_RN in drawn(n, seed, resamples)])


def _ranks(code_N: Ints, counts_RN: Ints) -> NDArray[np.float64]:
    """The mean rank, from 1, of each row's value among the rows that were drawn: (R, N)."""
    order_N = np.argsort(code_N, kind="stable")
    starts_U = np.flatnonzero(np.diff(code_N[order_N], prepend=-1))
    held_RU = np.add.reduceat(counts_RN[:, order_N], starts_U, axis=1)
    below_RU = np.cumsum(held_RU, axis=1) - held_RU
    return np.asarray((below_RU + (held_RU + 1) / 2)[:, code_N], np.float64)


def _constant(values_N: Floats) -> bool:
    return float(np.min(values_N)) == float(np.max(values_N))


def _finite(predicted_N: Floats) -> NDArray[np.float64]:
    if not np.isfinite(predicted_N).all():
        raise ValueError("the model predicts numbers that are not finite; it has diverged or was damaged")
    return np.asarray(predicted_N, np.float64)
