"""Conditions of a rule: a closed language, parsed when the policy loads, never evaluated as text.

max_gpus: 8                      at most so many GPUs
models: ["Qwen/*", "local"]      the base model's name is one of these; `*` only at the end
until: 2026-12-15T00:00:00Z      the rule stops matching at that second, without a reload
hours: 08:00-20:00               from the first minute to before the last, in `zone`; 22:00-06:00 goes over midnight
weekdays: [mon, tue]             the day it is in `zone`
zone: Europe/Berlin              the time zone that `hours` and `weekdays` need
change_ticket: ["CHG-*"]         the request names a change ticket like this
points: [api, admission]         it is asked at one of these enforcement points
own_unit: true                   the business unit is the caller's own, or below it
"""

import functools
import re
import zoneinfo
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Literal, Self, get_args

from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

Weekday = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
Point = Literal["api", "cli", "trainer", "admission"]
WEEKDAYS: tuple[Weekday, ...] = get_args(Weekday)
POINTS: tuple[Point, ...] = get_args(Point)


def _written_out(value: object) -> object:
    """pydantic takes numbers as seconds since 1970, and `20261215` would have ended in August of that year."""
    if not isinstance(value, datetime) and not re.match(r"\d{4}-\d\d-\d\d[Tt ]", str(value)):
        raise ValueError("write a time with its zone, like `2026-12-15T00:00:00Z`")
    return value


Moment = Annotated[AwareDatetime, BeforeValidator(_written_out)]


@dataclass(frozen=True)
class Context:
    """The facts of one request that conditions look at. `now` is UTC; `own_units` are the caller's unit and below.

    `point` is where the question is asked, which the asking side never chooses: `api` for what the registry is about to
    do, `cli` for a preview, `trainer` for a permit that is looked at again, `admission` for other gateways (AuthZEN).
    """

    now: datetime
    gpus: int = 0
    model: str | None = None
    unit: str = "all"
    own_units: frozenset[str] = frozenset()
    change_ticket: str | None = None
    point: Point = "api"


class Conditions(BaseModel):
    """What must hold for a rule to match. An unknown key or a time without zone is refused at load."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_gpus: int | None = Field(default=None, ge=0, le=1_000_000)
    models: tuple[str, ...] | None = Field(default=None, min_length=1)
    until: Moment | None = None
    hours: str | None = Field(default=None, pattern=r"^([01]\d|2[0-3]):[0-5]\d-([01]\d|2[0-4]):[0-5]\d$")
    weekdays: tuple[Weekday, ...] | None = Field(default=None, min_length=1)
    zone: str | None = None
    change_ticket: tuple[str, ...] | None = Field(default=None, min_length=1)
    points: tuple[Point, ...] | None = Field(default=None, min_length=1)
    own_unit: bool = False

    @field_validator("models", "change_ticket")
    @classmethod
    def star_only_at_the_end(cls, patterns: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for pattern in patterns or ():
            if not pattern or "*" in pattern[:-1]:
                raise ValueError(f"`{pattern}`: a `*` stands only at the end")
        return patterns

    @field_validator("zone")
    @classmethod
    def zone_exists(cls, zone: str | None) -> str | None:
        if zone is not None and zone not in _zones():
            raise ValueError(f"`{zone}` is not a time zone; write one like `Asia/Shanghai`")
        return zone

    @model_validator(mode="after")
    def local_time_has_a_zone(self) -> Self:
        local = self.hours is not None or self.weekdays is not None
        if local and self.zone is None:
            raise ValueError("`hours` and `weekdays` need a `zone`, like `Europe/Berlin`")
        if self.zone is not None and not local:
            raise ValueError("`zone` stands beside `hours` or `weekdays`")
        if self.hours is not None:
            start, end = self.hours.split("-")
            if start == end or (end > "24:00"):
                raise ValueError(f"`hours: {self.hours}` is no span of a day")
        return self

    @property
    def is_empty(self) -> bool:
        """Whether the rule matches whatever the facts, now and later: then its answers may be remembered."""
        return self.__dict__ == _NONE.__dict__

    def first_failing(self, context: Context, *, of_deny: bool = False) -> str | None:
        """A clause that does not hold, in words; None when all hold."""
        return None if self.is_empty else next(self.failing(context, of_deny=of_deny), None)

    def failing(self, context: Context, *, of_deny: bool = False) -> Iterator[str]:
        """The clauses that do not hold, in words.

        A request that does not say its model may be for any: no allow by model covers it, no deny by model spares it.
        """
        if self.max_gpus is not None and context.gpus > self.max_gpus:
            yield f"max_gpus {self.max_gpus}, asked for {context.gpus}"
        unsaid = of_deny and context.model is None
        if self.models is not None and not unsaid and not _fits(self.models, context.model):
            yield f"models {', '.join(self.models)}"
        if self.until is not None and context.now >= self.until:
            yield f"until {self.until.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
        if self.zone is not None:
            yield from self._local_time_failing(context.now.astimezone(zoneinfo.ZoneInfo(self.zone)))
        if self.change_ticket is not None and not _fits(self.change_ticket, context.change_ticket):
            yield f"change_ticket {', '.join(self.change_ticket)}"
        if self.points is not None and context.point not in self.points:
            yield f"points {', '.join(self.points)}, asked at {context.point}"
        if self.own_unit and context.unit not in context.own_units:
            yield "own_unit: only the caller's own business unit"

    def _local_time_failing(self, local: datetime) -> Iterator[str]:
        if self.weekdays is not None and WEEKDAYS[local.weekday()] not in self.weekdays:
            yield f"weekdays {', '.join(self.weekdays)} ({self.zone})"
        if self.hours is not None:
            start, _, end = self.hours.partition("-")
            minute = f"{local:%H:%M}"
            inside = start <= minute < end if start < end else minute >= start or minute < end
            if not inside:
                yield f"hours {self.hours} ({self.zone})"


_NONE = Conditions()


_zones = functools.cache(zoneinfo.available_timezones)  # reads a folder


def _fits(patterns: tuple[str, ...], value: str | None) -> bool:
    """`Qwen/*` fits what begins with `Qwen/`; anything else only itself."""
    if value is None:
        return False
    return any(value.startswith(p[:-1]) if p.endswith("*") else value == p for p in patterns)
