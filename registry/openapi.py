"""The OpenAPI document: every status that an operation can answer, and no other (`default` would allow all).

What follows from the shape of a route is derived here; what its noun refuses stands in `NOT_FOUND` and `CONFLICT`.
"""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from enforcer import wire

PROBLEM_JSON = "application/problem+json"
REFUSALS = {
    400: "Not traded: `error` is one of RFC 6749 section 5.2 or RFC 8693 section 2.2.2",
    401: "Nobody we know: no credential, or one that does not hold",
    403: "The policy does not allow it; or a page of another site had a browser send it",
    404: "No such thing",
    409: "The state of things forbids it",
    413: "The body is larger than 64 KiB, or, where policy files are sent, than 4 MiB",
    415: "The body is not called what it should be in `Content-Type`",
    421: "The `Host` is not a name of this service",
    422: "The body, a parameter or a header is not what the operation takes",
    429: "The caller, or this address by failed sign-ins, used up a budget; `Retry-After` says when to return",
    500: "A broken promise of ours",
    503: "The database, or the caller's identity provider, does not answer; nothing was changed",
}
# Beside all that name a thing in their path.
NOT_FOUND = {"getConsistency", "issueTicket", "evaluate", "openProposal", "overrideRule", "replayPolicy"}
CONFLICT = {
    "openProposal",
    "reviewProposal",
    "withdrawProposal",
    "overrideRule",
    "revokeException",
    "issueTicket",
    "redeemTicket",
    "revokeTicket",
    "uploadOfflineRun",
    "cancelRun",
    "sendHeartbeat",
    "reportRun",
    "erasePerson",
    "changeWebhook",
    "endWebhook",
    "rotateWebhookSecret",
    "testWebhook",
    "replayWebhook",
}
ANYBODY = {"disablePrincipal", "enablePrincipal"}  # somebody who was never here can be shut out
BY_TICKET = {"redeemTicket", "refuseTicket", "uploadOfflineRun"}
PROBES = {"healthz", "readyz"}


def document(app: FastAPI) -> dict[str, Any]:
    made = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    for path, operations in made["paths"].items():
        for method, operation in operations.items():
            operation["responses"].pop("422", None)
            for status in _refusals(path, method, operation):
                operation["responses"].setdefault(str(status), _refusal(status))
    schemas = made["components"]["schemas"]
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    schemas["ProblemDocument"] = wire.ProblemDocument.model_json_schema()
    return made


def _refusals(path: str, method: str, operation: dict[str, Any]) -> list[int]:
    name = operation["operationId"]
    found = {422, 500}
    if name not in PROBES:
        found |= {421, 429}
    if name != "healthz":
        found.add(503)
    if operation.get("security") or name in BY_TICKET:
        found.add(401)
    # Also on reads: the policy, and a credential of somebody who is shut out or whose groups are not told.
    if method != "get" or operation.get("security"):
        found.add(403)
    if name == "exchangeToken":
        found.add(400)
    if ("{" in path and name not in ANYBODY) or name in NOT_FOUND:
        found.add(404)
    if name in CONFLICT:
        found.add(409)
    if method != "get":
        found |= {413, 415}
    return sorted(found)


def _refusal(status: int) -> dict[str, Any]:
    refusal: dict[str, Any] = {
        "description": REFUSALS[status],
        "content": {PROBLEM_JSON: {"schema": {"$ref": "#/components/schemas/ProblemDocument"}}},
    }
    if status == 429:
        seconds = {"description": "Seconds", "required": True, "schema": {"type": "integer", "minimum": 1}}
        refusal["headers"] = {"Retry-After": seconds}
    return refusal
