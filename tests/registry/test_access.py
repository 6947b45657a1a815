"""Access: declared by every route, checked before anything else, and never a traceback."""

from collections.abc import Iterator

import pytest
from conftest import Registry, ticket_request
from fastapi.routing import APIRoute

from registry import app as application

PUBLIC = [
    "/.well-known/attestation-jwks.json",
    "/.well-known/authzen-configuration",
    "/.well-known/jwks.json",
    "/.well-known/oauth-protected-resource",
    "/.well-known/retired-keys",
    "/.well-known/revoked.json",
    "/.well-known/token-jwks.json",
    "/healthz",
    "/problems",
    "/problems/{code}",
    "/readyz",
    "/tlog/checkpoint",
    "/tlog/consistency",
    "/tlog/jwks.json",
    "/tlog/tile/{level}/{path:path}",
    "/v1/token",
]


def routes() -> Iterator[APIRoute]:
    for router in application.ROUTERS:
        yield from (route for route in router.routes if isinstance(route, APIRoute))


def declared_access(route: APIRoute) -> set[str]:
    """Everything below a route's dependencies that says `access`."""
    found, todo = set(), [route.dependant]
    while todo:
        dependant = todo.pop()
        if access := getattr(dependant.call, "access", None):
            found.add(access)
        todo += dependant.dependencies
    return found


def test_every_route_says_what_it_takes_to_call_it() -> None:
    undeclared = [f"{route.methods} {route.path}" for route in routes() if len(declared_access(route)) != 1]

    assert undeclared == []


def test_public_is_what_is_meant_to_be_public() -> None:
    assert sorted(route.path for route in routes() if declared_access(route) == {"public"}) == PUBLIC


def test_nobody_gets_in_without_a_credential(registry: Registry) -> None:
    stranger = registry.anonymous()
    open_doors = []
    for route in routes():
        if route.path in PUBLIC:
            continue
        path = route.path
        for name in (
            *("name", "proposal_id", "jti", "run_id", "token_id", "principal_id", "delegation_id", "webhook_id"),
        ):
            path = path.replace(f"{{{name}}}", "x")
        for method in route.methods:
            reply = stranger.request(method, path.replace("{version}", "1"), json={})
            if (reply.status_code, reply.headers["content-type"]) != (401, "application/problem+json"):
                open_doors.append((method, path, reply.status_code, reply.text[:200]))

    assert open_doors == []


@pytest.mark.parametrize(
    "token",
    ["", "x", "twp_000000000000_" + "a" * 43 + "_00000000", "twp_0123456789ab_" + "a" * 43 + "_deadbeef", "ü" * 40],
)
def test_a_token_that_is_not_ours_is_refused(registry: Registry, token: str) -> None:
    reply = registry.anonymous(headers={"Authorization": f"Bearer {token}".encode()}).get("/v1/tags")

    assert (reply.status_code, reply.json()["code"]) == (401, "unauthenticated")
    assert reply.headers["www-authenticate"] == "Bearer"


def test_an_expired_token_is_refused(registry: Registry) -> None:
    token = registry.token("wang", "trainers", days=1e-9)

    reply = registry.anonymous(headers={"Authorization": f"Bearer {token}"}).get("/v1/tags")

    assert reply.status_code == 401
    assert "expired" in reply.json()["detail"]


def test_a_suspended_user_keeps_the_groups_but_loses_what_they_allow(registry: Registry) -> None:
    reply = registry.propose(registry.as_("wang", "trainers", "suspended"))

    assert (reply.status_code, reply.json()["rule"]) == (403, "suspended-nothing")
    assert reply.json()["reason_code"] == "explicit-deny"


def test_can_i_answers_with_rule_or_nearest_rule(registry: Registry) -> None:
    asked = {"resource": {"type": "task-type", "id": "dpo"}, "action": {"name": "submit"}}

    yes = registry.as_("wang", "nlp").post("/access/v1/evaluation", json=asked).json()
    no = registry.as_("chen", "search-ml").post("/access/v1/evaluation", json=asked).json()

    assert (yes["decision"], yes["context"]["rule"]) == (True, "nlp-trains-preference-alignment")
    assert no["decision"] is False
    assert no["context"]["nearest"] == [
        {
            "rule": "nlp-trains-preference-alignment",
            "who": ["group:nlp"],
            "owner": "nlp",
            "failed": ["who: only group:nlp"],
        }
    ]


def test_an_unknown_action_unit_or_target_is_a_denial(registry: Registry) -> None:
    wang = registry.as_("wang", "nlp")

    def decision(action: str = "submit", **context: str) -> dict[str, object]:
        asked = {"resource": {"type": "task-type", "id": "dpo"}, "action": {"name": action}, "context": context}
        return dict(wang.post("/access/v1/evaluation", json=asked).json())

    for answer, reason in (
        (decision("sumbit"), "unknown-action"),
        (decision(business_unit="reatil"), "unknown-unit"),
        (decision(target="k8s/h100"), "unknown-target"),
    ):
        assert (answer["decision"], answer["context"]["reason"]) == (False, reason)  # type: ignore[index]


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nowhere", 404, "not-found"),
        ("DELETE", "/v1/tags", 405, "method-not-allowed"),
        ("GET", "/v1/tags?page_size=0", 422, "malformed-request"),
        ("GET", "/v1/tags?page_token=%21%21", 400, "page-token-invalid"),
        ("GET", "/v1/tags/no-such-tag", 404, "unknown-task-type"),
        ("GET", "/v1/tags/dpo/versions/99", 404, "not-found"),
        ("GET", "/v1/proposals/prp-x", 404, "unknown-proposal"),
        ("GET", "/v1/runs/run-x", 404, "unknown-run"),
        ("POST", "/v1/tickets", 422, "malformed-request"),
        ("GET", "/docs", 404, "not-found"),
        ("GET", "/v1/tags/dpo/versions/" + "9" * 25, 422, "malformed-request"),
        ("GET", "/v1/tags/%00", 422, "malformed-request"),
        ("GET", "/v1/runs?task_type=%00", 422, "malformed-request"),
    ],
)
def test_every_error_is_a_problem_document(registry: Registry, method: str, path: str, status: int, code: str) -> None:
    reply = registry.as_("wang", "trainers").request(method, path)

    assert (reply.status_code, reply.headers["content-type"]) == (status, "application/problem+json")
    assert reply.json()["code"] == code
    assert reply.json()["type"] == f"urn:tagwarden:problem:{code}"


def test_a_malformed_body_names_the_field(registry: Registry) -> None:
    body = {**ticket_request(), "gpu": 1}

    reply = registry.as_("wang", "trainers").post(
        "/v1/tickets", json=body, headers={"Idempotency-Key": "a-key-of-mine"}
    )

    assert reply.json()["errors"] == [{"pointer": "/body/gpu", "message": "Extra inputs are not permitted"}]


def test_a_broken_promise_of_ours_shows_no_traceback(registry: Registry) -> None:
    registry.books._gate = (2**62, None)

    reply = registry.as_("wang", "nlp").post(
        "/access/v1/evaluation", json={"resource": {"type": "task-type", "id": "dpo"}, "action": {"name": "submit"}}
    )

    assert (reply.status_code, reply.json()["code"]) == (500, "internal-error")
    assert "Traceback" not in reply.text


def test_tags_are_cached_by_their_digest(registry: Registry) -> None:
    wang = registry.as_("wang", "trainers")
    first = wang.get("/v1/tags/dpo")

    again = wang.get("/v1/tags/dpo", headers={"If-None-Match": first.headers["etag"]})

    assert (again.status_code, again.text) == (304, "")
