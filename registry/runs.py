"""Runs: they report, the registry judges. Listing and cancelling."""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, get_args

from sqlalchemy import ColumnElement, and_, exists, or_, text
from sqlmodel import Session, col, select

from enforcer import gates, wire
from enforcer.problems import ManifestInvalid, RunClosed, UnknownRun
from enforcer.runspec import RunSpec, canonical_bytes, digest
from registry import audit, db, manifests, quotas
from registry.access import Permit
from registry.books import Books
from registry.etags import ANY, Seen
from registry.filters import Field, Listing
from registry.identity import SERVICE, Actor
from registry.tables import IS_ALIVE, OPEN_RUNS, Run, Ticket

OPEN = OPEN_RUNS
SWEEP_AT_ONCE = 200
LOST_FOR = timedelta(days=7)  # then nobody waits for it any more, though it may still be heard of
# Sorted by what an index serves, for there may be millions; an id is made of the moment that the run was permitted.
LISTING = Listing(
    key=Run.id,
    descending=True,
    fields={
        "task_type": Field(Run.task_type, sort=Run.task_type),
        "version": Field(Run.version, "number"),
        "actor": Field(Run.actor),
        "state": Field(Run.state, "word", ("permitted", "running", "lost", "finished", "failed", "interrupted")),
        "target": Field(Run.target),
        "pool": Field(Run.pool),
        "verdict": Field(Run.verdict, "word", get_args(gates.Verdict)),
        "policy_rule": Field(Run.policy_rule),
        "run_spec_digest": Field(Run.run_spec_digest),
        "created_at": Field(Run.created_at, "moment", sort=Run.id),
        "started_at": Field(Run.started_at, "moment"),
        "ended_at": Field(Run.ended_at, "moment"),
        "step": Field(Run.step, "number"),
    },
)


def heartbeat(session: Session, run_id: str, beat: wire.Heartbeat, books: Books) -> wire.HeartbeatAnswer:
    """Renew the lease and say whether to go on.

    A lease that lapsed while the registry was down is renewed all the same, and a run that was lost is back: an outage
    of the network is no crime. A run that was told to stop gets no more time.

    Raises:
        RunClosed: the run has ended.
    """
    run = get(session, run_id, for_change=True)
    refuse_closed(run)
    now = db.utc_now()
    run.heartbeat_at = now
    if run.stop is None:
        run.lease_expires_at = now + timedelta(seconds=books.settings.lease_ttl_s)
        if run.state == "lost":
            run.state = "running"
            quotas.settle(session, run)
            audit.record(session, "run.found", Actor(run.actor, (), run.business_unit), **_names(run))
    run.step, run.total_steps, run.logs = beat.step, beat.total_steps, beat.logs
    session.add(run)
    return wire.HeartbeatAnswer(expires_at=run.lease_expires_at or now, stop=run.stop)


def mark_lost(session: Session, grace: timedelta) -> int:
    """Mark runs as lost whose lease lapsed longer than `grace` ago; returns how many. They come back by being heard of.

    At most `SWEEP_AT_ONCE`, so that no request waits long for the transaction; call again.
    """
    query = select(Run).where(*_silent(grace)).limit(SWEEP_AT_ONCE)
    found = session.exec(query.with_for_update(skip_locked=True)).all()
    for run in found:
        run.state = "lost"
        last = run.heartbeat_at or run.started_at
        heard = {"last_heard": last.isoformat() if last else None, "step": run.step}
        audit.record(
            session, "run.lost", replace(SERVICE, business_unit=run.business_unit), detail=heard, **_names(run)
        )
        session.add(run)
        quotas.settle(session, run)
    return len(found)


def any_silent(session: Session, grace: timedelta) -> bool:
    return session.exec(select(Run.id).where(*_silent(grace)).limit(1)).first() is not None


def _silent(grace: timedelta) -> tuple[Any, ...]:
    return col(Run.state) == "running", col(Run.lease_expires_at) < db.utc_now() - grace


def in_flight(now: datetime) -> tuple[ColumnElement[bool], ...]:
    """Which runs are going on, or may yet: a permit counts while its ticket can be redeemed, a lost run for a week.

    The first condition stands as text, since SQLite takes the partial index for nothing less.
    """
    redeemable = exists().where(col(Ticket.jti) == Run.jti, col(Ticket.expires_at) > now)
    expected = or_(
        col(Run.state) == "running",
        and_(col(Run.state) == "permitted", redeemable),
        and_(col(Run.state) == "lost", col(Run.lease_expires_at) > now - LOST_FOR),
    )
    return text(IS_ALIVE), expected  # type: ignore[return-value]


def specification(session: Session, run: Run) -> RunSpec:
    """What the run's ticket permitted."""
    return RunSpec.read(_ticket(session, run).run_spec, expected_digest=run.run_spec_digest)


def _ticket(session: Session, run: Run) -> Ticket:
    ticket = session.get(Ticket, run.jti)
    assert ticket is not None, "a run and its ticket are written together"
    return ticket


