"""The gate follows the books: what was published anywhere decides here, and what is broken changes nothing."""

import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from conftest import Registry, ask, ticket_request
from revised import publish, with_rule
from sqlalchemy import text
from sqlmodel import select

from enforcer import wire
from enforcer.policy.rules import PolicyInvalid
from enforcer.problems import NotPermitted
from registry import access, policies, server, tickets
from registry.identity import Actor
from registry.settings import Settings
from registry.tables import PolicyPublication

WANG = Actor("user:wang", ("trainers",), "retail")


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def registry(request: pytest.FixtureRequest, tmp_path: Path) -> Registry:
    url = request.getfixturevalue("postgresql") if request.param == "postgresql" else None
    return Registry(Settings(state_dir=tmp_path / "state", database_url=url))


def test_what_one_process_published_decides_in_the_other_with_its_next_request(registry: Registry) -> None:
    """Also on the express lane, which asks the books nothing: the stamp on its draft has moved."""
    other = Registry(registry.settings)
    wang = other.as_("wang", "trainers")
    assert [ask(wang, ticket_request()).status_code for _ in range(2)] == [201, 201]

    publish(registry, with_rule(registry.policy))
    reply = ask(wang, ticket_request())

    assert (reply.status_code, reply.json()["rule"]) == (403, "retail-is-frozen")
    assert reply.json()["policy_revision"] == registry.policy.revision


def test_a_permit_by_the_policy_of_a_moment_ago_is_no_ticket(registry: Registry) -> None:
    """Between the decision of the route and the draft the policy may change; the draft is by the new one."""
    asked = wire.TicketRequest.model_validate(ticket_request())
    matter = access.Matter("sequence-classification", "retail", asked.target, asked.gpus, "minilm")
    with registry.books.reading() as session:
        permit = access.Permit(WANG, "retail", access.decide(registry.books.gate(session), WANG, "submit", matter))
    assert permit.decision.allowed

    publish(registry, with_rule(registry.policy, "search-is-frozen", unit="search"))
    elsewhere = registry.policy.revision
    draft = tickets._draft_now(registry.books, asked, permit, "a-key-of-mine")
    publish(registry, with_rule(registry.policy))

    assert draft.rows[2]["policy_revision"] == elsewhere != permit.decision.revision
    with pytest.raises(NotPermitted, match="retail-is-frozen"):
        tickets._draft_now(registry.books, asked, permit, "another-key")


def test_a_head_that_cannot_be_used_leaves_the_last_good_policy_and_says_so_once(
    registry: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    good = registry.policy.revision
    wang = registry.as_("wang", "trainers")
    assert ask(wang, ticket_request()).status_code == 201
    _spoil(registry)

    statuses = [ask(wang, ticket_request()).status_code for _ in range(3)]
    ready = registry.anonymous().get("/readyz").json()
    for _ in range(3):
        server.follow_policy(registry.books)

    assert statuses == [201, 201, 201]
    assert (ready["policy_revision"], ready["policy_alarm"]) == (good, "`sha256:spoiled` cannot be used")
    assert [record.levelname for record in caplog.records if "cannot be used" in record.message] == ["CRITICAL"]
    (event,) = registry.events("policy.unusable")
    assert (event.outcome, event.policy_revision) == ("refused", "sha256:spoiled")

    with registry.books.reading() as session:
        before = policies.load(session, good)
    publish(registry, with_rule(before))
    assert ask(wang, ticket_request()).status_code == 403
    assert "policy_alarm" not in registry.anonymous().get("/readyz").json()


def test_without_a_last_good_policy_nothing_starts(registry: Registry) -> None:
    """The service goes on by a policy that it knows; it does not begin without one."""
    settings = registry.settings.model_copy(update={"policy_source": "registry"})
    _spoil(registry)

    with pytest.raises(PolicyInvalid, match="sha256:spoiled"):
        Registry(settings)


def _spoil(registry: Registry) -> None:
    """As a restore of half a database, or another release, might leave it."""
    with registry.books.engine.begin() as connection:
        connection.execute(
            text(
                "insert into policy_revision select 'sha256:spoiled', model, directory, 'sha256:no-rules', exceptions, "
                "quotas, approvals, kept_at from policy_revision limit 1"
            )
        )
        connection.execute(text("update policy_head set revision = 'sha256:spoiled', version = version + 1"))


def test_while_revisions_are_published_every_ticket_is_by_the_one_that_was_live(registry: Registry) -> None:
    """50 publications under load from two processes: nothing fails, and the record has each ticket under the revision
    that was live at its moment. Every second revision freezes retail, so half of the time it is refused."""
    other = Registry(registry.settings)
    clients = [each.as_(f"wang{number}", "trainers") for number in range(2) for each in (registry, other)]
    statuses: Counter[int] = Counter()
    done = threading.Event()

    def keep_asking(client: Any) -> None:
        while not done.is_set():
            statuses[ask(client, ticket_request()).status_code] += 1

    plain = registry.policy
    with ThreadPoolExecutor(len(clients)) as pool:
        asking = [pool.submit(keep_asking, client) for client in clients]
        for number in range(50):
            publish(registry, plain if number % 2 else with_rule(plain, f"freeze-{number}"))
            time.sleep(0.01)
        done.set()
        for each in asking:
            each.result()

    assert set(statuses) <= {201, 403}, statuses
    with registry.books.reading() as session:
        published = session.exec(select(PolicyPublication.at, PolicyPublication.revision)).all()
    issued = registry.events("ticket.issued")
    assert len(issued) == statuses[201] > 0
    assert len({event.policy_revision for event in issued}) == 1, "the frozen ones issue nothing"
    for event in issued:
        live = max((at, revision) for at, revision in published if at <= event.at)[1]
        assert event.policy_revision == live == plain.revision
    for event in registry.events("submit.refused"):
        assert event.policy_revision != plain.revision


def test_a_process_that_cannot_use_the_live_policy_asks_nothing_by_an_older_one(registry: Registry) -> None:
    """Or two releases would take turns in asking everything again, each by its own policy."""
    server.follow_policy(registry.books)
    other = Registry(registry.settings)
    server.follow_policy(other.books)
    before = len(registry.events("policy.live"))
    _spoil(registry)

    for _ in range(3):
        for process in (registry, other):
            server.follow_policy(process.books)
            server.tell_of_exceptions(process.books)

    assert len(registry.events("policy.live")) == before


def test_a_change_that_does_not_concern_a_permit_leaves_it_alone(registry: Registry) -> None:
    """The rule allows at the point `api` only, so that asked again it never does: by the policy before either."""
    only_asked_here = {"effect": "allow", "tag": "dpo", "when": {"points": ["api"]}}
    publish(registry, with_rule(registry.policy, "trainers-try-dpo", **only_asked_here))
    server.follow_policy(registry.books)
    grant = ask(registry.as_("wang", "trainers"), ticket_request("dpo", arguments={})).json()

    publish(registry, with_rule(registry.policy, "search-is-frozen", unit="search"))
    server.follow_policy(registry.books)

    state = registry.as_("wang", "trainers").get(f"/v1/tickets/{grant['jti']}").json()["state"]
    assert (state, len(registry.events("ticket.revoked"))) == ("issued", 0)
    assert registry.events("policy.live")[-1].policy_revision == registry.policy.revision
