"""Webhooks: who is told of which events. How they are told: `webhook_delivery.py`."""

import hashlib
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

from sqlmodel import Session, col, func, select

from enforcer import wire
from enforcer.policy.snapshot import Snapshot
from enforcer.problems import Conflict, Invalid, NotFound, UnknownEvent
from registry import audit, db, log, people, tags, webhook_guard
from registry.access import Matter, Permit, decide
from registry.books import Books
from registry.etags import ANY, Seen
from registry.identity import SERVICE
from registry.tables import Event, LogEntry, Principal, Webhook
from registry.webhook_guard import Allowed

BOTH_SIGN = timedelta(hours=24)
MOST_OF_A_UNIT = 100


def create(session: Session, asked: wire.WebhookRequest, by: Permit, allowed: Allowed) -> Webhook:
    """A receiver of what happens from now on.

    Raises:
        Invalid: an address that events are not sent to.
        UnknownTaskType
        Conflict: its unit has as many as it may have.
    """
    webhook_guard.check_url(asked.url, allowed)
    _refuse_too_many(session, by.unit)
    head, now = log.newest(session), db.utc_now()
    row = Webhook(
        id=db.uuid7(now),
        url=asked.url,
        kinds=asked.kinds,
        business_unit=by.unit,
        task_type=tags.find(session, asked.task_type).name if asked.task_type else None,
        holder=by.actor.id,
        state="active",
        reason=None,
        lease=None,
        generation=1,
        created_at=now,
        cursor=head.size if head else 0,
        attempts=0,
        next_attempt_at=now,
    )
    session.add(row)
    told = {"host": urlsplit(row.url).hostname, "url_digest": _digest(row.url)}  # its path may be a secret
    _record(session, "webhook.created", row, by, **told, kinds=row.kinds, task_type=row.task_type)
    return row


def get(session: Session, webhook_id: str) -> Webhook:
    """Raises NotFound."""
    row = session.get(Webhook, webhook_id)
    if row is None:
        raise NotFound(f"there is no webhook `{webhook_id[:100]}`; `GET /v1/webhooks` lists them")
    return row


def change(session: Session, webhook_id: str, asked: wire.WebhookChange, by: Permit, *, seen: Seen = ANY) -> Webhook:
    """Pause, resume, choose other kinds. While it is paused nothing is lost: its place in the log stays.

    Raises:
        Conflict: it has ended.
        Stale: it is another than was `seen`.
    """
    row = _going_on(session, webhook_id, seen)
    said = asked.model_dump(exclude_none=True)
    if all(getattr(row, name) == value for name, value in said.items()):
        return row
    if "state" in said and said["state"] != row.state:
        row.next_attempt_at, row.failing_since, row.attempts, row.reason = db.utc_now(), None, 0, None
        row.holder = by.actor.id if said["state"] == "active" else row.holder
    for name, value in said.items():
        setattr(row, name, value)
    _interrupt(row)
    _record(session, "webhook.changed", row, by, **said)
    return row


def pause_of_nobody(books: Books) -> int:
    """Pause what is told on behalf of somebody who is let in no longer, or may not read it any more; returns how many.
    Somebody else may resume it, and then it is theirs."""
    active = select(Webhook).where(Webhook.state == "active")
    with books.reading() as session:  # nearly always nothing: no write lock is taken
        gate = books.gate(session)
        found = [row.id for row in session.exec(active) if _why_not_told(session, gate, row)]
    if not found:
        return 0
    with books.writing() as session:
        paused = 0
        for row in session.exec(active.where(col(Webhook.id).in_(found)).with_for_update()).all():
            if why := _why_not_told(session, gate, row):  # nobody else answers for it meanwhile
                row.state, row.reason, paused = "paused", why, paused + 1
                _interrupt(row)
                detail = {"webhook": row.id, "because": why, "principal": row.holder}
                audit.record(session, "webhook.paused", SERVICE, business_unit=row.business_unit, detail=detail)
        return paused


def _why_not_told(session: Session, gate: Snapshot, row: Webhook) -> str | None:
    """By what is known of the holder now (`people`): of whom nothing is known, nothing is permitted."""
    if session.get(Principal, row.holder) is not None:
        return "whoever made or resumed it last is disabled"
    holder = people.now(session, row.holder)
    if holder is None or not decide(gate, holder, "audit-read", Matter(unit=row.business_unit)).allowed:
        return "whoever made or resumed it last may not read these events any more (`audit-read`)"
    return None