def report(session: Session, run_id: str, told: wire.Report, books: Books) -> wire.ReportedRun:
    """Take the final report, judge it by the gates of the version that the ticket was issued for, and countersign the
    manifest that came with it.

    The same report again (a lost answer, a spool sent twice) changes nothing.

    Raises:
        RunClosed: the run has ended with another report.
        ManifestInvalid: the manifest is not of this run, or does not say what the report says; a run that finished
            brings none.
    """
    run = get(session, run_id, for_change=True)
    told_digest = digest(canonical_bytes(told.model_dump(mode="json")))
    if run.report_digest == told_digest:
        return reported(session, run)
    refuse_closed(run)
    if told.state == "finished" and told.manifest is None:
        raise ManifestInvalid(
            "the report says `finished` and brings no `manifest`: a run signs for what it left, with the key that its "
            "ticket names. One that cannot ends as `failed`"
        )
    spec = specification(session, run)
    run.state, run.ended_at, run.report_digest = told.state, db.utc_now(), told_digest
    run.scores = {name: score.model_dump() for name, score in told.scores.items()}
    run.step = max(run.step, told.steps)
    actor = Actor(run.actor, (), run.business_unit)
    facts = _names(run)
    audit.record(
        session,
        f"run.{told.state}",
        actor,
        rule=run.policy_rule,
        reason=told.error,
        detail={
            "steps": told.steps,
            "train_seconds": told.train_seconds,
            "outputs": told.outputs,
            "peak_memory_bytes": told.peak_memory_bytes,
        },
        **facts,
    )
    if told.state == "finished":
        judgements = gates.judge_run(spec.profile.gates, spec.arguments, told.scores)
        run.gates = [judgement.model_dump(mode="json") for judgement in judgements]
        run.verdict = gates.overall(judgements)
        audit.record(
            session,
            f"gate.{run.verdict}",
            replace(SERVICE, business_unit=run.business_unit),
            detail={"gates": run.gates},
            **facts,
        )
    if told.manifest is not None:
        manifests.take(session, run, spec, told, books, jkt=_ticket(session, run).jkt)
    session.add(run)
    quotas.settle(session, run)
    session.flush()
    return reported(session, run)


def note_force(session: Session, run_id: str, use: wire.ForcedUse, permit: Permit) -> Run:
    """Who holds the files can load them with any library, so this asks for no right but to see the run: a record that
    is refused would only not be made."""
    run = get(session, run_id)
    audit.record(
        session,
        "run.forced",
        permit.actor,
        business_unit=run.business_unit,
        task_type=run.task_type,
        version=run.version,
        run_id=run.id,
        reason=use.reason,
        detail={"use": use.use, "state": run.state, "verdict": run.verdict},
        **permit.provenance,
    )
    return run


def cancel(session: Session, run_id: str, permit: Permit, seen: Seen = ANY) -> Run:
    """Stop a run: one that is running saves a checkpoint and learns of it with its next heartbeat, one that has not
    started never will, and for one that is lost nobody waits any more.

    Raises:
        RunClosed: it has ended already.
        Stale: it is not as the caller saw it.
    """
    # The ticket is locked before its run, as redemption does it: the other order waits for ever on PostgreSQL.
    ticket = session.get(Ticket, get(session, run_id).jti, with_for_update=True)
    assert ticket is not None, "a run and its ticket are written together"
    run = get(session, run_id, for_change=True)
    seen.refuse_stale(as_wire(run))
    refuse_closed(run)
    run.stop = run.stop or f"cancelled by {permit.actor.id}"
    if run.state == "permitted":
        ticket.state, ticket.revoked_at = "revoked", db.utc_now()
        session.add(ticket)
    if run.state != "running":
        run.state, run.ended_at = "interrupted", db.utc_now()
    audit.record(
        session,
        "run.cancelled",
        permit.actor,
        business_unit=run.business_unit,
        task_type=run.task_type,
        version=run.version,
        run_id=run.id,
        **permit.provenance,
    )
    session.add(run)
    quotas.settle(session, run)
    session.flush()
    return run


def get(session: Session, run_id: str, *, for_change: bool = False) -> Run:
    """Raises `UnknownRun`. For a change the row is locked, where the database has row locks."""
    found = session.get(Run, run_id, with_for_update=for_change)
    if found is None:
        raise UnknownRun(f"`{run_id[:100]}` is not a run")
    return found


def as_wire(run: Run) -> wire.Run:
    return wire.Run.model_validate(run.model_dump())


def reported(session: Session, run: Run) -> wire.ReportedRun:
    return wire.ReportedRun(**as_wire(run).model_dump(), receipt=manifests.receipt_of(session, run.id))


def _names(run: Run) -> dict[str, Any]:
    """What every event of a run is found by."""
    return {"task_type": run.task_type, "version": run.version, "run_id": run.id, "ticket_id": run.jti}


def refuse_closed(run: Run) -> None:
    if run.state not in OPEN:
        raise RunClosed(f"run `{run.id}` is {run.state} since {run.ended_at:%Y-%m-%dT%H:%M:%SZ}")
