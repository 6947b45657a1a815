"""A candidate beside the live policy: asked what the live one was asked, counted, and never answered with.

Each process counts for itself, and adds what it counted to the books now and then. What a candidate does wrong costs a
line in the service's log, and nobody their answer.
"""

import logging
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from sqlalchemy import insert, update
from sqlmodel import Session, col, delete, select

from enforcer.policy.decision import Decision
from enforcer.policy.replay import Outcome, Past, compare
from enforcer.policy.revision import Policy
from enforcer.policy.rules import ANY_TAG, PolicyInvalid
from enforcer.policy.snapshot import Snapshot
from registry import db, revisions
from registry.counts import OTHER
from registry.tables import PolicyHead, PolicyShadowCount

log = logging.getLogger(__name__)
Key = tuple[str, str, str, Outcome]


class Shadow:
    def __init__(self) -> None:
        self._candidate: Snapshot | None = None
        self._counts: Counter[Key] = Counter()
        self._lock = threading.Lock()

    def follow(self, session: Session, tags: Mapping[str, str | None]) -> None:
        """The candidate that the books name, over these task types; none where it cannot be used."""
        wanted = session.exec(select(PolicyHead.revision).where(PolicyHead.role == "shadow")).first()
        known = self._candidate
        if wanted is None:
            self._candidate = None
        elif known is None or (known.revision, known.tag_parents) != (wanted, tags):
            try:
                self._candidate = Snapshot(revisions.load(session, wanted), tags)
            except PolicyInvalid as error:
                log.error("candidate %s cannot be watched: %s", wanted, error)
                self._candidate = None

    def compare(self, decision: Decision, own_unit: str) -> None:
        """Ask the candidate what the live policy decided for somebody of this unit. Never raises."""
        candidate = self._candidate
        if candidate is None:
            return
        try:
            asked = decision.request
            context = replace(asked.context, own_units=candidate.units_below(own_unit))
            aside = decision.reason == "not-in-scope"
            past = Past("", replace(asked, context=context), decision.reason, decision.rule, aside)
            outcome = compare(past, candidate.decide(past.request))
            unit = asked.unit if asked.unit in candidate.policy.directory.units else OTHER
            tag = asked.tag if asked.tag in candidate.tag_parents or asked.tag == ANY_TAG else OTHER
            with self._lock:
                self._counts[candidate.revision, unit, tag, outcome] += 1
        except Exception:
            log.exception("the candidate policy could not be asked")

    def take(self) -> Counter[Key]:
        """What was counted since the last time."""
        if not self._counts:
            return Counter()
        with self._lock:
            counts, self._counts = self._counts, Counter()
        return counts


def add(session: Session, counts: Counter[Key]) -> None:
    """Add to the books what a process counted."""
    db.queue_for(session, "policy shadow")
    connection = session.connection()
    for (candidate, unit, tag, outcome), count in sorted(counts.items()):
        row = {"candidate": candidate, "business_unit": unit, "task_type": tag, "outcome": outcome}
        where = [getattr(PolicyShadowCount, name) == value for name, value in row.items()]
        more = update(PolicyShadowCount).where(*where).values(count=col(PolicyShadowCount.count) + count)
        if connection.execute(more).rowcount == 0:
            connection.execute(insert(PolicyShadowCount).values(**row, count=count))


def watch(session: Session, candidate: Policy | None) -> None:
    """Put this revision beside the live one from now on, counted from nothing; None ends it."""
    db.queue_for(session, "policy shadow")
    head = session.get(PolicyHead, "shadow")
    if candidate is None:
        if head is not None:
            session.delete(head)
        return
    revisions.keep(session, candidate)
    session.connection().execute(
        delete(PolicyShadowCount).where(col(PolicyShadowCount.candidate) == candidate.revision)
    )
    if head is None:
        session.add(PolicyHead(role="shadow", revision=candidate.revision, version=1))
    else:
        head.revision, head.version = candidate.revision, head.version + 1
        session.add(head)
    session.flush()


def counted(session: Session) -> tuple[str | None, list[PolicyShadowCount]]:
    """The candidate that is watched, and what was counted of it."""
    candidate = session.exec(select(PolicyHead.revision).where(PolicyHead.role == "shadow")).first()
    query = select(PolicyShadowCount).where(PolicyShadowCount.candidate == candidate)
    by = col(PolicyShadowCount.business_unit), col(PolicyShadowCount.task_type)
    return candidate, list(session.exec(query.order_by(*by))) if candidate else []
