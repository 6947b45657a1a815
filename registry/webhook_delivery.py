"""Telling webhooks of events: at least once, each in the order of the log, and never lost.

The log is the outbox. An event's row commits with its effect, and the sequencer gives it a place without gaps; a
webhook keeps the index of the next one. Whoever holds its lease sends that event and then moves the index, provided
that the lease is still theirs: a crash in between sends the event again, under the same id.

What an answer means:
- 2xx: it was taken;
- 410: the receiver is gone, and the webhook ends;
- other 4xx that speak of the event (400, 413, 422, ...): tried eight times, then parked as a failed delivery, so that
  one event that cannot be taken does not hold up the others; a replay sends it again;
- all else (5xx, 3xx, 401, 403, 404, 408, 429, no answer): the receiver is down or wrong, and the event waits. The
  time between two tries doubles up to fifteen minutes, and there is no last one.
"""

import logging
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any, Literal

import rfc8785
from sqlalchemy import tuple_, update
from sqlmodel import Session, col, delete, or_, select

from registry import audit, db, log as tlog, webhook_guard, webhook_signing
from registry.books import Books
from registry.identity import SERVICE
from registry.tables import Event, LogEntry, Webhook, WebhookDelivery
from registry.webhook_events import MEDIA_TYPE, as_cloud_event
from registry.webhook_guard import Allowed, Answered, Unreachable

log = logging.getLogger("tagwarden")
LEASE = timedelta(seconds=60)  # four times what one request can take
TURN, TURN_FOR = 50, timedelta(seconds=10)  # for one webhook in a row, before others have theirs
PARK_AFTER = 8
FIRST_WAIT_S, LONGEST_WAIT_S, LONGEST_ASKED_S = 5.0, 900.0, 3_600.0
ALARM_AFTER = timedelta(hours=1)
KEPT = timedelta(days=30)
OF_THE_RECEIVER = frozenset({401, 403, 404, 405, 407, 408, 425, 429})
Clock = Callable[[], datetime]
Post = Callable[[str, Mapping[str, str], bytes, Allowed], Answered]
Outcome = Literal["delivered", "waits", "refused", "gone"]


@dataclass(frozen=True)
class Said:
    outcome: Outcome
    answer: str
    wait_s: float = 0.0  # as the receiver asked


def due(books: Books, now: datetime) -> list[str]:
    """The webhooks that wait to be told something and that nobody tells, the longest waiting first. Those that nothing
    of the log's news is for pass over it, all by one write."""
    with books.reading() as session:
        head = tlog.newest(session)
        size = head.size if head else 0
        query = select(Webhook).where(_may_be_told(now), col(Webhook.cursor) < size)
        behind = session.exec(query.order_by(col(Webhook.next_attempt_at), col(Webhook.id))).all()
        waiting = [hook.id for hook in behind if session.exec(_waiting(hook, size)).first() is not None]
    if idle := [(hook.id, hook.cursor) for hook in behind if hook.id not in waiting]:
        as_seen = tuple_(col(Webhook.id), col(Webhook.cursor)).in_(idle)  # a replay meanwhile has its way
        with books.writing() as session:
            session.connection().execute(update(Webhook).where(as_seen).values(cursor=size))
    return waiting


def deliver(books: Books, webhook_id: str, *, now: Clock = db.utc_now, post: Post = webhook_guard.post) -> int:
    """Tell a webhook of what waits for it, one turn long; returns how many it took. None, where somebody else does
    this already."""
    lease, taken, began = db.uuid7(), 0, now()
    with books.writing() as session:
        free = update(Webhook).where(col(Webhook.id) == webhook_id, _may_be_told(began))
        if session.connection().execute(free.values(lease=lease, leased_until=began + LEASE)).rowcount == 0:
            return 0
    while taken < TURN and now() - began < TURN_FOR and _tell_next(books, webhook_id, lease, now, post):
        taken += 1
    with books.writing() as session:
        _move(session, webhook_id, lease, lease=None, leased_until=None)
    return taken


def send(books: Books, webhook: Webhook, event: Event, *, now: datetime, post: Post = webhook_guard.post) -> Said:
    """One try. No session may be open: this waits for somebody else."""
    body = rfc8785.dumps(as_cloud_event(event, books.settings.issuer))
    root, secrets = webhook_signing.root_key(books.settings.keys_dir), [webhook.generation]
    if webhook.old_secret_until is not None and webhook.old_secret_until > now:
        secrets.append(webhook.generation - 1)
    by = [webhook_signing.secret(root, webhook.id, generation) for generation in secrets]
    headers = {
        "content-type": MEDIA_TYPE,
        "user-agent": "tagwarden",
        **webhook_signing.headers(event.id, now, body, by),
    }
    try:
        return _judged(post(webhook.url, headers, body, books.settings.webhook_allowed), now)
    except Unreachable as error:
        return Said("waits", str(error)[:300])


def forget_old(books: Books, now: datetime) -> None:
    """Deliveries of long ago; parked ones stay until they are delivered."""
    with books.writing() as session:
        old = col(WebhookDelivery.at) < now - KEPT
        session.exec(delete(WebhookDelivery).where(col(WebhookDelivery.state) == "delivered", old))


