"""Runs migrations on a connection that `registry.db.migrate` (or `alembic` through it) hands over.

One migrator at a time: an advisory lock on PostgreSQL, the single writer on SQLite.
"""

from typing import Literal

from alembic import context
from sqlalchemy import Connection, text
from sqlmodel import SQLModel
from sqlmodel.sql.sqltypes import AutoString

from registry import tables  # importing registers the rows in SQLModel.metadata

LOCK = 0x746167


def run(connection: Connection) -> None:
    if connection.dialect.name == "postgresql":
        connection.execute(text("set lock_timeout = '5s'"))
        connection.execute(text("select pg_advisory_lock(:key)"), {"key": LOCK})
        connection.commit()
    try:
        context.configure(connection=connection, target_metadata=SQLModel.metadata, render_item=_plain_types)
        with context.begin_transaction():
            context.run_migrations()
        connection.commit()
    finally:
        if connection.dialect.name == "postgresql":
            connection.execute(text("select pg_advisory_unlock(:key)"), {"key": LOCK})
            connection.commit()


def _plain_types(kind: str, item: object, _context: object) -> str | Literal[False]:
    """Migrations stand on SQLAlchemy alone: they must run when our own types have long changed."""
    if kind == "type" and isinstance(item, tables.UtcDateTime):
        return "sa.DateTime(timezone=True)"
    return "sa.String()" if kind == "type" and isinstance(item, AutoString) else False


run(context.config.attributes["connection"])
