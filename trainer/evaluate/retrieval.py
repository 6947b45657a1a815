"""Scores of documents found for queries.

Shapes: Q queries, D documents, E dimensions, K ranks that are looked at.
"""

# ruff: noqa: N803, N806 -- names end in their shape

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from enforcer.gates import Score
from trainer.evaluate.intervals import CELLS_AT_ONCE, CONFIDENCE, Floats, Ints, bootstrap_mean
from trainer.evaluate.reranking import discounted, gain


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


def cosines(one_NE: Floats, other_NE: Floats) -> Floats:
    """The cosine of each vector to the one in the same row, to six digits: float32 orders nothing beyond them."""
    return np.asarray(np.round((_unit(one_NE) * _unit(other_NE)).sum(axis=1), 6))


def retrieval_scores(
    ranked_QK: Ints,
    relevant: Sequence[Collection[int]],
    documents: int,
    k: int,
    seed: int,
    confidence: float = CONFIDENCE,
) -> dict[str, Score]:
    """`ndcg@k`, `mrr@k` and `recall@k` over queries that may have several relevant documents each; n = Q.

    Among no more than k `documents` every model finds every one of them, so then there is no interval.

    `relevant` holds the relevant documents of each query; where it maps them to grades above 0, these count for ndcg:
    gain_i is 2^grade - 1 (`reranking.gain`), and 1 for a document without a grade.

    With rel_i in {0, 1} at rank i and R relevant documents in all (Manning, Raghavan & Schuetze 2008, chapter 8;
    Jarvelin & Kekalainen 2002 for the discount):
        ndcg@k   = sum_{i<=k} gain_i / log2(i + 1), over the same sum for the best ranking
        mrr@k    = 1 / rank of the first relevant document, 0 when it is not among the first k
        recall@k = relevant documents among the first k / R
    The bootstrap draws whole queries: the documents of one query are not independent of each other.
    """
    ranked_QK = ranked_QK[:, :k]
    hits_QK = np.array([[d in wanted for d in row] for row, wanted in zip(ranked_QK.tolist(), relevant, strict=True)])
    wanted_Q = np.array([len(wanted) for wanted in relevant])
    if not wanted_Q.size or wanted_Q.min() == 0:
        raise ValueError("every query needs at least one relevant document")

    ndcg_Q = np.array([_ndcg(row, wanted, k) for row, wanted in zip(ranked_QK.tolist(), relevant, strict=True)])
    mrr_Q = np.where(hits_QK.any(axis=1), 1 / (hits_QK.argmax(axis=1) + 1), 0.0)
    recall_Q = hits_QK.sum(axis=1) / wanted_Q
    measured = {f"ndcg@{k}": ndcg_Q, f"mrr@{k}": mrr_Q, f"recall@{k}": recall_Q}
    if documents <= k:
        return {name: Score(value=float(values_Q.mean()), n=len(values_Q)) for name, values_Q in measured.items()}
    return {name: bootstrap_mean(values_Q, seed, confidence) for name, values_Q in measured.items()}


def _ndcg(ranked_K: Sequence[int], wanted: Collection[int], k: int) -> float:
    grades = wanted if isinstance(wanted, Mapping) else dict.fromkeys(wanted, 1.0)
    best_D = -np.sort(-gain(np.array([*grades.values()], np.float64)))
    return discounted(gain(np.array([grades.get(d, 0.0) for d in ranked_K])), k) / discounted(best_D, k)


def _unit(vectors_NE: Floats) -> Floats:
    norms = np.linalg.norm(vectors_NE, axis=1, keepdims=True)
    return np.asarray(vectors_NE / np.maximum(norms, 1e-12))
