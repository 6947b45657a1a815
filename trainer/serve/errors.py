"""Refusals as both kinds of clients read them: a problem document (RFC 9457) with OpenAI's `error` in it.

OpenAI's clients look at the status and at `error.message`, `error.type`, `error.param`, `error.code`; everybody else at
`code` and `detail`. Extension members are what RFC 9457 section 3.2 is for.
"""

import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from enforcer.problems import InternalError, Malformed, MethodNotAllowed, NotFound, Problem

log = logging.getLogger(__name__)

PROBLEM_JSON = "application/problem+json"
MAX_TOLD = 20


def install(app: FastAPI) -> None:
    app.add_exception_handler(Problem, render)
    app.add_exception_handler(RequestValidationError, _malformed)
    app.add_exception_handler(HTTPException, _unrouted)
    app.add_exception_handler(Exception, _fault)


def document(problem: Problem) -> dict[str, Any]:
    kind = {401: "authentication_error", 429: "rate_limit_error"}.get(problem.status, "invalid_request_error")
    error = {
        "message": problem.detail,
        "type": kind if problem.status < 500 else "server_error",
        "param": problem.facts.get("param"),
        "code": problem.code,
    }
    return {**problem.document(), "error": error}


def render(_request: Request, problem: Exception) -> JSONResponse:
    assert isinstance(problem, Problem)
    headers = {"WWW-Authenticate": "Bearer"} if problem.status == 401 else {}
    if wait_s := problem.facts.get("retry_after_s"):
        headers["Retry-After"] = str(wait_s)
    return JSONResponse(document(problem), problem.status, media_type=PROBLEM_JSON, headers=headers)


def _malformed(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    found = [
        {"pointer": "/" + "/".join(map(str, item["loc"][1:])), "message": str(item["msg"]).lower()}
        for item in error.errors()[:MAX_TOLD]
    ]
    first = found[0]
    detail = f"`{first['pointer']}`: {first['message']}"
    if error.errors()[0]["type"] == "extra_forbidden":
        detail = f"`{first['pointer']}` is not honoured here, so it is refused; leave it out"
    parts = error.errors()[0]["loc"][1:2]
    return render(request, Malformed(detail, errors=found, param=str(parts[0]) if parts else None))


def _unrouted(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    path = request.url.path[:200]
    if error.status_code == 405:
        return render(request, MethodNotAllowed(f"`{request.method}` is not served at `{path}`"))
    if error.status_code == 404:
        return render(request, NotFound(f"nothing is served at `{path}`; `/openapi.json` says what is"))
    return render(request, Malformed(str(error.detail)))


def _fault(request: Request, error: Exception) -> JSONResponse:
    log.error("a request failed", exc_info=error)
    return render(request, InternalError("the model failed on this request; the server's log says how"))
