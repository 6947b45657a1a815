"""The application: routers, and the one place where refusals are recorded and rendered."""

import importlib.metadata
import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.responses import JSONResponse
from sqlalchemy.exc import DBAPIError
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from enforcer import problems, wire
from enforcer.problems import Problem
from registry import audit, db
from registry.access import Attempt
from registry.books import Books
from registry.routes import audit as audit_routes
from registry.routes import decisions, health, proposals, runs, tags, tickets
from registry.settings import Settings

log = logging.getLogger(__name__)

ROUTERS = (
    health.router,
    tags.router,
    proposals.router,
    decisions.router,
    tickets.router,
    runs.router,
    audit_routes.router,
)
MAX_BODY_BYTES = 64 * 1024
PROBLEM_JSON = "application/problem+json"
DESCRIPTION = "Task types, who may train under them, signed run tickets, and the record of it all."


def create_app(settings: Settings) -> FastAPI:
    """The service over migrated tables. Raises what `Books.open` raises."""
    app = _routed()
    app.state.books = Books.open(settings)
    return app


def describe() -> dict[str, Any]:
    """The OpenAPI document; needs no database, no keys and no policy."""
    return _routed().openapi()


def _routed() -> FastAPI:
    app = FastAPI(
        title="tagwarden registry",
        description=DESCRIPTION,
        version=importlib.metadata.version("tagwarden"),
        responses={"default": {"model": wire.ProblemDocument, "content": {PROBLEM_JSON: {}}}},
        docs_url=None,
        redoc_url=None,
    )
    for router in ROUTERS:
        app.include_router(router)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    app.add_middleware(Limits)
    app.add_exception_handler(Problem, _refused)
    app.add_exception_handler(RequestValidationError, _malformed)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(DBAPIError, _database_error)
    app.add_exception_handler(ConnectionError, _database_error)  # pg8000 lets the socket's own out of a rollback
    app.add_exception_handler(Exception, _our_fault)
    return app


class Limits:
    """Refuse before anything is read: a large body (FastAPI's own limit answers in plain text), a NUL in the URL (which
    PostgreSQL cannot compare with)."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        announced = Headers(scope=scope).get("content-length", "0")
        if len(announced) > 12 or (announced.isdecimal() and int(announced) > MAX_BODY_BYTES):
            refused = _http_error(Request(scope), HTTPException(413))
            await refused(scope, receive, send)
            return
        if "\x00" in scope["path"] or b"%00" in scope["query_string"]:
            refused = _answer(problems.Malformed("the URL holds a NUL; nothing is called so").document(), 422)
            await refused(scope, receive, send)
            return
        seen = 0

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > MAX_BODY_BYTES:
                raise HTTPException(413)
            return message

        await self.app(scope, counted, send)


def _refused(request: Request, problem: Exception) -> JSONResponse:
    """Record the refusal of an attempt, then render it. The request's own transaction is rolled back by now."""
    assert isinstance(problem, Problem)
    document = problem.document()
    attempt: Attempt | None = getattr(request.state, "attempt", None)
    if attempt is not None:
        books: Books = request.app.state.books
        event_id = audit.record_refusal(books.engine, attempt.action, attempt.actor, problem, **attempt.facts)
        document["decision_id"] = event_id
    elif problem.status == 401:
        client = request.client.host if request.client else "unknown"
        log.warning("unauthenticated request from %s: %s", client, problem.code)
    return _answer(document, problem.status)


def _malformed(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    # A body that both the access check and the handler read is reported once.
    told = dict.fromkeys(("/" + "/".join(map(str, item["loc"])), str(item["msg"])) for item in error.errors())
    found = [{"pointer": pointer, "message": message} for pointer, message in list(told)[:20]]
    first = found[0]
    return _refused(request, problems.Malformed(f"`{first['pointer']}`: {first['message']}", errors=found))


def _http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    kinds: dict[int, type[Problem]] = {404: problems.NotFound, 405: problems.MethodNotAllowed, 413: problems.TooLarge}
    kind = kinds.get(error.status_code, problems.Malformed)
    detail = {
        404: f"nothing is served at `{request.url.path[:200]}`; see `/openapi.json`",
        405: f"`{request.method}` is not served at `{request.url.path[:200]}`",
        413: f"the body is larger than {MAX_BODY_BYTES} bytes",
    }.get(error.status_code, str(error.detail))
    return _answer(kind(detail).document(), kind.status, dict(error.headers or {}))


def _database_error(request: Request, error: Exception) -> JSONResponse:
    if isinstance(error, DBAPIError) and not db.is_away(error):
        return _our_fault(request, error)
    log.error("the database does not answer: %s", error)
    problem = problems.Unavailable("the registry's database does not answer; nothing was changed. Try again")
    return _answer(problem.document(), 503, {"Retry-After": "5"})


def _our_fault(_request: Request, error: Exception) -> JSONResponse:
    log.exception("a broken promise of ours", exc_info=error)
    problem = problems.InternalError("the registry failed on this request; its log says how. Nothing was changed")
    return _answer(problem.document(), 500)


def _answer(document: dict[str, Any], status: int, headers: dict[str, str] | None = None) -> JSONResponse:
    if status == 401:
        headers = {**(headers or {}), "WWW-Authenticate": "Bearer"}
    return JSONResponse(document, status, media_type=PROBLEM_JSON, headers=headers)


def _openapi(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document, with every error under the media type that is really sent."""
    document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    for path in document["paths"].values():
        for operation in path.values():
            operation["responses"].pop("422", None)
            default = operation["responses"].get("default")
            if default is not None:
                default["description"] = "Refused: RFC 9457 problem details"
                default["content"] = {PROBLEM_JSON: {"schema": {"$ref": "#/components/schemas/ProblemDocument"}}}
    for unused in ("HTTPValidationError", "ValidationError"):
        document["components"]["schemas"].pop(unused, None)
    return document
