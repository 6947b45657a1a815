"""The database: engine, migrations, and the two kinds of session a request may have.

A writing session commits *before* the answer leaves: `Depends(..., scope="function")`. With plain `Depends` FastAPI
runs the commit after the 200 has gone out, and a failing commit would leave the client with a ticket nobody knows of.

SQLite: `BEGIN IMMEDIATE` for writers, because a deferred transaction that turns writer fails at once with
`SQLITE_BUSY` and no timeout helps; WAL; `synchronous=FULL`, so that what was answered survives a power cut.
"""

import os
import sqlite3
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

from alembic import command
from alembic.config import Config
from fastapi import Depends, Request
from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.exc import OperationalError
from sqlmodel import Session

from registry.settings import Settings

BUSY_TIMEOUT_S = 15


def open_engine(settings: Settings) -> Engine:
    """An engine for the configured database. Creates the SQLite file's folder, nothing else."""
    url = settings.sqlalchemy_url
    if not url.startswith("sqlite"):
        return create_engine(url, pool_pre_ping=True, pool_size=10, max_overflow=20)
    settings.state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    engine = create_engine(
        url, connect_args={"check_same_thread": False, "timeout": BUSY_TIMEOUT_S}, pool_size=20, max_overflow=20
    )
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def migrate(engine: Engine) -> None:
    """Bring the schema to the newest revision."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    with engine.connect() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def is_migrated(engine: Engine) -> bool:
    try:
        with engine.connect() as connection:
            return connection.execute(text("select version_num from alembic_version")).first() is not None
    except OperationalError:
        return False


def _prepare_sqlite(connection: sqlite3.Connection, _record: Any) -> None:
    # Python's own transaction handling begins only before DML, not before the SELECT that a decision rests on.
    connection.isolation_level = None
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    read_only = connection.get_execution_options().get("tagwarden_read_only", False)
    connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")


def writing(engine: Engine) -> Session:
    return Session(engine)


def reading(engine: Engine) -> Session:
    """A session that takes no write lock. Nothing may be added to it."""
    return Session(engine.execution_options(tagwarden_read_only=True))


def _writing_session(request: Request) -> Iterator[Session]:
    with writing(request.app.state.books.engine) as session, session.begin():
        yield session


def _reading_session(request: Request) -> Iterator[Session]:
    with reading(request.app.state.books.engine) as session:
        yield session


DbSession = Annotated[Session, Depends(_writing_session, scope="function")]
ReadSession = Annotated[Session, Depends(_reading_session, scope="function")]


def utc_now() -> datetime:
    return datetime.now(UTC)


def uuid7() -> str:
    """RFC 9562 version 7: milliseconds, then random bits. Sorts by time of creation to the millisecond."""
    milliseconds = time.time_ns() // 1_000_000
    value = (milliseconds << 80) | int.from_bytes(os.urandom(10))
    value = (value & ~(0xF << 76)) | (0x7 << 76)
    value = (value & ~(0x3 << 62)) | (0x2 << 62)
    return str(uuid.UUID(int=value))
