"""Erasure: what is personal in events goes, salt and all; the log and every proof stay. And what stops it, legal hold.

The database lets nothing else be changed in an event (triggers, migration 0001). Erasure goes in batches of short
transactions between two events of its own: one that it begins, before anything is gone, and one that it is done.
Neither names the person: they hold a salted digest, whose salt only the receipt has.
"""

import hashlib
import json
import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Engine, Text, cast, or_, update
from sqlmodel import Session, col, delete, select

from enforcer import tlog, wire
from enforcer.problems import ErasureRefused, Held, NotFound
from registry import audit, db
from registry.identity import Actor
from registry.tables import (
    OPEN_RUNS,
    ApiToken,
    Event,
    IdempotentAnswer,
    LegalHold,
    Principal,
    Run,
    StoredAnswer,
    Webhook,
)

BATCH = 500
HOLDS = "legal hold"  # what placing a hold and erasing queue for: none is placed between the check and the change


def erase(
    engine: Engine, asked: wire.ErasureRequest, by: Actor, unit: str, provenance: Mapping[str, Any]
) -> wire.ErasureReceipt:
    """Erase a person from events, ended runs and kept answers, and end their tokens; in one unit, or in `all`.

    Proposals, reviews and delegations keep the names in them: they are the proof that somebody else agreed, and are
    never changed.

    Raises:
        ErasureRefused: the person erases themselves, the reason names them, or a run of theirs has not ended.
        Held: a legal hold covers something of it; nothing was erased.
    """
    person = asked.actor
    if by.id == person:
        raise ErasureRefused("nobody erases themselves: the record of it would name them again; ask somebody else")
    if _names(person, asked.reason):
        raise ErasureRefused("the reason names the person, and reasons stay on record; say it without the name")
    salt = secrets.token_hex(16)
    digest = f"sha256:{hashlib.sha256(bytes.fromhex(salt) + person.encode()).hexdigest()}"
    with db.reading(engine) as session:
        going_on = select(Run.id).where(Run.actor == person, col(Run.state).in_(OPEN_RUNS))
        if session.exec(going_on if unit == "all" else going_on.where(Run.business_unit == unit)).first() is not None:
            raise ErasureRefused("a run of theirs has not ended; cancel it or wait, then erase")
        holds = active_holds(session)
        _refuse_held([hold for hold in holds if hold.actor == person and unit in ("all", hold.business_unit or unit)])
    if holds:  # all of it is looked at before any of it goes
        for ids in _naming(engine, person, unit):
            with db.reading(engine) as session:
                _refuse_held(list(_held(session, ids).values()))
    with db.writing(engine) as session:
        facts: dict[str, Any] = {"business_unit": unit, "digest": digest, **provenance}
        audit.record(session, "audit.erased", by, reason=asked.reason, **facts)
        _forget_holder(session, person, unit)
        _end_tokens(session, person, unit)

    events = 0
    for ids in _naming(engine, person, unit):
        with db.writing(engine) as session:
            erased, held = erase_events(session, ids)
            events += erased
            _refuse_held(held)  # placed meanwhile: what this batch did is rolled back, what went before it is on record
    runs = _erase_runs(engine, person, unit)
    with db.writing(engine) as session:
        answers = _forget_answers(session, person, unit)
        _forget_released_holds(session, person)
        _forget_disabler(session, person)
        detail = {"events": events, "runs": runs, "answers": answers}
        audit.record(session, "audit.erasure-finished", by, detail=detail, **facts)
    return wire.ErasureReceipt(person_digest=digest, salt=salt, **detail)


def erase_events(session: Session, ids: Sequence[str]) -> tuple[int, list[LegalHold]]:
    """Erase what no hold covers: how many, and the holds that kept others. The transaction must be a writing one."""
    db.queue_for(session, HOLDS)
    keeping = _held(session, ids)
    free = [event_id for event_id in ids if event_id not in keeping]
    change = update(Event).where(col(Event.id).in_(free), col(Event.salt).is_not(None))
    return session.connection().execute(change.values(**tlog.ERASED, salt=None)).rowcount, list(keeping.values())


