"""`/metrics`: what this process counted (`counts.py`), and what the books say at the moment of the scrape.

What is counted begins at zero with the process; what is read is the same from every process of a registry.
"""

import re
import time
from collections.abc import Callable, Iterator
from datetime import datetime

from prometheus_client import exposition
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import CollectorRegistry
from sqlalchemy import text
from sqlmodel import Session, col, func, select

from enforcer.policy.reference import Sampler
from enforcer.policy.snapshot import Snapshot
from registry import db, exceptions, glass, quotas, runs, shadow
from registry.books import Books
from registry.tables import (
    KnownException,
    LogCheckpoint,
    PendingEntry,
    PolicyHead,
    Proposal,
    Run,
    Webhook,
    WebhookDelivery,
)

# Of the text format 0.0.4 and 1.0.0, of OpenMetrics 0.0.1 and 1.0.0.
VERSIONS = ("0.0.1", "0.0.4", "1.0.0")


def exposed(books: Books, accept: str) -> tuple[bytes, str]:
    """The exposition in the format that the scraper asks for, and what that is called."""
    encode, media_type = _encoder(accept)
    return encode(_Both(books)), media_type


def _encoder(accept: str) -> tuple[Callable[[CollectorRegistry], bytes], str]:
    """A version that is not one of the formats' is as good as none: the library repeats it, or falls over it."""
    versions = re.findall(r"\bversion\s*=\s*([^;,]*)", accept)
    known = all(version.strip().strip('"') in VERSIONS for version in versions)
    return exposition.choose_encoder(accept if known else "")


class _Both(CollectorRegistry):
    """One scrape: the counters of the process, then the books."""

    def __init__(self, books: Books) -> None:
        super().__init__()
        self._books = books

    def collect(self) -> Iterator[Metric]:
        yield from self._books.counts.registry.collect()
        yield from _of_the_books(self._books)


def _of_the_books(books: Books) -> Iterator[Metric]:
    """By queries whose cost does not grow with the history."""
    began = time.perf_counter()
    with books.reading() as session:
        gate = books.gate(session)
        yield from _of_the_policy(session, books)
        yield from _of_exceptions(session)
        yield from _of_quotas(session, gate)
        yield from _of_proposals(session)
        yield _runs(session)
        yield from _of_the_log(session, books)
        yield from _of_webhooks(session)
    yield from _of_keys(books)
    taken = time.perf_counter() - began
    yield GaugeMetricFamily("tagwarden_scrape_seconds", "How long it took to read the books for this.", taken)


def _of_the_policy(session: Session, books: Books) -> Iterator[Metric]:
    version = session.exec(select(PolicyHead.version).where(PolicyHead.role == "live")).first() or 0
    yield GaugeMetricFamily("tagwarden_policy_version", "Publications of the policy so far; moves with each.", version)
    unusable = float(books.policy_alarm is not None)
    yield GaugeMetricFamily(
        "tagwarden_policy_unusable", "1: the live policy cannot be used here, the last good one decides.", unusable
    )
    if isinstance(books.watch, Sampler):
        checks = CounterMetricFamily(
            "tagwarden_policy_checks", "Decisions put to stock Casbin as well, by what came of it.", labels=["result"]
        )
        watch = books.watch
        agreeing = watch.checked - watch.differing
        for result, count in (("same", agreeing), ("differs", watch.differing), ("dropped", watch.dropped)):
            checks.add_metric([result], count)
        yield checks
    beside = GaugeMetricFamily(
        "tagwarden_policy_shadow_decisions",
        "What the watched candidate answered beside the live policy.",
        labels=["task_type", "outcome"],
    )
    _, parts = shadow.counted(session)
    sums: dict[tuple[str, str], int] = {}
    for part in parts:
        sums[part.task_type, part.outcome] = sums.get((part.task_type, part.outcome), 0) + part.count
    for (task_type, outcome), count in sorted(sums.items()):
        beside.add_metric([task_type, outcome], count)
    yield beside


def _of_exceptions(session: Session) -> Iterator[Metric]:
    by_state = GaugeMetricFamily(
        "tagwarden_policy_exceptions",
        "Exceptions and overrides in force; `expiring` ends within seven days.",
        labels=["state"],
    )
    query = select(KnownException.state, func.count()).where(col(KnownException.state).in_(exceptions.OPEN))
    found = dict(session.exec(query.group_by(KnownException.state)).all())
    for state in exceptions.OPEN:
        by_state.add_metric([state], found.get(state, 0))
    yield by_state
    first = session.exec(
        select(func.min(KnownException.until)).where(col(KnownException.state).in_(exceptions.OPEN))
    ).first()
    if first is not None:
        yield GaugeMetricFamily(
            "tagwarden_policy_exception_next_end_timestamp_seconds",
            "When the next exception or override ends.",
            first.timestamp(),
        )


def _of_quotas(session: Session, gate: Snapshot) -> Iterator[Metric]:
    what = {
        "runs": "Runs at once, by quota.",
        "gpus": "GPUs at once, by quota.",
        "gpu_seconds": "GPU seconds in the window of a quota: used, and the most that open runs may take.",
    }
    taken = {name: GaugeMetricFamily(f"tagwarden_quota_{name}", text, labels=["quota"]) for name, text in what.items()}
    limits = {
        name: GaugeMetricFamily(f"tagwarden_quota_{name}_limit", f"What a quota gives. {text}", labels=["quota"])
        for name, text in what.items()
    }
    for quota in gate.policy.quotas:
        use = quotas.use(session, quota)
        for name, limit, used in (
            ("runs", quota.concurrent, use.runs),
            ("gpus", quota.max_gpus, use.gpus),
            ("gpu_seconds", quota.gpu_hours and quota.gpu_hours * 3600, use.gpu_hours_taken * 3600),
        ):
            if limit is not None:
                taken[name].add_metric([quota.id], used)
                limits[name].add_metric([quota.id], limit)
    yield from taken.values()
    yield from limits.values()


