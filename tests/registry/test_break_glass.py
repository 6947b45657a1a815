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
from mutants import mutant
from policy_folders import as_yaml, changed_policy
from sqlalchemy.exc import DBAPIError
from sqlmodel import Session, select, text

from enforcer.profiles import Kind, Profile
from registry import db, glass, proposal_clock, tag_changes, tag_life, tags
from registry.books import Books
from registry.identity import Actor
from registry.server import let_sunsets_come
from registry.settings import Settings
from registry.tables import Proposal, Tag, TagVersion

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


def agreed(registry: Registry, author: TestClient, change: dict[str, Any]) -> httpx2.Response:
    """What became of it when two stewards approved it, or why it was not opened."""
    reply = author.post("/v1/proposals", json={"change": change, "reason": "higher yet"})
    for steward in ("first", "second"):
        if reply.status_code == 201:
            reply = registry.review(registry.as_(steward, "tag-stewards"), reply.json())
    return reply


def ending(tag: str = "message-tone") -> dict[str, Any]:
    return {"kind": "deprecation", "tag": tag, "sunset_at": (REAL_NOW() + timedelta(days=20)).isoformat()}


def withdraw(client: TestClient, proposal: dict[str, Any]) -> httpx2.Response:
    return client.post(f"/v1/proposals/{proposal['id']}:withdraw", headers={"If-Match": "*"})


def ended_behind_our_back(registry: Registry, tag: str = "message-tone") -> None:
    """As nothing of the service does while it is provisional."""
    with registry.books.writing() as session:
        row, steward = session.get_one(Tag, tag), Actor("user:sten", ("tag-stewards",), "all")
        tag_life.deprecate(session, row, db.utc_now() + timedelta(hours=2), None, "it ends", steward)


def stood_upon(registry: Registry, tag: str = "message-tone") -> None:
    """As nothing of the service does while it is provisional: a task type below it."""
    with registry.books.writing() as session:
        tags.activate(
            session,
            name="hotel-sentiment",
            kind=Kind.BUSINESS,
            parent=tag,
            description="Below what may be undone.",
            aliases=[],
            profile=Profile.model_validate(tags.version(session, tag).profile),
            by=Actor("user:sten", ("tag-stewards",), "all"),
            event="tag.activated",
        )


BELOW = {**NEW_TAG, "tag": "hotel-sentiment", "parent": "message-tone"}
BESIDE: list[dict[str, Any]] = [
    with_bar(0.95),
    ending(),
    {"kind": "alias", "tag": "message-tone", "alias": "chat-mood"},
    BELOW,
    {**ending("sequence-classification"), "replaced_by": "message-tone"},
]


@pytest.mark.parametrize("first", [NEW_TAG, NEW_VERSION], ids=lambda change: str(change["kind"]))
def test_nothing_comes_to_stand_on_what_is_provisional(registry: Registry, first: dict[str, Any]) -> None:
    if first is NEW_VERSION:
        registry.approve_tag()
    lead, steward = registry.as_("lead", *LEAD), registry.as_("sten", "tag-stewards", "trainers")
    broken = break_glass(lead, first).json()

    replies = [agreed(registry, steward, change) for change in BESIDE] + [break_glass(lead, BELOW)]

    assert [reply.json()["code"] for reply in replies] == ["break-glass-refused"] * len(replies)
    assert [reply for reply in replies if broken["id"] not in reply.json()["detail"]] == []
    with later(hours=73):
        proposal_clock.tend(registry.books)
    assert state_of(registry, broken) == ("expired", "reverted")


def test_what_was_open_before_waits_and_goes_on_when_its_version_is_back(registry: Registry, lead: TestClient) -> None:
    li = registry.as_("li", "trainers")
    body = {"change": with_bar(0.95), "reason": "higher yet"}
    before, draft = (li.post("/v1/proposals", json=body | {"draft": so}).json() for so in (False, True))
    broken = break_glass(lead, NEW_VERSION).json()

    held = [registry.review(registry.as_(steward, "tag-stewards"), before) for steward in ("first", "second")][1]
    edited = li.patch(f"/v1/proposals/{before['id']}", json={"reason": "please"}, headers={"If-Match": "*"})
    submitted = li.post(f"/v1/proposals/{draft['id']}:submit", headers={"If-Match": "*"})

    assert [reply.json()["code"] for reply in (held, edited, submitted)] == ["break-glass-refused"] * 3
    assert withdraw(lead, broken).json()["provisional"] == "reverted"
    assert state_of(registry, before) == ("open", None)
    assert li.post(f"/v1/proposals/{draft['id']}:submit", headers={"If-Match": "*"}).json()["state"] == "open"
    assert registry.review(registry.as_("second", "tag-stewards"), before).json()["state"] == "applied"
    assert state_of(registry, draft) == ("superseded", None)


