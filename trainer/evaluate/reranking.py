"""Scores of orders that a model gives to the documents of each query, judged in grades.

Shapes: Q queries, D documents of one query, K ranks that are looked at. A grade is 0 (does not answer) or more.
"""

# ruff: noqa: N803, N806 -- names end in their shape

from collections.abc import Sequence

import numpy as np

from enforcer.gates import Score
from trainer.evaluate.intervals import CONFIDENCE, Floats, bootstrap_mean


def gain(grades: Floats) -> Floats:
    """2^grade - 1 (Burges et al. 2005, section 6): 0 and 1 stay what they are, and a grade counts twice the one below.
    It is the gain that LambdaLoss learns by (Wang et al. 2018, eq. 2)."""
    return np.asarray(np.exp2(grades) - 1, np.float64)


def can_be_told_apart(grades_D: Floats) -> bool:
    """Whether some order of these documents is better than another: their grades differ."""
    return bool(len(grades_D)) and float(grades_D.min()) < float(grades_D.max())


def reranking_scores(
    answers: Sequence[tuple[Floats, Floats]], k: int, seed: int, confidence: float = CONFIDENCE
) -> dict[str, Score]:
    """`map`, `ndcg@k` and `mrr@k` over queries, of `(scores_D, grades_D)` each; n = Q; the bootstrap draws queries.

    A document is right where its grade is above 0, and a query may have several (Manning, Raghavan & Schuetze 2008,
    chapter 8):
        map    = mean over the right documents of the share of right ones down to their rank
        ndcg@k = sum_{i<=k} gain_i / log2(i + 1), over the same sum for the best order
        mrr@k  = 1 / rank of the first right document, 0 when it is not among the first k
    Of documents with equal scores the worse comes first: a model that tells none apart gets nothing for the order in
    which they stood in the file.

    Raises:
        ValueError: a score that is not finite, no query, or one whose documents no order tells apart.
    """
    if not answers or not all(can_be_told_apart(grades_D) for _, grades_D in answers):
        raise ValueError("every query needs documents of different grades")
    if not all(np.isfinite(scores_D).all() for scores_D, _ in answers):
        raise ValueError("the model gives scores that are not finite; it has diverged or was damaged")
    ordered = [grades_D[np.lexsort((grades_D, -scores_D))] for scores_D, grades_D in answers]
    measured = {
        "map": [_average_precision(grades_D) for grades_D in ordered],
        f"ndcg@{k}": [discounted(gain(grades_D), k) / discounted(_best(grades_D), k) for grades_D in ordered],
        f"mrr@{k}": [_reciprocal_rank(grades_D[:k]) for grades_D in ordered],
    }
    return {name: bootstrap_mean(np.array(values_Q), seed, confidence) for name, values_Q in measured.items()}


def discounted(gains_D: Floats, k: int) -> float:
    """Jarvelin & Kekalainen 2002, with the logarithm to base 2 from the first rank on."""
    gains_K = gains_D[:k]
    return float(gains_K @ (1 / np.log2(np.arange(len(gains_K)) + 2)))


def _best(grades_D: Floats) -> Floats:
    return gain(-np.sort(-grades_D))


def _average_precision(grades_D: Floats) -> float:
    ranks = np.flatnonzero(grades_D) + 1
    return float(np.mean(np.arange(1, len(ranks) + 1) / ranks))


def _reciprocal_rank(grades_K: Floats) -> float:
    ranks = np.flatnonzero(grades_K) + 1
    return 1 / float(ranks[0]) if len(ranks) else 0.0
