"""Requests that tell policies apart: at the corners of every condition, one fact changed at a time.

Whatever a rule says, it says about names, which can be counted, and about facts, of which only a few matter: one GPU
more than its bound, a second before and at its end, a model that fits and one that does not.
"""

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import product
from typing import Any

from enforcer.policy.conditions import POINTS, Conditions, Context
from enforcer.policy.decision import Request

_OTHER = "another"
_HALF_HOURS_OF_A_WEEK = [timedelta(minutes=30 * n) for n in range(7 * 48)]


@dataclass(frozen=True)
class Space:
    """All requests by these principals, actions, tags, units, targets and contexts."""

    principals: Sequence[tuple[str, ...]]
    actions: Sequence[str]
    tags: Sequence[str]
    units: Sequence[str]
    targets: Sequence[str]
    contexts: Sequence[Context]

    def __len__(self) -> int:
        size = 1
        for axis in self._axes:
            size *= len(axis)
        return size

    def __iter__(self) -> Iterator[Request]:
        for names in product(*self._axes):
            yield self._request(names)

    def sample(self, count: int, dice: random.Random) -> Iterator[Request]:
        for _ in range(count):
            yield self._request(tuple(dice.choice(axis) for axis in self._axes))

    @property
    def _axes(self) -> tuple[Sequence[Any], ...]:
        return self.principals, self.actions, self.tags, self.units, self.targets, self.contexts

    def _request(self, names: tuple[Any, ...]) -> Request:
        who, action, tag, unit, target, context = names
        own = frozenset({unit}) if context.own_units else frozenset()
        return Request(who, action, replace(context, unit=unit, own_units=own), tag, unit, target)


def inside(when: Conditions, now: datetime) -> Context | None:
    """Facts with which these conditions hold; None where none can: the end is past, or no minute of the week fits."""
    moment = next((at for at in _moments(when, now) if _local_time_holds(when, at)), None)
    if moment is None or (when.until is not None and now >= when.until):
        return None
    return Context(
        now=moment,
        gpus=1 if when.max_gpus is None else when.max_gpus,
        model=_example(when.models),
        own_units=frozenset({"own"}),
        change_ticket=_example(when.change_ticket),
        point=when.points[0] if when.points else "api",
    )


def contexts(
    changed: Iterable[Conditions], beside: Iterable[Conditions], moments: Iterable[datetime], points: bool
) -> list[Context]:
    """Contexts in which the changed conditions hold, and each of them with one fact at another corner: of theirs, of
    the conditions of rules that stand beside them, or another of these moments, of which the first is now. `points`
    says whether enforcement points matter."""
    now, *others = moments
    changed = list(dict.fromkeys(changed))
    corners = _corners([*changed, *dict.fromkeys(beside)], now)
    corners["now"] |= dict.fromkeys(others)
    if points:
        corners["point"] = dict.fromkeys(POINTS)
    found: dict[Context, None] = {}
    for base in [Context(now=now, gpus=1, own_units=frozenset({"own"})), *(inside(when, now) for when in changed)]:
        if base is not None:
            found[base] = None
            found |= {replace(base, **{fact: value}): None for fact, values in corners.items() for value in values}
    return list(found)


def _corners(conditions: Iterable[Conditions], now: datetime) -> dict[str, dict[Any, None]]:
    """The values at which an answer can change, by fact."""
    corners: dict[str, dict[Any, None]] = {
        "gpus": {1: None},
        "model": {None: None},
        "change_ticket": {None: None},
        "now": {now: None},
        "own_units": {frozenset(): None, frozenset({"own"}): None},
    }
    for when in conditions:
        if when.max_gpus is not None:
            corners["gpus"] |= {when.max_gpus: None, when.max_gpus + 1: None}
        if when.models is not None:
            corners["model"] |= {_example((pattern,)): None for pattern in when.models} | {_OTHER: None}
        if when.change_ticket is not None:
            corners["change_ticket"] |= {_example((pattern,)): None for pattern in when.change_ticket} | {_OTHER: None}
        if when.until is not None:
            corners["now"] |= {when.until - timedelta(seconds=1): None, when.until: None}
        if when.zone is not None:
            held = {_local_time_holds(when, at): at for at in reversed(_moments(when, now))}  # the first of each
            corners["now"] |= dict.fromkeys(held.values())
    return corners


def _moments(when: Conditions, now: datetime) -> list[datetime]:
    """Now, each half hour of the week that follows, and where its hours begin and end."""
    if when.zone is None:
        return [now]
    hour = now.replace(minute=0, second=0, microsecond=0)
    edges = {int(edge[3:]) for edge in (when.hours or "").split("-") if edge} - {0, 30}
    found = [hour + step for step in _HALF_HOURS_OF_A_WEEK]
    found += [at.replace(minute=edge) for at in found[::2] for edge in edges]
    return [now, *sorted(at for at in found if at > now and (when.until is None or at < when.until))]


def _local_time_holds(when: Conditions, at: datetime) -> bool:
    local = Conditions.model_construct(hours=when.hours, weekdays=when.weekdays, zone=when.zone)
    return local.first_failing(Context(now=at)) is None


def _example(patterns: tuple[str, ...] | None) -> str | None:
    """A value that the first pattern fits."""
    return None if patterns is None else patterns[0].removesuffix("*") + ("..." if patterns[0].endswith("*") else "")
