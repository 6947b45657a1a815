"""Exceptions from the policy: agreed to by people who gain nothing by them, for a while, and over at their second."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ask, ticket_request
from fastapi.testclient import TestClient
from offices import RULES, Office, OfficeInTime, an_office
from policy_folders import as_yaml, changed_policy

from registry import db
from registry.settings import Settings
from registry.tables import KnownException


def trains(client: TestClient, tag: str = "dpo", **changes: Any) -> int:
    return ask(client, ticket_request(tag, arguments={}, **changes)).status_code


@pytest.fixture
def office(tmp_path: Path) -> Iterator[OfficeInTime]:
    with an_office(tmp_path) as made:
        yield made


def test_a_refused_trainer_proposes_an_exception_two_agree_and_it_ends_at_its_second(office: OfficeInTime) -> None:
    wang = office.as_("wang", "trainers")
    assert trains(wang) == 403
    until = office.after(seconds=3600)
    proposal = office.propose_exception(wang, until=until.isoformat()).json()
    assert (proposal["subject"], proposal["approvals_needed"]) == ("exception:retail-tries-dpo", 2)

    first = office.review(office.admin("li"), proposal).json()
    assert (first["state"], trains(wang)) == ("open", 403)
    second = office.review(office.admin("zhao"), proposal).json()

    assert (second["state"], trains(wang)) == ("applied", 201)
    (issued,) = office.events("ticket.issued")
    assert (issued.rule, issued.policy_revision) == ("retail-tries-dpo", second["policy_revision"])
    assert (trains(office.as_("chen", "trainers")), trains(wang, business_unit="search")) == (403, 403)
    office.ahead = until - db.utc_now() - timedelta(milliseconds=500)
    assert trains(wang) == 201
    office.ahead += timedelta(milliseconds=500)
    assert trains(wang) == 403


def test_nobody_approves_an_exception_that_they_asked_for(office: OfficeInTime) -> None:
    both = office.as_("wang", "trainers", "platform-admins")
    proposal = office.propose_exception(both, who=["group:search-ml"]).json()

    reply = office.review(both, proposal)

    assert (reply.status_code, reply.json()["code"]) == (403, "self-approval")


@pytest.mark.parametrize("who", ["user:li", "group:platform-admins", "group:tag-stewards"])
def test_nobody_approves_an_exception_that_they_gain_by_not_even_through_a_wider_group(
    office: OfficeInTime, who: str
) -> None:
    proposal = office.propose_exception(office.as_("wang", "trainers"), who=["user:wang", who]).json()

    reply = office.review(office.admin("li"), proposal)

    assert (reply.status_code, reply.json()["code"]) == (403, "beneficiary-approval")
    assert office.events("policy-approve.refused")[0].proposal_id == proposal["id"]


def test_only_those_who_answer_for_the_policy_approve_an_exception(office: OfficeInTime) -> None:
    proposal = office.propose_exception(office.as_("wang", "trainers")).json()

    reply = office.review(office.as_("steward", "tag-stewards"), proposal)

    assert (reply.status_code, reply.json()["code"]) == (403, "not-permitted")


@pytest.mark.parametrize("where", [{"unit": ["rETAIL"]}, {"target": ["moon"]}])
def test_nobody_may_propose_an_exception_for_what_does_not_exist(office: OfficeInTime, where: dict[str, Any]) -> None:
    reply = office.propose_exception(office.as_("wang", "trainers"), **where)

    assert (reply.status_code, reply.json()["code"]) == (403, "not-permitted")
    assert f"`{next(iter(where.values()))[0]}`" in reply.json()["detail"]


RETAIL_DECIDES = {
    "id": "retail-decides-for-itself",
    "effect": "allow",
    "who": ["group:project-managers"],
    "may": ["policy-approve", "policy-read", "policy-write"],
    "unit": ["retail"],
    "reason": "Each unit answers for its exceptions.",
}


@pytest.fixture
def of_retail(tmp_path: Path) -> tuple[Office, TestClient]:
    """With somebody who answers for the policy of one unit, which is their own."""
    policies = changed_policy(tmp_path, rules=[*RULES, RETAIL_DECIDES])
    office = Office(Settings(state_dir=tmp_path / "state", policies_dir=policies))
    return office, office.as_("boss", "project-managers", unit="retail")


@pytest.mark.parametrize(
    ("units", "status"), [(["retail"], 201), (["finance"], 403), (["all"], 403), (["retail", "finance"], 403)]
)
def test_a_right_to_approve_for_one_unit_is_none_for_another_or_for_all(
    of_retail: tuple[Office, TestClient], units: list[str], status: int
) -> None:
    office, boss = of_retail
    proposal = office.propose_exception(office.as_("wang", "trainers"), unit=units).json()

    assert office.review(boss, proposal).status_code == status


@pytest.mark.parametrize(("unit", "status"), [("retail", 200), ("finance", 403)])
def test_an_exception_is_revoked_by_a_right_for_its_unit(
    of_retail: tuple[Office, TestClient], unit: str, status: int
) -> None:
    office, boss = of_retail
    office.grant_exception(unit=[unit])

    assert office.revoke(boss, "retail-tries-dpo").status_code == status


def test_a_right_for_one_unit_reads_writes_and_replays_no_policy(of_retail: tuple[Office, TestClient]) -> None:
    _, boss = of_retail
    policy = {"change": {"kind": "policy", "files": {"model.conf": "x"}}, "reason": "ours"}

    replies = [
        *(boss.get(path) for path in ("/v1/policies", "/v1/policies/live", "/v1/policies:shadow", "/v1/exceptions")),
        boss.post("/v1/policies:replay", json={"revision": "live"}),
        boss.post("/v1/policies:validate", json={"files": {"model.conf": "x"}}),
        boss.post("/v1/proposals", json=policy),
    ]

    assert [(reply.status_code, reply.json()["code"]) for reply in replies] == [(403, "not-permitted")] * 7


def test_an_exception_needs_two_approvals_where_other_proposals_need_one(tmp_path: Path) -> None:
    policies = changed_policy(tmp_path, rules=RULES)
    anyone = {"id": "one", "thresholds": [{"name": "anyone", "approve": 1}], "reason": "a small house"}
    (policies / "approvals.yaml").write_text(as_yaml({"rules": [anyone]}))
    office = Office(Settings(state_dir=tmp_path / "state", policies_dir=policies))
    wang = office.as_("wang", "trainers")

    assert office.propose(wang).json()["approvals_needed"] == 1
    assert office.propose_exception(wang).json()["approvals_needed"] == 2


@pytest.mark.parametrize(
    ("change", "code", "says"),
    [
        ({"until": "2020-01-01T00:00:00Z"}, "policy-refused", "ends"),
        ({"until": "2126-01-01T00:00:00Z"}, "policy-refused", "at most 90"),
        ({"until": "2026-12-01"}, "malformed-request", "until"),
        ({"who": ["wang"]}, "policy-refused", "who"),
        ({"who": []}, "malformed-request", "who"),
        ({"who": ["group:nobody"]}, "policy-refused", "group `nobody`"),
        ({"may": ["*"]}, "policy-refused", "every action"),
        ({"may": ["sumbit"]}, "policy-refused", "action `sumbit`"),
        ({"tag": ["dpo-v2"]}, "unknown-task-type", "dpo-v2"),
        ({"unit": ["rETAIL", "search"]}, "policy-refused", "unit `rETAIL`"),
        ({"target": ["moon", "local"]}, "policy-refused", "target `moon`"),
        ({"when": {"max_gpu": 8}}, "policy-refused", "max_gpu"),
        ({"when": {"max_gpus": 10**30}}, "policy-refused", "max_gpus"),
        ({"when": {"until": "2026-12-01T00:00:00Z"}}, "policy-refused", "its own `until`"),
        ({"lifts": "no-such-rule"}, "policy-refused", "no-such-rule"),
        ({"lifts": "stewards-approve"}, "policy-refused", "no deny"),
        ({"id": "Nice Exception"}, "policy-refused", "id"),
        ({"id": "stewards-approve"}, "policy-refused", "twice"),
        ({"id": ""}, "malformed-request", "id"),
        ({"granted_at": "2026-01-01T00:00:00Z"}, "malformed-request", "granted_at"),
        ({"approved_by": ["user:li", "user:zhao"]}, "malformed-request", "approved_by"),
        ({"kind": "override"}, "malformed-request", "kind"),
    ],
)
def test_an_exception_that_could_never_be_granted_is_refused_when_it_is_proposed(
    office: OfficeInTime, change: dict[str, Any], code: str, says: str
) -> None:
    reply = office.propose_exception(office.as_("wang", "trainers"), **change)

    assert reply.status_code in (404, 422)
    assert reply.json()["code"] == code
    assert says in reply.text


def test_an_exception_for_an_alias_is_one_for_its_task_type(office: OfficeInTime) -> None:
    proposal = office.propose_exception(office.as_("wang", "trainers"), tag=["direct-preference-optimization"]).json()

    assert proposal["change"]["tag"] == ["dpo"]


def test_the_end_of_an_exception_counts_from_its_grant_and_a_past_one_is_not_granted(office: OfficeInTime) -> None:
    proposal = office.propose_exception(office.as_("wang", "trainers")).json()
    office.review(office.admin("li"), proposal)
    office.ahead = timedelta(days=11)

    reply = office.review(office.admin("zhao"), proposal)

    assert (reply.status_code, reply.json()["code"]) == (409, "stale-review")
    assert office.events("exception.granted") == []


def test_one_grant_for_an_id(office: OfficeInTime) -> None:
    first = office.propose_exception(office.as_("wang", "trainers")).json()
    second = office.propose_exception(office.as_("chen", "trainers")).json()
    other = office.propose_exception(office.as_("chen", "trainers"), id="another")
    for name in ("li", "zhao"):
        office.review(office.admin(name), first)
    again = office.propose_exception(office.as_("chen", "trainers"))

    assert [event.proposal_id for event in office.events("proposal.superseded")] == [second["id"]]
    assert other.status_code == 201
    assert (again.status_code, again.json()["code"]) == (409, "exception-exists")


def test_an_id_that_was_given_meanwhile_is_not_given_again(office: OfficeInTime) -> None:
    """A policy folder may have brought one, which ended before the last approval."""
    proposal = office.propose_exception(office.as_("wang", "trainers")).json()
    office.review(office.admin("li"), proposal)
    with office.books.writing() as session:
        session.add(KnownException(name="retail-tries-dpo", terms={}, state="ended", until=office.after(days=-1)))

    reply = office.review(office.admin("zhao"), proposal)

    assert (reply.status_code, reply.json()["code"]) == (409, "exception-exists")


def test_an_exception_that_lifts_a_deny_grants_nothing_itself(office: OfficeInTime) -> None:
    office.grant_exception(tag=["any"], lifts="reranker-freeze")
    wang = office.as_("wang", "trainers")

    assert (trains(wang, "reranker"), trains(wang, "dpo")) == (201, 403)
    assert trains(office.as_("chen", "trainers"), "reranker") == 403


def test_an_exception_is_revoked_at_once_and_stays_so(office: OfficeInTime) -> None:
    office.grant_exception()
    wang = office.as_("wang", "trainers")
    assert trains(wang) == 201

    by_trainer = office.revoke(wang, "retail-tries-dpo")
    revoked = office.revoke(office.admin("li"), "retail-tries-dpo")

    assert (by_trainer.status_code, revoked.json()["state"], revoked.json()["live"]) == (403, "revoked", False)
    assert trains(wang) == 403
    assert office.revoke(office.admin("li"), "retail-tries-dpo").json()["code"] == "exception-over"
    assert office.revoke(office.admin("li"), "no-such").json()["code"] == "unknown-exception"
    (event,) = office.events("exception.revoked")
    assert (event.actor, event.task_type, event.business_unit) == ("user:li", "dpo", "retail")


def test_an_exception_that_ended_is_not_revoked(office: OfficeInTime) -> None:
    office.grant_exception()
    office.ahead = timedelta(days=10, seconds=1)

    assert office.revoke(office.admin("li"), "retail-tries-dpo").json()["code"] == "exception-over"


def test_its_end_is_told_a_week_before_and_when_it_comes_once_each(office: OfficeInTime) -> None:
    office.grant_exception()
    office.grant_exception(id="a-long-one", until=office.after(days=80).isoformat())

    for ahead in (0, 2.9, 3.1, 3.2, 9.9, 10.1, 10.2):
        office.ahead = timedelta(days=ahead)
        office.tell()
        office.tell()

    told = [event for event in office.events() if event.kind.startswith("exception.")][2:]  # after the two grants
    assert [(event.kind, event.detail["exception"], event.task_type) for event in told] == [
        ("exception.expiring", "retail-tries-dpo", "dpo"),
        ("exception.ended", "retail-tries-dpo", "dpo"),
    ]
    assert office.listed()["counts"] == {"live": 1, "expiring": 0, "ended": 1, "revoked": 0}


def test_the_list_says_what_is_live_and_how_long_still(office: OfficeInTime) -> None:
    office.grant_exception()
    office.grant_exception(id="another", until=office.after(days=60).isoformat())
    office.ahead = timedelta(days=4)
    office.tell()

    found = office.listed()["items"]
    expiring = office.listed(state="expiring")

    assert [(item["id"], item["state"], item["live"], item["days_left"]) for item in found] == [
        ("another", "live", True, 55),
        ("retail-tries-dpo", "expiring", True, 5),
    ]
    assert [item["id"] for item in expiring["items"]] == ["retail-tries-dpo"]
    assert expiring["counts"]["expiring"] == 1
    assert office.as_("boss", "project-managers").get("/v1/exceptions").status_code == 403


def test_a_soft_rule_is_overridden_for_somebody_else_at_once_and_for_a_while(office: OfficeInTime) -> None:
    wang = office.as_("wang", "trainers")
    assert trains(wang, "embedding") == 403

    reply = office.override(office.as_("boss", "project-managers"))

    assert reply.status_code == 201, reply.text
    assert (reply.json()["kind"], reply.json()["lifts"], reply.json()["live"]) == ("override", "retrieval-freeze", True)
    assert (trains(wang, "embedding"), trains(office.as_("chen", "trainers"), "embedding")) == (201, 403)
    (event,) = office.events("override.granted")
    assert (event.actor, event.rule, event.reason) == ("user:boss", "managers-override", "the index is broken")
    office.ahead = timedelta(hours=8, seconds=1)
    assert trains(wang, "embedding") == 403


@pytest.mark.parametrize(
    ("changes", "status", "code"),
    [
        ({"rule": "reranker-freeze", "tag": "reranker"}, 409, "not-overridable"),
        ({"rule": "stewards-approve"}, 409, "not-overridable"),
        ({"rule": "no-such"}, 404, "unknown-rule"),
        ({"who": ["user:boss"]}, 403, "beneficiary-approval"),
        ({"who": ["group:project-managers"]}, 403, "beneficiary-approval"),
        ({"unit": "search"}, 403, "not-permitted"),
        ({"unit": "nowhere"}, 403, "not-permitted"),
        ({"until": "2020-01-01T00:00:00Z"}, 422, "policy-refused"),
        ({"until": "2126-01-01T00:00:00Z"}, 422, "policy-refused"),
        ({"may": ["*"]}, 422, "policy-refused"),
        ({"tag": "no-such-tag"}, 404, "unknown-task-type"),
        ({"target": "moon"}, 403, "not-permitted"),
        ({"unit": "all"}, 403, "not-permitted"),
        ({"target": "k8s"}, 403, "not-permitted"),
        ({"target": "any"}, 403, "not-permitted"),
        ({"reason": ""}, 422, "malformed-request"),
    ],
)
def test_an_override_that_is_none_is_refused(
    office: OfficeInTime, changes: dict[str, Any], status: int, code: str
) -> None:
    reply = office.override(office.as_("boss", "project-managers"), **changes)

    assert (reply.status_code, reply.json()["code"]) == (status, code), reply.text
    assert office.events("override.granted") == []
    assert len(office.events("override.refused")) == 1


def with_fewer_groups(office: OfficeInTime, client: TestClient, *groups: str) -> TestClient:
    token = client.post("/v1/tokens", json={"groups": groups, "scopes": ["*"]}).json()["token"]
    return office.anonymous(headers={"Authorization": f"Bearer {token}"})


def test_an_override_made_with_fewer_groups_opens_no_door_to_whoever_made_it(office: OfficeInTime) -> None:
    boss = office.as_("boss", "project-managers", "trainers")
    assert office.override(boss, who=["group:trainers"]).json()["code"] == "beneficiary-approval"
    narrowed = with_fewer_groups(office, boss, "project-managers")

    assert office.override(narrowed, who=["group:trainers"]).status_code == 201

    assert trains(office.as_("wang", "trainers"), "embedding") == 201
    assert trains(boss, "embedding") == 403


def test_an_exception_approved_before_the_approver_joined_grants_nothing_to_them(office: OfficeInTime) -> None:
    wang, chen = office.as_("wang", "search-ml"), office.as_("chen", "trainers")
    proposal = office.propose_exception(chen, who=["group:search-ml"]).json()
    for reviewer in (office.admin("zhao"), office.admin("li")):
        assert office.review(reviewer, proposal).status_code == 201

    joined = office.as_("li", "platform-admins", "search-ml")

    assert (trains(wang), trains(joined)) == (201, 403)


def test_a_token_with_fewer_groups_hides_no_gain_that_the_registry_knows_of(office: OfficeInTime) -> None:
    li = office.as_("li", "platform-admins", "search-ml")
    proposal = office.propose_exception(office.as_("chen", "trainers"), who=["group:search-ml"]).json()

    reply = office.review(with_fewer_groups(office, li, "platform-admins"), proposal)

    assert (reply.status_code, reply.json()["code"]) == (403, "beneficiary-approval")


@pytest.mark.parametrize(("denied", "wider"), [("unit", {"unit": "all"}), ("target", {"target": "k8s"})])
def test_an_override_for_a_whole_does_not_pass_by_a_deny_on_its_part(
    tmp_path: Path, denied: str, wider: dict[str, str]
) -> None:
    allow = {**RULES[0], "id": "managers-override-everywhere", "when": {}}
    part = {"unit": "retail", "target": "k8s/a100"}
    deny = {**RULES[0], "id": "not-there", "effect": "deny", "when": {}, denied: [part[denied]]}
    policies = changed_policy(tmp_path, rules=[*RULES, allow, deny])
    office = Office(Settings(state_dir=tmp_path / "state", policies_dir=policies))
    boss = office.as_("boss", "project-managers", unit="search")

    on_the_part = office.override(boss, **{denied: part[denied]})
    on_the_whole = office.override(boss, **{"unit": "search", **wider})
    elsewhere = office.override(boss, unit="search", target="local")

    assert (on_the_part.status_code, on_the_whole.status_code, elsewhere.status_code) == (403, 403, 201)
    assert on_the_whole.json()["reason_code"] == f"{denied}-holds-others"


def test_an_override_needs_its_permission(office: OfficeInTime) -> None:
    assert office.override(office.as_("li", "platform-admins")).status_code == 403


def test_an_override_is_revoked_like_an_exception(office: OfficeInTime) -> None:
    name = office.override(office.as_("boss", "project-managers")).json()["id"]

    assert office.revoke(office.admin("li"), name).status_code == 200
    assert trains(office.as_("wang", "trainers"), "embedding") == 403


def test_an_exception_that_no_decision_needs_is_told(office: OfficeInTime) -> None:
    """One is used and needed, one was never used, one is used for what a rule allows anyway, one lifts what denies."""
    office.grant_exception()
    office.grant_exception(id="never-used", tag=["sft"])
    office.grant_exception(id="allowed-anyway", tag=["sequence-classification"])
    office.grant_exception(id="lifts-the-freeze", tag=["any"], lifts="reranker-freeze")
    wang = office.as_("wang", "trainers")
    assert [trains(wang), trains(wang), trains(wang, "reranker")] == [201] * 3
    assert ask(wang, ticket_request()).status_code == 201

    found = office.listed(unneeded=True)["items"]

    assert {item["id"]: item["use"] for item in found} == {
        "allowed-anyway": {"decisions": 1, "changed": 0},
        "never-used": {"decisions": 0, "changed": 0},
    }
    assert {item["use"] for item in office.listed()["items"]} == {None}


def test_an_exception_of_the_policy_folder_is_in_the_books_and_revoked_there(tmp_path: Path) -> None:
    policies = changed_policy(tmp_path, rules=RULES)
    now = db.utc_now()
    exception = {
        "id": "agreed-by-mail",
        "who": ["user:wang"],
        "may": ["submit"],
        "tag": ["dpo"],
        "reason": "as agreed",
        "granted_at": (now - timedelta(days=1)).isoformat(),
        "until": (now + timedelta(days=30)).isoformat(),
        "approved_by": ["user:li", "user:zhao"],
    }
    (policies / "exceptions.yaml").write_text(yaml.safe_dump({"exceptions": [exception]}))
    office = Office(Settings(state_dir=tmp_path / "state", policies_dir=policies))
    office.tell()

    revoked = office.revoke(office.admin("li"), "agreed-by-mail")

    assert [(item["id"], item["proposal_id"]) for item in office.listed()["items"]] == [("agreed-by-mail", None)]
    assert (revoked.status_code, revoked.json()["code"]) == (422, "policy-refused")
    assert office.propose_exception(office.as_("wang", "trainers"), id="agreed-by-mail").status_code == 409
