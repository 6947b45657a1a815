"""Quotas: reserved with the ticket, settled at the end of the run, given back when a ticket lapses; never oversold."""

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import Registry, ask, redeem, ticket_request
from policy_folders import changed_policy
from sqlmodel import select

from enforcer.keys import SigningKey
from enforcer.policy.quotas import Quota
from registry import db, server
from registry.settings import Settings
from registry.tables import QuotaHold, QuotaUse, Run, Ticket

DAY_OF_ONE_GPU = 24.0  # hours: the time limit of the task type is a day


def quota(id: str = "retail-classifiers", **limits: Any) -> dict[str, Any]:
    return {"id": id, "unit": "retail", "tag": "sequence-classification", "reason": "fair shares", **limits}


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def limited(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., Registry]:
    """Makes a registry with these quotas, on either database."""
    url = request.getfixturevalue("empty_postgresql") if request.param == "postgresql" else None

    def make(*quotas: dict[str, Any]) -> Registry:
        folder = changed_policy(tmp_path)
        (folder / "quotas.yaml").write_text(yaml.safe_dump({"quotas": list(quotas)}))
        return Registry(Settings(state_dir=tmp_path / "state", policies_dir=folder, database_url=url))

    return make


def taken(registry: Registry, id: str = "retail-classifiers") -> tuple[int, int, float]:
    """Runs and GPUs at once, and GPU hours, as the API tells them."""
    items = registry.as_("wang", "trainers").get("/v1/quotas").json()["items"]
    found = next(item for item in items if item["id"] == id)
    return found["runs"], found["gpus"], found["gpu_hours_taken"]


