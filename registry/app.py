"""The application: routers, and the one place where refusals are recorded and rendered."""

import importlib.metadata
import logging
from functools import cache, partial
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from sqlalchemy.exc import DBAPIError
from starlette.exceptions import HTTPException

from enforcer import problems
from enforcer.policy.reference import Sampler
from enforcer.problems import Problem, RateLimited
from registry import audit, db, openapi, policies
from registry.access import Attempt
from registry.books import Books
from registry.idempotency import Replayed
from registry.limits import FORM, Limits, address
from registry.openapi import PROBLEM_JSON
from registry.routes import (
    audit as audit_routes,
    decisions,
    delegations,
    exceptions,
    health,
    identity,
    keys,
    log as log_routes,
    metrics,
    policies as policy_routes,
    problems as problem_pages,
    proposals,
    quotas,
    runs,
    tag_usage,
    tags,
    tickets,
    webhooks,
)
from registry.routes.express import Express
from registry.settings import Settings

log = logging.getLogger(__name__)

ROUTERS = (
    health.router,
    metrics.router,
    keys.router,
    tags.router,
    tag_usage.router,
    proposals.router,
    delegations.router,
    exceptions.router,
    decisions.router,
    policy_routes.router,
    tickets.router,
    runs.router,
    quotas.router,
    audit_routes.router,
    log_routes.router,
    identity.router,
    problem_pages.router,
    webhooks.router,
)
DESCRIPTION = "Task types, who may train under them, signed run tickets, and the record of it all."


def create_app(settings: Settings) -> FastAPI:
    """The service over migrated tables. Raises what `Books.open` raises."""
    app = _routed()
    app.state.books = books = Books.open(settings)
    if settings.policy_check_every:
        books.watch = Sampler(settings.policy_check_every, partial(policies.record_difference, books.engine))
    app.add_middleware(Express, books=books)
    app.add_middleware(Limits, settings=settings, rates=books.rates, forms=_forms(), render=_unrouted)
    return app


def describe() -> dict[str, Any]:
    """The OpenAPI document; needs no database, no keys and no policy."""
    return _routed().openapi()


def _routed() -> FastAPI:
    app = FastAPI(
        title="tagwarden registry",
        description=DESCRIPTION,
        version=importlib.metadata.version("tagwarden"),
        docs_url=None,
        redoc_url=None,
    )
    for router in ROUTERS:
        app.include_router(router)
    app.openapi = cache(lambda: openapi.document(app))  # type: ignore[method-assign]
    app.add_exception_handler(Problem, _refused)
    app.add_exception_handler(Replayed, _replayed)
    app.add_exception_handler(RequestValidationError, _malformed)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(DBAPIError, _database_error)
    app.add_exception_handler(ConnectionError, _database_error)  # pg8000 lets the socket's own out of a rollback
    return app


def _forms() -> frozenset[str]:
    """Paths that take a form instead of JSON."""
    routes = (route for router in ROUTERS for route in router.routes if isinstance(route, APIRoute))
    bodies = {route.path: (route.openapi_extra or {}).get("requestBody", {}) for route in routes}
    return frozenset(path for path, body in bodies.items() if FORM in body.get("content", {}))


def _unrouted(request: Request, error: Exception) -> JSONResponse:
    """What `Limits` refused, or what nobody else has an answer to."""
    if isinstance(error, RateLimited):
        return _refused(request, error)
    if isinstance(error, Problem):
        return _answer(error.document(), error.status)
    if isinstance(error, DBAPIError | ConnectionError):  # while the refusal was recorded
        return _database_error(request, error)
    return _our_fault(request, error)


def _refused(request: Request, problem: Exception) -> JSONResponse:
    """Record the refusal of an attempt, then render it. The request's own transaction is rolled back by now."""
    assert isinstance(problem, Problem)
    document = problem.document()
    wait_s = problem.facts.get("retry_after_s")
    headers = None if wait_s is None else {"Retry-After": str(wait_s)}
    attempt: Attempt | None = getattr(request.state, "attempt", None)
    books: Books = request.app.state.books
    if isinstance(problem, RateLimited):  # each of them counts, though few are put on record
        books.counts.refused("rate-limit", problem.code, {})
    if attempt is not None:
        event_id = audit.record_refusal(books.engine, attempt.action, attempt.actor, problem, **attempt.facts)
        if not isinstance(problem, RateLimited):
            books.counts.refused(attempt.action, problem.code, attempt.facts)
        document["decision_id"] = event_id
    elif _worth_a_line(request, problem):
        log.warning("refused %s %s from %s: %s", request.method, request.url.path, address(request.scope), problem.code)
    return _answer(document, problem.status, headers)


def _worth_a_line(request: Request, problem: Problem) -> bool:
    """Who brings no credential guesses none. Guesses are as many lines as the budget of failed sign-ins allows, and
    tokens that are not traded as many as that of public requests."""
    if isinstance(problem, RateLimited):
        return problem.unsaid is not None
    if isinstance(problem, problems.ExchangeRefused):
        return True
    return problem.status == 401 and "authorization" in request.headers


def _replayed(_request: Request, again: Exception) -> Response:
    assert isinstance(again, Replayed)
    return again.response


def _malformed(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    # A body that both the access check and the handler read is reported once.
    told = dict.fromkeys(("/" + "/".join(map(str, item["loc"])), str(item["msg"])) for item in error.errors())
    found = [{"pointer": pointer, "message": message} for pointer, message in list(told)[:20]]
    first = found[0]
    if meant := problems.from_validation(error.errors()):
        return _refused(request, meant)
    return _refused(request, problems.Malformed(f"`{first['pointer']}`: {first['message']}", errors=found))


def _http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    kinds: dict[int, type[Problem]] = {404: problems.NotFound, 405: problems.MethodNotAllowed}
    kind = kinds.get(error.status_code, problems.Malformed)
    detail = {
        404: f"nothing is served at `{request.url.path[:200]}`; see `/openapi.json`",
        405: f"`{request.method}` is not served at `{request.url.path[:200]}`",
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
    headers = {**(headers or {}), "Link": f'</problems/{document["code"]}>; rel="help"'}
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(document, status, media_type=PROBLEM_JSON, headers=headers)