def free_of_hold(session: Session, ids: Sequence[str]) -> list[str]:
    """Those of these events that `erase_events` would erase."""
    keeping = _held(session, ids)
    return [event_id for event_id in ids if event_id not in keeping]


# --- legal hold -------------------------------------------------------------------------------------------------------


def place_hold(
    session: Session, reason: str, by: Actor, *, business_unit: str | None, actor: str | None, run_id: str | None
) -> LegalHold:
    """Keep what fits all given filters from erasure and retention; without any, everything."""
    db.queue_for(session, HOLDS)
    hold = LegalHold(
        id=f"hld-{db.uuid7()}",
        reason=reason,
        placed_by=by.id,
        placed_at=db.utc_now(),
        business_unit=business_unit,
        actor=actor,
        run_id=run_id,
    )
    session.add(hold)
    _record_hold(session, "hold.placed", hold, by, reason)
    return hold


def release_hold(session: Session, hold_id: str, reason: str, by: Actor) -> LegalHold:
    """Raises `NotFound`: no hold with this id is active."""
    hold = session.get(LegalHold, hold_id, with_for_update=True)
    if hold is None or hold.released_at is not None:
        raise NotFound(f"`{hold_id[:60]}` is not a legal hold that is active; see `tagwarden audit hold list`")
    hold.released_at = db.utc_now()
    session.add(hold)
    _record_hold(session, "hold.released", hold, by, reason)
    return hold


def active_holds(session: Session) -> list[LegalHold]:
    return list(session.exec(select(LegalHold).where(col(LegalHold.released_at).is_(None)).order_by(LegalHold.id)))


def _record_hold(session: Session, kind: str, hold: LegalHold, by: Actor, reason: str) -> None:
    covers = {name: getattr(hold, name) for name in ("business_unit", "actor", "run_id")}
    detail = {"hold": hold.id, "covers": {name: value for name, value in covers.items() if value is not None}}
    unit = hold.business_unit or by.business_unit
    audit.record(session, kind, by, business_unit=unit, run_id=hold.run_id, reason=reason, detail=detail)


def _held(session: Session, ids: Sequence[str]) -> dict[str, LegalHold]:
    """Events by id, each with a hold that covers it."""
    holds = active_holds(session)
    if not holds:
        return {}
    return {event.id: hold for event in _events(session, ids) for hold in holds if _covers(hold, event)}


def _covers(hold: LegalHold, event: Event) -> bool:
    return (
        hold.business_unit in (None, event.business_unit)
        and hold.run_id in (None, event.run_id)
        and (hold.actor is None or event.actor == hold.actor or _is_about(hold.actor, event))
    )


def _refuse_held(holds: Sequence[LegalHold]) -> None:
    if holds:
        ids = sorted({hold.id for hold in holds})
        raise Held(f"legal hold `{ids[0]}` keeps this from being erased; it has to be released first", holds=ids)


# --- what names a person ----------------------------------------------------------------------------------------------


def _naming(engine: Engine, person: str, unit: str) -> Iterator[list[str]]:
    """Ids of events not erased yet that are by the person or name them, oldest first, up to `BATCH` at a time."""
    likely = _like(person)
    about = or_(
        col(Event.actor) == person,
        col(Event.reason).like(likely, escape="\\"),
        cast(col(Event.detail), Text).like(likely, escape="\\"),
    )
    after = ""
    while True:
        query = select(Event).where(about, col(Event.salt).is_not(None), col(Event.id) > after)
        if unit != "all":
            query = query.where(Event.business_unit == unit)
        with db.reading(engine) as session:
            found = session.exec(query.order_by(col(Event.id)).limit(BATCH)).all()
            ids = [event.id for event in found if event.actor == person or _is_about(person, event)]
            last = found[-1].id if found else None
        if ids:
            yield ids
        if last is None:
            return
        after = last


def _is_about(person: str, event: Event) -> bool:
    return _names(person, event.reason or "") or _names(person, json.dumps(event.detail, ensure_ascii=False))


def _like(person: str) -> str:
    return "%" + re.sub(r"([\\%_])", r"\\\1", person) + "%"


