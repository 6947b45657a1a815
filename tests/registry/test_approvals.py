"""Who agrees to a proposal, by terms that were frozen when it was opened, and by what they are when it takes effect."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, get_args
from unittest.mock import patch

import httpx2
import pytest
from conftest import Registry, ask, ticket_request
from fastapi.testclient import TestClient
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from sqlmodel import delete

from enforcer.approvals import ApprovalRule, Approvals, ChangeKind, Threshold
from enforcer.policy.revision import Policy
from registry import approvals, audit, db, policies, proposal_clock, proposals
from registry.identity import Actor
from registry.settings import Settings
from registry.tables import ApiToken, Principal

TERMINAL = ("applied", "rejected", "withdrawn", "expired", "superseded")


@dataclass
class House(Registry):
    """A registry in which time passes; people sign in for 60 days, so that they are there when it has."""

    ahead: timedelta = timedelta()

    def token(self, user: str, *groups: str, unit: str | None = None, days: float = 60) -> str:
        return super().token(user, *groups, unit=unit, days=days)

    def steward(self, name: str) -> TestClient:
        return self.as_(name, "tag-stewards")

    def edit(
        self, client: TestClient, proposal: dict[str, Any], seen: str | None = None, **edit: Any
    ) -> httpx2.Response:
        path = f"/v1/proposals/{proposal['id']}"
        return client.patch(path, json=edit, headers={"If-Match": seen or client.get(path).headers["etag"]})

    def shown(self, proposal: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = self.as_("reader").get(f"/v1/proposals/{proposal['id']}").json()
        return found

    def told(self, proposal: dict[str, Any]) -> list[str]:
        return [event.kind for event in self.events() if event.proposal_id == proposal["id"]]

    def new_version(self, tag: str, bar: float, **request: Any) -> httpx2.Response:
        gates = [{"metric": "macro_f1", "value": bar, "min_n": 100, "confidence": 0.95}]
        change = {"kind": "new-version", "tag": tag, "overrides": {"gates": gates}}
        body = {"change": change, "reason": "another bar", **request}
        return self.as_("wang", "trainers").post("/v1/proposals", json=body)

    def leaves_the_stewards(self, user: str, for_group: str = "auditors") -> None:
        with self.books.writing() as session:
            session.exec(delete(ApiToken).where(ApiToken.actor == f"user:{user}"))
        self.token(user, for_group)

    def pass_time(self, **time: float) -> None:
        self.ahead += timedelta(**time)
        proposal_clock.tend(self.books)


ANY_STATE = {"If-Match": "*"}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    made = House(Settings(state_dir=tmp_path_factory.mktemp("house")))
    real = db.utc_now
    with patch.object(db, "utc_now", lambda: real() + made.ahead):
        yield made


@pytest.fixture
def house(served: House) -> Iterator[House]:
    """The same for all tests here, each about a task type of its own. Nobody waits for what another test left."""
    yield served
    served.ahead = timedelta()


# --- edits ------------------------------------------------------------------------------------------------------------


def test_an_edit_voids_the_approvals_and_its_editor_approves_no_more(house: House) -> None:
    wang, li, zhao = house.as_("wang", "trainers"), house.steward("li"), house.steward("zhao")
    proposal = house.propose(wang, "apple-sorting").json()
    house.review(li, proposal)

    edited = house.edit(zhao, proposal, reason="we train this every day").json()

    assert (edited["state"], edited["round"], edited["contributors"]) == ("open", 2, ["user:zhao"])
    assert edited["digest"] != proposal["digest"]
    assert [review["counts"] for review in edited["reviews"]] == [False]
    assert edited["missing"][0]["have"] == 0
    assert house.review(li, proposal).json()["code"] == "stale-review"
    contributor = house.review(zhao, edited)
    assert (contributor.status_code, contributor.json()["code"]) == (403, "contributor-approval")
    states = [house.review(house.steward(name), edited).json()["state"] for name in ("li", "gao")]
    assert states == ["open", "applied"]


def test_an_edit_says_what_it_saw(house: House) -> None:
    wang = house.as_("wang", "trainers")
    first = house.propose(wang, "grape-sorting")
    proposal = first.json()
    path = f"/v1/proposals/{proposal['id']}"
    house.edit(wang, proposal, reason="no less")

    blind = wang.patch(path, json={"reason": "no more"})
    stale = house.edit(wang, proposal, seen=first.headers["etag"], reason="no more")
    seen = wang.patch(path, json={"reason": "some more"}, headers={"If-Match": wang.get(path).headers["etag"]})

    assert [reply.status_code for reply in (blind, stale, seen)] == [428, 412, 200]
    assert [reply.json()["code"] for reply in (blind, stale)] == ["precondition-required", "stale"]
    assert seen.headers["etag"] == wang.get(path).headers["etag"]


def test_an_edit_is_about_the_same(house: House) -> None:
    wang = house.as_("wang", "trainers")
    proposal = house.propose(wang, "peach-sorting").json()
    other = {**proposal["change"], "tag": "melon-sorting"}

    reply = house.edit(wang, proposal, change=other)

    assert (reply.status_code, reply.json()["code"]) == (422, "invalid")
    assert house.shown(proposal)["round"] == 1


def test_a_draft_is_for_nobody_to_review_until_its_author_submits_it(house: House) -> None:
    wang, li = house.as_("wang", "trainers"), house.steward("li")
    change = {"kind": "new-version", "tag": "sequence-classification", "profile": _profile(wang)}
    body = {"change": change, "reason": "a longer text", "draft": True}
    draft = wang.post("/v1/proposals", json=body).json()
    path = f"/v1/proposals/{draft['id']}"

    early = house.review(li, draft)
    others = house.as_("chen", "trainers").post(f"{path}:submit", headers=ANY_STATE)
    opened = wang.post(f"{path}:submit", headers=ANY_STATE)
    again = wang.post(f"{path}:submit", headers=ANY_STATE)

    assert (draft["state"], draft["terms"]) == ("draft", None)
    assert (early.json()["code"], others.status_code) == ("already-decided", 403)
    assert (opened.json()["state"], opened.json()["base"]["tag"]) == ("open", "sequence-classification")
    assert again.json()["code"] == "already-decided"
    wang.post(f"{path}:withdraw", headers=ANY_STATE)
    kinds = [kind for kind in house.told(draft) if not kind.endswith(".refused")]
    assert kinds == ["proposal.drafted", "proposal.opened", "proposal.withdrawn"]


def _profile(client: TestClient) -> dict[str, Any]:
    profile: dict[str, Any] = client.get("/v1/tags/sequence-classification").json()["profile"]
    profile["parameters"]["max_length"]["maximum"] += 1
    return profile


# --- what it was made from --------------------------------------------------------------------------------------------


def test_a_change_made_from_an_older_version_lands_over_no_other(house: House) -> None:
    house.approve_tag("lemon-sorting")
    first = house.new_version("lemon-sorting", 0.95).json()
    second = house.new_version("lemon-sorting", 0.96).json()
    draft = house.new_version("lemon-sorting", 0.97, draft=True).json()
    for name in ("li", "zhao"):
        assert house.review(house.steward(name), first).status_code == 201

    wang = house.as_("wang", "trainers")
    submitted = wang.post(f"/v1/proposals/{draft['id']}:submit", headers=ANY_STATE)
    late = house.new_version("lemon-sorting", 0.98, base=first["base"]["digest"])

    assert (house.shown(first)["state"], house.shown(second)["state"]) == ("applied", "superseded")
    assert house.told(second) == ["proposal.opened", "proposal.superseded"]
    assert [(r.status_code, r.json()["code"]) for r in (submitted, late)] == [(409, "stale-base")] * 2
    rebased = house.edit(wang, draft).json()
    assert (rebased["base"]["version"], rebased["state"]) == (2, "draft")
    assert wang.post(f"/v1/proposals/{draft['id']}:submit", headers=ANY_STATE).json()["state"] == "open"


# --- who is asked -----------------------------------------------------------------------------------------------------


def test_a_new_root_is_agreed_to_by_two_units(house: House) -> None:
    wang = house.as_("wang", "trainers")
    profile = wang.get("/v1/tags/sequence-classification").json()["profile"]
    root = house.propose(wang, "fruit-ripeness", parent=None, overrides=None, profile=profile, tag_kind="head").json()
    one, two, other = (house.as_(name, "tag-stewards", unit=unit) for name, unit in
                       (("li", "retail"), ("wu", "retail"), ("zhao", "ai")))  # fmt: skip

    replies = [house.review(client, root).json() for client in (one, two, other)]

    assert [reply["state"] for reply in replies] == ["open", "open", "applied"]
    assert [missing["name"] for missing in replies[1]["missing"]] == ["different business units"]


def test_whoever_runs_what_is_loosened_is_asked_too(house: House) -> None:
    gates = [{"metric": "macro_f1", "value": 0.95, "min_n": 100, "confidence": 0.95}]
    house.approve_tag("cherry-sorting", overrides={"gates": gates})
    grant = ask(house.as_("chen", "retail-ds", unit="retail"), ticket_request("cherry-sorting"))
    assert grant.status_code == 201, grant.text
    proposal = house.new_version("cherry-sorting", 0.93).json()
    owner, stranger = (house.as_(name, "unit-owners", unit=unit) for name, unit in (("o", "retail"), ("s", "search")))

    agreed = [house.review(house.steward(name), proposal).json() for name in ("li", "zhao")]
    not_asked = house.review(stranger, proposal)
    last = house.review(owner, proposal).json()

    assert [(m["name"], m["unit"]) for m in agreed[-1]["missing"]] == [("owners-of-affected-units", "retail")]
    assert (not_asked.status_code, not_asked.json()["reason_code"]) == (403, "not-asked")
    assert last["state"] == "applied"


def test_who_is_waited_for_finds_it_among_theirs(house: House) -> None:
    proposal = house.propose(house.as_("wang", "trainers"), "berry-sorting").json()

    def waiting(client: TestClient) -> bool:
        query = {"awaiting_me": "true", "page_size": 500}
        found = client.get("/v1/proposals", params=query).json()["items"]
        return proposal["id"] in [item["id"] for item in found]

    li = house.steward("li")
    assert [waiting(client) for client in (li, house.as_("wang", "tag-stewards"), house.as_("chen"))] == [
        True,
        False,
        False,
    ]
    house.review(li, proposal)
    assert not waiting(li)


def test_the_terms_are_those_of_the_opening(tmp_path: Path) -> None:
    house = House(Settings(state_dir=tmp_path / "state"))
    wang, li = house.as_("wang", "trainers"), house.steward("li")
    before = house.propose(wang, "apple-sorting").json()
    one = ApprovalRule(id="one", thresholds=(Threshold(name="anyone"),), reason="a small house")
    publish(house, Approvals(rules=(one,)))
    after = house.propose(wang, "grape-sorting").json()

    replies = [house.review(li, proposal).json()["state"] for proposal in (before, after)]

    assert replies == ["open", "applied"]
    shown = house.shown(before)
    assert (shown["terms"], shown["terms_digest"]) == (before["terms"], before["terms_digest"])
    edited = house.edit(wang, before, reason="asked again under the terms of today").json()
    assert (edited["terms"]["rule"], edited["approvals_needed"]) == ("one", 1)


def publish(house: Registry, asked: Approvals) -> None:
    with house.books.writing() as session:
        live = policies.live(session)
        policy = Policy.of(
            live.model, live.directory, live.rules, owners=live.owners, quotas=live.quotas, approvals=asked
        )
        seen = policies.seen(session)
        policies.publish(
            session, policy, source="folder", author="system:operator", approver=None, seen=seen, folder=policy
        )


def test_what_nobody_could_agree_to_is_refused_with_the_groups(tmp_path: Path) -> None:
    house = House(Settings(state_dir=tmp_path / "state"))
    with house.books.writing() as session:
        session.exec(delete(ApiToken))
        session.add(Principal(id="user:zhao", disabled_at=db.utc_now(), disabled_by="user:boss", reason="left"))
    house.steward("li"), house.steward("zhao")
    both = house.as_("wang", "trainers", "tag-stewards")

    refused = house.propose(both)
    house.steward("wu")
    opened = house.propose(both)

    assert (refused.status_code, refused.json()["code"]) == (409, "approval-unsatisfiable")
    assert refused.json()["missing"][0] == {
        "name": "stewards", "group": "tag-stewards", "unit": None, "have": 1, "need": 2,
    }  # fmt: skip
    assert "`tag-stewards`: 1 of 2" in refused.json()["detail"]
    assert opened.status_code == 201


def test_where_an_issuer_tells_the_groups_nobody_is_counted(tmp_path: Path) -> None:
    house = House(Settings(state_dir=tmp_path / "state"))
    with house.books.writing() as session:
        session.exec(delete(ApiToken))

    with patch.object(approvals, "electorate", lambda books, s: approvals.Electorate(books.gate(s), closed=False)):
        reply = house.propose(house.as_("wang", "trainers"))

    assert reply.status_code == 201


# --- who is asked again when it takes effect --------------------------------------------------------------------------


@pytest.mark.parametrize(("tag", "group"), [("mango-sorting", "auditors"), ("guava-sorting", "unit-owners")])
def test_a_reviewer_who_lost_the_group_is_not_counted_when_it_would_take_effect(
    house: House, tag: str, group: str
) -> None:
    """Unit owners may review, and are not asked here."""
    proposal = house.propose(house.as_("wang", "trainers"), tag).json()
    house.review(house.steward("mei"), proposal)
    house.leaves_the_stewards("mei", group)
    li, zhao = house.steward("li"), house.steward("zhao")

    applying = house.review(li, proposal)
    again = [house.review(client, proposal).json() for client in (li, zhao)]

    assert (applying.status_code, applying.json()["code"], applying.json()["lost"]) == (
        409,
        "approval-lost",
        ["user:mei"],
    )
    assert [reply["state"] for reply in again] == ["open", "applied"]
    assert {r["reviewer"]: r["counts"] for r in again[-1]["reviews"]} == {
        "user:mei": False,
        "user:li": True,
        "user:zhao": True,
    }
    assert house.told(proposal).count("proposal.approval-lost") == 1


def test_a_reviewer_who_was_shut_out_is_not_counted(house: House) -> None:
    proposal = house.propose(house.as_("wang", "trainers"), "plum-sorting").json()
    house.review(house.steward("ning"), proposal)
    with house.books.writing() as session:
        session.add(Principal(id="user:ning", disabled_at=db.utc_now(), disabled_by="user:boss", reason="left"))

    reply = house.review(house.steward("li"), proposal)

    assert (reply.status_code, reply.json()["lost"]) == (409, ["user:ning"])


def test_a_reviewer_to_whom_the_policy_denies_it_now_is_not_counted(house: House) -> None:
    proposal = house.propose(house.as_("wang", "trainers"), "lime-sorting").json()
    house.review(house.steward("tao"), proposal)
    house.token("tao", "suspended")

    reply = house.review(house.steward("li"), proposal)

    assert (reply.status_code, reply.json()["lost"]) == (409, ["user:tao"])


def test_whose_groups_an_issuer_tells_is_known_by_what_they_did_last(house: House) -> None:
    proposal = house.propose(house.as_("wang", "trainers"), "kiwi-sorting").json()
    house.review(house.steward("user:corp:77"), proposal)
    with house.books.writing() as session:
        session.exec(delete(ApiToken).where(ApiToken.actor == "user:corp:77"))
        for _ in range(101):  # and by no more than that
            audit.record(session, "run.heard", Actor("user:corp:77", (), "retail"))
    assert house.shown(proposal)["missing"][0]["have"] == 1

    ask(house.as_("user:corp:77", "auditors"), ticket_request("dpo", arguments={}))

    assert house.shown(proposal)["missing"][0]["have"] == 0


# --- by the clock -----------------------------------------------------------------------------------------------------


def test_what_is_agreed_to_for_later_waits_and_then_takes_effect(house: House) -> None:
    later = (db.utc_now() + timedelta(days=3)).isoformat()
    proposal = propose_for(house, "olive-sorting", later)
    for name in ("li", "zhao"):
        state = house.review(house.steward(name), proposal).json()["state"]
    assert (state, house.as_("wang").get("/v1/tags/olive-sorting").status_code) == ("approved", 404)

    house.pass_time(days=2, hours=23)
    assert house.shown(proposal)["state"] == "approved"
    house.pass_time(hours=2)

    assert (house.shown(proposal)["state"], house.as_("wang").get("/v1/tags/olive-sorting").status_code) == (
        "applied",
        200,
    )
    assert house.told(proposal)[-3:] == ["proposal.approved", "tag.activated", "proposal.applied"]


def test_what_waits_is_open_again_when_somebody_who_agreed_may_no_longer(house: House) -> None:
    proposal = propose_for(house, "date-sorting", (db.utc_now() + timedelta(days=3)).isoformat())
    for name in ("rui", "zhao"):
        house.review(house.steward(name), proposal)
    house.leaves_the_stewards("rui")

    house.pass_time(days=4)

    assert house.shown(proposal)["state"] == "open"
    assert house.told(proposal)[-3:] == ["proposal.approved", "proposal.approval-lost", "proposal.reopened"]
    assert house.review(house.steward("li"), proposal).json()["state"] == "applied"


def test_what_is_open_again_is_waited_for_anew(house: House) -> None:
    proposal = propose_for(house, "lime-sorting", (db.utc_now() + timedelta(days=20)).isoformat())
    for name in ("ren", "zhao"):
        house.review(house.steward(name), proposal)
    house.leaves_the_stewards("ren")

    house.pass_time(days=21)
    house.pass_time(days=1)

    assert house.shown(proposal)["state"] == "open"
    assert house.told(proposal)[-1] == "proposal.reopened"
    assert house.review(house.steward("li"), proposal).json()["state"] == "applied"


def test_what_waits_can_still_be_rejected(house: House) -> None:
    proposal = propose_for(house, "fig-sorting", (db.utc_now() + timedelta(days=3)).isoformat())
    for name in ("li", "zhao"):
        house.review(house.steward(name), proposal)

    assert house.review(house.steward("wu"), proposal).json()["code"] == "already-decided"
    assert house.review(house.steward("wu"), proposal, "reject").json()["state"] == "rejected"


def propose_for(house: House, tag: str, not_before: str) -> dict[str, Any]:
    change = {"kind": "new-tag", "tag": tag, "tag_kind": "business", "parent": "sequence-classification",
              "description": "Fruit.", "overrides": {}}  # fmt: skip
    body = {"change": change, "reason": "from next week on", "not_before": not_before}
    made: dict[str, Any] = house.as_("wang", "trainers").post("/v1/proposals", json=body).json()
    return made


def test_people_are_reminded_once_then_others_are_told_then_it_is_over(house: House) -> None:
    wang = house.as_("wang", "trainers")
    profile = wang.get("/v1/tags/sequence-classification").json()["profile"]
    root = house.propose(wang, "nut-hardness", parent=None, overrides=None, profile=profile, tag_kind="head").json()
    li = house.steward("li")

    for _ in range(2):
        house.pass_time(days=1, hours=1)
    house.pass_time(minutes=1)
    assert house.told(root) == ["proposal.opened", "proposal.reminded"]
    house.pass_time(days=3)
    house.pass_time(minutes=1)
    (escalated,) = (event for event in house.events("proposal.escalated") if event.proposal_id == root["id"])
    assert escalated.detail["group"] == "platform-admins"
    house.ahead += timedelta(days=9)
    late = house.review(li, root)
    house.pass_time(minutes=1)
    house.pass_time(minutes=1)

    assert (late.status_code, late.json()["code"]) == (409, "proposal-expired")
    assert house.shown(root)["state"] == "expired"
    assert house.told(root).count("proposal.expired") == 1


# --- what has ended ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", TERMINAL)
def test_what_has_ended_is_never_changed_nor_reviewed(house: House, state: str) -> None:
    proposal = house.propose(house.as_("wang", "trainers"), f"{state}-sorting").json()
    with house.books.engine.begin() as connection:
        connection.execute(text("update proposal set state = :s where id = :id"), {"s": state, "id": proposal["id"]})
    review = (
        "insert into review (proposal_id, round, reviewer, business_unit, verdict, digest, reason, at) "
        "values (:id, 1, 'user:x', 'ai', 'approve', 'd', 'r', '2026-01-01')"
    )

    for statement, says in (
        ("update proposal set state = 'open' where id = :id", "never changed"),
        ("update proposal set reason = 'x' where id = :id", "never changed"),
        ("delete from proposal where id = :id", "never deleted"),
        (review, "only what is open"),
    ):
        with pytest.raises(IntegrityError, match=says), house.books.engine.begin() as connection:
            connection.execute(text(statement), {"id": proposal["id"]})


def test_every_kind_of_change_can_be_named_in_the_rules() -> None:
    assert set(get_args(ChangeKind)) == set(proposals.KINDS)
