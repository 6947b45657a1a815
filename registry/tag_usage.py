"""Who trains under a task type, from the runs that were permitted; and whether it can end without surprising anybody.

A consumer is a business unit and somebody in it: active with a run in the last 30 days, stale with one in the last 90,
dead with one in the last year. Whoever was silent for longer is forgotten, so that a question costs what a year of the
task type costs and not its whole history. Runs are found by task type and by the time in their id (`run_by_tag`).

Groups are not told apart: a run does not keep them, its event does, and reading those would cost a document a run.
"""

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypeVar

from sqlalchemy import case
from sqlmodel import Session, col, func, select

from enforcer import wire
from enforcer.policy.rules import ROOT_UNIT
from registry import db, runs, tag_life
from registry.tables import Proposal, Run, Tag

ACTIVE_FOR, STALE_FOR, REMEMBERED_FOR = timedelta(days=30), timedelta(days=90), timedelta(days=365)
NAMED = 500
K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True)
class Use:
    """Runs of one version by one consumer in the last year."""

    business_unit: str
    actor: str
    version: int
    last_30_days: int
    last_90_days: int
    last_seen: datetime


def usage(session: Session, tag: Tag, unit: str) -> wire.TagUsage:
    """How it is used in one business unit, or in all of them."""
    now = db.utc_now()
    found = _uses(session, tag.name, now, None if unit == ROOT_UNIT else unit)
    consumers = _consumers(found, now)
    return wire.TagUsage(
        tag=tag.name,
        business_unit=unit,
        last_30_days=sum(use.last_30_days for use in found),
        last_90_days=sum(use.last_90_days for use in found),
        last_seen=max((use.last_seen for use in found), default=None),
        by_unit=[
            wire.UnitUsage(business_unit=name, **_together(uses))
            for name, uses in _grouped(found, lambda use: use.business_unit)
        ],
        by_version=[
            wire.VersionUsage(version=number, **_together(uses))
            for number, uses in _grouped(found, lambda use: use.version)
        ],
        consumers=consumers[:NAMED],
        consumers_unnamed=len(consumers[NAMED:]),
    )


def readiness(session: Session, tag: Tag, may_see: Callable[[str], bool]) -> wire.DeprecationReadiness:
    """Whether it can end. The numbers are of all business units: one's own alone would be a wrong answer. Consumers are
    named where the caller may see the runs of their unit."""
    now = db.utc_now()
    consumers = _consumers(_uses(session, tag.name, now, None), now)
    count = dict.fromkeys(("active", "stale", "dead"), 0)
    for consumer in consumers:
        count[consumer.standing] += 1
    visible = {unit for unit in {one.business_unit for one in consumers} if may_see(unit)}
    active = [one for one in consumers if one.standing == "active" and one.business_unit in visible]
    facts: dict[str, Any] = {
        "state": tag_life.state_at(tag, now),
        "active_consumers": count["active"],
        "children": _children(session, tag.name),
        "replaced_by_of": tag_life.replaced_by(session, tag.name),
        "open_proposals": _open_proposals(session, tag.name),
        "runs_in_flight": _in_flight(session, tag.name),
    }
    reasons = list(_reasons(tag.name, facts))
    return wire.DeprecationReadiness(
        tag=tag.name,
        stale=count["stale"],
        dead=count["dead"],
        consumers=active[:NAMED],
        safe_to_deprecate=not reasons,
        reasons=reasons,
        **facts,
    )


def _uses(session: Session, tag: str, now: datetime, unit: str | None) -> list[Use]:
    def since(life: timedelta) -> Any:
        return func.sum(case((col(Run.created_at) >= now - life, 1), else_=0))

    by = col(Run.business_unit), col(Run.actor), col(Run.version)
    query: Any = select(*by, since(ACTIVE_FOR), since(STALE_FOR), func.max(Run.created_at)).group_by(*by)  # type: ignore[call-overload]
    query = query.where(Run.task_type == tag, col(Run.id) >= f"run-{db.uuid7_floor(now - REMEMBERED_FOR)}")
    if unit is not None:
        query = query.where(Run.business_unit == unit)
    return [Use(*row) for row in session.exec(query)]


def _grouped(uses: Iterable[Use], key: Callable[[Use], K]) -> list[tuple[K, list[Use]]]:
    """Those that were seen last come first."""
    groups: dict[K, list[Use]] = {}
    for use in sorted(uses, key=lambda use: use.last_seen, reverse=True):
        groups.setdefault(key(use), []).append(use)
    return list(groups.items())


def _together(uses: list[Use]) -> dict[str, Any]:
    return {
        "last_30_days": sum(use.last_30_days for use in uses),
        "last_90_days": sum(use.last_90_days for use in uses),
        "last_seen": max(use.last_seen for use in uses),
    }


def _consumers(uses: Iterable[Use], now: datetime) -> list[wire.Consumer]:
    groups = _grouped(uses, lambda use: (use.business_unit, use.actor))
    return [
        wire.Consumer(business_unit=unit, actor=actor, standing=_standing(uses[0].last_seen, now), **_together(uses))
        for (unit, actor), uses in groups
    ]


def _standing(last_seen: datetime, now: datetime) -> wire.Standing:
    if last_seen >= now - ACTIVE_FOR:
        return "active"
    return "stale" if last_seen >= now - STALE_FOR else "dead"


def _children(session: Session, name: str) -> list[str]:
    living = col(Tag.state).in_(("active", "deprecated"))
    return list(session.exec(select(Tag.name).where(Tag.parent == name, living).order_by(col(Tag.name))))


def _open_proposals(session: Session, name: str) -> list[str]:
    """Those that change it, and those that rest on it: a child, or an end of another in favour of it."""
    waiting = session.exec(
        select(Proposal).where(col(Proposal.state).in_(("open", "approved"))).order_by(col(Proposal.id))
    )
    return [
        one.id
        for one in waiting
        if one.subject == f"tag:{name}" or name in (one.change.get("parent"), one.change.get("replaced_by"))
    ]


def _in_flight(session: Session, name: str) -> int:
    """The task type is compared as an expression, lest SQLite walks through all that ever ran."""
    of_tag = col(Run.task_type).concat("") == name
    return session.exec(select(func.count()).select_from(Run).where(*runs.in_flight(db.utc_now()), of_tag)).one()


def _reasons(name: str, facts: dict[str, Any]) -> Iterable[str]:
    if facts["state"] != "active":
        yield f"`{name}` is {facts['state']} already"
    if facts["active_consumers"]:
        yield f"{facts['active_consumers']} consumers had a run permitted in the last {ACTIVE_FOR.days} days"
    if facts["runs_in_flight"]:
        yield f"{facts['runs_in_flight']} runs are permitted or going on"
    if facts["children"]:
        yield f"{_named(facts['children'])} stand below it"
    if facts["replaced_by_of"]:
        yield f"{_named(facts['replaced_by_of'])} ended in favour of it; its own replacement has to take these over"
    if facts["open_proposals"]:
        yield f"{_named(facts['open_proposals'])} are open and rest on it"


def _named(names: list[str]) -> str:
    shown = ", ".join(f"`{name}`" for name in names[:5])
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"
