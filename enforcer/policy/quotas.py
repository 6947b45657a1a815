"""Quotas: how much of the machines a business unit may hold at once, and use in a day, week or month.

`unit` and `tag` cover what is below them; every quota that covers a run counts it.
"""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

Window = Literal["day", "week", "month"]


class Quota(BaseModel):
    """One quota. Windows are those of the calendar, in UTC; a week begins on Monday."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9]*(-[a-z0-9]+)*$", max_length=80)]
    unit: str = "all"
    tag: str = "any"
    window: Window | None = None
    gpu_hours: float | None = Field(default=None, gt=0, le=1e9, allow_inf_nan=False)
    concurrent: int | None = Field(default=None, ge=0, le=1_000_000)
    max_gpus: int | None = Field(default=None, ge=0, le=1_000_000)
    reason: Annotated[str, StringConstraints(min_length=1, max_length=300)]

    def period(self, now: datetime) -> tuple[str, datetime] | None:
        """The window that `now` is in, and when the next begins: `2026-11-24`, `2026-W48`, `2026-11`."""
        today = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        match self.window:
            case "day":
                return f"{today:%Y-%m-%d}", today + timedelta(days=1)
            case "week":
                return f"{today:%G-W%V}", today + timedelta(days=7 - today.weekday())
            case "month":
                return f"{today:%Y-%m}", (today.replace(day=1) + timedelta(days=32)).replace(day=1)
        return None

    @model_validator(mode="after")
    def limits_something(self) -> Self:
        if self.gpu_hours is None and self.concurrent is None and self.max_gpus is None:
            raise ValueError(f"quota `{self.id}` limits nothing; give `gpu_hours`, `concurrent` or `max_gpus`")
        if (self.gpu_hours is None) != (self.window is None):
            raise ValueError(f"quota `{self.id}`: `gpu_hours` and `window` come together")
        return self
