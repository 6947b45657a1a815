"""How often one model's answers are preferred to a reference's: win rate, and the same on the Elo scale.

Shapes: P prompts, R resamples. A prompt's score is 1 where the model won, 0 where it lost, 0.5 where neither did. What
is drawn in a resample is whole prompts, since the two verdicts on one prompt are about the same two answers.

Below `MIN_PROMPTS` there is no interval, so that a gate stays inconclusive. From there on, 93 to 97 of 100 intervals at
95 % hold the true value: measured at true win rates from 0.5 to 0.95, with 0 to 60 % ties (`test_win_rate.py`).
"""

# ruff: noqa: N803, N806 -- names end in their shape

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np

from enforcer.gates import Score
from trainer.evaluate.intervals import CONFIDENCE, RESAMPLES, Floats, between

REFERENCE = 1000.0  # points that the reference model is pinned at
SCALE = 400.0  # points to a factor of ten in the odds (Elo 1978)

MIN_PROMPTS = 100

Winner = Literal["model", "reference", "tie"]
POINTS: dict[Winner, float] = {"model": 1.0, "tie": 0.5, "reference": 0.0}
WORTH_3 = np.array([1.0, 0.5, 0.0])  # of a win, a tie, a loss
ADDED_3 = np.array([0.5, 0.0, 0.5])


def prompt_score(first: Winner, second: Winner) -> float:
    """One prompt, judged with the model's answer first and then second. Verdicts that disagree are a tie: a judge that
    only looks at the position then moves nothing (Zheng et al. 2023, arXiv:2306.05685, section 3.4)."""
    return POINTS[first] if first == second else POINTS["tie"]


def win_rate(scores_P: Sequence[float], seed: int, confidence: float = CONFIDENCE) -> Score:
    """The mean score, ties counting half."""
    counts_3, n = _counted(scores_P), len(scores_P)
    won = float(counts_3 @ WORTH_3)
    return _score(won / n, n, lambda won_R: won_R / n, counts_3, seed, confidence)


def elo(scores_P: Sequence[float], seed: int, confidence: float = CONFIDENCE) -> Score:
    """Points of the model beside a reference at 1000: 1000 + 400 log10(w / (1 - w)), n = P.

    That is the maximum likelihood of Bradley & Terry (1952) for two players, a tie being half a win for each, and so it
    does not depend on the order of games as online Elo does (Chiang et al. 2024, arXiv:2403.04132, section 4). With
    half a win added to each side (Firth 1993), w = (W + 1/2) / (P + 1), it stays finite for a model that always wins.
    """
    counts_3, n = _counted(scores_P), len(scores_P)
    return _score(_points(counts_3 @ WORTH_3, n), n, lambda won_R: _points(won_R, n), counts_3, seed, confidence)


def _points(won: Any, n: int) -> Any:
    share = (won + 0.5) / (n + 1)
    return REFERENCE + SCALE * np.log10(share / (1 - share))


def _counted(scores_P: Sequence[float]) -> Floats:
    """How many prompts were won, tied and lost."""
    if not len(scores_P) or set(scores_P) - set(WORTH_3):
        raise ValueError("scores of prompts are 0, 0.5 or 1, and there is at least one")
    return np.array([sum(score == worth for score in scores_P) for worth in WORTH_3], np.float64)


def _score(
    value: float, n: int, measure: Callable[[Floats], Floats], counts_3: Floats, seed: int, confidence: float
) -> Score:
    """`value` with the interval of what is measured on the wins among P prompts drawn with replacement.

    Prompts have but three scores, so a resample is one multinomial draw. Half a win and half a loss are added to what
    is drawn from: of a hundred wins in a hundred a plain bootstrap would make the interval [1, 1].
    """
    if n < MIN_PROMPTS:
        return Score(value=float(value), n=n)
    seen_3 = counts_3 + ADDED_3
    drawn_R3 = np.random.default_rng(seed).multinomial(n, seen_3 / seen_3.sum(), size=RESAMPLES)
    return between(float(value), n, measure(drawn_R3 @ WORTH_3), confidence)
