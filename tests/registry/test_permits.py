"""Permits that nobody redeemed end by the clock, quietly. Those that were redeemed offline: test_offline.py."""

from datetime import timedelta
from pathlib import Path

import pytest
from conftest import DIGEST, Registry, ask, redeem, ticket_request
from sqlmodel import select

from enforcer.keys import SigningKey
from registry import db, permits, runs
from registry.settings import Settings
from registry.tables import Run


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def registry(request: pytest.FixtureRequest, tmp_path: Path) -> Registry:
    url = request.getfixturevalue("postgresql") if request.param == "postgresql" else None
    return Registry(Settings(state_dir=tmp_path / "state", database_url=url))


def later(monkeypatch: pytest.MonkeyPatch, **time: float) -> None:
    now = db.utc_now()
    monkeypatch.setattr(db, "utc_now", lambda: now + timedelta(**time))


def states(registry: Registry) -> dict[str, str]:
    with registry.books.reading() as session:
        return dict(session.exec(select(Run.id, Run.state)).all())


def test_what_nobody_redeemed_ends_and_is_told_once_for_each_unit(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(permits, "AT_ONCE", 4)
    wang, zhou = registry.as_("wang", "trainers"), registry.as_("zhou", "trainers", unit="search")
    key = SigningKey.generate()
    lapsing = [ask(one, ticket_request()).json()["run_id"] for one in (wang, wang, zhou)]
    running = ask(wang, ticket_request(jkt=key.thumbprint)).json()
    assert redeem(registry, running, key).status_code == 200
    later(monkeypatch, minutes=16)  # within the leeway
    assert permits.tend(registry.books) == 0
    later(monkeypatch, minutes=2)
    fresh = ask(wang, ticket_request()).json()["run_id"]

    ended = [permits.tend(registry.books) for _ in range(2)]

    assert ended == [3, 0]
    assert states(registry) == {
        **dict.fromkeys(lapsing, "interrupted"),
        running["run_id"]: "running",
        fresh: "permitted",
    }
    told = {event.business_unit: event.detail["runs"] for event in registry.events("run.lapsed")}
    assert told == {"retail": lapsing[:2], "search": lapsing[2:]}
    seen = registry.as_("wang", "trainers").get(f"/v1/runs/{lapsing[0]}").json()
    assert (seen["state"], seen["ended_at"] is None) == ("interrupted", False)


def test_many_that_end_are_few_events(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    wang = registry.as_("wang", "trainers")
    for _ in range(12):
        ask(wang, ticket_request())
    later(monkeypatch, hours=1)

    assert permits.tend(registry.books) == 12

    assert len(registry.events("run.lapsed")) == 1
    with registry.books.reading() as session:
        assert session.exec(select(Run.id).where(*runs.in_flight(db.utc_now()))).all() == []


def test_a_run_that_never_started_is_not_continued(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """It left no checkpoint, whatever ended it."""
    wang = registry.as_("wang", "trainers")
    cancelled, lapsed = (ask(wang, ticket_request()).json()["run_id"] for _ in range(2))
    seen = wang.get(f"/v1/runs/{cancelled}").headers["etag"]
    assert wang.post(f"/v1/runs/{cancelled}:cancel", json={}, headers={"If-Match": seen}).status_code == 200
    later(monkeypatch, minutes=18)
    assert permits.tend(registry.books) == 1

    for run in (cancelled, lapsed):
        asked = ticket_request()
        asked["inputs"]["continues"] = {"run_id": run, "step": 5, "digest": DIGEST}
        refused = ask(wang, asked)

        assert states(registry)[run] == "interrupted"
        assert (refused.status_code, refused.json()["code"]) == (409, "not-continued")
        assert "has not started" in refused.json()["detail"]
