"""Group commit: many requests, one transaction, one fsync, and nobody is answered before it.

Requests draft their rows and wait; one thread takes whatever waits and writes it as one batch. A disk that commits four
hundred times a second so takes thousands of tickets. The rules it keeps:
- A waiter is released after COMMIT has returned, never before, each with an outcome of its own.
- One bad row harms nobody: a batch that the database refuses is written again, entry by entry.
- What a draft rests on is checked where it is written: it carries the stamp (`tables.Stamp`) under which it was made,
  and a draft whose stamp has moved is `Stale` and not written. So a cache can make a request fast, and never wrong.
- Of drafts with the same Idempotency-Key the first is written; the others are told to read what was answered.

A batch is one statement for each table, however many rows it has. Python's sqlite3 gives up the interpreter's lock at
each step of a statement, and waits milliseconds to get it back while requests are being worked on; pg8000 makes a
round trip for each row of `executemany`.
"""

import asyncio
import copy
import logging
import queue
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

import orjson
import pg8000
from sqlalchemy import JSON, Connection, Engine
from sqlalchemy.exc import DBAPIError
from sqlmodel import SQLModel

from registry import db
from registry.quotas import Reservation, Room
from registry.tables import Event, IdempotentAnswer, PendingEntry, Run, Ticket, UtcDateTime

log = logging.getLogger(__name__)

MAX_BATCH = 64  # each batch size is a statement of its own on SQLite: see `cached_statements` in db.py
Key = tuple[str, str]  # actor and Idempotency-Key
Outcome = bool | BaseException
TABLES: tuple[type[SQLModel], ...] = (Ticket, Run, Event, PendingEntry, IdempotentAnswer)


class Stale(Exception):
    """What the draft rests on has changed since; read again and draft again."""


@dataclass(frozen=True, slots=True)
class Draft:
    """One row for each of `TABLES`, in that order, to be written together or not at all."""

    stamp: int
    rows: tuple[dict[str, Any], ...]
    answer: bytes  # to be given once they are written
    reservations: tuple[Reservation, ...] = ()

    @property
    def key(self) -> "Key":
        """Whose Idempotency-Key this is written under."""
        kept = self.rows[-1]
        return kept["actor"], kept["key"]


@dataclass(slots=True)
class _Waiting:
    draft: Draft
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[bool]
    outcome: Outcome = field(default_factory=lambda: RuntimeError("not written"))


