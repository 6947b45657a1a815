"""Runs: they report evidence, the registry judges it; heartbeats and cancelling."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import httpx2
import manifests
import pytest
from conftest import Registry, ask, redeem, ticket_request

from enforcer.keys import SigningKey
from registry import db, server

REDEMPTION = "0199e3f0-0000-7000-8000-000000000001"
GOOD = {"value": 0.80, "n": 400, "low": 0.75, "high": 0.85, "confidence": 0.95}


@pytest.fixture
def key() -> SigningKey:
    return SigningKey.generate()


@pytest.fixture
def grant(registry: Registry, key: SigningKey) -> dict[str, str]:
    return dict(ask(registry.as_("wang", "trainers"), ticket_request(jkt=key.thumbprint)).json())


@pytest.fixture
def running(registry: Registry, grant: dict[str, str], key: SigningKey) -> dict[str, str]:
    return dict(redeem(registry, grant, key, REDEMPTION).json())


@pytest.fixture
def finish(
    registry: Registry, grant: dict[str, str], key: SigningKey, running: dict[str, str]
) -> Callable[..., httpx2.Response]:
    """The run comes to its end with these scores."""

    def tell(**scores: Any) -> httpx2.Response:
        return report(registry, running, **manifests.finished(registry, grant, key, scores=scores))

    return tell


def lease_of(registry: Registry, running: dict[str, str]):  # type: ignore[no-untyped-def]
    return registry.anonymous(headers={"Authorization": f"Bearer {running['lease_token']}"})


def report(registry: Registry, running: dict[str, str], **told: object):  # type: ignore[no-untyped-def]
    body = {"state": "interrupted", "steps": 10, **told}
    return lease_of(registry, running).post(f"/v1/runs/{running['run_id']}/report", json=body)


@pytest.mark.parametrize(
    ("score", "verdict"),
    [
        (GOOD, "pass"),
        ({**GOOD, "low": 0.55}, "inconclusive"),
        ({"value": 0.40, "n": 400, "low": 0.35, "high": 0.45, "confidence": 0.95}, "fail"),
        ({**GOOD, "n": 40}, "inconclusive"),
        ({"value": 0.80, "n": 400}, "inconclusive"),
        ({**GOOD, "confidence": 0.8}, "inconclusive"),
        (None, "fail"),
    ],
)
def test_the_registry_judges_the_gate_on_the_interval(
    registry: Registry, finish: Callable[..., httpx2.Response], score: dict[str, float] | None, verdict: str
) -> None:
    reply = finish() if score is None else finish(macro_f1=score)

    assert (reply.status_code, reply.json()["verdict"]) == (200, verdict), reply.text
    assert [event.kind for event in registry.events()][-3:-1] == ["run.finished", f"gate.{verdict}"]


def test_an_interrupted_run_is_not_judged(registry: Registry, running: dict[str, str]) -> None:
    reply = report(registry, running, state="interrupted")

    assert (reply.json()["state"], reply.json()["verdict"]) == ("interrupted", None)


def test_the_same_report_twice_changes_nothing_and_another_is_refused(
    registry: Registry, running: dict[str, str], finish: Callable[..., httpx2.Response]
) -> None:
    first = finish(macro_f1=GOOD)

    again, other = finish(macro_f1=GOOD), report(registry, running, state="failed")

    assert again.json() == first.json()
    assert (other.status_code, other.json()["code"]) == (409, "run-closed")
    assert len(registry.events("run.finished")) == 1


def test_a_score_outside_its_own_interval_is_refused(registry: Registry, running: dict[str, str]) -> None:
    reply = report(registry, running, scores={"macro_f1": {**GOOD, "value": 0.99}})

    assert (reply.status_code, reply.json()["code"]) == (422, "malformed-request")


def test_a_heartbeat_renews_the_lease_until_the_run_is_told_to_stop(
    registry: Registry, running: dict[str, str]
) -> None:
    beat = {"step": 3, "total_steps": 10}
    path = f"/v1/runs/{running['run_id']}"
    first, second = (lease_of(registry, running).post(f"{path}/heartbeats", json=beat).json() for _ in range(2))

    registry.as_("wang", "trainers").post(f"{path}:cancel")
    last = lease_of(registry, running).post(f"{path}/heartbeats", json=beat).json()

    assert (first["stop"], second["stop"]) == (None, None)
    assert second["expires_at"] > first["expires_at"]
    assert (last["stop"], last["expires_at"]) == ("cancelled by user:wang", second["expires_at"])


def test_a_run_that_was_cancelled_before_its_lease_arrived_gets_no_other(
    registry: Registry, running: dict[str, str], grant: dict[str, str], key: SigningKey
) -> None:
    """The answer to its redemption was lost, it asks again, and meanwhile it was told to stop."""
    again = redeem(registry, grant, key, REDEMPTION)
    registry.as_("wang", "trainers").post(f"/v1/runs/{running['run_id']}:cancel")

    refused = redeem(registry, grant, key, REDEMPTION)

    assert again.status_code == 200
    assert (refused.status_code, refused.json()["code"]) == (409, "run-closed")
    assert "was told to stop (cancelled by user:wang)" in refused.json()["detail"]
    assert [event.run_id for event in registry.events("redeem.refused")] == [running["run_id"]]


def test_a_lease_opens_only_its_own_run(registry: Registry, running: dict[str, str]) -> None:
    key = SigningKey.generate()
    other = ask(registry.as_("wang", "trainers"), ticket_request(jkt=key.thumbprint)).json()
    assert redeem(registry, other, key).status_code == 200

    reply = lease_of(registry, running).post(
        f"/v1/runs/{other['run_id']}/heartbeats", json={"step": 1, "total_steps": 1}
    )

    assert (reply.status_code, reply.json()["code"]) == (401, "unauthenticated")


def test_all_runs_of_one_task_type_are_one_query_and_one_unit(registry: Registry, running: dict[str, str]) -> None:
    ask(registry.as_("sun", "trainers", unit="search"), ticket_request("embedding", arguments={}))

    mine = registry.as_("pm", "project-managers").get("/v1/runs", params={"task_type": "sequence-classification"})
    theirs = registry.as_("pm", "project-managers").get("/v1/runs", params={"business_unit": "search"})
    everything = registry.as_("root", "platform-admins", unit="all").get("/v1/runs")

    assert [run["id"] for run in mine.json()["items"]] == [running["run_id"]]
    assert theirs.status_code == 403
    assert len(everything.json()["items"]) == 2


def test_a_run_of_another_unit_is_not_shown(registry: Registry, running: dict[str, str]) -> None:
    path = f"/v1/runs/{running['run_id']}"

    assert registry.as_("wang", "trainers").get(path).status_code == 200
    assert registry.as_("sun", "trainers", unit="search").get(path).status_code == 403


def test_a_lost_run_that_is_cancelled_has_ended(
    registry: Registry, running: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = db.utc_now()
    monkeypatch.setattr(db, "utc_now", lambda: now + timedelta(days=1))
    server.mark_lost(registry.books)

    told = registry.as_("wang", "trainers").post(f"/v1/runs/{running['run_id']}:cancel").json()

    assert told["state"] == "interrupted"
    assert told["ended_at"]


def test_nobody_cancels_a_run_of_another_unit(registry: Registry, running: dict[str, str]) -> None:
    reply = registry.as_("sun", "trainers", unit="search").post(f"/v1/runs/{running['run_id']}:cancel")

    assert reply.status_code == 403
    assert [event.run_id for event in registry.events("cancel.refused")] == [running["run_id"]]


def test_a_second_report_is_refused_on_record(registry: Registry, running: dict[str, str]) -> None:
    report(registry, running, state="interrupted")
    report(registry, running, state="failed")

    (event,) = registry.events("report.refused")
    assert (event.actor, event.run_id, event.detail["problem"]) == ("user:wang", running["run_id"], "run-closed")


def test_a_heartbeat_shows_in_the_run_with_its_logs(registry: Registry, running: dict[str, str]) -> None:
    beat = {"step": 3_000_000_000, "total_steps": 2**53 - 1, "logs": {"loss": 0.5}}

    lease_of(registry, running).post(f"/v1/runs/{running['run_id']}/heartbeats", json=beat)

    run = registry.as_("wang", "trainers").get(f"/v1/runs/{running['run_id']}").json()
    assert (run["step"], run["logs"]) == (3_000_000_000, {"loss": 0.5})


def test_runs_are_found_by_an_alias_of_their_task_type(registry: Registry, running: dict[str, str]) -> None:
    page = registry.as_("wang", "trainers").get("/v1/runs", params={"task_type": "seq-cls"}).json()

    assert [run["id"] for run in page["items"]] == [running["run_id"]]


def test_an_unknown_query_parameter_is_refused(registry: Registry) -> None:
    reply = registry.as_("wang", "trainers").get("/v1/runs", params={"task-type": "dpo"})

    assert (reply.status_code, reply.json()["code"]) == (422, "malformed-request")


def test_whoever_uses_a_model_that_was_not_accepted_is_on_record_once(
    registry: Registry, running: dict[str, str], finish: Callable[..., httpx2.Response]
) -> None:
    finish(macro_f1={**GOOD, "n": 40})
    path, said = f"/v1/runs/{running['run_id']}", {"use": "serve", "reason": "a demo for the retail team"}
    client = registry.as_("wang", "trainers")
    before = client.get(path).json()

    replies = [client.post(f"{path}:force", json=said, headers={"Idempotency-Key": "this-one-use"}) for _ in range(2)]

    (event,) = registry.events("run.forced")
    assert [reply.status_code for reply in replies] == [200, 200]
    assert replies[0].json() == client.get(path).json() == before
    assert (event.actor, event.run_id, event.reason) == ("user:wang", running["run_id"], said["reason"])
    assert event.detail.items() >= {"use": "serve", "state": "finished", "verdict": "inconclusive"}.items()


def test_a_forced_use_is_told_by_those_who_may_see_the_run_and_with_a_reason(
    registry: Registry, running: dict[str, str]
) -> None:
    path = f"/v1/runs/{running['run_id']}:force"

    stranger = registry.as_("sun", "trainers", unit="search").post(path, json={"use": "serve", "reason": "let me"})
    silent = registry.as_("wang", "trainers").post(path, json={"use": "serve", "reason": "  "})

    assert (stranger.status_code, silent.status_code) == (403, 422)
    assert registry.events("run.forced") == []
    refused = [(event.actor, event.detail["problem"]) for event in registry.events("run-read.refused")]
    assert refused == [("user:sun", "not-permitted"), ("user:wang", "malformed-request")]
