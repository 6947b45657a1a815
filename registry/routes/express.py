"""The express lane: a ticket that will be granted is issued without the framework's plumbing.

It only ever says yes. Whatever it does not understand or would refuse, and whatever is no plain `POST /v1/tickets`, it
hands on untouched to the documented route (`routes/tickets.py`), which decides from the books and refuses in words and
on the record. So there is one description of the API, and a test that holds both to it.
"""

import asyncio

from pydantic import ValidationError
from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp, Receive, Scope, Send

from enforcer import wire
from enforcer.policy.snapshot import Snapshot
from enforcer.problems import Problem, Unauthenticated
from registry import access, db, tickets
from registry.books import Books
from registry.identity import Actor
from registry.recently import Recently
from registry.tags import InForce
from registry.writer import Stale

PATH = "/v1/tickets"


class Express:
    """ASGI middleware. It stands inside whatever limits bodies and budgets, and outside of routing."""

    def __init__(self, app: ASGIApp, books: Books) -> None:
        self._app = app
        self._books = books
        self._recently = Recently(books)
        self._reading: asyncio.Future[str] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # `Limits` leaves the body here, parsed strictly; that it can be received once more is for the documented route.
        if scope.get("path") != PATH or scope.get("method") != "POST" or scope["query_string"] or "json" not in scope:
            await self._app(scope, receive, send)
            return
        granted = await self._grant(scope)
        if granted is None:
            await self._app(scope, receive, send)
            return
        scope["state"]["admitted"] = True
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(granted))]
        await send({"type": "http.response.start", "status": 201, "headers": headers})
        await send({"type": "http.response.body", "body": granted})

    async def _grant(self, scope: Scope) -> bytes | None:
        """The grant as JSON; None where it is not for us to answer."""
        token, key = _credentials(scope)
        if not token or not key:
            return None
        try:
            request = wire.TicketRequest.model_validate(scope["json"])
            if request.redeem != "online":  # where that is allowed, the documented route knows
                return None
            if request.inputs.continues is not None:  # and whether there is such a run
                return None
            actor, task, gate, stamp = await self._look_up(token, request.task_type)
            if task.deprecation is not None:  # the documented route tells of the end, and knows the exceptions
                return None
            head = self._books.known_head() or await self._newest_head()
            matter = access.Matter(
                tag=task.tag,
                unit=request.business_unit,
                target=request.target,
                gpus=request.gpus,
                model=request.inputs.model.name,
                change_ticket=request.change_ticket,
            )
            decision = access.decide(gate, actor, "submit", matter)
            if not decision.allowed or not self._books.rates.has_room(actor.id, "tickets"):
                return None
            permit = access.granted(gate, actor, decision)
            draft = tickets.draft(self._books, request, permit, task, stamp=stamp, idempotency_key=key, head=head)
            self._books.rates.take(actor.id, "tickets")
            if await self._books.writer.write(draft):
                self._books.counts.issued(task.tag, permit.unit)
                self._books.shadow.compare(decision, actor.business_unit)
                return draft.answer
        except Stale:
            self._recently.forget()
        except (ValidationError, Problem, SQLAlchemyError):
            pass  # the documented route says why
        return None

    async def _newest_head(self) -> str:
        """Read by one request of all that miss it at once, which is every second under load."""
        reading = self._reading
        if reading is None or reading.done() or reading.get_loop() is not asyncio.get_running_loop():
            reading = self._reading = asyncio.ensure_future(run_in_threadpool(self._read_head))
        return await asyncio.shield(reading)  # whoever goes away takes nobody's answer along

    def _read_head(self) -> str:
        with self._books.reading() as session:
            return self._books.head(session)

    async def _look_up(self, token: str, task_type: str) -> tuple[Actor, InForce, Snapshot, int]:
        known, now = self._recently.known, db.utc_now()
        if known is not None:
            actor, task = known.actor(token, now, self._books), known.task_types.get(task_type)
            if actor is not None and task is not None:
                return actor, task, known.gate, known.stamp
        known = await run_in_threadpool(self._recently.learn, token, task_type)
        actor, task = known.actor(token, now, self._books), known.task_types[task_type]
        if actor is None:
            raise Unauthenticated("this credential is read from the books each time")
        return actor, task, known.gate, known.stamp


def _credentials(scope: Scope) -> tuple[str | None, str | None]:
    """Bearer token and Idempotency-Key of a JSON request, by the documented rules; None for whatever is out of line."""
    headers: dict[bytes, bytes] = {}
    for name, value in scope["headers"]:
        headers.setdefault(name, value)
    scheme, _, token = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
    key = headers.get(b"idempotency-key", b"").decode("latin-1")
    if scheme.lower() != "bearer" or headers.get(b"content-type") != b"application/json" or not 8 <= len(key) <= 80:
        return None, None
    return token.strip(), key
