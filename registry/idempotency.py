"""One request, one effect: `Idempotency-Key` (draft-ietf-httpapi-idempotency-key-header-07) and `validate_only`.

    with change.writing() as session:
        ...
        return change.answer(session, body)

The answer is stored in the transaction of the effect: after a crash either both are there or none. The same principal
with the same key gets

    the stored answer, byte for byte    for the same request (method, path, query, If-Match, body)
    422 idempotency-key-reused          for another one
    409 idempotency-key-in-use          while the first is still worked on

for 24 hours. Access is decided each time before anything stored is looked at. A refusal has no effect and is not kept:
the same key tries again. Without a key every request is a new one.

`validate_only=true` goes the whole way, through access, rules and the database's own constraints, and then rolls back:
the answer (200) says what would be, ids and times in it are gone. Only a refusal leaves an event.
"""

import hashlib
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Annotated

from fastapi import Depends, Header, Query, Request, Response
from pydantic import BaseModel
from sqlalchemy import text
from sqlmodel import Session, col, delete
from starlette.concurrency import run_in_threadpool

from enforcer.problems import IdempotencyConflict, IdempotencyInUse, IdempotencyNotOffered
from registry import db, etags
from registry.books import Books, TheBooks
from registry.tables import StoredAnswer

LIFE = timedelta(hours=24)
Key = Annotated[
    str | None,
    Header(min_length=8, max_length=80, description="the same key again gets the same answer, for 24 hours"),
]
ValidateOnly = Annotated[bool, Query(description="make all checks, change nothing, and say what would be")]


class Replayed(Exception):
    """Somebody asks again: this is what they were answered."""

    def __init__(self, stored: StoredAnswer) -> None:
        super().__init__("answered before")
        self.response = Response(stored.body, stored.status, dict(stored.headers), etags.JSON)


class Change:
    """One request that changes something, made once for its key."""

    def __init__(self, request: Request, books: Books, key: str | None, *, validate_only: bool) -> None:
        self.validate_only = validate_only
        self._books = books
        self._route_status: int = request.scope["route"].status_code or 200
        self._actor: str = request.state.attempt.actor.id  # who may was decided before
        self._key = None if validate_only else key
        self._request_digest = _digest(request) if self._key is not None else ""

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Let nobody else in this process work on the key. What makes it hold is `writing`; this spares the work."""
        if self._key is None:
            yield
            return
        key = self._actor, self._key
        with self._books.changing_lock:
            if key in self._books.changing:
                raise self._in_use()
            self._books.changing.add(key)
        try:
            yield
        finally:
            with self._books.changing_lock:
                self._books.changing.discard(key)

    def replay(self) -> None:
        """Raises Replayed, IdempotencyConflict."""
        if self._key is not None:
            with self._books.reading() as session:
                self._look_up(session)

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """The transaction of the change. Nothing in it may build on what it changed and cache that (`books.gate`).

        Raises:
            Replayed: this key was answered before.
            IdempotencyConflict, IdempotencyInUse: it stands for another request; it is worked on elsewhere.
        """
        with self._books.writing() as session:
            if self._key is not None:
                self._lock(session)
                self._look_up(session)
            yield session
            if self.validate_only:
                session.flush()  # so that the database's own constraints have their say
                session.rollback()

    def answer(self, session: Session, body: BaseModel, *, tagged: bool = False) -> Response:
        """The answer, stored with the change. `tagged`: it is what reading the resource would answer now."""
        content = etags.written(body)
        headers = {"ETag": etags.of(content)} if tagged else {}
        status = 200 if self.validate_only else self._route_status
        if self._key is not None:
            session.add(
                StoredAnswer(
                    actor=self._actor,
                    key=self._key,
                    request_digest=self._request_digest,
                    status=status,
                    headers=headers,
                    body=content,
                    created_at=db.utc_now(),
                )
            )
        return Response(content, status, headers, etags.JSON)

    def _lock(self, session: Session) -> None:
        """SQLite has one writer; whoever comes second finds the answer of the first."""
        if session.connection().dialect.name == "postgresql":
            asked = text("select pg_try_advisory_xact_lock(hashtextextended(:what, 1))")
            what = f"{self._actor} {self._key}"
            if not session.connection().execute(asked, {"what": what}).scalar_one():
                raise self._in_use()

    def _look_up(self, session: Session) -> None:
        stored = session.get(StoredAnswer, (self._actor, self._key))
        if stored is None:
            return
        if stored.request_digest != self._request_digest:
            raise IdempotencyConflict(f"Idempotency-Key `{self._key}` came with another request before; make a new key")
        raise Replayed(stored)

    def _in_use(self) -> IdempotencyInUse:
        return IdempotencyInUse(
            f"the request with Idempotency-Key `{self._key}` is still worked on; ask again in a moment", retry_after_s=1
        )


async def _change(
    request: Request, books: TheBooks, idempotency_key: Key = None, validate_only: ValidateOnly = False
) -> AsyncIterator[Change]:
    change = Change(request, books, idempotency_key, validate_only=validate_only)
    with change.claimed():
        if idempotency_key is not None:
            await run_in_threadpool(change.replay)
        yield change


# After whatever declares access, which notes whose attempt it is. Ends with the handler, not after the answer is out.
OneChange = Annotated[Change, Depends(_change, scope="function")]


def _told_once(idempotency_key: Key = None) -> None:
    if idempotency_key is not None:
        raise IdempotencyNotOffered(
            "what this answers is a secret that is told once and kept nowhere, so no key can have it told again; send "
            "it without `Idempotency-Key`"
        )


ToldOnce = Depends(_told_once)


def sweep(session: Session) -> None:
    """Forget answers that nobody asks for any more."""
    session.exec(delete(StoredAnswer).where(col(StoredAnswer.created_at) < db.utc_now() - LIFE))


def _digest(request: Request) -> str:
    """Of the request as it is meant: members of the body in any order."""
    scope = request.scope
    said = [
        scope["method"],
        scope["path"],
        scope["query_string"].decode("latin-1"),
        request.headers.get("if-match"),
        scope.get("json"),
    ]
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()
