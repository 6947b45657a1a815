"""Decisions over the API: for oneself, for others by a gateway (AuthZEN), and about what was decided before."""

from pathlib import Path
from typing import Any

import httpx2
import pytest
from conftest import Registry, ask, ticket_request
from policy_folders import changed_policy
from revised import publish, with_rule

from registry import audit
from registry.settings import Settings

DPO = {"resource": {"type": "task-type", "id": "dpo"}, "action": {"name": "submit"}}
OF_NLP = {"type": "user", "id": "li", "properties": {"groups": ["nlp"], "business_unit": "retail"}}
OF_SEARCH = {"type": "user", "id": "chen", "properties": {"groups": ["search-ml"], "business_unit": "retail"}}
RULES = [
    {
        "id": "platform-asks-too",
        "effect": "allow",
        "who": "group:platform-admins",
        "may": ["evaluate"],
        "reason": "gates",
    },
    {
        "id": "no-classifiers-soon",
        "effect": "deny",
        "who": "group:trainers",
        "may": ["submit"],
        "tag": "sequence-classification",
        "level": "warn",
        "reason": "From January on classifiers move to another pool.",
    },
    {
        "id": "change-ticket-for-embeddings",
        "effect": "allow",
        "who": "group:retail-ds",
        "may": ["submit"],
        "tag": "embedding",
        "when": {"change_ticket": ["CHG-*"], "max_gpus": 64},
        "reason": "Large embeddings are announced.",
    },
]


@pytest.fixture
def guarded(tmp_path: Path) -> Registry:
    """A registry whose policy lets gateways ask for others, and warns of one thing."""
    settings = Settings(state_dir=tmp_path / "state", policies_dir=changed_policy(tmp_path, rules=RULES))
    return Registry(settings)


def evaluate(client: Any, subject: dict[str, Any] | None = None, **context: Any) -> httpx2.Response:
    asked = {**DPO, "context": context, **({"subject": subject} if subject else {})}
    return client.post("/access/v1/evaluation", json=asked)


def test_a_gateway_asks_for_others_and_each_answer_is_on_record(guarded: Registry) -> None:
    gateway = guarded.as_("gate", "platform-admins")

    yes, no = evaluate(gateway, OF_NLP).json(), evaluate(gateway, OF_SEARCH).json()

    assert (yes["decision"], yes["context"]["rule"]) == (True, "nlp-trains-preference-alignment")
    assert (no["decision"], no["context"]["reason"]) == (False, "no-matching-rule")
    first, second = guarded.events("evaluation.answered")
    assert [yes["context"]["decision_id"], no["context"]["decision_id"]] == [first.id, second.id]
    assert (first.actor, first.outcome, first.detail["asked_by"]) == ("user:li", "done", "user:gate")
    assert (second.actor, second.outcome, second.detail["asked"]["point"]) == ("user:chen", "refused", "admission")


def test_to_ask_for_others_takes_a_right_and_to_claim_groups_for_oneself_does_nothing(guarded: Registry) -> None:
    chen = guarded.as_("chen", "search-ml")

    other = evaluate(chen, OF_NLP)
    oneself = evaluate(chen, {**OF_SEARCH, "properties": {"groups": ["nlp"], "business_unit": "retail"}})

    assert (other.status_code, other.json()["reason_code"]) == (403, "no-matching-rule")
    assert [event.actor for event in guarded.events("evaluate.refused")] == ["user:chen"]
    assert (oneself.status_code, oneself.json()["decision"]) == (200, False)


def test_who_may_not_read_the_policy_is_told_whom_to_ask_and_no_rule(registry: Registry) -> None:
    stranger, trainer = registry.as_("wu"), registry.as_("chen", "search-ml")

    dark, light = evaluate(stranger).json()["context"], evaluate(trainer).json()["context"]
    refused = ask(stranger, ticket_request("dpo", arguments={})).json()

    assert (dark["nearest"], dark["ask"]) == ([], ["nlp"])
    assert light["nearest"][0]["failed"] == ["who: only group:nlp"]
    assert ("nearest" in refused, refused["ask"]) == (False, ["nlp"])
    assert "nlp-trains" not in refused["detail"]