def test_what_was_open_before_is_over_when_its_version_is(registry: Registry, lead: TestClient) -> None:
    body = {"change": with_bar(0.95), "reason": "higher yet"}
    before = registry.as_("li", "trainers").post("/v1/proposals", json=body).json()
    broken = break_glass(lead, NEW_VERSION).json()

    for steward in ("first", "second"):
        ratified = ratify(registry.as_(steward, "tag-stewards"), broken).json()

    assert ratified["provisional"] == "ratified"
    assert state_of(registry, before) == ("superseded", None)
    assert kinds(registry, before)[-1] == "proposal.superseded"


def test_what_is_agreed_to_for_later_waits_for_the_end_of_what_is_provisional(
    registry: Registry, lead: TestClient
) -> None:
    """It is not opened again each minute, and is told once."""
    soon = (db.utc_now() + timedelta(hours=1)).isoformat()
    body = {"change": {"kind": "alias", "tag": "message-tone", "alias": "chat-mood"}, "reason": "so they say"}
    alias = registry.as_("li", "trainers").post("/v1/proposals", json=body | {"not_before": soon}).json()
    for steward in ("first", "second")[: alias["approvals_needed"]]:
        registry.review(registry.as_(steward, "tag-stewards"), alias)
    broken = break_glass(lead, NEW_VERSION).json()

    with later(hours=2):
        proposal_clock.tend(registry.books)
        assert state_of(registry, alias) == ("approved", None)
        withdraw(lead, broken)
        proposal_clock.tend(registry.books)

    assert state_of(registry, alias) == ("applied", None)


def test_people_end_nothing_that_cannot_be_undone_and_the_clock_raises_an_alarm(registry: Registry) -> None:
    lead = registry.as_("lead", *LEAD)
    broken = break_glass(lead, NEW_TAG).json()
    stood_upon(registry)

    ends = [withdraw(lead, broken), registry.review(registry.as_("first", "tag-stewards"), broken, "reject")]

    assert [reply.json()["code"] for reply in ends] == ["stale-base"] * 2
    assert "`hotel-sentiment` came to stand on it" in ends[0].json()["detail"].replace("on `message-tone`", "on it")
    assert state_of(registry, broken) == ("open", "in-effect")
    with later(hours=73):
        proposal_clock.tend(registry.books)
    assert state_of(registry, broken) == ("expired", "not-reverted")
    (alarm,) = registry.events("proposal.not-reverted")
    assert (alarm.outcome, alarm.reason) == ("refused", "`hotel-sentiment` came to stand on `message-tone` meanwhile")


def test_what_the_database_refuses_is_an_alarm_too(registry: Registry, lead: TestClient) -> None:
    def refused(session: Session, _proposal: object, _by: object) -> None:
        session.connection().execute(text("insert into tag_version select * from tag_version"))

    broken = break_glass(lead, NEW_VERSION).json()
    with patch.object(tag_changes, "revert", refused):
        assert withdraw(lead, broken).json()["code"] == "stale-base"
        with later(hours=73):
            proposal_clock.tend(registry.books)

    assert state_of(registry, broken) == ("expired", "not-reverted")
    assert in_force(registry)[0] == 2


def test_one_that_cannot_be_tended_holds_up_no_other_and_no_start(registry: Registry, lead: TestClient) -> None:
    def poisoned(session: Session, proposal: Proposal, by: Actor) -> None:
        if proposal.kind == "new-tag":
            raise RuntimeError("nobody thought of this")
        revert(session, proposal, by)

    revert = tag_changes.revert
    version = break_glass(lead, NEW_VERSION).json()
    poison = break_glass(lead, {**NEW_TAG, "tag": "apple-sorting"}).json()
    with patch.object(tag_changes, "revert", poisoned), later(hours=73):
        proposal_clock.end_provisional(registry.books)  # as when the service starts
        proposal_clock.tend(registry.books)

    assert state_of(registry, version) == ("expired", "reverted")
    assert state_of(registry, poison) == ("open", "in-effect")
    with later(hours=73):
        proposal_clock.tend(registry.books)
    assert state_of(registry, poison) == ("expired", "reverted")


