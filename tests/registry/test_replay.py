"""The record replayed: every decision exactly as it was asked, and what a candidate would have made of it."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from conftest import Registry, ask, ticket_request
from fastapi.testclient import TestClient
from revised import an_exception, publish, with_rule

from enforcer import wire
from enforcer.policy.conditions import Context
from enforcer.policy.decision import Request
from enforcer.policy.revision import Policy
from enforcer.problems import Unavailable
from registry import audit, db, replay
from registry.identity import Actor
from registry.settings import Settings

WANG = Actor("user:wang", ("trainers",), "retail")


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def registry(request: pytest.FixtureRequest, tmp_path: Path) -> Registry:
    url = request.getfixturevalue("postgresql") if request.param == "postgresql" else None
    return Registry(Settings(state_dir=tmp_path / "state", database_url=url))


@pytest.fixture
def busy(registry: Registry) -> Registry:
    """Three tickets, one of them taken back by its owner, and two refusals."""
    wang = registry.as_("wang", "trainers")
    for _ in range(3):
        jti = ask(wang, ticket_request()).json()["jti"]
    for tag in ("dpo", "sft"):
        assert ask(wang, ticket_request(tag, arguments={})).status_code == 403
    assert wang.post(f"/v1/tickets/{jti}:revoke", json={"reason": "wrong data"}).status_code == 200
    return registry


def replayed(registry: Registry, candidate: Policy, **options: Any) -> wire.PolicyReplay:
    return replay.run(registry.books, candidate, days=30, **options)


def changed(answer: wire.PolicyReplay) -> list[tuple[str, str, int, int]]:
    return [(part.unit, part.tag, part.allow_to_deny, part.deny_to_allow) for part in answer.parts]


def test_the_live_policy_decides_everything_as_it_was_decided(busy: Registry) -> None:
    answer = replayed(busy, busy.policy)

    assert (answer.decisions, answer.same, answer.left_out, answer.complete) == (6, 6, 0, True)
    assert changed(answer) == []


def test_a_candidate_is_held_against_what_was_decided_by_unit_and_tag(busy: Registry) -> None:
    """The ticket was taken back as its owner may, which no policy changes."""
    pilot = with_rule(busy.policy, "a-pilot", effect="allow", tag="dpo")
    candidate = with_rule(pilot, "no-classifiers", tag="sequence-classification", may=["submit", "cancel"])

    answer = replayed(busy, candidate)

    assert (answer.decisions, answer.same, answer.allow_to_deny, answer.deny_to_allow) == (6, 2, 3, 1)
    assert changed(answer) == [("retail", "dpo", 0, 1), ("retail", "sequence-classification", 3, 0)]
    pilots = [example for example in answer.examples if example.outcome == "deny->allow"]
    (refused,) = [event for event in busy.events("submit.refused") if event.task_type == "dpo"]
    assert [(one.decision_id, one.then, one.now) for one in pilots] == [(refused.id, "no-matching-rule", "a-pilot")]


def test_it_is_what_was_decided_then_that_counts_not_what_the_live_policy_says_now(busy: Registry) -> None:
    publish(busy, with_rule(busy.policy))

    assert replayed(busy, busy.policy).allow_to_deny == 3


def test_the_clock_is_that_of_then(registry: Registry) -> None:
    """Li's exception was live from Monday to Sunday; asked on Wednesday, replayed a month later."""
    began = (db.utc_now() - timedelta(days=20)).replace(microsecond=0)
    candidate = registry.policy.with_exceptions([an_exception(granted_at=began, until=began + timedelta(days=6))])
    for day, outcome in ((2, "no-matching-rule"), (6, "no-matching-rule")):
        remember(registry, registry.policy, began + timedelta(days=day), outcome)

    answer = replayed(registry, candidate)

    assert (answer.decisions, answer.deny_to_allow) == (2, 1), "the sixth day's first second is past its end"


def remember(registry: Registry, policy: Policy, at: Any, reason: str, who: str = "user:li") -> None:
    """An event of then: Li asked for dpo."""
    li = Actor(who, ("trainers",), "retail")
    with registry.books.writing() as session:
        gate = registry.books.gate(session)
        context = Context(now=at, unit="retail", own_units=gate.units_below("retail"))
        decision = gate.decide(Request(li.principals, "submit", context, "dpo", "retail", "local"))
        assert decision.reason == reason
        audit.record(session, "submit.refused", li, outcome="refused", decision=decision)


def test_what_was_erased_or_never_recorded_whole_is_left_out_and_said(busy: Registry) -> None:
    with busy.books.writing() as session:
        audit.record(session, "ticket.issued", WANG, rule="some-rule", policy_revision=busy.policy.revision)

    answer = replayed(busy, busy.policy)

    assert (answer.decisions, answer.left_out) == (6, 1)


def test_more_decisions_than_a_chunk_are_all_made_again_newest_first_as_far_as_there_is_time(
    busy: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay, "CHUNK", 2)

    whole, cut = replayed(busy, busy.policy), replayed(busy, busy.policy, time_s=0)

    assert (whole.decisions, whole.complete) == (6, True)
    assert (cut.decisions, cut.complete) == (2, False)
    assert cut.since > whole.since


def test_only_two_replays_run_at_once(busy: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "_AT_ONCE", replay.threading.BoundedSemaphore(1))
    begun: list[Callable[[], object]] = []

    def in_the_middle(*_: object) -> None:
        begun.append(lambda: None)
        with pytest.raises(Unavailable, match="for others just now"):
            replayed(busy, busy.policy)

    monkeypatch.setattr(replay, "_run", in_the_middle)
    replayed(busy, busy.policy)

    assert len(begun) == 1


@pytest.fixture
def admin(registry: Registry) -> TestClient:
    return registry.as_("root", "platform-admins", unit="all")


def test_over_the_api_a_kept_revision_and_files_are_replayed(busy: Registry, admin: TestClient) -> None:
    from enforcer.policy import folder

    files = folder.files_of(busy.settings.policies_dir)
    files.pop("exceptions.yaml", None)

    by_files = admin.post("/v1/policies:replay", json={"files": files, "days": 7})
    by_revision = admin.post("/v1/policies:replay", json={"revision": busy.policy.revision})
    both = admin.post("/v1/policies:replay", json={"files": files, "revision": busy.policy.revision})
    unknown = admin.post("/v1/policies:replay", json={"revision": "sha256:" + "0" * 64})

    assert [reply.status_code for reply in (by_files, by_revision, both, unknown)] == [200, 200, 422, 404]
    assert by_files.json()["revision"] == by_revision.json()["revision"] == busy.policy.revision
    assert (by_files.json()["days"], by_revision.json()["days"], by_files.json()["allow_to_deny"]) == (7, 30, 0)