def test_many_questions_are_answered_in_order_with_what_they_leave_out_from_around_them(guarded: Registry) -> None:
    gateway = guarded.as_("gate", "platform-admins")
    body = {**DPO, "evaluations": [{"subject": OF_NLP}, {"subject": OF_SEARCH},
            {"subject": OF_NLP, "resource": {"type": "task-type", "id": "no-such-tag"}}]}  # fmt: skip

    answers = gateway.post("/access/v1/evaluations", json=body).json()["evaluations"]

    assert [answer["decision"] for answer in answers] == [True, False, False]
    assert answers[2]["context"]["reason"] == "unknown-tag"
    assert len(guarded.events("evaluation.answered")) == 3


@pytest.mark.parametrize(
    ("semantic", "answered"),
    [("execute_all", [True, False, True]), ("deny_on_first_deny", [True, False]), ("permit_on_first_permit", [True])],
)
def test_many_questions_stop_where_the_semantic_says(guarded: Registry, semantic: str, answered: list[bool]) -> None:
    body = {**DPO, "evaluations": [{"subject": OF_NLP}, {"subject": OF_SEARCH}, {"subject": OF_NLP}],
            "options": {"evaluations_semantic": semantic}}  # fmt: skip

    answers = guarded.as_("gate", "platform-admins").post("/access/v1/evaluations", json=body).json()["evaluations"]

    assert [answer["decision"] for answer in answers] == answered
    assert len(guarded.events("evaluation.answered")) == len(answered)


def test_one_question_through_the_door_for_many_is_answered_as_one(registry: Registry) -> None:
    reply = registry.as_("li", "nlp").post("/access/v1/evaluations", json=DPO)

    assert (reply.status_code, reply.json()["decision"]) == (200, True)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"evaluations": [{"resource": DPO["resource"]}]}, "`/evaluations/0` has no `action`"),
        ({**DPO, "subject": {"type": "user", "id": "x"}}, "business_unit"),
        ({**DPO, "subject": {"type": "robot", "id": "x"}}, "subject"),
        ({**DPO, "context": {"gpu": 9}}, "gpu"),
        ({**DPO, "evaluations": [{}] * 101}, "evaluations"),
    ],
)
def test_a_question_that_is_none_is_refused_in_words(guarded: Registry, body: dict[str, Any], said: str) -> None:
    reply = guarded.as_("gate", "platform-admins").post("/access/v1/evaluations", json=body)

    assert (reply.status_code, said in reply.text) == (422, True)


def test_the_decision_point_is_found_and_echoes_the_request_id(registry: Registry) -> None:
    found = registry.anonymous().get("/.well-known/authzen-configuration").json()
    li = registry.as_("li", "nlp")

    echoed = li.post(found["access_evaluation_endpoint"], json=DPO, headers={"X-Request-ID": "abc-1"})
    refused = li.post(found["access_evaluations_endpoint"], json=DPO, headers={"X-Request-ID": "a b"})

    assert (echoed.status_code, echoed.headers["x-request-id"]) == (200, "abc-1")
    assert refused.status_code == 422


def test_a_rule_at_warn_refuses_nobody_and_tells_them(guarded: Registry) -> None:
    wang = guarded.as_("wang", "trainers")

    planned = ask(wang, ticket_request(), validate_only="true").json()
    granted = ask(wang, ticket_request()).json()

    told = "rule `no-classifiers-soon`: From January on classifiers move to another pool."
    assert (planned["warnings"], granted["warnings"]) == ([told], [told])
    (event,) = guarded.events("ticket.issued")
    assert ["no-classifiers-soon", "deny", "warn", None] in event.detail["asked"]["matched"]


def test_a_change_ticket_reaches_the_policy(guarded: Registry) -> None:
    ds = guarded.as_("rae", "retail-ds")

    without = ask(ds, ticket_request("embedding", arguments={}, gpus=8))
    by_name = evaluate(ds, change_ticket="CHG-7", gpus=8)

    assert without.status_code == 403
    assert by_name.json()["decision"] is False  # it is for embeddings
    asked = {"resource": {"type": "task-type", "id": "embedding"}, "action": {"name": "submit"}}
    context = {"change_ticket": "CHG-7", "gpus": 8}
    answer = ds.post("/access/v1/evaluation", json={**asked, "context": context}).json()
    assert answer["context"]["rule"] == "change-ticket-for-embeddings"