def end(session: Session, webhook_id: str, by: Permit, *, seen: Seen = ANY) -> None:
    """For good; what was delivered stays to be read. Raises Conflict when it has ended, Stale as `change`."""
    row = _going_on(session, webhook_id, seen)
    row.state = "ended"
    _interrupt(row)
    _record(session, "webhook.ended", row, by)


def rotate_secret(session: Session, webhook_id: str, by: Permit) -> Webhook:
    """Begin the next secret; the one before signs beside it for a day. Raises Conflict when it has ended."""
    row, now = _going_on(session, webhook_id), db.utc_now()
    if row.old_secret_until is not None and row.old_secret_until > now:
        raise Conflict(
            f"the secret before this one signs until {row.old_secret_until:%Y-%m-%d %H:%M} UTC; a third would shut out "
            "receivers that have not changed yet. If it was stolen, end the webhook and make another"
        )
    row.generation += 1
    row.old_secret_until = now + BOTH_SIGN
    _record(session, "webhook.secret-rotated", row, by, generation=row.generation)
    return row


def replay(session: Session, webhook_id: str, since: str, by: Permit) -> Webhook:
    """Tell it again of everything from an event on, or from a moment on.

    Raises:
        Conflict: it has ended.
        UnknownEvent: no such event in the log, or nothing since then.
        Invalid: neither an event's id nor a time, or one that it was not told of yet.
    """
    row = _going_on(session, webhook_id)
    index = _index_since(session, since)
    if index > row.cursor:
        raise Invalid(f"`{since[:100]}` is still to come for this webhook; a replay goes back, and never forward")
    row.cursor, row.attempts, row.next_attempt_at, row.failing_since = index, 0, db.utc_now(), None
    _interrupt(row)
    _record(session, "webhook.replayed", row, by, cursor=index)
    return row


def ping(session: Session, webhook_id: str, by: Permit) -> tuple[Webhook, Event]:
    """The event that tries a webhook out: it is itself what is sent."""
    row = _going_on(session, webhook_id)
    return row, _record(session, "webhook.tested", row, by)


def _index_since(session: Session, since: str) -> int:
    query = select(LogEntry.index).order_by(col(LogEntry.index)).limit(1)
    known = session.exec(query.where(LogEntry.event_id == since)).first()
    if known is not None:
        return known
    try:
        moment = datetime.fromisoformat(since)
    except ValueError:
        raise UnknownEvent(f"`from` is neither an event of the log nor a time: `{since[:100]}`") from None
    if moment.tzinfo is None or not 1970 <= moment.year < 9000:
        raise Invalid(f"`{since[:100]}` needs a zone and a year of ours, as in `2030-01-31T12:00:00Z`")
    found = session.exec(query.join(Event).where(col(Event.id) >= db.uuid7_floor(moment))).first()
    if found is None:
        raise UnknownEvent(f"nothing was logged since `{since[:100]}`")
    return found


def _going_on(session: Session, webhook_id: str, seen: Seen = ANY) -> Webhook:
    db.queue_for(session, f"webhook {webhook_id}")
    row = get(session, webhook_id)
    if row.state == "ended":
        raise Conflict(f"webhook `{row.id}` has ended ({row.reason or 'by its owner'}); make another")
    seen.refuse_stale(wire.Webhook.model_validate(row))
    return row


def _refuse_too_many(session: Session, unit: str) -> None:
    """Each that goes on is looked at whenever the log moves."""
    db.queue_for(session, f"webhooks of {unit}")
    query = select(func.count()).select_from(Webhook).where(Webhook.business_unit == unit, Webhook.state != "ended")
    if session.exec(query).one() >= MOST_OF_A_UNIT:
        raise Conflict(f"`{unit}` has {MOST_OF_A_UNIT} webhooks, the most there may be; end one that is not needed")


def _digest(text: str) -> str:
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def _interrupt(row: Webhook) -> None:
    """Whoever delivers to it right now may not move its place in the log any more."""
    row.lease = row.leased_until = None


def _record(session: Session, kind: str, row: Webhook, by: Permit, **detail: Any) -> Event:
    detail = {"webhook": row.id, **detail}
    return audit.record(session, kind, by.actor, business_unit=row.business_unit, detail=detail, **by.provenance)
