"""A page of the audit log: how long for one business unit among millions of events, first page and deep, by filter.

    python bench/audit.py [events] [postgresql://...] [state folder]

Left out, 200,000 events in a SQLite file of its own, gone afterwards. A PostgreSQL database must be empty. With a state
folder (`""` in place of the URL is SQLite) the registry stays, and another run measures the events that it holds.

The peers, in the same run on the same rows: `offset`, the same page by OFFSET instead of by key, and `scan`, the same
page sorted by time without an index that holds the filter. Query and request are timed apart: a request, made of a
service of its own, also asks the policy and writes the reading's own event with one fsync.
"""

import http.client
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlencode

from sqlalchemy import Engine, func, inspect, text
from sqlmodel import Session, col, select
from tickets import cpu_seconds, free_port, serve, serving

from registry import audit, db, identity, server
from registry.paging import Filter, Page, PageQuery
from registry.settings import Settings
from registry.tables import Event

SAMPLES = 300
WARM = 3
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
    url = (sys.argv[2] or None) if len(sys.argv) > 2 else None
    with tempfile.TemporaryDirectory() as folder:
        state = Path(sys.argv[3] if len(sys.argv) > 3 else folder) / "state"
        is_new = not state.exists()
        settings = Settings(state_dir=state, database_url=url)
        server.prepare(settings)
        engine = db.open_engine(settings)
        if is_new:
            fill(engine, count)
        with db.reading(engine) as session:
            count = session.exec(select(func.count()).select_from(Event)).one()
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
            "unit + task type + kind": {"task_type": "task-type-7", "kind": "submit.refused"},
            "unit + actor + refused": {"actor": "user:trainer-77", "outcome": "refused"},
            "unit + refused + a kind that never is": {"outcome": "refused", "kind": "ticket.issued"},
            "unit + ticket": {"ticket_id": any_of(engine, "ticket_id")},
            "unit + run": {"run_id": any_of(engine, "run_id")},
        }
        load = os.getloadavg()[0]
        print(f"{engine.dialect.name}, {count:,} events, pages of {PAGE}; load {load:.1f}")
        print(f"{f'ms, {SAMPLES} samples':56} {'p50':>9} {'p99':>9} {'CPU':>9}")
        for name, wanted in filters.items():
            show(f"query, first page: {name}", timed(lambda w=wanted: page(engine, w)))  # type: ignore[misc]
        deep = start_of_deep_page(engine)
        show(f"query, page after {DEEP:,} rows: unit", timed(lambda: page(engine, {}, deep)))
        show(f"  peer, offset {DEEP:,}: unit", timed(lambda: by_offset(engine), 20))
        show("  peer, scan: unit, by time", timed(lambda: by_scan(engine), 3))
        requests = {"first page: unit": {}, "deep page: unit": {"page_token": deep}}
        requests |= {f"first page: {name}": filters[name] for name in ("unit + actor", "unit + task type + actor")}
        with service(state, url) as (pid, port):
            connection, credential = http.client.HTTPConnection("127.0.0.1", port), token(engine)
            for name, wanted in requests.items():
                ask = partial(request, connection, credential, wanted)
                show(f"request, {name}", timed(ask, cpu_s=partial(cpu_seconds, pid)))


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


class LongPage(PageQuery):
    most: ClassVar[int] = 10_000


def page(engine: Engine, wanted: dict[str, Any], token: str | None = None) -> None:
    document = audit.document_in(engine.dialect.name)
    with db.reading(engine) as session:
        asked = PageQuery(page_size=PAGE, page_token=token)
        Page(asked, Filter(**wanted, business_unit="retail"), audit.LISTING).documents(document, session, Event)


def start_of_deep_page(engine: Engine) -> str:
    token: str | None = None
    wanted = Filter(business_unit="retail")
    with db.reading(engine) as session:
        for _ in range(DEEP // 10_000):
            _, following = Page(LongPage(page_size=10_000, page_token=token), wanted, audit.LISTING).rows(
                session, Event
            )
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


@contextmanager
def service(state: Path, url: str | None) -> Iterator[tuple[int, int]]:
    """The registry as it is served: its process and port."""
    port = free_port()
    environment = {**os.environ, "TAGWARDEN_STATE_DIR": str(state), "XDG_RUNTIME_DIR": str(state)}
    environment |= {"TAGWARDEN_DATABASE_URL": url} if url else {}
    with serving({port: serve(port)}, environment) as up:
        yield up[port].pid, port


def request(connection: http.client.HTTPConnection, credential: str, query: dict[str, str]) -> None:
    path = f"/v1/audit?{urlencode({'page_size': PAGE, **query})}"
    connection.request("GET", path, headers={"Authorization": f"Bearer {credential}"})
    answer = connection.getresponse()
    answer.read()
    assert answer.status == 200


def timed(
    act: Callable[[], None], samples: int = SAMPLES, cpu_s: Callable[[], float] = time.process_time
) -> tuple[list[float], float]:
    """Each call's wall time, and the CPU time of the registry's process for one call on average; in ms."""
    for _ in range(WARM):
        act()
    taken, cpu = [], cpu_s()
    for _ in range(samples):
        started = time.perf_counter()
        act()
        taken.append((time.perf_counter() - started) * 1_000)
    return taken, (cpu_s() - cpu) / samples * 1_000


def show(what: str, measured: tuple[list[float], float]) -> None:
    taken, cpu = measured
    p99 = sorted(taken)[max(0, round(len(taken) * 0.99) - 1)]
    print(f"{what:56} {statistics.median(taken):9.2f} {p99:9.2f} {cpu:9.2f}", flush=True)


if __name__ == "__main__":
    main()
