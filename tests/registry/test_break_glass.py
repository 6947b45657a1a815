"""Break-glass: in effect at once, for 72 hours, and as if it had never been unless others agree."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

import httpx2
import pytest
from conftest import Registry
from fastapi.testclient import TestClient
from policy_folders import as_yaml, changed_policy
from sqlalchemy.exc import DBAPIError
from sqlmodel import select, text

from registry import db, policies, proposal_clock, tags
from registry.books import Books
from registry.settings import Settings
from registry.tables import TagVersion

REAL_NOW = db.utc_now
LEAD = ("incident-leads", "trainers")
NEW_TAG = {
    "kind": "new-tag",
    "tag": "message-tone",
    "tag_kind": "business",
    "parent": "sequence-classification",
    "description": "Whether a review speaks well of what it reviews.",
    "overrides": {},
}


def with_bar(value: float) -> dict[str, Any]:
    """The next version, which asks for more."""
    gates = [{"metric": "macro_f1", "value": value, "min_n": 100, "confidence": 0.95}]
    return {"kind": "new-version", "tag": "message-tone", "overrides": {"gates": gates}}


NEW_VERSION = with_bar(0.91)


def break_glass(client: TestClient, change: dict[str, Any], **more: Any) -> httpx2.Response:
    glass = {"incident": "INC-4711", "reason": "trainings fail everywhere"}
    body = {"change": change, "reason": "the limit is too high", "break_glass": glass, **more}
    return client.post("/v1/proposals", json=body)


def ratify(client: TestClient, proposal: dict[str, Any], **more: Any) -> httpx2.Response:
    body = {"digest": proposal["digest"], "reason": "it was right", **more}
    return client.post(f"/v1/proposals/{proposal['id']}:ratify", json=body)


@contextmanager
def later(**ahead: float) -> Iterator[None]:
    with patch.object(db, "utc_now", lambda: REAL_NOW() + timedelta(**ahead)):
        yield


def in_force(registry: Registry, tag: str = "message-tone") -> tuple[int, str]:
    with registry.books.reading() as session:
        found = tags.version(session, tag)
        return found.version, found.profile_digest


def state_of(registry: Registry, proposal: dict[str, Any]) -> tuple[str, str]:
    seen = registry.as_("anybody").get(f"/v1/proposals/{proposal['id']}").json()
    return seen["state"], seen["provisional"]


def kinds(registry: Registry, proposal: dict[str, Any]) -> list[str]:
    return [event.kind for event in registry.events() if event.proposal_id == proposal["id"]]


PILOT = {
    "id": "retail-tries-dpo",
    "effect": "allow",
    "who": ["group:retail-ds"],
    "may": ["submit"],
    "tag": ["dpo"],
    "reason": "Everybody may try it.",
}
CASE = {
    "says": "retail tries dpo",
    "who": ["group:retail-ds"],
    "do": "submit",
    "tag": "dpo",
    "unit": "retail",
    "own_unit": "retail",
    "target": "local",
    "expect": "allow",
    "because": "retail-tries-dpo",
}


@pytest.fixture
def office(tmp_path: Path) -> Registry:
    """A registry whose policy is changed by proposal."""
    folder = changed_policy(tmp_path)
    return Registry(Settings(state_dir=tmp_path / "state", policies_dir=folder, policy_source="registry"))


def next_policy(office: Registry, rule: dict[str, Any], case: dict[str, Any]) -> dict[str, Any]:
    """What ships, with one rule and its case more."""
    folder = office.settings.policies_dir
    found = [*folder.glob("model.conf"), *folder.glob("rules/*.yaml"), *folder.glob("tests/*.yaml")]
    found += [folder / f"{name}.yaml" for name in ("directory", "quotas", "approvals")]
    files = {file.relative_to(folder).as_posix(): file.read_text() for file in found}
    files["rules/pilot.yaml"] = as_yaml({"owner": "platform-admins", "rules": [rule]})
    return {"kind": "policy", "files": files | {"tests/pilot.yaml": as_yaml([case])}}


@pytest.fixture
def lead(registry: Registry) -> TestClient:
    registry.approve_tag()
    return registry.as_("lead", *LEAD)


def test_a_version_is_in_effect_at_once_and_stays_when_others_ratify_it(registry: Registry, lead: TestClient) -> None:
    reply = break_glass(lead, NEW_VERSION)

    assert reply.status_code == 201, reply.text
    broken = reply.json()
    assert (broken["state"], broken["provisional"], broken["incident"]) == ("open", "in-effect", "INC-4711")
    assert in_force(registry)[0] == 2
    assert ratify(registry.as_("first", "tag-stewards"), broken).json()["provisional"] == "in-effect"
    assert registry.review(registry.as_("second", "tag-stewards"), broken).status_code == 201
    with later(hours=73):
        proposal_clock.tend(registry.books)
    assert state_of(registry, broken) == ("applied", "ratified")
    assert in_force(registry)[0] == 2
    told = ["proposal.opened", "tag.activated", "proposal.broke-glass", "proposal.reviewed", "proposal.reviewed"]
    assert kinds(registry, broken) == [*told, "proposal.approved", "proposal.ratified"]


def test_what_nobody_ratifies_in_time_is_undone_once_and_for_all_processes(
    registry: Registry, lead: TestClient
) -> None:
    before = in_force(registry)
    broken = break_glass(lead, NEW_VERSION).json()

    with later(hours=71):
        proposal_clock.end_provisional(registry.books)
        assert in_force(registry)[0] == 2
    with later(hours=72):
        late = ratify(registry.as_("first", "tag-stewards"), broken)
        for _ in range(3):
            proposal_clock.tend(registry.books)

    assert late.json()["code"] == "proposal-expired"
    assert state_of(registry, broken) == ("expired", "reverted")
    assert in_force(registry) == (3, before[1])
    with registry.books.reading() as session:  # what ran under 2 still tells what it ran under
        assert len(session.exec(select(TagVersion).where(TagVersion.tag == "message-tone")).all()) == 3
    once = ["tag.reverted", "proposal.reverted", "proposal.expired"]
    assert kinds(registry, broken)[-3:] == once
    assert [len(registry.events(kind)) for kind in once] == [1, 1, 1]


@pytest.mark.parametrize("how", ["rejected", "withdrawn"])
def test_a_new_task_type_that_is_not_agreed_to_is_archived_and_its_name_is_taken(registry: Registry, how: str) -> None:
    lead = registry.as_("lead", *LEAD)
    broken = break_glass(lead, NEW_TAG).json()
    assert registry.as_("eve").get("/v1/tags/message-tone").json()["state"] == "active"

    if how == "rejected":
        registry.review(registry.as_("first", "tag-stewards"), broken, "reject")
    else:
        lead.post(f"/v1/proposals/{broken['id']}:withdraw", headers={"If-Match": "*"})

    assert state_of(registry, broken) == (how, "reverted")
    assert registry.as_("eve").get("/v1/tags/message-tone").json()["state"] == "archived"
    assert registry.propose(registry.as_("li", "trainers")).json()["code"] == "name-is-variant"


def test_what_somebody_changed_meanwhile_is_not_overwritten_and_an_alarm_says_so(
    registry: Registry, lead: TestClient
) -> None:
    broken = break_glass(lead, NEW_VERSION).json()
    after = registry.as_("li", "trainers").post(
        "/v1/proposals", json={"change": with_bar(0.95), "reason": "higher yet"}
    )
    for steward in ("first", "second"):
        assert registry.review(registry.as_(steward, "tag-stewards"), after.json()).status_code == 201

    with later(hours=73):
        proposal_clock.tend(registry.books)

    assert in_force(registry)[0] == 3
    assert state_of(registry, broken) == ("superseded", "not-reverted")
    (alarm,) = registry.events("proposal.not-reverted")
    assert (alarm.outcome, alarm.reason) == (
        "refused",
        "version 3 of `message-tone` came after the provisional 2",
    )


def test_a_task_type_with_others_below_it_is_not_taken_back_before_them(registry: Registry) -> None:
    lead = registry.as_("lead", *LEAD)
    above = break_glass(lead, NEW_TAG).json()
    below = {**NEW_TAG, "tag": "hotel-sentiment", "parent": "message-tone"}
    child = break_glass(lead, below).json()

    with later(hours=73):  # both are over when the service comes back: newest first
        proposal_clock.tend(registry.books)

    assert (state_of(registry, above), state_of(registry, child)) == (("expired", "reverted"),) * 2
    assert registry.events("proposal.not-reverted") == []


def test_a_policy_is_as_it_was_when_nobody_ratified_it(office: Registry) -> None:
    before = office.policy.revision
    lead = office.as_("lead", "platform-admins", "incident-leads")
    broken = break_glass(lead, next_policy(office, PILOT, CASE)).json()
    assert office.policy.revision == broken["policy_revision"] != before

    with later(hours=72):
        proposal_clock.tend(office.books)
        proposal_clock.tend(office.books)

    assert office.policy.revision == before
    assert state_of(office, broken) == ("expired", "reverted")
    sources = [event.detail["source"] for event in office.events("policy.published")]
    assert sources[-2:] == ["break-glass", "reversion"]


def test_a_provisional_policy_does_not_say_who_ratifies_it(office: Registry) -> None:
    """Otherwise one person could hand out the right to agree with them."""
    friends = {**PILOT, "id": "friends-approve", "who": ["group:nlp"], "may": ["policy-approve"], "tag": ["any"]}
    case = {**CASE, "who": ["group:nlp"], "do": "policy-approve", "tag": "any", "because": "friends-approve"}
    lead = office.as_("lead", "platform-admins", "incident-leads")
    broken = break_glass(lead, next_policy(office, friends, case))
    assert broken.status_code == 201, broken.text

    friend = ratify(office.as_("friend", "nlp", unit="all"), broken.json())

    assert (friend.status_code, friend.json()["code"]) == (403, "not-permitted")
    assert "by the policy before" in friend.json()["detail"]
    for admin in ("hu", "sun", "gao")[: broken.json()["approvals_needed"]]:
        assert office.review(office.as_(admin, "platform-admins"), broken.json()).status_code == 201
    assert state_of(office, broken.json()) == ("applied", "ratified")


def test_breaking_the_glass_takes_the_right_and_is_on_record(registry: Registry, lead: TestClient) -> None:
    refused = break_glass(registry.as_("li", "trainers", "tag-stewards"), NEW_VERSION)

    assert (refused.status_code, refused.json()["code"]) == (403, "not-permitted")
    assert [event.actor for event in registry.events("break-glass.refused")] == ["user:li"]
    assert in_force(registry)[0] == 1


def test_whoever_broke_the_glass_does_not_ratify(registry: Registry) -> None:
    lead = registry.as_("lead", *LEAD, "tag-stewards")
    broken = break_glass(lead, NEW_TAG).json()

    assert ratify(lead, broken).json()["code"] == "self-approval"
    edited = lead.patch(f"/v1/proposals/{broken['id']}", json={}, headers={"If-Match": "*"})
    assert edited.json()["code"] == "already-decided"


@pytest.mark.parametrize("more", [{"draft": True}, {"not_before": "2099-01-01T00:00:00Z"}])
def test_what_shall_take_effect_later_breaks_no_glass(registry: Registry, more: dict[str, Any]) -> None:
    assert break_glass(registry.as_("lead", *LEAD), NEW_TAG, **more).json()["code"] == "invalid"


def test_what_cannot_be_undone_waits_for_others(registry: Registry) -> None:
    exception = {
        "kind": "exception",
        "id": "wang-tries-dpo",
        "who": ["user:wang"],
        "may": ["submit"],
        "tag": ["dpo"],
        "until": (db.utc_now() + timedelta(days=9)).isoformat(),
    }
    reply = break_glass(registry.as_("lead", *LEAD), exception)

    assert (reply.status_code, reply.json()["code"]) == (409, "break-glass-refused")
    assert "`exception`" in reply.json()["detail"]


def test_seventy_two_hours_are_not_prolonged_by_breaking_it_again(registry: Registry, lead: TestClient) -> None:
    first = break_glass(lead, NEW_VERSION).json()
    at_once = break_glass(lead, NEW_VERSION)
    with later(hours=73):
        proposal_clock.tend(registry.books)
        again = break_glass(registry.as_("other", *LEAD), NEW_VERSION)
    with later(days=34):
        for steward, unit in (("sam", "retail"), ("sue", "ai")):
            registry.token(steward, "tag-stewards", unit=unit)
        much_later = break_glass(registry.as_("third", *LEAD), NEW_VERSION)

    assert [reply.json()["code"] for reply in (at_once, again)] == ["break-glass-refused"] * 2
    assert first["id"] in again.json()["detail"]
    assert much_later.status_code == 201, much_later.text


def test_nothing_is_ratified_that_is_not_in_effect(registry: Registry) -> None:
    proposal = registry.propose(registry.as_("li", "trainers")).json()

    assert ratify(registry.as_("first", "tag-stewards"), proposal).json()["code"] == "already-decided"


def test_the_database_lets_nothing_end_while_it_is_in_effect(registry: Registry, lead: TestClient) -> None:
    break_glass(lead, NEW_VERSION)

    with pytest.raises(DBAPIError, match="no_end_in_effect"), registry.books.writing() as session:
        session.connection().execute(text("update proposal set state = 'expired' where provisional = 'in-effect'"))


def test_the_policy_of_an_office_is_live_again_for_everybody(office: Registry) -> None:
    """The gate of this process, too, not only the books."""
    lead = office.as_("lead", "platform-admins", "incident-leads")
    broken = break_glass(lead, next_policy(office, PILOT, CASE)).json()
    wang = office.as_("wang", "retail-ds")
    question = {"resource": {"type": "task-type", "id": "dpo"}, "action": {"name": "submit"}}
    assert wang.post("/access/v1/evaluation", json=question).json()["decision"] is True

    office.review(office.as_("hu", "platform-admins"), broken, "reject")

    assert wang.post("/access/v1/evaluation", json=question).json()["decision"] is False
    with office.books.reading() as session:
        assert policies.live_revision(session) == office.policy.revision


@pytest.mark.postgresql
def test_several_processes_undo_it_once(postgresql: str, tmp_path: Path) -> None:
    registry = Registry(Settings(state_dir=tmp_path / "state", database_url=postgresql))
    registry.approve_tag()
    before = in_force(registry)
    broken = break_glass(registry.as_("lead", *LEAD), NEW_VERSION).json()
    processes = [Books.open(registry.settings) for _ in range(3)]

    with later(hours=73), ThreadPoolExecutor(3) as pool:
        list(pool.map(proposal_clock.tend, processes))

    assert in_force(registry) == (3, before[1])
    assert state_of(registry, broken) == ("expired", "reverted")
    once = ("tag.reverted", "proposal.reverted", "proposal.expired")
    assert [len(registry.events(kind)) for kind in once] == [1, 1, 1]


@pytest.mark.postgresql
def test_postgresql_ends_a_delegation_once_and_nothing_that_is_in_effect(postgresql: str, tmp_path: Path) -> None:
    registry = Registry(Settings(state_dir=tmp_path / "state", database_url=postgresql))
    sten = registry.as_("sten", "tag-stewards")
    until = (db.utc_now() + timedelta(days=1)).isoformat()
    scope = {"actions": ["approve"]}
    asked = {"to": "user:dan", "scope": scope, "not_after": until, "reason": "away"}
    assert sten.post("/v1/delegations", json=asked).status_code == 201
    assert break_glass(registry.as_("lead", *LEAD), NEW_TAG).status_code == 201

    for statement, says in (
        ("update delegation set not_after = now(), ended_at = now(), ended_because = 'expired'", "only ends"),
        ("update delegation set actions = '[]'", "only ends"),
        ("delete from delegation", "never deleted"),
        ("update proposal set state = 'expired'", "no_end_in_effect"),
    ):
        with pytest.raises(DBAPIError, match=says), registry.books.writing() as session:
            session.connection().execute(text(statement))
