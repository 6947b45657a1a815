"""How sure a score is: the Wilson interval of a proportion, the percentile bootstrap of anything else.

Shapes: N values, R resamples. A percentile interval (Efron & Tibshirani 1993, chapter 13) of a biased statistic can
miss its own point estimate; it is then widened to hold it.
"""

# ruff: noqa: N803, N806 -- names end in their shape

from collections.abc import Iterator
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


def bootstrap_mean(values_N: Floats, seed: int, confidence: float = CONFIDENCE, resamples: int = RESAMPLES) -> Score:
    """The mean of N independent values, with its percentile bootstrap interval."""
    n = len(values_N)
    step = max(1, CELLS_AT_ONCE // n)
    random = np.random.default_rng(seed)
    means = [
        values_N[random.integers(0, n, size=(min(step, resamples - done), n))].mean(axis=1)
        for done in range(0, resamples, step)
    ]
    return between(float(values_N.mean()), n, np.concatenate(means), confidence)


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
    return between(float(over_N.sum() / under_N.sum()), n, np.concatenate(ratios), confidence)


def drawn(n: int, seed: int, resamples: int) -> Iterator[Ints]:
    """How often each of n rows is drawn, n times with replacement: `resamples` rows of counts, in parts of (R, N)."""
    random = np.random.default_rng(seed)
    step = max(1, CELLS_AT_ONCE // n)
    for done in range(0, resamples, step):
        yield random.multinomial(n, np.full(n, 1 / n), size=min(step, resamples - done))


def between(value: float, n: int, resampled_R: Floats, confidence: float) -> Score:
    """The score whose interval is the middle of its resamples."""
    low, high = np.quantile(resampled_R, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Score(value=value, n=n, low=min(float(low), value), high=max(float(high), value), confidence=confidence)
