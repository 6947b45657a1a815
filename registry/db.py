"""The database: engine, migrations, and the two kinds of session.

A session lives inside one block of one thread: `with books.writing() as session:`. Not as a `yield` dependency of the
route: FastAPI serialises the answer of a `def` handler in another worker thread before it ends such a dependency, so a
request that holds the write lock (or a pooled connection) waits for a thread, while all threads wait for that lock.
Seen with 64 requests in flight: nothing moved any more. A block also commits before the answer can leave.

SQLite: `BEGIN IMMEDIATE` for writers, because a deferred transaction that turns writer fails at once with
`SQLITE_BUSY` and no timeout helps; WAL; `synchronous=FULL`, so that what was answered survives a power cut. Writers of
this process queue at a lock: SQLite's own busy waiting is polling, and under load it starves whoever waits longest.
"""

import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.dialects import registry as dialects
from sqlalchemy.dialects.postgresql.pg8000 import PGDialect_pg8000
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlmodel import Session

from registry.settings import Settings

BUSY_TIMEOUT_S = 15
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Pg8000(PGDialect_pg8000):
    """Ends a transaction in one round trip, where pg8000 itself takes three: parse, describe, execute."""

    supports_statement_cache = True

    def do_commit(self, dbapi_connection: Any) -> None:
        dbapi_connection.execute_simple("commit")

    def do_rollback(self, dbapi_connection: Any) -> None:
        if dbapi_connection._in_transaction:  # as pg8000: otherwise there is nothing to ask the server for
            dbapi_connection.execute_simple("rollback")


dialects.register("postgresql.pg8000", __name__, "Pg8000")


def open_engine(settings: Settings) -> Engine:
    """An engine for the configured database. Creates the SQLite file's folder, nothing else."""
    url = settings.sqlalchemy_url
    if not url.startswith("sqlite"):
        return create_engine(url, pool_pre_ping=True, pool_size=10, max_overflow=20, hide_parameters=True)
    settings.state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    # SQLite gives its journal files the mode of the database, so the database is private before it holds anything.
    os.close(os.open(settings.state_dir / "registry.db", os.O_RDWR | os.O_CREAT, 0o600))
    engine = create_engine(
        url,
        connect_args={"check_same_thread": False, "timeout": BUSY_TIMEOUT_S, "cached_statements": 512},
        pool_size=20,
        max_overflow=20,
        hide_parameters=True,  # a failing statement is logged, the tickets and texts in it are not
    )
    writer = threading.Lock()

    def begin(connection: Connection) -> None:
        read_only = connection.get_execution_options().get("tagwarden_read_only", False)
        if not read_only and not connection.info.get("writing"):
            writer.acquire()
            connection.info["writing"] = True
        connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")

    def give_back(_connection: Any, record: Any) -> None:
        if record.info.pop("writing", False):
            writer.release()

    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", begin)
    event.listen(engine, "checkin", give_back)
    return engine


def migrate(engine: Engine) -> None:
    """Bring the schema to the newest revision."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    with engine.connect() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def _prepare_sqlite(connection: sqlite3.Connection, _record: Any) -> None:
    # Python's own transaction handling begins only before DML, not before the SELECT that a decision rests on.
    connection.isolation_level = None
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


@contextmanager
def writing(engine: Engine) -> Iterator[Session]:
    """One transaction: committed when the block ends, rolled back when it raises."""
    with Session(engine) as session, session.begin():
        yield session


@contextmanager
def reading(engine: Engine) -> Iterator[Session]:
    """A snapshot that takes no write lock. Nothing may be added to it."""
    with Session(engine.execution_options(tagwarden_read_only=True)) as session:
        yield session


def queue_for(session: Session, what: str) -> None:
    """Wait for whoever else does this, until the end of this transaction. SQLite has one writer anyway."""
    queue_on(session.connection(), what)


def queue_on(connection: Connection, what: str) -> None:
    """The same for whoever has no session."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("select pg_advisory_xact_lock(hashtextextended(:what, 0))"), {"what": what})


def is_away(error: DBAPIError) -> bool:
    """The database cannot answer now, as against a statement of ours that it does not take.

    pg8000 raises whatever a starting, stopping or overfull server says as a ProgrammingError, so its SQLSTATE class
    decides: 08 connection, 53 resources (disk full, too many connections), 57 intervention (shutdown, starting up).
    """
    said: object = error.orig
    while isinstance(said, BaseException):  # the legacy interface wraps one in the other
        said = said.args[0] if said.args else None
    if isinstance(said, dict) and str(said.get("C"))[:2] in ("08", "53", "57"):
        return True
    return error.connection_invalidated or isinstance(error, OperationalError | InterfaceError)


def utc_now() -> datetime:
    return datetime.now(UTC)


def uuid7(at: datetime | None = None) -> str:
    """RFC 9562 version 7: milliseconds, then random bits. Sorts by time of creation (or `at`) to the millisecond."""
    moment = time.time_ns() // 1_000_000 if at is None else milliseconds(at)
    value = (moment << 80) | int.from_bytes(os.urandom(10))
    value = (value & ~(0xF << 76)) | (0x7 << 76)
    value = (value & ~(0x3 << 62)) | (0x2 << 62)
    return _dashed(value)


def uuid7_floor(at: datetime) -> str:
    """What every `uuid7` of this millisecond and later is not below, and every earlier one is."""
    return _dashed(milliseconds(at) << 80)


def milliseconds(at: datetime) -> int:
    """Since the epoch."""
    return (at - _EPOCH) // timedelta(milliseconds=1)  # exact, which a float of seconds is not


def _dashed(value: int) -> str:
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