def _names(person: str, text: str) -> bool:
    """As a whole word: `user:li` is not named by `user:lily`."""
    return re.search(rf"(?<![\w.:@/|+=~-]){re.escape(person)}(?![\w@/|+=~-]|[.:]\w)", text) is not None


def _events(session: Session, ids: Sequence[str]) -> Sequence[Event]:
    return session.exec(select(Event).where(col(Event.id).in_(ids))).all()


def older_than(engine: Engine, moment: datetime) -> Iterator[list[tuple[str, str, datetime]]]:
    """`(id, kind, at)` of what is personal and older, oldest first, up to `BATCH` at a time."""
    after = ""
    while True:
        query = select(Event.id, Event.kind, Event.at).where(
            col(Event.id) > after, col(Event.id) < db.uuid7_floor(moment), col(Event.salt).is_not(None)
        )
        with db.reading(engine) as session:
            found = list(session.exec(query.order_by(col(Event.id)).limit(BATCH)))
        if not found:
            return
        yield found
        after = found[-1][0]


# --- beside the log ---------------------------------------------------------------------------------------------------


def _end_tokens(session: Session, person: str, unit: str) -> None:
    ended = delete(ApiToken).where(col(ApiToken.actor) == person)
    session.exec(ended if unit == "all" else ended.where(col(ApiToken.business_unit) == unit))


def _forget_holder(session: Session, person: str, unit: str) -> None:
    """A webhook is its unit's, and goes on."""
    theirs = update(Webhook).where(col(Webhook.holder) == person)
    held = theirs if unit == "all" else theirs.where(col(Webhook.business_unit) == unit)
    session.connection().execute(held.values(holder=tlog.ERASED["actor"]))


def _erase_runs(engine: Engine, person: str, unit: str) -> int:
    """The name of whoever asked for a run, and of whoever stopped it or was named as they did."""
    count, after = 0, ""
    mine = or_(col(Run.actor) == person, col(Run.stop).like(_like(person), escape="\\"))
    query = select(Run).where(mine, col(Run.state).not_in(OPEN_RUNS)).order_by(col(Run.id)).limit(BATCH)
    if unit != "all":
        query = query.where(Run.business_unit == unit)
    while True:
        with db.writing(engine) as session:
            found = session.exec(query.where(col(Run.id) > after)).all()
            for run in found:
                told = run.stop is not None and _names(person, run.stop)
                count += told or run.actor == person
                run.actor = tlog.ERASED["actor"] if run.actor == person else run.actor
                run.stop = run.stop.split()[0] if run.stop is not None and told else run.stop
                session.add(run)
            if len(found) < BATCH:
                return count
            after = found[-1].id


def _forget_answers(session: Session, person: str, unit: str) -> int:
    """Kept answers hold the ticket, whose `sub` is the person, or what the person changed; the latter go for all units,
    since they would go within a day anyway."""
    others = session.exec(select(StoredAnswer).where(StoredAnswer.actor == person)).all()
    for stored in others:
        session.delete(stored)
    kept = session.exec(select(IdempotentAnswer).where(IdempotentAnswer.actor == person)).all()
    gone = [answer for answer in kept if unit in ("all", _unit_of(session, answer))]
    for answer in gone:
        session.delete(answer)
    return len(gone) + len(others)


def _unit_of(session: Session, answer: IdempotentAnswer) -> str | None:
    run = session.exec(select(Run).where(Run.jti == answer.jti)).first()
    return run.business_unit if run else None


def _forget_released_holds(session: Session, person: str) -> None:
    released = col(LegalHold.released_at).is_not(None)
    for column in (LegalHold.actor, LegalHold.placed_by):
        session.connection().execute(
            update(LegalHold).where(col(column) == person, released).values({col(column): tlog.ERASED["actor"]})
        )


def _forget_disabler(session: Session, person: str) -> None:
    """That somebody is let in no longer stays, with their name: it is what keeps them out."""
    named = or_(col(Principal.disabled_by) == person, col(Principal.reason).like(_like(person), escape="\\"))
    for row in session.exec(select(Principal).where(named)):
        row.disabled_by = tlog.ERASED["actor"] if row.disabled_by == person else row.disabled_by
        row.reason = tlog.ERASED["actor"] if _names(person, row.reason) else row.reason
        session.add(row)