@pytest.mark.parametrize("hours", [1, 3], ids=["deprecated", "sunset"])
def test_a_task_type_is_taken_back_from_where_its_life_is(registry: Registry, hours: int) -> None:
    broken = break_glass(registry.as_("lead", *LEAD), NEW_TAG).json()
    ended_behind_our_back(registry)
    with later(hours=hours):
        let_sunsets_come(registry.books)
    with later(hours=73):
        proposal_clock.tend(registry.books)

    assert state_of(registry, broken) == ("expired", "reverted")
    assert registry.as_("eve").get("/v1/tags/message-tone").json()["state"] == "archived"


def test_the_compatibility_that_was_in_force_is_so_again(registry: Registry) -> None:
    lead = registry.as_("lead", *LEAD)
    profile = lead.get("/v1/tags/sequence-classification").json()["profile"]
    change = {"kind": "new-version", "tag": "sequence-classification", "profile": profile, "compatibility": "NONE"}
    broken = break_glass(lead, change).json()
    assert lead.get("/v1/tags/sequence-classification").json()["compatibility"] == "NONE"

    withdraw(lead, broken)

    assert lead.get("/v1/tags/sequence-classification").json()["compatibility"] == "BACKWARD"


def test_a_version_of_its_own_supersedes_no_change_that_is_provisional(registry: Registry, lead: TestClient) -> None:
    """Were another agreed to meanwhile: the provisional one ends by people or by the clock."""
    broken = break_glass(lead, NEW_VERSION).json()

    with mutant(glass, "refuse_beside", "if earlier is not None:", "if False:"):
        alias = {"kind": "alias", "tag": "message-tone", "alias": "chat-mood"}
        later_one = agreed(registry, registry.as_("li", "trainers"), with_bar(0.95))
        agreed(registry, registry.as_("li", "trainers"), alias)

    assert later_one.json()["state"] == "applied"
    assert state_of(registry, broken) == ("open", "in-effect")


def test_those_who_decide_see_what_a_provisional_change_was_made_from(registry: Registry, lead: TestClient) -> None:
    steward = registry.as_("sten", "tag-stewards")

    def impact(change: dict[str, Any]) -> Any:
        return steward.get(f"/v1/proposals/{break_glass(lead, change).json()['id']}/impact").json()

    version = impact(NEW_VERSION)
    named = impact({**NEW_TAG, "tag": "apple-sorting", "aliases": ["pear-sorting"]})

    assert version["compared_with"] == "message-tone@1"
    assert [change["path"] for change in version["changes"]] != []
    assert (version["compatibility"]["version"], version["compatibility"]["change_class"]) == (1, "tightening")
    assert named["compared_with"].startswith("sequence-classification@")
    assert [(one["name"], one["verdict"]) for one in named["names"]] == [
        ("apple-sorting", "ok"),
        ("pear-sorting", "ok"),
    ]


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


def test_a_policy_breaks_no_glass_and_is_told_what_there_is_for_a_night(office: Registry) -> None:
    """It would say itself who agrees to it, and what is frozen into other proposals meanwhile."""
    before = office.policy.revision
    reply = break_glass(office.as_("lead", "platform-admins", "incident-leads"), next_policy(office, PILOT, CASE))

    assert (reply.status_code, reply.json()["code"]) == (409, "break-glass-refused")
    assert "`policy`" in reply.json()["detail"]
    assert "`POST /v1/policies:override`" in reply.json()["detail"]
    assert office.policy.revision == before


@pytest.mark.parametrize("how", ["withdrawn", "rejected", "expired"])
def test_however_it_ended_without_agreement_the_next_waits_for_others(
    registry: Registry, lead: TestClient, how: str
) -> None:
    registry.as_("li", "trainers")
    first = break_glass(lead, NEW_VERSION).json()
    if how == "withdrawn":
        withdraw(lead, first)
    elif how == "rejected":
        registry.review(registry.as_("first", "tag-stewards"), first, "reject")
    with later(hours=73):
        proposal_clock.tend(registry.books)
        again = break_glass(registry.as_("other", *LEAD), NEW_VERSION)

    assert state_of(registry, first) == (how, "reverted")
    assert again.json()["code"] == "break-glass-refused"
    assert first["id"] in again.json()["detail"]


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