class Writer:
    """The thread that writes. It starts with the first draft, and again should it ever die."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._store: _Store = _OnSqlite() if engine.dialect.name == "sqlite" else _OnPostgresql()
        self._groups: dict[asyncio.AbstractEventLoop, list[_Waiting]] = {}
        self._queue: queue.SimpleQueue[list[_Waiting] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()

    async def write(self, draft: Draft) -> bool:
        """Write a draft: true once it is committed, false where its Idempotency-Key was answered before.

        Raises:
            Stale: nothing was written; draft again.
            QuotaExceeded: a quota has no room for it; nothing was written.
            DBAPIError: the database is away, or refuses the rows; nothing was written.
        """
        loop = asyncio.get_running_loop()
        waiting = _Waiting(draft, loop, loop.create_future())
        group = self._groups.get(loop)
        if group is None:
            group = self._groups[loop] = []
            # When all requests that are ready now have drafted: one hand-over, and a batch worth its fsync.
            loop.call_soon(self._hand_over, loop)
        group.append(waiting)
        return await waiting.future

    def _hand_over(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._thread is None or not self._thread.is_alive():
            self._start()
        self._queue.put(self._groups.pop(loop))

    def close(self) -> None:
        """Write what still waits, and end."""
        with self._starting:
            if self._thread is not None:
                self._queue.put(None)
                self._thread.join()
                self._thread = None
                self._store.close()

    def _start(self) -> None:
        with self._starting:
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._keep_writing, name="writer", daemon=True)
                self._thread.start()

    def _keep_writing(self) -> None:
        while taken := self._take():
            for start in range(0, len(taken), MAX_BATCH):
                batch = taken[start : start + MAX_BATCH]
                self._write(batch)
                _release(batch)

    def _take(self) -> list[_Waiting]:
        """What waits now, at least one; nothing when it is time to end."""
        batch: list[_Waiting] = []
        group = self._queue.get()
        while group is not None:
            batch += group
            if len(batch) >= MAX_BATCH:
                return batch
            try:
                group = self._queue.get_nowait()
            except queue.Empty:
                return batch
        if batch:
            self._queue.put(None)  # ends after this batch
        return batch

    def _write(self, batch: Sequence[_Waiting]) -> None:
        """Settle the outcome of each. Never raises: somebody waits for every one of them."""
        from_before = self._store.holds_a_connection()
        try:
            outcomes = self._transaction([waiting.draft for waiting in batch])
        except BaseException as error:
            away = isinstance(error, ConnectionError) or (isinstance(error, DBAPIError) and db.is_away(error))
            if away and from_before:  # it died since; what was committed over it all the same is found by its key
                self._write(batch)
                return
            if len(batch) > 1 and not away:
                for waiting in batch:
                    self._write([waiting])
                return
            if not away and not isinstance(error, DBAPIError):
                log.exception("the writer failed on a batch")
            outcomes = [_copy(error) for _ in batch]
        for waiting, outcome in zip(batch, outcomes, strict=True):
            waiting.outcome = outcome

    def _transaction(self, drafts: Sequence[Draft]) -> Sequence[Outcome]:
        outcomes: list[Outcome] = []
        fresh: list[Draft] = []
        with self._store.begun(self._engine) as connection:
            stamp, answered = self._store.look_up(connection, [draft.key for draft in drafts])
            room = Room(connection, [one for draft in drafts for one in draft.reservations])
            for draft in drafts:
                if draft.stamp != stamp:
                    outcomes.append(Stale())
                elif draft.key in answered:
                    outcomes.append(False)
                elif (exceeded := room.take(draft.reservations)) is not None:
                    outcomes.append(exceeded)
                else:
                    outcomes.append(True)
                    answered.add(draft.key)
                    fresh.append(draft)
            if fresh:
                self._store.insert(connection, fresh)
                room.write()
        return outcomes


def _release(batch: Iterable[_Waiting]) -> None:
    """Wake the waiters, each loop once."""
    by_loop: dict[asyncio.AbstractEventLoop, list[_Waiting]] = {}
    for waiting in batch:
        by_loop.setdefault(waiting.loop, []).append(waiting)
    for loop, waiters in by_loop.items():
        with suppress(RuntimeError):  # the loop is closed: nobody is left to be told
            loop.call_soon_threadsafe(_wake, waiters)


def _wake(waiters: Iterable[_Waiting]) -> None:
    for waiting in waiters:
        if waiting.future.done():  # the client went away
            continue
        if isinstance(waiting.outcome, BaseException):
            waiting.future.set_exception(waiting.outcome)
        else:
            waiting.future.set_result(waiting.outcome)


def _copy(error: BaseException) -> BaseException:
    """Each waiter raises an error of its own: a traceback grows with every raise."""
    if not isinstance(error, Exception):
        return RuntimeError(f"the writer was interrupted: {error!r}")
    return copy.copy(error).with_traceback(None)


# --- the two databases ------------------------------------------------------------------------------------------------


class _Store(Protocol):
    """Statements go to the driver itself: SQLAlchemy's share of them was a third of what a batch costs."""

    def begun(self, engine: Engine) -> AbstractContextManager[Connection]:
        """A transaction, committed at the end of the block."""

    def holds_a_connection(self) -> bool:
        """Whether the next batch goes over a connection from before, which may have died since."""

    def close(self) -> None: ...

    def look_up(self, connection: Connection, asked: Sequence[Key]) -> tuple[int, set[Key]]:
        """The stamp, and which of these keys were answered."""

    def insert(self, connection: Connection, drafts: Sequence[Draft]) -> None: ...


def _found(rows: Sequence[Any]) -> tuple[int, set[Key]]:
    return rows[0][0], {(actor, key) for _, actor, key in rows if actor is not None}


@contextmanager
def _driver(connection: Connection) -> Iterator[Any]:
    """The driver's own connection. What it raises comes out as SQLAlchemy would say it."""
    raw, dialect = connection.connection.driver_connection, connection.dialect
    base = dialect.loaded_dbapi.Error
    try:
        yield raw
    except base as error:
        gone = dialect.is_disconnect(error, raw, None)
        if gone:
            connection.invalidate(error)
        raise DBAPIError.instance(
            "a batch", None, error, base, hide_parameters=True, connection_invalidated=gone, dialect=dialect
        ) from error


