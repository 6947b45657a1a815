"""Acceptance gates: a bar that a tag version sets, and how a measured score is held against it.

The registry judges, never the client. A gate speaks about the confidence interval, not the point estimate: a score
passes when its whole interval clears the bar, fails when its whole interval misses it, and is inconclusive in between
or when it was measured on too few samples.
"""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from enforcer.concerns import Condition, holds

MetricName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*(@[0-9]+)?$", max_length=48)]


class Verdict(StrEnum):
    """What became of a gate. `waived` is only ever set by an approved proposal."""

    PASS = "pass"
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"
    WAIVED = "waived"


class Gate(BaseModel):
    """One bar. Without `confidence` the value itself is compared, which suits losses and sizes.

    With `when` it is a bar for some runs only, for what is measured can hang on a parameter: a regression has no F1.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    metric: MetricName
    op: Literal[">=", "<="] = ">="
    value: float
    min_n: int = Field(ge=1)
    confidence: float | None = Field(default=None, gt=0.5, lt=1.0)
    when: Condition = Field(default_factory=dict)

    def concerns(self, arguments: Mapping[str, Any]) -> bool:
        return holds(self.when, arguments)

    @model_validator(mode="before")
    @classmethod
    def says_on_how_many_samples(cls, given: Any) -> Any:
        if isinstance(given, dict) and given.get("min_n") is None:
            raise PydanticCustomError(
                "gate-without-min-n",
                "the gate on `{metric}` has no `min_n`; say on how many samples at least it is measured",
                {"metric": str(given.get("metric"))[:100]},
            )
        return given


class Score(BaseModel):
    """A measured metric: value, sample count, and its interval `[low, high]` at `confidence` where one was computed."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    value: float
    n: int = Field(ge=0)
    low: float | None = None
    high: float | None = None
    confidence: float | None = Field(default=None, gt=0.5, lt=1.0)

    @model_validator(mode="after")
    def interval_holds_the_value(self) -> "Score":
        if (self.low is None) != (self.high is None) or (self.low is None) != (self.confidence is None):
            raise ValueError("`low`, `high` and `confidence` come together")
        if self.low is not None and self.high is not None and not self.low <= self.value <= self.high:
            raise ValueError(f"value {self.value} lies outside its interval [{self.low}, {self.high}]")
        return self


class Judgement(BaseModel):
    """The verdict on one gate, with the reason in words."""

    model_config = ConfigDict(frozen=True)

    gate: Gate
    score: Score | None
    verdict: Verdict
    reason: str


def judge(gate: Gate, score: Score | None) -> Judgement:
    """Hold one score against one gate."""

    def because(verdict: Verdict, reason: str) -> Judgement:
        return Judgement(gate=gate, score=score, verdict=verdict, reason=reason)

    if score is None:
        return because(Verdict.FAIL, f"the run reported no `{gate.metric}`")
    if score.n < gate.min_n:
        return because(Verdict.INCONCLUSIVE, f"measured on {score.n} samples, the gate needs {gate.min_n}")
    low, high = score.value, score.value
    if gate.confidence is not None:
        if score.low is None or score.high is None or (score.confidence or 0.0) < gate.confidence:
            return because(Verdict.INCONCLUSIVE, f"the gate needs an interval at {gate.confidence:.0%} confidence")
        low, high = score.low, score.high

    at_least = gate.op == ">="
    if (low >= gate.value) if at_least else (high <= gate.value):
        return because(Verdict.PASS, f"{_span(low, high)} {gate.op} {gate.value:g}")
    if (high < gate.value) if at_least else (low > gate.value):
        return because(Verdict.FAIL, f"{_span(low, high)} is not {gate.op} {gate.value:g}")
    return because(Verdict.INCONCLUSIVE, f"{_span(low, high)} straddles {gate.value:g}; evaluate on more samples")


def judge_run(gates: Sequence[Gate], arguments: Mapping[str, Any], scores: Mapping[str, Score]) -> list[Judgement]:
    """Hold a run's scores against every gate that concerns it."""
    return [judge(gate, scores.get(gate.metric)) for gate in gates if gate.concerns(arguments)]


def overall(judgements: list[Judgement]) -> Verdict:
    """One verdict for a run: any fail fails, else any inconclusive is inconclusive, else pass."""
    verdicts = {judgement.verdict for judgement in judgements}
    for worst in (Verdict.FAIL, Verdict.INCONCLUSIVE):
        if worst in verdicts:
            return worst
    return Verdict.PASS


def _span(low: float, high: float) -> str:
    return f"{low:.4f}" if low == high else f"[{low:.4f}, {high:.4f}]"
