"""Permits that nobody redeemed in time: they end, so that what is looked through again and again holds live runs alone.

Nobody did anything, so it is no event each: a night's tickets that were never used would fill the log, and each one's
event of issue says until when it was good. A sweep leaves one event for each business unit, with the runs in it.
"""

from collections import defaultdict
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import and_, exists, or_, text
from sqlmodel import Session, col, select

from enforcer.tickets import LEEWAY_S
from registry import audit, db, quotas, runs
from registry.books import Books
from registry.identity import SERVICE
from registry.tables import IS_ALIVE, Run, Ticket

AT_ONCE = 200
NOBODY = "nobody redeemed the ticket in time"


def tend(books: Books) -> int:
    """End those that are over; returns how many. No request waits long for one of the transactions."""
    found = 0
    while True:
        with books.reading() as session:  # a look takes no write lock
            waiting = session.exec(select(Run.id).where(*_lapsed(db.utc_now())).limit(1)).first()
        if waiting is None:
            return found
        with books.writing() as session:
            ended = end_lapsed(session)
        if not ended:  # somebody holds those that are left; next time
            return found
        found += ended


def end_lapsed(session: Session) -> int:
    """The ticket is locked before its run, as redemption does it. It stays `issued`: a record of a run that redeemed it
    offline, before it was over, is taken whenever it comes."""
    now = db.utc_now()
    due = select(Run.jti).where(*_lapsed(now)).order_by(col(Run.id)).limit(AT_ONCE)
    tickets = select(Ticket.jti).where(col(Ticket.jti).in_(due), Ticket.state == "issued")
    held = session.exec(tickets.with_for_update(skip_locked=True)).all()
    permits = select(Run).where(col(Run.jti).in_(held), Run.state == "permitted").order_by(col(Run.id))
    by_unit: dict[str, list[str]] = defaultdict(list)
    for run in session.exec(permits.with_for_update()).all():
        run.state, run.ended_at, run.stop = "interrupted", now, NOBODY
        session.add(run)
        quotas.settle(session, run)
        by_unit[run.business_unit].append(run.id)
    for unit, ids in sorted(by_unit.items()):
        audit.record(session, "run.lapsed", replace(SERVICE, business_unit=unit), reason=NOBODY, detail={"runs": ids})
    return sum(map(len, by_unit.values()))


def _lapsed(now: datetime) -> tuple[Any, ...]:
    """Not while a redemption that began in time may be under way, nor while an offline record is expected. The first
    condition stands as text, as in `runs.in_flight`."""
    over = or_(
        and_(col(Ticket.redeem) == "online", col(Ticket.expires_at) < now - timedelta(seconds=2 * LEEWAY_S)),
        col(Ticket.expires_at) < now - runs.LOST_FOR,
    )
    return text(IS_ALIVE), col(Run.state) == "permitted", exists().where(col(Ticket.jti) == Run.jti, over)
