"""Scores with intervals, in numpy alone, so that anybody can judge a run's numbers without torch.

Accuracy and its like are proportions and have the Wilson interval; all others have a percentile bootstrap over whatever
is independent: rows, queries, prompts. Where the rows cannot tell how sure a score is (a class without rows, no more
documents than are looked at), it has no interval, and a gate that asks for confidence stays inconclusive.
"""

from trainer.evaluate.classification import accuracy, calibration_error, confusion_matrix, macro_f1, per_class
from trainer.evaluate.intervals import CONFIDENCE, RESAMPLES, Floats, Ints, bootstrap_mean, bootstrap_ratio, wilson
from trainer.evaluate.multilabel import best_thresholds, multilabel_scores, per_label
from trainer.evaluate.preference import Winner, elo, prompt_score, win_rate
from trainer.evaluate.regression import regression_scores, spearman
from trainer.evaluate.reranking import can_be_told_apart, reranking_scores
from trainer.evaluate.retrieval import cosines, retrieval_scores, top_documents

__all__ = [
    "CONFIDENCE",
    "RESAMPLES",
    "Floats",
    "Ints",
    "Winner",
    "accuracy",
    "best_thresholds",
    "bootstrap_mean",
    "bootstrap_ratio",
    "calibration_error",
    "can_be_told_apart",
    "confusion_matrix",
    "cosines",
    "elo",
    "macro_f1",
    "multilabel_scores",
    "per_class",
    "per_label",
    "prompt_score",
    "regression_scores",
    "reranking_scores",
    "retrieval_scores",
    "spearman",
    "top_documents",
    "wilson",
    "win_rate",
]
