"""What the OpenAPI document promises of every operation, and the pages that say what a refusal means."""

from collections import Counter
from collections.abc import Iterator
from html import unescape
from typing import Any

import jsonschema
import pytest
from conftest import Registry

from enforcer import problems
from registry import db, examples
from registry.app import describe
from registry.settings import Settings

DOCUMENT = describe()
JSON = "application/json"


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, found in DOCUMENT["paths"].items():
        for method, operation in found.items():
            yield path, method, operation


OPERATIONS = {operation["operationId"]: operation for _, _, operation in operations()}


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    unlimited = {name: 0 for name in Settings.model_fields if name.endswith("_per_minute")}
    return Registry(Settings(state_dir=tmp_path_factory.mktemp("manners"), **unlimited))


def holds(example: Any, schema: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator({**schema, "components": DOCUMENT["components"]}).validate(example)


def test_every_operation_has_a_name_of_its_own() -> None:
    counted = Counter(operation.get("operationId") for _, _, operation in operations())

    assert None not in counted
    assert [name for name, times in counted.items() if times > 1] == []


def test_every_refusal_is_documented_as_a_problem() -> None:
    for name, operation in OPERATIONS.items():
        refusals = {status: answer for status, answer in operation["responses"].items() if status >= "400"}
        assert refusals, name
        for status, answer in refusals.items():
            assert list(answer["content"]) == ["application/problem+json"], (name, status)


def test_what_can_be_read_alone_has_an_etag() -> None:
    """Lists, streams and what is for one reader once have none."""
    single = {
        operation["operationId"]
        for path, method, operation in operations()
        if method == "get" and path.startswith("/v1/") and path.endswith("}")
    }
    without = {name for name in single if "304" not in OPERATIONS[name]["responses"]}

    assert single >= {"getTag", "getTagVersion", "getProposal", "getRun", "getPolicy", "getException", "getTicket"}
    assert without == {"getDecision"}  # told for the caller's own rights, which are no part of it


def test_what_goes_on_with_something_takes_if_match() -> None:
    must = {name for name, operation in OPERATIONS.items() if "428" in operation["responses"]}
    may = {name for name, operation in OPERATIONS.items() if "412" in operation["responses"]} - must
    edited = {operation["operationId"] for _, method, operation in operations() if method in ("patch", "put")}

    # A webhook's ETag moves with each delivery, so whoever pauses it would be told to look again for ever.
    assert must >= (edited - {"changeWebhook"}) | {"submitProposal", "withdrawProposal", "enablePrincipal"}
    assert may >= {"changeWebhook", "cancelRun", "revokeTicket", "revokeException", "disablePrincipal"}


# --- examples ---------------------------------------------------------------------------------------------------------


def test_every_body_has_an_example() -> None:
    bodies = {
        name for name, operation in OPERATIONS.items() if JSON in operation.get("requestBody", {}).get("content", {})
    }

    assert sorted(bodies - examples.REQUESTS.keys()) == []
    assert sorted(examples.REQUESTS.keys() - bodies) == []


@pytest.mark.parametrize("name", sorted(examples.REQUESTS))
def test_an_example_of_a_body_is_one(name: str) -> None:
    content = OPERATIONS[name]["requestBody"]["content"][JSON]

    assert content["example"] == examples.REQUESTS[name]
    holds(content["example"], content["schema"])


@pytest.mark.parametrize("name", sorted(examples.ANSWERS))
def test_an_example_of_an_answer_is_one(name: str) -> None:
    for status in ("200", "201"):
        if status in OPERATIONS[name]["responses"]:
            content = OPERATIONS[name]["responses"][status]["content"][JSON]
            holds(content["example"], content["schema"])


def test_the_examples_work(registry: Registry) -> None:
    """In a registry as it ships, by somebody who may. An answer has the members of its example, and no others."""
    wang, steward = registry.as_("wang", "trainers"), registry.as_("gao", "tag-stewards")
    admin = registry.as_("root", "platform-admins", "security", unit="all")
    said, key = examples.REQUESTS, {"Idempotency-Key": db.uuid7()}

    proposal = wang.post("/v1/proposals", json=said["openProposal"])
    path, seen = f"/v1/proposals/{proposal.json()['id']}", {"If-Match": proposal.headers["etag"]}
    edited = wang.patch(path, json=said["editProposal"], headers=seen)
    review = {**said["reviewProposal"], "digest": edited.json()["digest"]}
    ticket = wang.post("/v1/tickets", json=said["issueTicket"], headers=key)
    shut = admin.post("/v1/principals/user:li:disable", json=said["disablePrincipal"])
    replies = {
        "openProposal": proposal,
        "editProposal": edited,
        "reviewProposal": steward.post(f"{path}/reviews", json=review),
        "issueTicket": ticket,
        "getTicket": wang.get(f"/v1/tickets/{ticket.json()['jti']}"),
        "getRun": wang.get(f"/v1/runs/{ticket.json()['run_id']}"),
        "revokeTicket": wang.post(f"/v1/tickets/{ticket.json()['jti']}:revoke", json=said["revokeTicket"]),
        "disablePrincipal": shut,
        "getPrincipal": admin.get("/v1/principals/user:li"),
        "enablePrincipal": admin.post(
            "/v1/principals/user:li:enable", json=said["enablePrincipal"], headers={"If-Match": shut.headers["etag"]}
        ),
        "listTags": wang.get("/v1/tags", params={"page_size": 1}),
        "checkTagName": wang.post("/v1/tags:check-name", json=said["checkTagName"]),
        "evaluate": wang.post("/access/v1/evaluation", json=said["evaluate"]),
        "evaluateMany": wang.post("/access/v1/evaluations", json=said["evaluateMany"]),
        "validatePolicy": admin.post("/v1/policies:validate", json=said["validatePolicy"]),
        "createToken": wang.post("/v1/tokens", json=said["createToken"]),
        "whoAmI": wang.get("/v1/me"),
    }

    for name, reply in replies.items():
        assert reply.status_code in (200, 201), (name, reply.text)
        if name in examples.ANSWERS:
            assert members(reply.json()) == members(examples.ANSWERS[name]), (name, reply.json())
    assert examples.ANSWERS.keys() <= replies.keys()


def members(answer: Any) -> Any:
    if "items" in answer:
        return sorted(answer["items"][0])
    return sorted(answer)


# --- pages of problems ------------------------------------------------------------------------------------------------


def test_a_refusal_leads_to_a_page_that_says_what_to_do(registry: Registry) -> None:
    refused = registry.as_("wang", "trainers").get("/v1/tags/no-such-tag")
    path = refused.headers["link"].partition(">")[0].removeprefix("<")

    page = registry.anonymous().get(path)

    assert (refused.json()["type"], path) == ("urn:tagwarden:problem:unknown-task-type", "/problems/unknown-task-type")
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert "What to do next" in page.text
    assert problems.UnknownTaskType.remedy in unescape(page.text)


def test_refusals_before_anything_is_routed_lead_to_pages_too(registry: Registry) -> None:
    stranger = registry.anonymous()

    replies = [
        stranger.get("/v1/tags", headers={"Host": "evil.example"}),
        stranger.get("/nowhere"),
        stranger.put("/v1/me"),
    ]

    for reply in replies:
        assert reply.headers["link"] == f'</problems/{reply.json()["code"]}>; rel="help"'


def test_every_kind_of_refusal_has_a_page_and_no_code_stands_for_two(registry: Registry) -> None:
    everything = problems._tree(problems.Problem)
    stranger = registry.anonymous()
    index = stranger.get("/problems").text

    twice = [code for code, times in Counter(kind.code for kind in everything).items() if times > 1]
    assert twice == []
    for kind in everything:
        assert f'href="/problems/{kind.code}"' in index
        assert stranger.get(f"/problems/{kind.code}").status_code == 200, kind.code
    assert stranger.get("/problems/<script>").status_code == 404