def _tell_next(books: Books, webhook_id: str, lease: str, now: Clock, post: Post) -> bool:
    with books.reading() as session:
        webhook, head = session.get(Webhook, webhook_id), tlog.newest(session)
        assert webhook is not None, "webhooks are never deleted"
        if webhook.lease != lease or head is None:
            return False
        found = session.exec(_waiting(webhook, head.size)).first()
    if found is None:
        return False
    index, event = found
    said = send(books, webhook, event, now=now(), post=post)
    with books.writing() as session:
        return _enter(session, webhook, lease, index, event, said, now())


def _waiting(webhook: Webhook, size: int) -> Any:
    """The next event that the webhook is told of. As the audit log is filtered: exactly the unit and the tag."""
    entry = col(LogEntry.index)
    query = select(LogEntry.index, Event).join(Event).where(entry >= webhook.cursor, entry < size)
    if webhook.business_unit != "all":
        query = query.where(Event.business_unit == webhook.business_unit)
    if webhook.task_type is not None:
        query = query.where(Event.task_type == webhook.task_type)
    if "*" not in webhook.kinds:
        query = query.where(or_(*(_of_kind(pattern) for pattern in webhook.kinds)))
    return query.order_by(entry).limit(1)


def _of_kind(pattern: str) -> Any:
    if pattern.endswith(".*"):
        return col(Event.kind).startswith(pattern[:-1], autoescape=True)
    return col(Event.kind) == pattern


def _enter(session: Session, webhook: Webhook, lease: str, index: int, event: Event, said: Said, now: datetime) -> bool:
    """Write what came of a try, unless the lease was taken away meanwhile. Whether the next event may follow."""
    attempts = webhook.attempts + 1
    parked = said.outcome == "refused" and attempts >= PARK_AFTER
    if said.outcome == "delivered" or parked:
        done = {"cursor": index + 1, "attempts": 0, "next_attempt_at": now, "failing_since": None}
        if not _move(session, webhook.id, lease, **done, leased_until=now + LEASE):
            return False
        session.merge(
            WebhookDelivery(
                webhook_id=webhook.id,
                id=event.id,
                state="parked" if parked else "delivered",
                attempts=attempts,
                at=now,
                answer=said.answer,
            )
        )
        if parked:
            log.error("webhook %s refuses event %s (%s): it is parked", webhook.id, event.id, said.answer)
        return True
    if said.outcome == "gone":
        reason = "the receiver answered 410 Gone"
        if _move(session, webhook.id, lease, state="ended", reason=reason):
            detail = {"webhook": webhook.id, "because": reason}
            audit.record(session, "webhook.ended", SERVICE, business_unit=webhook.business_unit, detail=detail)
        return False
    since = webhook.failing_since or now
    wait = max(said.wait_s, backoff_s(attempts))
    later = {"attempts": attempts, "failing_since": since, "next_attempt_at": now + timedelta(seconds=wait)}
    _move(session, webhook.id, lease, cursor=index, **later)
    if now - since > ALARM_AFTER:
        log.error("webhook %s takes nothing since %s: %s", webhook.id, since.isoformat(), said.answer)
    return False


def backoff_s(attempts: int) -> float:
    """Doubling from five seconds to fifteen minutes, and a quarter of it by chance, so that receivers which come back
    are not met by all at once."""
    longest = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2.0 ** min(attempts - 1, 10))
    return longest * random.uniform(0.75, 1.0)  # noqa: S311 -- spreads load, guards nothing


def _move(session: Session, webhook_id: str, held: str, /, **values: Any) -> bool:
    """Change a webhook under a lease that still is ours."""
    ours = update(Webhook).where(col(Webhook.id) == webhook_id, col(Webhook.lease) == held)
    return session.connection().execute(ours.values(**values)).rowcount == 1


def _may_be_told(now: datetime) -> Any:
    free = or_(col(Webhook.leased_until).is_(None), col(Webhook.leased_until) < now)
    return (col(Webhook.state) == "active") & (col(Webhook.next_attempt_at) <= now) & free


def _judged(answered: Answered, now: datetime) -> Said:
    status, answer = answered.status, f"answered {answered.status}"
    if 200 <= status < 300:
        return Said("delivered", answer)
    if status == 410:
        return Said("gone", answer)
    if 400 <= status < 500 and status not in OF_THE_RECEIVER:
        return Said("refused", answer)
    return Said("waits", answer, _asked_wait_s(answered.retry_after, now))


def _asked_wait_s(retry_after: str | None, now: datetime) -> float:
    """Seconds or a date (RFC 9110 section 10.2.3); nonsense is none."""
    if retry_after is None:
        return 0.0
    try:
        if retry_after.isascii() and retry_after.isdigit():
            wait = float(retry_after[:9])
        else:
            at = parsedate_to_datetime(retry_after)
            wait = ((at if at.tzinfo else at.replace(tzinfo=UTC)) - now).total_seconds()
    except (ValueError, OverflowError):
        return 0.0
    return min(max(wait, 0.0), LONGEST_ASKED_S)
