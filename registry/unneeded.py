"""Which exceptions are needed: the decisions that they were part of, made again without them.

An exception that never fitted a request, or whose requests the rules would answer in the same way by now, is no longer
needed. Decisions whose facts were erased count for nothing.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from sqlalchemy import Text, cast
from sqlmodel import Session, col, select

from enforcer.policy.exceptions import PolicyException
from enforcer.policy.snapshot import Snapshot
from registry import audit, db
from registry.tables import Event

CHUNK = 1_000


@dataclass(frozen=True)
class Use:
    """In how many decisions an exception had a part, and how many would be otherwise without it."""

    decisions: int
    changed: int


def use_of(session: Session, gate: Snapshot, exception: PolicyException) -> Use:
    """Since it was granted, by the rules of now."""
    others = [other for other in gate.policy.exceptions if other.id != exception.id]
    without: Snapshot | None = None
    decisions = changed = 0
    for event in _decisions_with(session, exception):
        asked = audit.request_of(event, gate)
        if asked is None:
            continue
        without = without or Snapshot(gate.policy.with_exceptions(others), gate.tag_parents)
        decisions += 1
        past_sunset = event.detail.get("past_sunset") == exception.id  # what no rule could have let through
        changed += past_sunset or gate.decide(asked).allowed != without.decide(asked).allowed
    return Use(decisions, changed)


def _decisions_with(session: Session, exception: PolicyException) -> Iterator[Event]:
    """Events of decisions that it fitted, or in which it lifted a denial."""
    after = db.uuid7_floor(exception.granted_at)
    named = cast(col(Event.detail), Text).contains(f'"{exception.id}"', autoescape=True)  # leaves the rest unread
    while True:
        query = select(Event).where(col(Event.id) > after, named).order_by(col(Event.id)).limit(CHUNK)
        found = session.exec(query).all()
        for event in found:
            session.expunge(event)  # there may be many
            if _had_a_part(event, exception.id):
                yield event
        if len(found) < CHUNK:
            return
        after = found[-1].id


def _had_a_part(event: Event, name: str) -> bool:
    asked = event.detail.get("asked")
    matched = asked.get("matched", ()) if isinstance(asked, dict) else ()
    return any(name in (match[0], match[3]) for match in matched)