def _of_proposals(session: Session) -> Iterator[Metric]:
    waiting = GaugeMetricFamily("tagwarden_proposals_open", "Proposals that wait for reviews.", labels=["kind"])
    oldest = GaugeMetricFamily(
        "tagwarden_proposal_oldest_open_timestamp_seconds",
        "When the proposal was opened that waits the longest.",
        labels=["kind"],
    )
    query = select(Proposal.kind, func.count(), func.min(Proposal.opened_at)).where(Proposal.state == "open")
    for kind, count, since in session.exec(query.group_by(Proposal.kind)).all():
        waiting.add_metric([kind], count)
        oldest.add_metric([kind], since.timestamp())
    yield waiting
    yield oldest
    agreed = GaugeMetricFamily(
        "tagwarden_proposals_approved",
        "Proposals that are agreed to and not in effect; those that are `due` should be.",
        labels=["state"],
    )
    due = func.count().filter(col(Proposal.not_before) <= db.utc_now())
    counts = session.exec(select(func.count(), due).where(Proposal.state == "approved")).one()
    for state, count in zip(("all", "due"), counts, strict=True):
        agreed.add_metric([state], count)
    yield agreed
    yield from _of_broken_glass(session)


def _of_broken_glass(session: Session) -> Iterator[Metric]:
    """What was not reverted stays counted: nobody can end it, and what was done about it is not on record here."""
    family = GaugeMetricFamily(
        "tagwarden_proposals_provisional",
        "Changes that took effect before others agreed: `in-effect` still, or `not-reverted` although nobody did.",
        labels=["state"],
    )
    states = (glass.IN_EFFECT, glass.NOT_REVERTED)
    query = select(Proposal.provisional, func.count()).where(col(Proposal.provisional).in_(states))
    found = dict(session.exec(query.group_by(col(Proposal.provisional))).all())
    for state in states:
        family.add_metric([state], found.get(state, 0))
    yield family
    until = select(func.min(Proposal.provisional_until)).where(Proposal.provisional == glass.IN_EFFECT)
    if (first := session.exec(until).first()) is not None:
        yield GaugeMetricFamily(
            "tagwarden_proposal_next_undone_timestamp_seconds",
            "When the next of those is undone, unless it is ratified.",
            first.timestamp(),
        )


def _runs(session: Session) -> Metric:
    family = GaugeMetricFamily(
        "tagwarden_runs", "Runs that are going on, or may yet: permitted, running, lost.", labels=["task_type", "state"]
    )
    query = select(Run.task_type, Run.state, func.count()).where(*runs.in_flight(db.utc_now()))
    for task_type, state, count in session.exec(query.group_by(Run.task_type, Run.state)).all():
        family.add_metric([task_type, state], count)
    return family


def _of_the_log(session: Session, books: Books) -> Iterator[Metric]:
    waiting = session.exec(select(func.count()).select_from(PendingEntry)).one()
    yield GaugeMetricFamily("tagwarden_log_pending_events", "Events that have no place in the log yet.", waiting)
    size = session.exec(select(func.max(LogCheckpoint.size))).first() or 0
    yield GaugeMetricFamily("tagwarden_log_size", "Events under the newest signed head of the log.", size)
    doubt = float(books.log_alarm is not None)
    yield GaugeMetricFamily("tagwarden_log_in_doubt", "1: the log is not what was signed; nothing is given out.", doubt)


def _of_webhooks(session: Session) -> Iterator[Metric]:
    size = session.exec(select(func.max(LogCheckpoint.size))).first() or 0
    telling = select(func.count(col(Webhook.failing_since)), func.coalesce(func.min(Webhook.cursor), size))
    failing, furthest = session.exec(telling.where(Webhook.state == "active")).one()
    yield GaugeMetricFamily("tagwarden_webhooks_failing", "Webhooks whose receiver takes nothing now.", failing)
    behind = max(0, size - furthest)
    yield GaugeMetricFamily(
        "tagwarden_webhook_events_behind", "Events of the log that the webhook furthest behind has ahead.", behind
    )
    parked = select(func.count()).select_from(WebhookDelivery).where(text("state = 'parked'"))
    yield GaugeMetricFamily(
        "tagwarden_webhook_deliveries_parked", "Events that receivers refused for good.", session.exec(parked).one()
    )


def _of_keys(books: Books) -> Iterator[Metric]:
    turns = GaugeMetricFamily(
        "tagwarden_signing_key_next_turn_timestamp_seconds",
        "When the next key of this purpose begins to sign.",
        labels=["purpose"],
    )
    due: dict[str, datetime] = {}
    for key in books.ring.records():
        if key.state == "next":
            due[key.purpose] = min(key.activate_at, due.get(key.purpose, key.activate_at))
    for purpose, at in sorted(due.items()):
        turns.add_metric([purpose], at.timestamp())
    yield turns
