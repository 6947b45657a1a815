"""Two models' answers to the same prompts, compared by a judge in both orders, and what follows from it.

What a judge is: `endpoint.py` (any OpenAI-compatible server) or `reward.py` (a reward model). Where there is none,
nothing here applies: the share of held-out pairs that a model ranks as people did is its `reward_accuracy`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Protocol

from enforcer.gates import Score
from trainer import evaluate
from trainer.evaluate import Winner

Message = Mapping[str, Any]

MAX_SILENT_SHARE = 0.05  # of prompts without a verdict; what a judge cannot judge is seldom a random sample


@dataclass(frozen=True)
class Comparison:
    """A conversation that waits for its next words, and the two answers to it."""

    prompt: Sequence[Message]
    model: str
    reference: str


@dataclass(frozen=True)
class Verdict:
    """What a judge said in one order. `winner` is None when it could not be made out."""

    winner: Winner | None
    said: str = ""


@dataclass(frozen=True)
class Judged:
    """One comparison with its verdicts: the model's answer shown first, and shown second."""

    comparison: Comparison
    model_first: Verdict
    model_second: Verdict

    @property
    def score(self) -> float | None:
        """1, 0.5 or 0 for the model; None unless both orders brought a verdict: one alone holds the judge's bias."""
        first, second = self.model_first.winner, self.model_second.winner
        return None if first is None or second is None else evaluate.prompt_score(first, second)


class Judge(Protocol):
    def describe(self) -> dict[str, Any]:
        """What is recorded of it: enough to ask the same judge the same again, and no secret."""

    def compare(self, comparisons: Sequence[Comparison]) -> list[Judged]:
        """Both orders of each."""


def judge_all(judge: Judge, comparisons: Sequence[Comparison]) -> list[Judged]:
    """Equal answers tie without being asked about."""
    same = Verdict("tie", "the answers are equal")
    asked = iter(judge.compare([c for c in comparisons if c.model != c.reference]))
    return [Judged(c, same, same) if c.model == c.reference else next(asked) for c in comparisons]


def scores(judged: Sequence[Judged], seed: int) -> dict[str, Score]:
    """`win_rate` and `elo` over the prompts with a verdict; empty when there are none.

    They have no interval, so that gates stay inconclusive, when more than `MAX_SILENT_SHARE` are without.
    """
    known = [score for one in judged if (score := one.score) is not None]
    if not known:
        return {}
    measured = {"win_rate": evaluate.win_rate(known, seed), "elo": evaluate.elo(known, seed)}
    if len(judged) - len(known) <= MAX_SILENT_SHARE * len(judged):
        return measured
    return {name: Score(value=score.value, n=score.n) for name, score in measured.items()}


def summary(judged: Sequence[Judged]) -> dict[str, Any]:
    """What stands beside the scores, so that a reader sees a biased judge and answers that win by their length."""
    values = [one.score for one in judged]
    ours = fmean(len(one.comparison.model) for one in judged)
    theirs = fmean(len(one.comparison.reference) for one in judged)
    heard = [one for one in judged if one.score is not None and one.comparison.model != one.comparison.reference]
    return {
        "prompts": len(judged),
        "wins": values.count(1.0),
        "ties": values.count(0.5),
        "losses": values.count(0.0),
        "without_verdict": values.count(None),
        "equal_answers": sum(one.comparison.model == one.comparison.reference for one in judged),
        # 0.5 for a judge that does not care which answer it reads first.
        "prefers_first": _share([_prefers_first(one) for one in heard]),
        "orders_agree": _share([float(one.model_first.winner == one.model_second.winner) for one in heard]),
        # Judges like long answers (Dubois et al. 2024, arXiv:2404.04475): far from 1, it explains part of the wins.
        "length_ratio": ours / theirs if theirs else None,
    }


def _prefers_first(one: Judged) -> float:
    """The share of the two verdicts that went to the answer shown first, ties counting half."""
    first = {"model": 1.0, "tie": 0.5, "reference": 0.0}
    assert one.model_first.winner is not None
    assert one.model_second.winner is not None
    return (first[one.model_first.winner] + 1 - first[one.model_second.winner]) / 2


def _share(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None
