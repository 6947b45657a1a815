"""Permits taken back: by their user, by whoever may cancel there, with a principal, or by a policy that denies them
now.

An unused ticket is never redeemed. A run that trains learns of it with its next heartbeat, saves a checkpoint and
stops; its lease is not renewed meanwhile. An offline run is out of reach: its record, uploaded later, is an alarm.
"""

import json
from datetime import timedelta
from typing import Any

from sqlmodel import Session, col, or_, select

from enforcer import revoked, wire
from enforcer.policy.decision import Decision
from enforcer.policy.rules import PolicyInvalid
from enforcer.policy.snapshot import Snapshot
from enforcer.problems import TicketRevoked, UnknownPolicy, UnknownTicket
from enforcer.tickets import LEEWAY_S
from registry import access, audit, db, quotas, revisions, runs
from registry.access import Matter
from registry.books import Books
from registry.etags import ANY, Seen
from registry.identity import Actor
from registry.tables import Event, Run, Ticket

BATCH = 200
POLICY = "system:policy"  # who revokes when a new revision denies what an older one allowed


def revoke(session: Session, jti: str, by: Actor, reason: str, *, seen: Seen = ANY, **provenance: Any) -> Ticket:
    """Take one ticket back.

    Raises:
        UnknownTicket
        TicketRevoked: it was taken back before.
        RunClosed: its run has ended.
        Stale: it is not as the caller saw it.
    """
    ticket, run = _both(session, jti, for_change=True)
    seen.refuse_stale(wire.TicketStatus.model_validate(ticket))
    if ticket.state == "revoked":
        raise TicketRevoked(f"ticket `{jti}` was revoked at {ticket.revoked_at:%Y-%m-%dT%H:%M:%SZ}")
    runs.refuse_closed(run)
    _take_back(session, ticket, run, by, reason, **provenance)
    return ticket


def revoke_all_of(session: Session, principal_id: str, by: Actor, reason: str, **provenance: Any) -> int:
    """Take back every open ticket of a principal, and stop every run of theirs; returns how many there were.

    The caller's transaction is the one that disables the principal: nothing can be issued in between.
    """
    query = _alive().where(col(Run.actor) == principal_id)
    found = session.exec(query.with_only_columns(col(Ticket.jti)).order_by(col(Run.id))).all()
    for jti in found:  # all rows before the first count of a quota, as whoever ends a run takes them
        _both(session, jti, for_change=True)
    return sum(_revoke_if_alive(session, jti, by, reason, **provenance) for jti in found)


def recheck(books: Books) -> int:
    """Ask the live policy again about everything that is permitted or runs, when its revision is new here.

    What it denies and the revision before it would still allow is revoked; the events name rule and revision. Both are
    asked about now, on the facts of the decision then (groups and unit of the caller as recorded, the specification):
    nobody is stopped for what has nothing to do with the change, such as the hour of the day. Batches are transactions
    of their own. The revision is recorded last: cut off, it starts again. A process that cannot use the live revision
    asks nothing. Returns how many permits were taken back.
    """
    with books.reading() as session:
        if rechecked_by(session) == _usable(session, books):
            return 0
    revision, after, asked, taken = "", "", 0, 0
    while True:
        with books.writing() as session:
            db.queue_for(session, "recheck")
            gate, before = books.gate(session), rechecked_by(session)
            if before == gate.revision or gate.revision != revisions.live_revision(session):
                return taken  # another process was faster, or has to do it
            if revision != gate.revision:  # it changed again: what was asked is to be asked of the newest
                revision, after, asked = gate.revision, "", 0
            query = _alive().where(col(Run.id) > after).order_by(col(Run.id)).limit(BATCH)
            found = session.exec(query.with_only_columns(col(Run.id), col(Ticket.jti))).all()
            former = _former(session, before, gate)
            denied = [(jti, told) for _, jti in found if (told := _denial(session, jti, gate, former)) is not None]
            for jti, _ in denied:  # all rows before the first count of a quota, as whoever ends a run takes them
                _both(session, jti, for_change=True)
            for jti, (why, rule, unit) in denied:
                system = Actor(POLICY, (), unit)
                taken += _revoke_if_alive(session, jti, system, why, rule=rule, policy_revision=gate.revision)
            asked += len(found)
            if len(found) < BATCH:
                detail = {"before": before, "asked_again": asked, "revoked": taken}
                system = Actor(POLICY, (), "all")
                audit.record(session, "policy.live", system, policy_revision=revision, detail=detail)
                return taken
            after = found[-1][0]


def rechecked_by(session: Session) -> str | None:
    """The policy revision that everything was asked of last."""
    query = select(Event.policy_revision).where(col(Event.kind) == "policy.live").order_by(col(Event.id).desc())
    return session.exec(query.limit(1)).first()


