"""`/v1/policies`: read by those who may, tried without a trace, and large where it has to be."""

from typing import Any

import pytest
from conftest import Registry
from fastapi.testclient import TestClient
from revised import publish, with_rule

from enforcer.policy import folder
from registry.limits import MAX_POLICY_BYTES, POLICY_FILES
from registry.settings import CHECKED_OUT_POLICIES


@pytest.fixture
def admin(registry: Registry) -> TestClient:
    return registry.as_("root", "platform-admins", unit="all")


def files(**more: str) -> dict[str, str]:
    """The policy that ships, with its tests; a `None` takes a file away."""
    found = folder.files_of(CHECKED_OUT_POLICIES)
    found.pop("exceptions.yaml", None)
    tests = sorted((CHECKED_OUT_POLICIES / "tests").glob("*.yaml"))
    return found | {f"tests/{file.name}": file.read_text() for file in tests} | more


def test_the_history_says_who_published_what_in_place_of_what(registry: Registry, admin: TestClient) -> None:
    first = registry.policy
    for number in range(3):
        publish(registry, with_rule(first, f"freeze-{number}"))

    page = admin.get("/v1/policies", params={"page_size": 3}).json()
    rest = admin.get("/v1/policies", params={"page_size": 3, "page_token": page["next_page_token"]}).json()

    assert [item["version"] for item in page["items"] + rest["items"]] == [4, 3, 2, 1]
    newest, oldest = page["items"][0], rest["items"][0]
    assert page["live"] == newest["revision"] == registry.policy.revision
    assert (newest["author"], newest["approver"], newest["source"]) == ("user:li", "user:zhao", "proposal")
    assert newest["parent"] == page["items"][1]["revision"]
    assert (oldest["revision"], oldest["parent"], oldest["source"]) == (first.revision, None, "folder")
    assert rest["next_page_token"] is None


def test_a_revision_says_all_that_it_says(registry: Registry, admin: TestClient) -> None:
    first = registry.policy
    publish(registry, with_rule(first))

    live, before = (admin.get(f"/v1/policies/{name}").json() for name in ("live", first.revision))

    assert (live["live"], before["live"], before["revision"]) == (True, False, first.revision)
    assert live["rules"][-1] == {
        "owner": "platform-admins",
        "id": "retail-is-frozen",
        "effect": "deny",
        "who": ["group:trainers"],
        "may": ["submit"],
        "unit": ["retail"],
        "reason": "year's end",
    }
    assert live["rules"][:-1] == before["rules"]
    assert admin.get("/v1/policies/sha256:none").json()["code"] == "unknown-policy"


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("get", "/v1/policies", None),
        ("get", "/v1/policies/live", None),
        ("get", "/v1/policies:shadow", None),
        ("post", "/v1/policies:validate", {"files": {"model.conf": ""}}),
        ("post", "/v1/policies:replay", {"files": {"model.conf": ""}}),
    ],
)
def test_the_policy_is_not_for_everybody(registry: Registry, method: str, path: str, body: Any) -> None:
    client = registry.as_("wu")

    reply = client.request(method, path, json=body) if body else client.get(path)

    assert (reply.status_code, reply.json()["code"]) == (403, "not-permitted")


def test_a_policy_is_validated_without_a_trace(registry: Registry, admin: TestClient) -> None:
    reply = admin.post("/v1/policies:validate", json={"files": files()})

    assert reply.json()["revision"] == registry.policy.with_exceptions(()).revision
    assert [one for one in reply.json()["findings"] if one["severity"] == "error"] == []
    assert (reply.json()["valid"], reply.json()["tests_failed"]) == (True, 0)
    assert reply.json()["tests"] > 20
    assert len(registry.events("policy.published")) == 1


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"rules/more.yaml": "owner: security\nrules:\n  - {id: x, effect: DENY}\n"}, "effect"),
        ({"rules/more.yaml": "owner: security\nrulez: []\n"}, "rulez"),
        ({"directory.yaml": "units: {a: b, b: a}\ntargets: {}\ngroups: {}\n"}, "cycle"),
        ({"model.conf": "[matchers]\nm = eval(p.cond)\n"}, "model"),
        ({"tests/more.yaml": "cases:\n- {says: x, who: group:nlp, do: submit, expect: allow, because: nobody}\n"}, "x"),
        ({"tests/more.yaml": "cases: 7"}, "cases"),
    ],
)
def test_what_is_wrong_with_a_policy_is_the_answer_with_file_and_line(
    admin: TestClient, more: dict[str, str], message: str
) -> None:
    reply = admin.post("/v1/policies:validate", json={"files": files(**more)})

    assert (reply.status_code, reply.json()["valid"]) == (200, False)
    errors = [finding for finding in reply.json()["findings"] if finding["severity"] == "error"]
    assert any(message in finding["message"] for finding in errors), errors
    assert all((finding["file"] or finding["message"].split()[0]) in more for finding in errors), errors


def test_policy_files_may_be_large_for_whoever_brings_a_credential(registry: Registry, admin: TestClient) -> None:
    """A rule of 300 characters, 10,000 times, is 3 MB; a stranger's is not even read."""
    large = {"files": {"rules/more.yaml": "#" * 900_000, "rules/other.yaml": "#" * 900_000, "model.conf": ""}}
    too_large = {"files": {f"rules/r{number}.yaml": "#" * 900_000 for number in range(5)}}

    statuses = [
        client.post("/v1/policies:validate", json=body).status_code
        for client, body in ((admin, large), (admin, too_large), (registry.anonymous(), large))
    ]

    assert statuses == [200, 413, 413]
    assert sum(len(text) for text in too_large["files"].values()) > MAX_POLICY_BYTES
    assert admin.post("/v1/tags:check-name", json={"name": "x" * 100_000}).status_code == 413


def test_the_paths_that_take_policy_files_exist(registry: Registry) -> None:
    assert set(registry.app.openapi()["paths"]) >= POLICY_FILES
