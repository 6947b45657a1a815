"""The decisions of the last days made again by another policy, before it decides anything.

Read newest first and in chunks, each in a transaction of its own, so that nothing waits for it; after a time it stops
and says how far it got.
"""

import threading
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

from sqlmodel import col, select

from enforcer import wire
from enforcer.policy.replay import Example, Past, Tally
from enforcer.policy.revision import Policy
from enforcer.policy.snapshot import Snapshot
from enforcer.problems import Unavailable
from registry import audit, db
from registry.access import OWNER
from registry.books import Books
from registry.tables import Event

CHUNK = 1_000
TIME_S = 60.0
_ASIDE = frozenset({"not-in-scope"})
_AT_ONCE = threading.BoundedSemaphore(2)  # each takes a thread of the service, and most of a processor
# What an event is made of here. Rows, not objects: there may be a million.
_COLUMNS = (Event.id, Event.at, Event.kind, Event.actor, Event.groups, Event.rule, Event.detail)


def run(books: Books, candidate: Policy, *, days: int, time_s: float = TIME_S) -> wire.PolicyReplay:
    """Every decision of the last `days` by this policy, over the task types of today.

    Raises:
        PolicyInvalid: the candidate does not compile.
        Unavailable: others are doing the same just now.
    """
    if not _AT_ONCE.acquire(blocking=False):
        raise Unavailable("past decisions are being made again for others just now; try again in a minute")
    try:
        with books.reading() as session:
            tags = books.gate(session).tag_parents
        return _run(books, Snapshot(candidate, tags), days, time_s)
    finally:
        _AT_ONCE.release()


def _run(books: Books, candidate: Snapshot, days: int, time_s: float) -> wire.PolicyReplay:
    begun, now = time.monotonic(), db.utc_now()
    reached, left_out, complete, tally = now, 0, False, Tally()
    for chunk in _chunks(books, now - timedelta(days=days)):
        for row in chunk:
            past = _past(row, candidate)
            if past is None:
                left_out += 1
            else:
                tally.add(past, candidate)
        if len(chunk) < CHUNK:
            reached, complete = now - timedelta(days=days), True
        elif time.monotonic() - begun > time_s:
            reached = chunk[-1].at
            break
    return _as_wire(tally, candidate.revision, days, reached, left_out, complete, time.monotonic() - begun)


def _chunks(books: Books, since: datetime) -> Iterator[list[Any]]:
    """Events that a decision led to, newest first; the last chunk is a short one."""
    floor, before = db.uuid7_floor(since), db.uuid7_floor(db.utc_now() + timedelta(days=1))
    while True:
        query = select(*_COLUMNS).where(col(Event.id) >= floor, col(Event.id) < before)  # type: ignore[call-overload]
        query = query.where(col(Event.policy_revision).is_not(None), col(Event.kind).not_like("policy.%"))
        query = query.where(col(Event.kind) != "ticket.redeemed")  # by the rule of its ticket, which was asked for
        query = query.where(col(Event.actor).not_like("system:%"))
        with books.reading() as session:
            chunk = list(session.connection().execute(query.order_by(col(Event.id).desc()).limit(CHUNK)))
        yield chunk
        if len(chunk) < CHUNK:
            return
        before = chunk[-1].id


def _past(row: Any, candidate: Snapshot) -> Past | None:
    request = audit.request_of(row, candidate)
    if request is None:
        return None
    reason = row.detail["asked"]["reason"]
    return Past(row.id, request, reason, row.rule, aside=reason in _ASIDE or row.rule == OWNER)


def _as_wire(
    tally: Tally, revision: str, days: int, since: datetime, left_out: int, complete: bool, took_s: float
) -> wire.PolicyReplay:
    parts = sorted({(unit, tag) for unit, tag, outcome in tally.counts if outcome != "same"})
    return wire.PolicyReplay(
        revision=revision,
        days=days,
        since=since,
        complete=complete,
        decisions=sum(tally.counts.values()),
        same=tally.total("same"),
        allow_to_deny=tally.total("allow->deny"),
        deny_to_allow=tally.total("deny->allow"),
        errors=tally.total("error"),
        left_out=left_out,
        took_s=round(took_s, 3),
        parts=[
            wire.ReplayedPart(
                unit=unit,
                tag=tag,
                allow_to_deny=tally.counts[unit, tag, "allow->deny"],
                deny_to_allow=tally.counts[unit, tag, "deny->allow"],
                errors=tally.counts[unit, tag, "error"],
            )
            for unit, tag in parts
        ],
        examples=[_example(example) for example in tally.examples],
    )


def _example(example: Example) -> wire.ReplayedDecision:
    """Without who asked: the event says that to those who may read it."""
    past, request = example.past, example.past.request
    return wire.ReplayedDecision(
        decision_id=past.id,
        outcome=example.outcome,
        action=request.action,
        task_type=request.tag,
        business_unit=request.unit,
        target=request.target,
        then=past.rule or past.reason,
        now=example.now.rule or example.now.reason,
    )
