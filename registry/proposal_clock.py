"""What happens to proposals by the clock: reminders, escalations, ends, and what was agreed to for a later time."""

import logging
from collections.abc import Iterable, Iterator
from datetime import datetime

from sqlalchemy import ColumnElement, and_, or_
from sqlmodel import Session, col, select

from enforcer.problems import BreakGlassRefused, Problem
from registry import approvals, db, glass, proposals
from registry.books import Books
from registry.identity import SERVICE
from registry.tables import Proposal

log = logging.getLogger(__name__)


def tend(books: Books) -> int:
    """Tell and do what is due, each in a transaction of its own; returns how many proposals that concerned."""
    end_provisional(books)
    with books.reading() as session:  # nearly always nothing: a look takes no write lock
        due = list(session.exec(select(Proposal.id).where(_due(db.utc_now())).order_by(col(Proposal.id))))
    _tend_each(books, due)
    return len(due)


def end_provisional(books: Books) -> int:
    """Undo what took effect before others agreed and was not ratified in time; returns how much. Newest first: what
    stands on something else is taken back before that."""
    over = (col(Proposal.provisional) == glass.IN_EFFECT) & (col(Proposal.provisional_until) <= db.utc_now())
    with books.reading() as session:
        due = list(session.exec(select(Proposal.id).where(over).order_by(col(Proposal.id).desc())))
    _tend_each(books, due)
    return len(due)


def _tend_each(books: Books, due: Iterable[str]) -> None:
    """Whatever is wrong with one, the others have their time: it is tried again with the next look."""
    for proposal_id in due:
        try:
            _tend(books, proposal_id)
        except Exception:
            log.exception("%s is due, and could not be tended", proposal_id)


def _tend(books: Books, proposal_id: str) -> None:
    try:
        with books.writing() as session:
            proposal = proposals.get(session, proposal_id, for_change=True)
            if proposal.state == "approved" and _is_past(proposal.not_before):
                proposals.apply(session, proposal, books.gate(session))
            elif proposal.state == "open":
                _tell(session, proposal)
    except BreakGlassRefused:
        return  # it waits until what is in effect provisionally is ratified or undone
    except Problem as problem:
        _reopen(books, proposal_id, problem)


def _tell(session: Session, proposal: Proposal) -> None:
    if _is_past(proposal.expires_at):
        proposals.turn(session, proposal, "expired", SERVICE)
        return
    for what, more in list(_news(proposal)):
        proposals.record(session, what, SERVICE, proposal, more=more)
    session.add(proposal)


def _news(proposal: Proposal) -> Iterator[tuple[str, dict[str, str | None]]]:
    """What is to be told, which then is told for good."""
    if _is_past(proposal.remind_at):
        proposal.remind_at = None
        yield "proposal.reminded", {}
    if _is_past(proposal.escalate_at):
        proposal.escalate_at = None
        yield "proposal.escalated", {"group": approvals.terms(proposal).escalate_to}


def _reopen(books: Books, proposal_id: str, problem: Problem) -> None:
    """It cannot take effect as it was agreed to; its author edits it, or others agree."""
    with books.writing() as session:
        proposal = proposals.get(session, proposal_id, for_change=True)
        if proposal.state == "approved":
            proposals.drop_lost(session, proposal, books.gate(session), SERVICE)
            proposal.state = "open"
            proposals.begin_time(proposal)  # what it had is mostly over
            session.add(proposal)
            proposals.record(session, "proposal.reopened", SERVICE, proposal, reason=problem.detail[:1_000])


def _due(now: datetime) -> ColumnElement[bool]:
    told = [col(at) <= now for at in (Proposal.remind_at, Proposal.escalate_at, Proposal.expires_at)]
    return or_(
        and_(col(Proposal.state) == "open", or_(*told)),
        and_(col(Proposal.state) == "approved", col(Proposal.not_before) <= now),
    )


def _is_past(moment: datetime | None) -> bool:
    return moment is not None and moment <= db.utc_now()
