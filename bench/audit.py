"""A page of the audit log: how long for one business unit among millions of events, first page and deep, by filter.

    python bench/audit.py [events] [postgresql://...]

Left out, 200,000 events in a SQLite file of its own, gone afterwards. A PostgreSQL database must be empty.

The peers, in the same run on the same rows: `offset`, the same page by OFFSET instead of by key, and `scan`, the same
page sorted by time without an index that holds the filter. Query and request are timed apart: a request also asks the
policy, renders a hundred events, and writes the reading's own event with one fsync.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, inspect, text
from sqlmodel import Session, col, select
from starlette.testclient import TestClient

from registry import db, identity, server
from registry.app import create_app
from registry.paging import Filter, Page
from registry.settings import Settings
from registry.tables import Event

SAMPLES = 300
PAGE = 100
START = datetime(2026, 1, 1, tzinfo=UTC)
GAP_MS = 2_500  # ten million events in 290 days
DEEP = 100_000  # rows before the deep page

# One insert, by the database itself. `h` spreads `i` (Knuth's multiplicative hash); a rare tag, person and kind hide in
# the big unit: what a filter looks for is worst where an index on the unit alone finds it last.
INSERT = """
insert into event (id, at, kind, outcome, actor, groups, business_unit, task_type, version, rule, policy_revision,
  run_id, ticket_id, groups_digest, reason, detail, personal_hash, salt)
select {uuid}, {at},
  case when i < 5 then 'key.compromised' when h % 20 = 0 then 'submit.refused'
    when h % 20 < 10 then 'ticket.issued' else 'ticket.redeemed' end,
  case when h % 20 = 0 then 'refused' else 'done' end,
  case when i < 5 then 'user:rare' else 'user:trainer-' || (h / 64 % 2000) end, '["trainers", "retail-ds"]'{json},
  case when i < 5 or h % 10 < 4 then 'retail' when h % 10 < 7 then 'search' when h % 10 < 9 then 'finance'
    else 'ai' end,
  case when i < 5 then 'rare-tag' else 'task-type-' || (i * 40503 % 65536 / 16 % 40) end, 3,
  'trainers-train-classifiers',
  'sha256:' || {hex}, 'run-' || {uuid}, {uuid}, 'sha256:' || {hex},
  null, ('{{"run_spec_digest": "sha256:' || {hex} || '", "target": "local", "gpus": 1}}'){json}, 'sha256:' || {hex},
  substr({hex}, 1, 32)
