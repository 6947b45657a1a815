"""A candidate in the shadow: asked what the live policy was asked, counted, never answered with."""

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from conftest import Registry, ask, ticket_request
from policy_folders import changed_policy
from revised import with_rule

from registry import policies, server, shadow
from registry.cli import main
from registry.identity import Actor
from registry.settings import Settings

OPERATOR = Actor("system:operator", (), "all")


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def registry(request: pytest.FixtureRequest, tmp_path: Path) -> Registry:
    url = request.getfixturevalue("postgresql") if request.param == "postgresql" else None
    return Registry(Settings(state_dir=tmp_path / "state", database_url=url))


def watch(registry: Registry, **rule: Any) -> str:
    candidate = with_rule(with_rule(registry.policy, "a-pilot", effect="allow", tag="dpo"), **rule)
    with registry.books.writing() as session:
        policies.watch(session, candidate, OPERATOR)
    return candidate.revision


def counted(registry: Registry) -> dict[tuple[str, str, str], int]:
    server.follow_policy(registry.books)
    admin = registry.as_("root", "platform-admins", unit="all")
    parts = admin.get("/v1/policies:shadow").json()["parts"]
    return {(part["business_unit"], part["task_type"], part["outcome"]): part["count"] for part in parts}


def test_differences_are_counted_in_every_process_and_nobody_is_answered_with_them(registry: Registry) -> None:
    other = Registry(registry.settings)
    watch(registry, tag="sequence-classification")

    for each in (registry, other):
        wang = each.as_("wang", "trainers")
        assert [ask(wang, ticket_request()).status_code for _ in range(3)] == [201] * 3
        assert ask(wang, ticket_request("dpo", arguments={})).status_code == 403
        server.follow_policy(each.books)

    assert counted(registry) == {
        ("retail", "sequence-classification", "allow->deny"): 6,
        ("retail", "dpo", "deny->allow"): 2,
    }
    assert [event.actor for event in registry.events("policy.shadowed")] == ["system:operator"]


def test_names_that_the_policy_does_not_know_do_not_grow_what_is_counted(registry: Registry) -> None:
    watch(registry)
    wang = registry.as_("wang", "trainers")
    for number in range(5):
        assert ask(wang, ticket_request(business_unit=f"unit-{number}")).status_code == 403

    assert counted(registry) == {(shadow.OTHER, "sequence-classification", "same"): 5}


def test_a_candidate_that_fails_costs_nobody_their_answer(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    watch(registry)
    wang = registry.as_("wang", "trainers")
    assert ask(wang, ticket_request()).status_code == 201
    monkeypatch.setattr(shadow, "compare", None)

    assert ask(wang, ticket_request()).status_code == 201


def test_what_is_watched_anew_is_counted_from_nothing_and_off_is_off(registry: Registry) -> None:
    wang = registry.as_("wang", "trainers")
    first = watch(registry)
    ask(wang, ticket_request())
    assert counted(registry)

    assert watch(registry) == first
    assert {unit for unit, _, _ in counted(registry)} == {"all"}, "only the asking of a moment ago"
    with registry.books.writing() as session:
        policies.watch(session, None, OPERATOR)
    ask(wang, ticket_request())

    assert [unit for _, unit, _, _ in registry.books.shadow.take()] == ["all"], "nothing since that look"
    with registry.books.reading() as session:
        assert policies.shadowed(session).candidate is None


def test_the_operator_watches_a_folder_and_reads_what_was_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = Registry(Settings(state_dir=tmp_path / "state"))
    monkeypatch.setenv("TAGWARDEN_STATE_DIR", str(tmp_path / "state"))
    deny = {"id": "no-classifiers", "effect": "deny", "who": "group:trainers", "may": "submit", "reason": "no"}
    candidate = changed_policy(tmp_path, rules=[deny])

    def run(*command: str) -> str:
        done = CliRunner().invoke(main, ["policy", "shadow", *command], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.output

    said = run(str(candidate))
    ask(registry.as_("wang", "trainers"), ticket_request())
    server.follow_policy(registry.books)

    assert "is watched" in said
    assert '"outcome": "allow->deny"' in run()
    assert run("--off") == "no candidate is watched\n"
    assert '"candidate": null' in run()
