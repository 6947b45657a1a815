"""TAGWARDEN_POLICY_CHECK_EVERY: one in so many real decisions is put to stock Casbin as well."""

from pathlib import Path

import pytest
from conftest import Registry, ask, ticket_request

from enforcer.policy.snapshot import Snapshot
from registry.settings import Settings


def registry_checking(tmp_path: Path, every: int) -> Registry:
    return Registry(Settings(state_dir=tmp_path / "state", policy_check_every=every))


def use(registry: Registry) -> None:
    trainer, suspended = registry.as_("bob", "trainers"), registry.as_("eve", "trainers", "suspended")
    for client in (trainer, suspended):
        ask(client, ticket_request())
        registry.propose(client)


def test_a_right_gate_is_checked_and_leaves_nothing_on_record(tmp_path: Path) -> None:
    registry = registry_checking(tmp_path, every=1)

    use(registry)
    registry.books.watch.wait()

    assert registry.books.watch.checked >= 4
    assert registry.events("policy.differs") == []


def test_a_wrong_gate_is_on_record_once_for_a_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = Snapshot._candidates
    monkeypatch.setattr(
        Snapshot, "_candidates", lambda *args: tuple(line for line in right(*args) if line.eft == "allow")
    )
    registry = registry_checking(tmp_path, every=1)

    for client in (registry.as_("bob", "trainers"), registry.as_("eve", "trainers", "suspended")):
        ask(client, ticket_request())
        ask(client, ticket_request("embedding", arguments={}))
    registry.books.watch.wait()

    (event,) = registry.events("policy.differs")
    assert registry.books.watch.differing >= 2
    assert (event.policy_revision, event.actor) == (registry.policy.revision, "system:policy")
    assert event.detail["gate"]["allowed"] is True
    assert event.detail["reference"] == {"allowed": False, "rule": "suspended-nothing"}


def test_left_alone_nothing_is_checked(tmp_path: Path) -> None:
    registry = registry_checking(tmp_path, every=0)

    use(registry)

    assert registry.books.watch is None