from (select i, i * 2654435761 % 4294967296 as h, {start_ms} + i * {gap} as ms from {numbers}) as n
"""
SQLITE = {
    "uuid": "printf('%08x-%04x-7000-8000-%012x', ms >> 16, ms & 65535, h)",
    "at": "strftime('%Y-%m-%d %H:%M:%f', ms / 1000.0, 'unixepoch') || '000'",
    "hex": "lower(hex(randomblob(32)))",
    "json": "",
    "numbers": "(with recursive n(i) as (select {first} union all select i + 1 from n where i < {last})"
    " select i from n)",
}
POSTGRESQL = {
    "uuid": "lpad(to_hex(ms >> 16), 8, '0') || '-' || lpad(to_hex(ms & 65535), 4, '0') || '-7000-8000-'"
    " || lpad(to_hex(h), 12, '0')",
    "at": "to_timestamp(ms / 1000.0)",
    "hex": "md5(h::text) || md5(i::text)",
    "json": "::json",
    "numbers": "generate_series({first}::bigint, {last}) as g(i)",
}
BATCH = 500_000


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 200_000
    url = sys.argv[2] if len(sys.argv) > 2 else None
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(state_dir=Path(folder) / "state", database_url=url)
        server.prepare(settings)
        app = create_app(settings)
        engine = app.state.books.engine
        fill(engine, count)
        middle = START + timedelta(milliseconds=GAP_MS) * (count // 2)
        filters = {
            "unit": {},
            "unit + task type": {"task_type": "task-type-7"},
            "unit + rare task type": {"task_type": "rare-tag"},
            "unit + actor": {"actor": "user:trainer-77"},
            "unit + rare actor": {"actor": "user:rare"},
            "unit + rare kind": {"kind": "key.compromised"},
            "unit + refused": {"outcome": "refused"},
            "unit + since/until": {"since": middle, "until": middle + timedelta(days=1)},
            "unit + task type + actor": {"task_type": "task-type-7", "actor": "user:trainer-77"},
            "unit + ticket": {"ticket_id": any_of(engine, "ticket_id")},
            "unit + run": {"run_id": any_of(engine, "run_id")},
        }
        print(f"{engine.dialect.name}, {count:,} events, pages of {PAGE}")
        print(f"{f'ms, {SAMPLES} samples':44} {'p50':>9} {'p99':>9} {'CPU':>9}")
        for name, wanted in filters.items():
            show(f"query, first page: {name}", timed(lambda w=wanted: page(engine, w)))  # type: ignore[misc]
        deep = start_of_deep_page(engine)
        show(f"query, page after {DEEP:,} rows: unit", timed(lambda: page(engine, {}, deep)))
        show(f"  peer, offset {DEEP:,}: unit", timed(lambda: by_offset(engine), 20))
        show("  peer, scan: unit, by time", timed(lambda: by_scan(engine), 3))
        client = TestClient(app, headers={"Authorization": f"Bearer {token(engine)}"}, base_url=settings.issuer)
        show("request, first page: unit", timed(lambda: request(client, {})))
        show("request, first page: unit + actor", timed(lambda: request(client, {"actor": "user:trainer-77"})))
        show("request, deep page: unit", timed(lambda: request(client, {"page_token": deep})))


def fill(engine: Engine, count: int) -> None:
    """Indexes last: sorted once instead of grown row by row."""
    words = SQLITE if engine.dialect.name == "sqlite" else POSTGRESQL
    named = {index.name: index for index in Event.__table__.indexes}  # type: ignore[attr-defined]
    with engine.connect() as connection:  # in the order of the migration, which SQLite's choice depends on
        indexes = [named[row["name"]] for row in reversed(inspect(connection).get_indexes("event"))]
    with engine.begin() as connection:
        for index in indexes:
            index.drop(connection)
    for first in range(0, count, BATCH):
        numbers = words["numbers"].format(first=first, last=min(count, first + BATCH) - 1)
        start_ms = int(START.timestamp() * 1_000)
        statement = INSERT.format(**{**words, "numbers": numbers}, start_ms=start_ms, gap=GAP_MS)
        with engine.begin() as connection:
            connection.exec_driver_sql(statement)
    for index in indexes:
        with engine.begin() as connection:
            index.create(connection)
    if engine.dialect.name == "postgresql":
        with engine.begin() as connection:
            connection.execute(text("analyze event"))


def page(engine: Engine, wanted: dict[str, Any], token: str | None = None) -> None:
    with db.reading(engine) as session:
        Page(PAGE, token, Filter(**wanted, business_unit="retail")).newest_first(session, Event)


def start_of_deep_page(engine: Engine) -> str:
    token: str | None = None
    wanted = Filter(business_unit="retail")
    with db.reading(engine) as session:
        for _ in range(DEEP // 10_000):
            _, following = Page(10_000, token, wanted).newest_first(session, Event)
            if following is None:
                break
            token = following
            session.expunge_all()
    assert token is not None, "too few events for a second page of 10,000; ask for more"
    return token


def by_offset(engine: Engine) -> None:
    query = select(Event).where(Event.business_unit == "retail").order_by(col(Event.id).desc())
    with db.reading(engine) as session:
        list(session.exec(query.offset(DEEP).limit(PAGE + 1)))


def by_scan(engine: Engine) -> None:
    """`at` has no index: whoever sorts by it reads everything."""
    query = select(Event).where(Event.business_unit == "retail").order_by(col(Event.at).desc())
    with db.reading(engine) as session:
        list(session.exec(query.limit(PAGE + 1)))


def any_of(engine: Engine, name: str) -> str:
    with db.reading(engine) as session:
        return str(session.exec(select(getattr(Event, name)).where(Event.business_unit == "retail").limit(1)).one())


def token(engine: Engine) -> str:
    with Session(engine) as session, session.begin():
        return identity.create_token(
            session, "bench", ["auditors"], "retail", life=timedelta(days=1), now=datetime.now(UTC)
        )


def request(client: TestClient, query: dict[str, str]) -> None:
    assert client.get("/v1/audit", params={"page_size": PAGE, **query}).status_code == 200


def timed(act: Callable[[], None], samples: int = SAMPLES) -> tuple[list[float], float]:
    """Each call's wall time, and the CPU time of this process for one call on average; in ms."""
    act()
    taken, cpu = [], time.process_time()
    for _ in range(samples):
        started = time.perf_counter()
        act()
        taken.append((time.perf_counter() - started) * 1_000)
    return taken, (time.process_time() - cpu) / samples * 1_000


def show(what: str, measured: tuple[list[float], float]) -> None:
    taken, cpu = measured
    p99 = sorted(taken)[max(0, round(len(taken) * 0.99) - 1)]
    print(f"{what:44} {statistics.median(taken):9.2f} {p99:9.2f} {cpu:9.2f}", flush=True)


if __name__ == "__main__":
    main()