def test_why_tells_what_was_decided_and_what_the_policy_says_now(registry: Registry) -> None:
    chen = registry.as_("chen", "search-ml")
    refused = ask(chen, ticket_request("dpo", arguments={}, gpus=2)).json()

    why = chen.get(f"/v1/decisions/{refused['decision_id']}").json()

    assert (why["actor"], why["action"], why["task_type"], why["gpus"]) == ("user:chen", "submit", "dpo", 2)
    assert (why["allowed"], why["then"]["reason"], why["then"]["ask"]) == (False, "no-matching-rule", ["nlp"])
    assert why["then"]["nearest"][0]["rule"] == "nlp-trains-preference-alignment"
    assert (why["now"]["decision"], why["now"]["context"]["reason"]) == (False, "no-matching-rule")


def test_why_is_for_whom_it_concerned_and_for_auditors_of_the_unit_on_record(registry: Registry) -> None:
    granted = ask(registry.as_("wang", "trainers"), ticket_request()).json()
    (event,) = registry.events("ticket.issued")
    path = f"/v1/decisions/{event.id}"

    own = registry.as_("wang", "trainers").get(path)
    stranger = registry.as_("chen", "trainers").get(path)
    nothing = registry.as_("chen", "trainers").get("/v1/decisions/nothing")
    elsewhere = registry.as_("aud", "auditors", unit="finance").get(path)
    auditor = registry.as_("aud", "auditors").get(path)

    assert (own.status_code, own.json()["then"]["rule"]) == (200, granted["policy_rule"])
    assert [reply.json()["code"] for reply in (stranger, nothing, elsewhere)] == ["unknown-decision"] * 3
    assert auditor.status_code == 200
    assert [(read.actor, read.detail["event"]) for read in registry.events("decision.read")] == [("user:aud", event.id)]


def test_a_recorded_question_is_the_question_that_was_asked(registry: Registry) -> None:
    """Asked again of the same policy at the same moment, it is answered the same."""
    for client, body in (
        (registry.as_("wang", "trainers"), ticket_request(gpus=1)),
        (registry.as_("chen", "search-ml", unit="search"), ticket_request("dpo", arguments={})),
        (registry.as_("li", "nlp"), ticket_request("dpo", arguments={}, gpus=9, business_unit="finance")),
    ):
        ask(client, body)
    with registry.books.reading() as session:
        gate = registry.books.gate(session)

    for event in registry.events("ticket.issued", "submit.refused"):
        request = audit.request_of(event, gate)
        assert request is not None
        again = gate.decide(request)
        assert (again.reason, again.rule) == (event.detail["asked"]["reason"], event.rule)


def test_why_explains_by_the_policy_of_then_when_its_rule_is_gone(registry: Registry) -> None:
    today = registry.policy
    publish(registry, with_rule(today))
    wang = registry.as_("wang", "trainers")
    refused = ask(wang, ticket_request()).json()
    publish(registry, today)

    why = wang.get(f"/v1/decisions/{refused['decision_id']}").json()

    assert (why["then"]["rule"], why["then"]["ask"]) == ("retail-is-frozen", ["platform-admins"])
    assert why["then"]["policy_revision"] != why["now"]["context"]["policy_revision"] == today.revision
    assert why["now"]["decision"] is True


def test_what_is_watched_at_shadow_is_told_to_those_who_read_the_policy(registry: Registry) -> None:
    publish(registry, with_rule(registry.policy, "watched", who=["group:trainers", "user:wu"], level="shadow"))

    stranger, trainer = (
        client.post("/access/v1/evaluation", json=DPO).json()["context"]["matched"]
        for client in (registry.as_("wu"), registry.as_("chen", "search-ml"))
    )

    assert ([match["id"] for match in stranger], [match["id"] for match in trainer]) == ([], ["watched"])
