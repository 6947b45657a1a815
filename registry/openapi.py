"""The OpenAPI document: every status that an operation can answer, and no other (`default` would allow all).

What follows from the shape of a route is derived here; what its noun refuses stands in `NOT_FOUND` and `CONFLICT`.
"""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from enforcer import wire
from registry import examples
from registry.etags import JSON, REQUIRED

PROBLEM_JSON = "application/problem+json"
REFUSALS = {
    400: "The page token belongs to another filter or order; of a token: not traded, and `error` is one of RFC 6749 "
    "section 5.2 or RFC 8693 section 2.2.2",
    401: "Nobody we know: no credential, or one that does not hold",
    403: "The policy does not allow it; or a page of another site had a browser send it",
    404: "No such thing",
    409: "The state of things forbids it, or the same `Idempotency-Key` is still worked on",
    412: "It is not what `If-Match` says any more",
    413: "The body is larger than 64 KiB, or, where policy files are sent, than 4 MiB",
    415: "The body is not called what it should be in `Content-Type`",
    421: "The `Host` is not a name of this service",
    422: "The body, a parameter or a header is not what the operation takes",
    428: "`If-Match` is missing",
    429: "The caller, or this address by failed sign-ins, used up a budget; `Retry-After` says when to return",
    500: "A broken promise of ours",
    503: "The database, or the caller's identity provider, does not answer; nothing was changed",
}
# Beside all that name a thing in their path.
NOT_FOUND = {
    "checkTagName",
    "getConsistency",
    "makeDelegation",
    "issueTicket",
    "evaluate",
    "openProposal",
    "overrideRule",
    "replayPolicy",
    "resolveTag",
}
CONFLICT = {
    "openProposal",
    "reviewProposal",
    "ratifyProposal",
    "editProposal",
    "submitProposal",
    "withdrawProposal",
    "revokeDelegation",
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
# Changes, and questions by POST, that read no `Idempotency-Key`: what a repetition is instead.
NO_KEY = {
    **dict.fromkeys(
        ("checkCompatibility", "checkTagName", "validatePolicy", "replayPolicy"), "nothing is changed by it"
    ),
    **dict.fromkeys(("evaluate", "evaluateMany"), "the same question again is another question"),
    "redeemTicket": "`redemption_id` says whether it is the same redemption",
    "uploadOfflineRun": "the same record again is known by what it says",
    "sendHeartbeat": "each is about the moment at which it is sent",
    "reportRun": "the same report again is known by what it says",
    "testWebhook": "each is another try",
    "revokeToken": "once it has ended it stays so",
    "endWebhook": "once it has ended it stays so, and 409 says that it has",
}
ANYBODY = {"disablePrincipal", "enablePrincipal"}  # somebody who was never here can be shut out
BY_TICKET = {"redeemTicket", "refuseTicket", "uploadOfflineRun"}
PROBES = {"healthz", "readyz"}


def document(app: FastAPI) -> dict[str, Any]:
    made = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    for path, operations in made["paths"].items():
        for method, operation in operations.items():
            operation["responses"].pop("422", None)
            _add_preconditions(operation)
            if why := NO_KEY.get(operation["operationId"]):
                operation["description"] += f"\n\nReads no `Idempotency-Key`: {why}."
            _add_examples(operation)
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
    if name == "exchangeToken" or "page_token" in _parameters(operation):
        found.add(400)
    if ("{" in path and name not in ANYBODY) or name in NOT_FOUND:
        found.add(404)
    headers = _headers(operation)
    if name in CONFLICT or {"Idempotency-Key", "validate_only"} <= headers.keys() | _parameters(operation):
        found.add(409)
    if "If-Match" in headers:
        found |= {412, 428} if headers["If-Match"]["required"] else {412}
    if method != "get":
        found |= {413, 415}
    return sorted(found)


def _add_preconditions(operation: dict[str, Any]) -> None:
    """What follows from `If-Match`, `If-None-Match` and `validate_only`."""
    responses, headers = operation["responses"], _headers(operation)
    tag = {"ETag": {"description": "Digest of the body", "schema": {"type": "string"}}}
    if "If-Match" in headers:  # FastAPI would answer 422 to what is required; the problem for it is 428
        headers["If-Match"]["required"] = headers["If-Match"].get("description") == REQUIRED
        if "204" not in responses:
            responses[min(responses)].setdefault("headers", tag)
    if "If-None-Match" in headers:
        responses["200"]["headers"] = {"ETag": {**tag["ETag"], "required": True}}
        responses["304"] = {"description": "What you have is still what there is"}
    if "validate_only" in _parameters(operation) and "200" not in responses:
        would_be = {
            "description": "validate_only: it would be answered like this",
            "content": responses["201"]["content"],
        }
        operation["responses"] = {"200": would_be, **responses}


def _add_examples(operation: dict[str, Any]) -> None:
    name, answers = operation["operationId"], operation["responses"]
    if name in examples.REQUESTS:
        operation["requestBody"]["content"][JSON]["example"] = examples.REQUESTS[name]
    for status in ("200", "201") if name in examples.ANSWERS else ():
        if status in answers:
            answers[status]["content"][JSON]["example"] = examples.ANSWERS[name]


def _headers(operation: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Header parameters, called as people write them (FastAPI has them in lower case)."""
    found = {}
    for parameter in operation.get("parameters", ()):
        if parameter["in"] == "header":
            if parameter["name"].islower():
                parameter["name"] = "-".join(part.capitalize() for part in parameter["name"].split("-"))
            found[parameter["name"]] = parameter
    return found


def _parameters(operation: dict[str, Any]) -> set[str]:
    return {parameter["name"] for parameter in operation.get("parameters", ())}


def _refusal(status: int) -> dict[str, Any]:
    refusal: dict[str, Any] = {
        "description": REFUSALS[status],
        "content": {PROBLEM_JSON: {"schema": {"$ref": "#/components/schemas/ProblemDocument"}}},
    }
    if status == 429:
        seconds = {"description": "Seconds", "required": True, "schema": {"type": "integer", "minimum": 1}}
        refusal["headers"] = {"Retry-After": seconds}
    return refusal
