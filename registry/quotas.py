"""Quotas: what a run may take is reserved in the transaction that writes its ticket, and settled when it ends.

A run counts in every quota that covers its unit and task type. Until it ends it counts with the most that it may take
(GPUs times the time limit of its task type), afterwards with what it took, in the window in which it was permitted.
A ticket that lapses gives back all; a run that is lost counts for the time in which it was heard of, and again in full
when it is found. Whoever changes a count holds one lock until the commit, so two never see the same room.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, text
from sqlmodel import Session, col, select

from enforcer import wire
from enforcer.policy.quotas import Quota
from enforcer.problems import QuotaExceeded
from enforcer.tickets import LEEWAY_S
from registry import db
from registry.tables import QuotaHold, QuotaUse, Run

NOW = "now"  # the period of what is counted at once
COUNTING = ("permitted", "running")
LAPSED_AT_ONCE = 500
_ADD = text(
    "insert into quota_use (quota, period, runs, gpus, gpu_s) values (:quota, :period, :runs, :gpus, :gpu_s) "
    "on conflict (quota, period) do update set runs = quota_use.runs + excluded.runs, "
    "gpus = quota_use.gpus + excluded.gpus, gpu_s = quota_use.gpu_s + excluded.gpu_s"
)
_USES: Any = QuotaUse.__table__  # type: ignore[attr-defined]
_HOLDS: Any = QuotaHold.__table__  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Reservation:
    """What one run wants of one quota."""

    quota: Quota
    run_id: str
    gpus: int
    gpu_s: int
    period: str | None
    resets_at: datetime | None
    lapses_at: datetime


def reservations(
    quotas: Iterable[Quota], *, run_id: str, gpus: int, max_runtime_s: int, expires_at: datetime, offline: bool
) -> tuple[Reservation, ...]:
    """What a run that is permitted now takes of these quotas."""
    lapses_at = expires_at + timedelta(seconds=LEEWAY_S + (max_runtime_s if offline else 0))
    found = []
    for quota in quotas:
        period, resets_at = quota.period(db.utc_now()) or (None, None)
        found.append(Reservation(quota, run_id, gpus, gpus * max_runtime_s, period, resets_at, lapses_at))
    return tuple(found)


class Room:
    """What is left in the quotas that a batch of runs wants something of, under the lock until the commit."""

    def __init__(self, connection: Connection, wanted: Sequence[Reservation]) -> None:
        self._connection = connection
        self._taken: list[Reservation] = []
        self._counts: dict[tuple[str, str], list[int]] = {}
        if wanted:
            db.queue_on(connection, "quotas")
            quotas = {one.quota.id for one in wanted}
            for row in connection.execute(_USES.select().where(_USES.c.quota.in_(sorted(quotas)))):
                self._counts[row.quota, row.period] = [row.runs, row.gpus, row.gpu_s]

    def take(self, run: Sequence[Reservation]) -> QuotaExceeded | None:
        """Take all that one run wants, or nothing and say why."""
        for one in run:
            if (refusal := self._refusal(one)) is not None:
                return refusal
        for one in run:
            self._count(one, NOW)[0] += 1
            self._count(one, NOW)[1] += one.gpus
            if one.period is not None:
                self._count(one, one.period)[2] += one.gpu_s
        self._taken += run
        return None

    def write(self) -> None:
        """Write what was taken, once the runs are written."""
        for one in self._taken:
            _add(self._connection, one.quota.id, NOW, runs=1, gpus=one.gpus)
            if one.period is not None:
                _add(self._connection, one.quota.id, one.period, gpu_s=one.gpu_s)
        if self._taken:
            self._connection.execute(_HOLDS.insert(), [_hold(one) for one in self._taken])

    def _refusal(self, wanted: Reservation) -> QuotaExceeded | None:
        quota = wanted.quota
        runs, gpus, _ = self._count(wanted, NOW)
        if quota.concurrent is not None and runs + 1 > quota.concurrent:
            return _exceeded(wanted, "runs at once", "concurrent", quota.concurrent, runs, 1)
        if quota.max_gpus is not None and gpus + wanted.gpus > quota.max_gpus:
            return _exceeded(wanted, "GPUs at once", "max_gpus", quota.max_gpus, gpus, wanted.gpus)
        if quota.gpu_hours is not None and wanted.period is not None:
            hours, asked = self._count(wanted, wanted.period)[2] / 3600, wanted.gpu_s / 3600
            if hours + asked > quota.gpu_hours:
                return _exceeded(wanted, f"GPU hours a {quota.window}", "gpu_hours", quota.gpu_hours, hours, asked)
        return None

    def _count(self, wanted: Reservation, period: str) -> list[int]:
        return self._counts.setdefault((wanted.quota.id, period), [0, 0, 0])


def _hold(one: Reservation) -> dict[str, Any]:
    return {
        "run_id": one.run_id,
        "quota": one.quota.id,
        "period": one.period,
        "holds": True,
        "gpus": one.gpus,
        "most_gpu_s": one.gpu_s,
        "gpu_s": one.gpu_s,
        "lapses_at": one.lapses_at,
    }


def settle(session: Session, run: Run, *, lapsed: bool = False) -> None:
    """Let a run count for what it is now. Again changes nothing."""
    held = session.exec(select(QuotaHold).where(QuotaHold.run_id == run.id)).all()
    if not held:
        return
    session.flush()
    db.queue_for(session, "quotas")
    counts = run.state in COUNTING and not lapsed
    for hold in sorted(held, key=lambda hold: hold.quota):
        session.refresh(hold)
        gpu_s = hold.most_gpu_s if counts else min(hold.most_gpu_s, hold.gpus * _seconds(run, hold))
        more = int(counts) - int(hold.holds)
        _add(session.connection(), hold.quota, NOW, runs=more, gpus=more * hold.gpus)
        if hold.period is not None:
            _add(session.connection(), hold.quota, hold.period, gpu_s=gpu_s - hold.gpu_s)
        hold.holds, hold.gpu_s = counts, gpu_s
        session.add(hold)
    session.flush()


def any_lapsed(session: Session) -> bool:
    return session.exec(_lapsed().limit(1)).first() is not None


def release_lapsed(session: Session) -> int:
    """Give back what tickets hold that nobody redeemed; returns how many. At most `LAPSED_AT_ONCE`: call again."""
    lapsed = col(Run.id).in_(_lapsed().distinct().limit(LAPSED_AT_ONCE))
    # All runs are locked before the counts are: whoever ends a run takes its row first, too.
    query = select(Run).where(lapsed, Run.state == "permitted").order_by(col(Run.id))
    found = session.exec(query.with_for_update(skip_locked=True)).all()
    for run in found:
        settle(session, run, lapsed=True)
    return len(found)


def use(session: Session, quota: Quota) -> wire.QuotaUse:
    """How much is taken now, and in the window that is now."""
    at_once = session.get(QuotaUse, (quota.id, NOW))
    period, resets_at = quota.period(db.utc_now()) or (None, None)
    within = session.get(QuotaUse, (quota.id, period)) if period else None
    return wire.QuotaUse(
        **quota.model_dump(),
        runs=at_once.runs if at_once else 0,
        gpus=at_once.gpus if at_once else 0,
        gpu_hours_taken=within.gpu_s / 3600 if within else 0.0,
        resets_at=resets_at,
    )


def _exceeded(wanted: Reservation, what: str, limit: str, most: float, used: float, asked: float) -> QuotaExceeded:
    left = max(0.0, most - used)
    resets = wanted.resets_at if limit == "gpu_hours" else None
    when = f"it resets at {resets:%Y-%m-%dT%H:%M:%SZ}" if resets else "wait until a run of it ends"
    if asked > most:
        when = "this run alone is more than that"
    return QuotaExceeded(
        f"quota `{wanted.quota.id}` gives `{wanted.quota.unit}` {most:g} {what}; {left:g} are left and this run may "
        f"take {asked:g}; {when}",
        quota=wanted.quota.id,
        limit=limit,
        asked=asked,
        left=left,
        resets_at=resets.isoformat().replace("+00:00", "Z") if resets else None,
        retry_after_s=max(1, int((resets - db.utc_now()).total_seconds())) if resets else None,
    )


def _add(connection: Connection, quota: str, period: str, *, runs: int = 0, gpus: int = 0, gpu_s: int = 0) -> None:
    connection.execute(_ADD, {"quota": quota, "period": period, "runs": runs, "gpus": gpus, "gpu_s": gpu_s})


def _seconds(run: Run, hold: QuotaHold) -> int:
    """How long it took machines: until it ended, or was heard of last. Of one that nobody hears of, the most it may."""
    if run.started_at is None:
        return 0
    if run.ended_at is None and run.heartbeat_at is None:
        return hold.most_gpu_s
    until = run.ended_at or run.heartbeat_at or run.started_at
    return max(0, math.ceil((until - run.started_at).total_seconds()))


def _lapsed() -> Any:
    late = col(QuotaHold.holds), col(QuotaHold.lapses_at) < db.utc_now()
    return select(QuotaHold.run_id).join(Run, col(Run.id) == QuotaHold.run_id).where(*late, Run.state == "permitted")