def start(registry: Registry, **request: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """A grant, and the lease it was traded for."""
    key = SigningKey.generate()
    grant = ask(registry.as_("wang", "trainers"), ticket_request(jkt=key.thumbprint, **request)).json()
    return grant, redeem(registry, grant, key).json()


def end(registry: Registry, lease: dict[str, Any], state: str = "interrupted") -> int:
    client = registry.anonymous(headers={"Authorization": f"Bearer {lease['lease_token']}"})
    return client.post(f"/v1/runs/{lease['run_id']}/report", json={"state": state, "steps": 1}).status_code


def shift(registry: Registry, run_id: str, **ago: timedelta) -> None:
    """Move moments of a run, of its ticket and of what it holds into the past."""
    with db.writing(registry.books.engine) as session:
        run = session.get(Run, run_id)
        assert run is not None
        for name, back in ago.items():
            for row in (run, session.get(Ticket, run.jti), session.get(QuotaHold, (run_id, "retail-classifiers"))):
                if getattr(row, name, None) is not None:
                    setattr(row, name, getattr(row, name) - back)
                    session.add(row)


def test_what_a_run_may_take_is_reserved_and_what_it_took_is_settled(limited: Callable[..., Registry]) -> None:
    registry = limited(quota(window="month", gpu_hours=100, concurrent=5, max_gpus=8))

    grant, lease = start(registry, gpus=2)
    reserved = taken(registry)
    shift(registry, grant["run_id"], started_at=timedelta(hours=3))
    assert end(registry, lease) == 200

    assert reserved == (1, 2, 2 * DAY_OF_ONE_GPU)
    runs, gpus, hours = taken(registry)
    assert (runs, gpus) == (0, 0)
    assert hours == pytest.approx(2 * 3, abs=0.1)


@pytest.mark.parametrize(
    ("limits", "limit", "resets"),
    [
        ({"window": "day", "gpu_hours": 40}, "gpu_hours", True),
        ({"concurrent": 1}, "concurrent", False),
        ({"max_gpus": 1}, "max_gpus", False),
    ],
)
def test_what_is_used_up_is_refused_with_when_there_is_more(
    limited: Callable[..., Registry], limits: dict[str, Any], limit: str, resets: bool
) -> None:
    registry = limited(quota(**limits))
    wang = registry.as_("wang", "trainers")

    first, second = (ask(wang, ticket_request(gpus=1)) for _ in range(2))

    assert (first.status_code, second.status_code) == (201, 429)
    problem = second.json()
    assert (problem["code"], problem["quota"], problem["limit"]) == ("quota-exceeded", "retail-classifiers", limit)
    assert ("resets_at" in problem, "retry-after" in second.headers) == (resets, resets)
    (event,) = registry.events("submit.refused")
    assert (event.id, event.detail["problem"]) == (problem["decision_id"], "quota-exceeded")


def test_a_quota_counts_what_is_below_its_unit_and_tag_and_nothing_else(limited: Callable[..., Registry]) -> None:
    registry = limited(quota(id="all-heads", unit="all", concurrent=1))
    registry.approve_tag("message-tone")

    other_tag = ask(registry.as_("wang", "trainers"), ticket_request("embedding", arguments={}))
    child = ask(registry.as_("wang", "trainers"), ticket_request("message-tone"))
    other_unit = ask(registry.as_("chen", "trainers", unit="search"), ticket_request())

    assert [reply.status_code for reply in (other_tag, child, other_unit)] == [201, 201, 429]


def test_a_run_that_fits_one_quota_and_not_the_other_takes_nothing_of_either(limited: Callable[..., Registry]) -> None:
    registry = limited(quota(id="wide", concurrent=9), quota(id="narrow", max_gpus=1))

    reply = ask(registry.as_("wang", "trainers"), ticket_request(gpus=2))

    assert (reply.status_code, reply.json()["quota"]) == (429, "narrow")
    assert (taken(registry, "wide"), taken(registry, "narrow")) == ((0, 0, 0.0), (0, 0, 0.0))


def test_a_retry_takes_nothing_again(limited: Callable[..., Registry]) -> None:
    registry = limited(quota(concurrent=2))
    wang, body = registry.as_("wang", "trainers"), ticket_request()

    replies = [ask(wang, body, key="the-same-key") for _ in range(3)]

    assert [reply.status_code for reply in replies] == [201] * 3
    assert len({reply.json()["jti"] for reply in replies}) == 1
    assert taken(registry)[0] == 1


@pytest.mark.parametrize("way", ["cancel", "revoke", "lapse"])
def test_a_permit_that_is_never_used_gives_back_all(limited: Callable[..., Registry], way: str) -> None:
    registry = limited(quota(window="week", gpu_hours=24, concurrent=1))
    wang = registry.as_("wang", "trainers")
    grant = ask(wang, ticket_request(gpus=1)).json()

    if way == "cancel":
        assert wang.post(f"/v1/runs/{grant['run_id']}:cancel").status_code == 200
    elif way == "revoke":
        assert wang.post(f"/v1/tickets/{grant['jti']}:revoke", json={"reason": "wrong data"}).status_code == 200
    else:
        assert server.release_lapsed(registry.books) == 0
        shift(registry, grant["run_id"], lapses_at=timedelta(hours=1))
        assert server.release_lapsed(registry.books) == 1

    assert taken(registry) == (0, 0, 0.0)
    assert ask(wang, ticket_request(gpus=1)).status_code == 201


def test_a_lost_run_makes_room_and_counts_again_when_it_is_found(limited: Callable[..., Registry]) -> None:
    registry = limited(quota(window="day", gpu_hours=1000, concurrent=3))
    grant, lease = start(registry, gpus=1)
    shift(registry, grant["run_id"], lease_expires_at=timedelta(hours=2), started_at=timedelta(hours=3))

    assert server.mark_lost(registry.books) == 1
    lost = taken(registry)
    client = registry.anonymous(headers={"Authorization": f"Bearer {lease['lease_token']}"})
    beat = client.post(f"/v1/runs/{lease['run_id']}/heartbeats", json={"step": 1, "total_steps": 2})

    assert lost[:2] == (0, 0)
    assert (beat.status_code, taken(registry)[:2]) == (200, (1, 1))
    assert end(registry, lease) == 200
    assert taken(registry)[:2] == (0, 0)


def test_of_64_requests_at_once_exactly_as_many_are_granted_as_there_is_room(limited: Callable[..., Registry]) -> None:
    registry = limited(quota(id="hours", window="day", gpu_hours=10 * DAY_OF_ONE_GPU), quota(id="runs", concurrent=40))
    clients = [registry.as_(f"user{n}", "trainers") for n in range(8)]

    with ThreadPoolExecutor(64) as pool:
        replies = list(pool.map(lambda n: ask(clients[n % 8], ticket_request(gpus=1)).status_code, range(64)))

    assert Counter(replies) == {201: 10, 429: 54}
    assert taken(registry, "hours") == (10, 10, 10 * DAY_OF_ONE_GPU)
    assert taken(registry, "runs")[0] == 10
    with registry.books.reading() as session:
        holds = session.exec(select(QuotaHold)).all()
    assert Counter(hold.quota for hold in holds) == {"hours": 10, "runs": 10}


@pytest.mark.postgresql
def test_two_services_over_one_database_sell_the_same_room_once(tmp_path: Path, empty_postgresql: str) -> None:
    folder = changed_policy(tmp_path)
    (folder / "quotas.yaml").write_text(yaml.safe_dump({"quotas": [quota(concurrent=7)]}))
    settings = Settings(state_dir=tmp_path / "state", policies_dir=folder, database_url=empty_postgresql)
    services = [Registry(settings), Registry(settings)]
    token = services[0].token("wang", "trainers")
    clients = [one.anonymous(headers={"Authorization": f"Bearer {token}"}) for one in services]

    with ThreadPoolExecutor(32) as pool:
        replies = list(pool.map(lambda n: ask(clients[n % 2], ticket_request()).status_code, range(64)))

    assert Counter(replies) == {201: 7, 429: 57}


def test_the_counts_are_the_sum_of_what_is_held(limited: Callable[..., Registry]) -> None:
    """After starts, ends, cancellations and lapses in a row, the counters say what the holds say."""
    registry = limited(quota(window="month", gpu_hours=10_000, concurrent=100, max_gpus=100))
    wang = registry.as_("wang", "trainers")
    for step in range(9):
        grant, lease = start(registry, gpus=step % 3)
        if step % 3 == 0:
            assert end(registry, lease) == 200
        if step % 3 == 1:
            wang.post(f"/v1/runs/{grant['run_id']}:cancel")
        unused = ask(wang, ticket_request(gpus=1)).json()
        if step % 2:
            shift(registry, unused["run_id"], lapses_at=timedelta(hours=1))
    server.release_lapsed(registry.books)

    with registry.books.reading() as session:
        holds = session.exec(select(QuotaHold)).all()
        uses = {use.period: use for use in session.exec(select(QuotaUse)).all()}
    held = [hold for hold in holds if hold.holds]
    assert (uses["now"].runs, uses["now"].gpus) == (len(held), sum(hold.gpus for hold in held))
    (month,) = (use for period, use in uses.items() if period != "now")
    assert month.gpu_s == sum(hold.gpu_s for hold in holds)


@pytest.mark.parametrize(
    ("window", "now", "period", "resets_at"),
    [
        ("day", datetime(2026, 12, 31, 23, 59, tzinfo=UTC), "2026-12-31", datetime(2027, 1, 1, tzinfo=UTC)),
        ("week", datetime(2026, 12, 31, 5, tzinfo=UTC), "2026-W53", datetime(2027, 1, 4, tzinfo=UTC)),
        ("week", datetime(2027, 1, 4, tzinfo=UTC), "2027-W01", datetime(2027, 1, 11, tzinfo=UTC)),
        ("month", datetime(2026, 12, 1, tzinfo=UTC), "2026-12", datetime(2027, 1, 1, tzinfo=UTC)),
        ("month", datetime(2028, 1, 31, 12, tzinfo=UTC), "2028-01", datetime(2028, 2, 1, tzinfo=UTC)),
    ],
)
def test_windows_are_those_of_the_calendar(window: str, now: datetime, period: str, resets_at: datetime) -> None:
    counted = Quota(**quota(window=window, gpu_hours=1))

    assert counted.period(now) == (period, resets_at)


def test_a_quota_that_limits_nothing_or_half_is_refused() -> None:
    for limits in ({}, {"gpu_hours": 5}, {"window": "day", "concurrent": 1}):
        with pytest.raises(ValueError, match=r"limits nothing|come together"):
            Quota(**quota(**limits))


def test_a_report_that_comes_late_charges_no_more_than_was_reserved(limited: Callable[..., Registry]) -> None:
    registry = limited(quota(window="month", gpu_hours=1000))
    grant, lease = start(registry, gpus=1)
    shift(registry, grant["run_id"], started_at=timedelta(days=5))

    assert end(registry, lease) == 200
    assert taken(registry) == (0, 0, DAY_OF_ONE_GPU)


def test_a_run_that_nobody_hears_of_keeps_its_hours_when_it_is_lost(limited: Callable[..., Registry]) -> None:
    """So an offline run, which sends no heartbeats, gives no hours back that it may be using."""
    registry = limited(quota(window="month", gpu_hours=1000))
    grant, _ = start(registry, gpus=1)
    shift(registry, grant["run_id"], lease_expires_at=timedelta(hours=2), started_at=timedelta(hours=3))

    assert server.mark_lost(registry.books) == 1
    assert taken(registry) == (0, 0, DAY_OF_ONE_GPU)


def test_permits_that_lapse_and_are_cancelled_at_once_are_given_back_once(limited: Callable[..., Registry]) -> None:
    """Both lock runs and then the counts; in two orders they would wait for each other."""
    registry = limited(quota(window="week", gpu_hours=10_000, concurrent=100))
    wang = registry.as_("wang", "trainers")
    grants = [ask(wang, ticket_request(gpus=1)).json() for _ in range(12)]
    for grant in grants:
        shift(registry, grant["run_id"], lapses_at=timedelta(hours=1))

    with ThreadPoolExecutor(9) as pool:
        released = [pool.submit(server.release_lapsed, registry.books) for _ in range(3)]
        cancelled = [pool.submit(wang.post, f"/v1/runs/{grant['run_id']}:cancel") for grant in reversed(grants)]

    assert {reply.result().status_code for reply in cancelled} == {200}
    assert sum(one.result() for one in released) <= 12
    server.release_lapsed(registry.books)
    assert taken(registry) == (0, 0, 0.0)