def signed_list(session: Session, books: Books) -> str:
    """The revoked tickets that a verifier without a route to us could still take for good."""
    query = select(Ticket.jti).where(col(Ticket.state) == "revoked", col(Ticket.expires_at) > _too_old())
    return revoked.sign(session.exec(query).all(), books.ticket_key, issuer=books.settings.issuer)


def _too_old() -> Any:
    return db.utc_now() - timedelta(seconds=LEEWAY_S)


def _alive() -> Any:
    """Tickets that may still be redeemed, and runs that train and were not told to stop."""
    open_ticket = (col(Ticket.state) == "issued") & (col(Ticket.expires_at) > _too_old())
    training = col(Run.state).in_(("running", "lost")) & col(Run.stop).is_(None)
    alive = col(Run.state).in_(runs.OPEN)  # the partial index of both
    return select(Run, Ticket).join(Ticket, col(Ticket.jti) == col(Run.jti)).where(alive, or_(open_ticket, training))


def _both(session: Session, jti: str, *, for_change: bool = False) -> tuple[Ticket, Run]:
    # The ticket is locked before its run, everywhere: redemption does it in this order, too.
    ticket = session.get(Ticket, jti, with_for_update=for_change)
    run = None if ticket is None else session.get(Run, ticket.run_id, with_for_update=for_change)
    if ticket is None or run is None:
        raise UnknownTicket(f"`{jti[:100]}` is not a ticket")
    return ticket, run


def find(session: Session, jti: str) -> tuple[Ticket, Run]:
    """Raises `UnknownTicket`."""
    return _both(session, jti)


def _revoke_if_alive(session: Session, jti: str, by: Actor, reason: str, **provenance: Any) -> bool:
    """False when its run ended between the look and the lock."""
    ticket, run = _both(session, jti, for_change=True)
    if ticket.state == "revoked" or run.state not in runs.OPEN:
        return False
    _take_back(session, ticket, run, by, reason, **provenance)
    return True


def _usable(session: Session, books: Books) -> str | None:
    """The live revision, where this process decides by it; else the one that everything was asked of last."""
    live = revisions.live_revision(session)
    return live if books.gate(session).revision == live else rechecked_by(session)


def _former(session: Session, revision: str | None, gate: Snapshot) -> Snapshot | None:
    """The revision before, over the task types of now; None where there is none that can still be read."""
    try:
        return Snapshot(revisions.load(session, revision, gate.policy), gate.tag_parents) if revision else None
    except (UnknownPolicy, PolicyInvalid):
        return None


def _denial(session: Session, jti: str, gate: Snapshot, former: Snapshot | None) -> tuple[str, str | None, str] | None:
    """Why a permit is taken back, by which rule, and of which unit; None where it stays."""
    ticket, run = _both(session, jti)
    decision = _decide_again(session, ticket, run, gate)
    why = f"denied by policy {gate.revision[:19]}: {decision.reason}"
    if decision.allowed:
        if ticket.redeem == "online" or run.target in gate.policy.directory.offline:
            return None
        why = f"policy {gate.revision[:19]} lists `{run.target}` as offline no more"
    elif former is not None and not _decide_again(session, ticket, run, former).allowed:
        return None
    nearest = [miss.rule for miss in gate.nearest(decision.request, limit=1)]
    return why, decision.rule or next(iter(nearest), None), run.business_unit


def _decide_again(session: Session, ticket: Ticket, run: Run, gate: Snapshot) -> Decision:
    query = select(Event).where(col(Event.run_id) == run.id, col(Event.kind) == "ticket.issued")
    issued = session.exec(query).first()
    spec = json.loads(ticket.run_spec)
    # Erased facts allow nothing: a denial is what is left of a person whose record was erased.
    groups = tuple(issued.groups) if issued else ()
    asked = issued.detail.get("asked", {}) if issued else {}
    actor = Actor(run.actor, groups, asked.get("own_unit", run.business_unit))
    model = spec["inputs"]["model"]["name"]
    about = Matter(
        run.task_type, run.business_unit, run.target, spec["gpus"], model, change_ticket=asked.get("change_ticket")
    )
    return access.decide(gate, actor, "submit", about, point="trainer")


def _take_back(session: Session, ticket: Ticket, run: Run, by: Actor, reason: str, **provenance: Any) -> None:
    was, now = ticket.state, db.utc_now()
    ticket.state, ticket.revoked_at = "revoked", now
    run.stop = f"revoked by {by.id}: {reason}"[:1_000]
    if run.state == "permitted":
        run.state, run.ended_at = "interrupted", now
    session.add_all([ticket, run])
    quotas.settle(session, run)
    audit.record(
        session,
        "ticket.revoked",
        by,
        business_unit=run.business_unit,
        task_type=run.task_type,
        version=run.version,
        run_id=run.id,
        ticket_id=ticket.jti,
        reason=reason,
        detail={"was": was, "of": run.actor},
        **provenance,
    )
    session.flush()
