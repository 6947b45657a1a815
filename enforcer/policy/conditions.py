"""Conditions of a rule: a closed language, parsed when the policy loads, never evaluated as text.

max_gpus: 8                      at most so many GPUs
models: ["Qwen/*", "local"]      the base model's name is one of these; `*` only at the end
until: 2026-12-15T00:00:00Z      the rule stops matching at that second, without a reload
own_unit: true                   the business unit is the caller's own, or below it
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, field_validator


@dataclass(frozen=True)
class Context:
    """The facts of one request that conditions look at. `now` is UTC; `own_units` are the caller's unit and below."""

    now: datetime
    gpus: int = 0
    model: str | None = None
    unit: str = "all"
    own_units: frozenset[str] = frozenset()


class Conditions(BaseModel):
    """What must hold for a rule to match. An unknown key or a time without zone is refused at load."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_gpus: int | None = Field(default=None, ge=0)
    models: tuple[str, ...] | None = None
    until: AwareDatetime | None = None
    own_unit: bool = False

    @field_validator("models")
    @classmethod
    def star_only_at_the_end(cls, models: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for model in models or ():
            if not model or "*" in model[:-1]:
                raise ValueError(f"`{model}`: a `*` stands only at the end")
        return models

    @classmethod
    def none(cls) -> Self:
        return cls()

    def first_failing(self, context: Context) -> str | None:
        """The clause that does not hold, in words; None when all hold."""
        if self.max_gpus is not None and context.gpus > self.max_gpus:
            return f"max_gpus {self.max_gpus}, asked for {context.gpus}"
        if self.models is not None and not any(_fits(pattern, context.model) for pattern in self.models):
            return f"models {', '.join(self.models)}"
        if self.until is not None and context.now >= self.until:
            return f"until {self.until.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
        if self.own_unit and context.unit not in context.own_units:
            return "own_unit: only the caller's own business unit"
        return None


def _fits(pattern: str, model: str | None) -> bool:
    if model is None:
        return False
    return model.startswith(pattern[:-1]) if pattern.endswith("*") else model == pattern
