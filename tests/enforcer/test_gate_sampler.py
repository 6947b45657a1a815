"""The sampled check of real decisions against stock Casbin: it finds a wrong gate, and never holds up a right one."""

import logging
import threading
from typing import Any

import pytest
import worlds

from enforcer.policy.decision import Decision
from enforcer.policy.reference import Answer, Reference, Sampler
from enforcer.policy.snapshot import Snapshot

WORLD = worlds.world(5, requests=200)


class Alarms(list[tuple[Decision, Answer]]):
    def __call__(self, decision: Decision, answer: Answer) -> None:
        self.append((decision, answer))


def asked(sampler: Sampler, **gate: Any) -> Snapshot:
    snapshot = Snapshot(WORLD.policy, WORLD.tag_parents, watch=sampler, **gate)
    for request in WORLD.requests:
        snapshot.decide(request)
        sampler.wait()
    return snapshot


def test_a_right_gate_raises_no_alarm() -> None:
    sampler = Sampler(4, alarms := Alarms())

    gate = asked(sampler)

    sampled = [request for request in WORLD.requests[3::4] if gate._unfit(request) is None]
    assert (sampler.checked, sampler.differing, sampler.dropped, alarms) == (len(sampled), 0, 0, [])


def test_a_wrong_gate_is_an_alarm(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    right = Snapshot._candidates
    monkeypatch.setattr(
        Snapshot, "_candidates", lambda *args: tuple(line for line in right(*args) if line.eft == "allow")
    )
    sampler = Sampler(1, alarms := Alarms())

    with caplog.at_level(logging.CRITICAL):
        asked(sampler)

    decision, answer = alarms[0]
    assert sampler.differing == len(alarms) > 10
    assert (decision.rule, decision.allowed) != (answer.rule, answer.allowed)
    assert f"policy {WORLD.policy.revision}" in caplog.messages[0]


def test_an_engine_that_failed_is_an_alarm_where_the_rules_allow_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Snapshot, "_answer", lambda *_: 1 / 0)
    sampler = Sampler(1, alarms := Alarms())

    asked(sampler)

    assert {decision.reason for decision, _ in alarms} == {"engine-error"}


def test_a_reference_that_fails_is_said_and_changes_no_decision(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Reference, "ask", lambda *_: 1 / 0)
    sampler = Sampler(1, alarms := Alarms())

    asked(sampler)

    assert "the reference failed" in caplog.messages[0]
    assert (alarms, sampler.checked) == ([], 0)


def test_a_decision_does_not_wait_for_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes while the reference is slow is dropped and counted."""
    go_on = threading.Event()
    monkeypatch.setattr(Reference, "ask", lambda *_: go_on.wait(60))
    sampler = Sampler(1, Alarms())
    gate = Snapshot(WORLD.policy, WORLD.tag_parents, watch=sampler)

    for request in WORLD.requests:
        gate.decide(request)

    assert sampler.dropped >= len(WORLD.requests) - 100 - len(WORLD.requests) // 4
    go_on.set()
    sampler.wait()


def test_the_reference_follows_the_revision_and_the_task_types() -> None:
    sampler = Sampler(1, alarms := Alarms())
    asked(sampler)
    other = worlds.world(6, requests=100)

    for tags in (worlds.TAGS, {**worlds.TAGS, "a-b": "e"}):
        gate = Snapshot(other.policy, tags, watch=sampler)
        for request in other.requests:
            gate.decide(request)
            sampler.wait()

    assert (alarms, sampler.dropped) == ([], 0)