class _OnSqlite:
    """One `insert ... values (...), (...)` for each table. Each batch gets and gives back a connection: the lock that
    writers of this process queue at goes with it (`db.py`)."""

    def __init__(self) -> None:
        self._tables: list[tuple[str, str, list[str], list[int], list[int]]] = []
        for table in TABLES:
            columns = SQLModel.metadata.tables[str(table.__tablename__)].columns
            names = [column.name for column in columns]
            quoted = ", ".join(f'"{name}"' for name in names)
            head = f'insert into "{table.__tablename__}" ({quoted}) values '  # noqa: S608 names of ours
            as_json = [at for at, column in enumerate(columns) if isinstance(column.type, JSON)]
            moments = [at for at, column in enumerate(columns) if isinstance(column.type, UtcDateTime)]
            self._tables.append((head, f"({', '.join('?' * len(names))})", names, as_json, moments))

    def begun(self, engine: Engine) -> AbstractContextManager[Connection]:
        return engine.begin()

    def holds_a_connection(self) -> bool:
        return False

    def close(self) -> None:
        pass

    def look_up(self, connection: Connection, asked: Sequence[Key]) -> tuple[int, set[Key]]:
        marks = ", ".join(["(?, ?)"] * len(asked))
        query = (
            f"with asked(actor, key) as (values {marks}) "  # noqa: S608 question marks only
            "select stamp.value, a.actor, a.key from stamp "
            "left join (asked cross join idempotent_answer a on a.actor = asked.actor and a.key = asked.key)"
        )
        with _driver(connection) as raw:
            return _found(raw.execute(query, [part for key in asked for part in key]).fetchall())

    def insert(self, connection: Connection, drafts: Sequence[Draft]) -> None:
        with _driver(connection) as raw:
            for table, (head, marks, names, as_json, moments) in enumerate(self._tables):
                values: list[Any] = []
                for draft in drafts:
                    row: list[Any] = [*map(draft.rows[table].get, names)]
                    for at in as_json:
                        row[at] = orjson.dumps(row[at]).decode()
                    for at in moments:  # as SQLAlchemy writes them: UTC, without saying so, always with microseconds
                        if row[at] is not None:
                            row[at] = row[at].replace(tzinfo=None).isoformat(" ", "microseconds")
                    values += row
                raw.execute(head + ", ".join([marks] * len(drafts)), values)


class _OnPostgresql:
    """All tables in one statement, from one JSON parameter. The stamp is locked in share mode: batches of other
    processes go on beside this one, and only a change of what they rest on waits for them to commit.

    The connection is the writer's own from one batch to the next, so its statements are prepared once, and nobody has
    to ask first whether it still lives: a batch that finds it dead is written over another one.
    """

    _LOOK_UP = (
        "select stamp.value, found.* from stamp left join ("
        "select a.actor, a.key from json_to_recordset(cast(:document as json)) "
        "as asked(actor text, key text) join idempotent_answer a on a.actor = asked.actor and a.key = asked.key"
        ") found on true for share of stamp"
    )

    def __init__(self) -> None:
        # `select *` of its own row type is in the order of the table.
        inserts = ", ".join(
            f'_{table.__tablename__} as (insert into "{table.__tablename__}" select * from '  # noqa: S608 names of ours
            f'json_populate_recordset(cast(null as "{table.__tablename__}"), '
            f"(select j->'{table.__tablename__}' from b)))"
            for table in TABLES
        )
        self._insert = f"with b as (select cast(:document as json) j), {inserts} select 1"
        self._held: Connection | None = None

    @contextmanager
    def begun(self, engine: Engine) -> Iterator[Connection]:
        held, self._held = self._held, None
        connection = held or engine.connect()
        try:
            with connection.begin():
                yield connection
        except BaseException:
            with suppress(DBAPIError, ConnectionError):
                connection.close()
            raise
        self._held = connection

    def holds_a_connection(self) -> bool:
        return self._held is not None

    def close(self) -> None:
        if self._held is not None:
            with suppress(DBAPIError, ConnectionError):
                self._held.close()
            self._held = None

    def look_up(self, connection: Connection, asked: Sequence[Key]) -> tuple[int, set[Key]]:
        return _found(self._run(connection, self._LOOK_UP, [{"actor": actor, "key": key} for actor, key in asked]))

    def insert(self, connection: Connection, drafts: Sequence[Draft]) -> None:
        # In one order everywhere, so that two processes with the same keys wait for each other in one direction only.
        ordered = sorted(drafts, key=lambda draft: draft.key)
        tables = {str(t.__tablename__): [draft.rows[at] for draft in ordered] for at, t in enumerate(TABLES)}
        self._run(connection, self._insert, tables)

    @classmethod
    def _run(cls, connection: Connection, statement: str, document: object) -> Sequence[Any]:
        with _driver(connection) as raw:
            prepared = connection.info.get(statement)  # goes with the driver's connection
            if prepared is None:
                prepared = connection.info[statement] = raw.prepare(statement)
            try:
                rows: Sequence[Any] = prepared.run(document=orjson.dumps(document, default=_in_hex).decode())
            except pg8000.DatabaseError as error:
                said = error.args[0] if error.args else None
                if isinstance(said, dict) and said.get("C") == "23505":  # its cursors say so, its statements do not
                    raise pg8000.IntegrityError(said) from error
                raise
            return rows


def _in_hex(content: object) -> str:
    """Bytes as PostgreSQL reads them in JSON."""
    assert isinstance(content, bytes)
    return f"\\x{content.hex()}"
