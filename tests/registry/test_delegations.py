"""Delegations: a hand lent, one voice counted once, and an end that holds."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any
from unittest.mock import patch

import httpx2
import pytest
from conftest import Registry
from fastapi.testclient import TestClient
from sqlalchemy.exc import DBAPIError
from sqlmodel import text

from registry import db, delegations, identity

REAL_NOW = db.utc_now


def delegate(client: TestClient, to: str = "user:dan", days: float = 7, **scope: Any) -> httpx2.Response:
    body = {
        "to": to,
        "scope": {"actions": ["approve"], **scope},
        "not_after": (db.utc_now() + timedelta(days=days)).isoformat(),
        "reason": "away for a week",
    }
    return client.post("/v1/delegations", json=body)


def review_for(client: TestClient, proposal: dict[str, Any], whom: str, verdict: str = "approve") -> httpx2.Response:
    body = {"verdict": verdict, "digest": proposal["digest"], "reason": "as agreed with them", "on_behalf_of": whom}
    return client.post(f"/v1/proposals/{proposal['id']}/reviews", json=body)


def code(reply: httpx2.Response) -> str:
    assert reply.status_code >= 400, reply.text
    return str(reply.json()["code"])


@contextmanager
def later(**ahead: float) -> Iterator[None]:
    with patch.object(db, "utc_now", lambda: REAL_NOW() + timedelta(**ahead)):
        yield


@pytest.fixture
def proposal(registry: Registry) -> dict[str, Any]:
    found: dict[str, Any] = registry.propose(registry.as_("author", "trainers")).json()
    return found


def test_a_delegate_reviews_in_the_name_and_for_the_unit_of_the_delegator(
    registry: Registry, proposal: dict[str, Any]
) -> None:
    made = delegate(registry.as_("sten", "tag-stewards", unit="search"))
    assert made.status_code == 201, made.text

    reply = review_for(registry.as_("dan", "nlp", unit="ai"), proposal, "user:sten")

    assert reply.status_code == 201, reply.text
    (given,) = reply.json()["reviews"]
    assert (given["reviewer"], given["on_behalf_of"], given["business_unit"]) == ("user:dan", "user:sten", "search")
    assert given["counts"]
    (event,) = registry.events("proposal.reviewed")
    assert (event.actor, event.detail["on_behalf_of"]) == ("user:dan", "user:sten")
    assert event.detail["asked"]["for"] == ["user:sten", "group:tag-stewards"]
    assert [event.actor for event in registry.events("delegation.made")] == ["user:sten"]


def test_what_waits_for_the_delegator_waits_for_the_delegate(registry: Registry, proposal: dict[str, Any]) -> None:
    sten, dan = registry.as_("sten", "tag-stewards", unit="search"), registry.as_("dan", "nlp", unit="ai")

    def waiting(client: TestClient) -> bool:
        return proposal["id"] in [
            one["id"] for one in client.get("/v1/proposals", params={"awaiting_me": "true"}).json()["items"]
        ]

    before = waiting(dan)
    delegate(sten)
    meanwhile = waiting(sten), waiting(dan)
    with later(days=8):
        registry.token("sten", "tag-stewards", unit="search")
        over = waiting(registry.as_("dan", "nlp", unit="ai"))
    review_for(dan, proposal, "user:sten")

    assert (before, meanwhile, over) == (False, (True, True), False)
    assert (waiting(sten), waiting(dan)) == (False, False)


def test_without_a_delegation_nobody_reviews_for_somebody_else(registry: Registry, proposal: dict[str, Any]) -> None:
    registry.token("sten", "tag-stewards")

    reply = review_for(registry.as_("dan", "nlp"), proposal, "user:sten")

    assert (reply.status_code, code(reply)) == (403, "no-delegation")
    assert [event.actor for event in registry.events("approve.refused")] == ["user:dan"]


def test_delegator_and_delegate_never_both_count(registry: Registry, proposal: dict[str, Any]) -> None:
    sten, dan = registry.as_("sten", "tag-stewards"), registry.as_("dan", "tag-stewards")
    delegate(sten)
    delegate(sten, to="user:other")
    assert review_for(dan, proposal, "user:sten").status_code == 201

    again = [
        registry.review(sten, proposal),
        registry.review(dan, proposal),
        review_for(registry.as_("other", "nlp"), proposal, "user:sten"),
    ]

    assert [code(reply) for reply in again] == ["already-reviewed"] * 3
    assert registry.as_("eve").get(f"/v1/proposals/{proposal['id']}").json()["missing"][0]["have"] == 1


def test_whoever_lent_a_hand_lends_no_other(registry: Registry, proposal: dict[str, Any]) -> None:
    """Sten's vote was cast by Dan; Sten casting Gina's would let one pair of people decide alone."""
    sten = registry.as_("sten", "tag-stewards")
    delegate(sten)
    delegate(registry.as_("gina", "tag-stewards"), to="user:sten")
    assert review_for(registry.as_("dan", "nlp"), proposal, "user:sten").status_code == 201

    assert code(review_for(sten, proposal, "user:gina")) == "already-reviewed"


def test_neither_delegator_nor_delegate_may_have_had_a_part_in_it(registry: Registry, proposal: dict[str, Any]) -> None:
    author, sten = registry.as_("author", "tag-stewards"), registry.as_("sten", "tag-stewards")
    delegate(author)
    delegate(sten, to="user:author")

    assert code(review_for(registry.as_("dan", "nlp"), proposal, "user:author")) == "self-approval"
    assert code(review_for(author, proposal, "user:sten")) == "self-approval"


def test_a_contributor_does_not_come_back_through_a_delegate(registry: Registry, proposal: dict[str, Any]) -> None:
    sten = registry.as_("sten", "tag-stewards")
    delegate(sten)
    headers = {"If-Match": "*"}
    edited = sten.patch(f"/v1/proposals/{proposal['id']}", json={"reason": "better words"}, headers=headers).json()

    assert code(review_for(registry.as_("dan", "nlp"), edited, "user:sten")) == "contributor-approval"


def test_what_was_delegated_is_not_delegated_on(registry: Registry, proposal: dict[str, Any]) -> None:
    delegate(registry.as_("sten", "tag-stewards"))
    dan = registry.as_("dan", "security")  # who may delegate, but not approve task types

    assert code(delegate(dan, to="user:eve")) == "not-permitted"
    assert code(review_for(registry.as_("eve", "nlp"), proposal, "user:dan")) == "no-delegation"


@pytest.mark.parametrize("how", ["expired", "revoked", "lost", "disabled", "delegate-disabled"])
def test_an_approval_by_a_delegation_that_ended_counts_no_longer(
    registry: Registry, proposal: dict[str, Any], how: str
) -> None:
    sten = registry.as_("sten", "tag-stewards")
    made = delegate(sten, days=0.5).json()
    dan = registry.as_("dan", "nlp")
    assert review_for(dan, proposal, "user:sten").status_code == 201

    with later(hours=13 if how == "expired" else 0):
        if how == "revoked":
            ended = sten.post(f"/v1/delegations/{made['id']}:revoke", json={"reason": "back again"})
            assert ended.json()["ended_because"] == "revoked"
        elif how == "lost":
            with registry.books.writing() as session:
                for token in identity.tokens(session, "user:sten"):
                    session.delete(token)
        elif how != "expired":
            whom = "user:sten" if how == "disabled" else "user:dan"
            registry.as_("root", "platform-admins").post(f"/v1/principals/{whom}:disable", json={"reason": "left us"})
        second = registry.review(registry.as_("second", "tag-stewards"), proposal)

        assert code(second) == "approval-lost"
        delegations.tend(registry.books)
        delegations.tend(registry.books)
    because = {"expired": "expired", "revoked": "revoked"}.get(how, "right-lost")
    assert [event.detail["because"] for event in registry.events("delegation.ended")] == [because]
    assert code(review_for(registry.as_("other", "nlp"), proposal, "user:sten")) == "no-delegation"


@pytest.mark.parametrize(
    ("scope", "refusal"),
    [
        ({"actions": ["policy-approve"]}, "not-permitted"),
        ({"groups": ["platform-admins"]}, "invalid"),
        ({"unit": "nowhere"}, "not-permitted"),
        ({"tag": "no-such-task"}, "unknown-task-type"),
        ({"actions": ["submit"]}, "malformed-request"),
    ],
)
def test_nobody_delegates_what_is_not_theirs(registry: Registry, scope: dict[str, Any], refusal: str) -> None:
    assert code(delegate(registry.as_("sten", "tag-stewards"), **scope)) == refusal
    assert registry.events("delegation.made") == []


@pytest.mark.parametrize(("to", "days"), [("user:sten", 7), ("ci:nightly", 7), ("user:dan", 31), ("user:dan", -1)])
def test_to_whom_and_for_how_long_is_bounded(registry: Registry, to: str, days: float) -> None:
    assert code(delegate(registry.as_("sten", "tag-stewards"), to=to, days=days)) == "invalid"


def test_a_delegation_reaches_as_far_as_it_says(registry: Registry, proposal: dict[str, Any]) -> None:
    delegate(registry.as_("sten", "tag-stewards"), tag="dpo")

    reply = review_for(registry.as_("dan", "nlp"), proposal, "user:sten")

    assert (code(reply), "does not cover this" in reply.json()["detail"]) == ("no-delegation", True)


def test_what_the_policy_denies_to_the_delegate_it_denies_to_their_hand(
    registry: Registry, proposal: dict[str, Any]
) -> None:
    delegate(registry.as_("sten", "tag-stewards"))

    reply = review_for(registry.as_("dan", "suspended"), proposal, "user:sten")

    assert code(reply) == "not-permitted"
    assert [event.rule for event in registry.events("approve.refused")] == ["suspended-nothing"]


def test_others_do_not_revoke_a_delegation(registry: Registry) -> None:
    made = delegate(registry.as_("sten", "tag-stewards")).json()
    path = f"/v1/delegations/{made['id']}:revoke"

    assert code(registry.as_("eve", "tag-stewards").post(path, json={"reason": "just so"})) == "not-permitted"
    assert registry.as_("root", "platform-admins").post(path, json={"reason": "was stolen"}).status_code == 200
    assert code(registry.as_("root", "platform-admins").post(path, json={"reason": "once more"})) == "delegation-over"
    assert [row["id"] for row in registry.as_("eve").get("/v1/delegations").json()["items"]] == [made["id"]]


def test_the_database_ends_a_delegation_once_and_changes_nothing_else(registry: Registry) -> None:
    delegate(registry.as_("sten", "tag-stewards"))
    for statement in (
        "update delegation set not_after = '2099-01-01', ended_at = made_at, ended_because = 'expired'",
        "update delegation set delegate = 'user:eve'",
        "delete from delegation",
    ):
        with pytest.raises(DBAPIError, match="delegation"), registry.books.writing() as session:
            session.connection().execute(text(statement))
