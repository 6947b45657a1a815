"""A model's query reads the tables of one file, and can do nothing else: not write, not load, not run for ever."""

import hashlib
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from enforcer.problems import DatasetInvalid
from trainer.sql import child
from trainer.sql.sandbox import Answer, Sandbox

COUNT = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < {}) "


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two cities, and what a hostile file may bring: a view that loads code, a table that is a module's."""
    path = tmp_path_factory.mktemp("databases") / "a b#c?d.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript("""
            CREATE TABLE city (name TEXT, population INTEGER, area REAL, flag BLOB);
            INSERT INTO city VALUES ('Omaha', 478000, 365.5, x'00ff'), ('Lincoln', 289000, 257.25, NULL);
            CREATE VIEW names AS SELECT name FROM city;
            CREATE VIEW loader AS SELECT load_extension('/tmp/evil');
            CREATE VIRTUAL TABLE texts USING fts5(body);
        """)
    return path


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox() as opened:
        yield opened


@pytest.mark.parametrize(
    ("sql", "rows"),
    [
        ("SELECT * FROM city", [("Omaha", 478000, 365.5, b"\x00\xff"), ("Lincoln", 289000, 257.25, None)]),
        ('SELECT name FROM city WHERE name = "Omaha" ;', [("Omaha",)]),
        ("SELECT name FROM names WHERE name LIKE 'L%' OR 0", [("Lincoln",)]),
        ("WITH t AS (SELECT 1 AS a) SELECT count(*) FROM t", [(1,)]),
        ("SELECT rank() OVER (ORDER BY area) FROM city ORDER BY 1", [(1,), (2,)]),
        ("SELECT 9e999, -9e999, 1 / 0, 9223372036854775807", [(float("inf"), float("-inf"), None, 2**63 - 1)]),
        ("SELECT CAST(x'ff' AS TEXT), '早'", [("\udcff", "早")]),
        (COUNT.format(3) + "SELECT sum(x) FROM c", [(6,)]),
        ("SELECT count(*) > 1 FROM sqlite_master", [(1,)]),
    ],
)
def test_a_query_is_answered(sandbox: Sandbox, database: Path, sql: str, rows: list[tuple[object, ...]]) -> None:
    answer = sandbox.ask(database, sql)

    assert answer == Answer(columns=len(rows[0]), rows=rows)


WRITES = """
    INSERT INTO city VALUES ('x', 1, 1, NULL) | UPDATE city SET population = 0 | DELETE FROM city | DROP TABLE city
    CREATE TABLE t (a) | CREATE TEMP TABLE t (a) | CREATE VIEW v AS SELECT 1 | ALTER TABLE city RENAME TO town
    REPLACE INTO city (name) VALUES ('Omaha') | VACUUM | VACUUM INTO '/tmp/stolen.sqlite' | REINDEX | ANALYZE
    WITH t AS (SELECT 1) DELETE FROM city | CREATE TRIGGER t AFTER INSERT ON city BEGIN DELETE FROM city; END
"""
REACHES = """
    ATTACH '/etc/passwd' AS other | ATTACH ':memory:' AS other | DETACH main | PRAGMA table_info(city)
    PRAGMA query_only = 0 | PRAGMA writable_schema = 1 | PRAGMA temp_store_directory = '/tmp'
    SELECT * FROM pragma_database_list | SELECT count(*) FROM pragma_table_info('city') | BEGIN | SAVEPOINT a | COMMIT
    SELECT load_extension('/tmp/evil') | SELECT * FROM loader | SELECT fts3_tokenizer('simple') | SELECT random()
    SELECT readfile('/etc/passwd') | SELECT writefile('/tmp/x', 'y') | SELECT edit('x') | SELECT * FROM texts
    SELECT count(*) FROM dbstat | SELECT * FROM sqlite_stmt | SELECT sqlite_compileoption_get(1) | SELECT zeroblob(9)
    SELECT hex(randomblob(1000000000)) | SELECT * FROM sqlite_temp_master | SELECT * FROM city WHERE name MATCH 'a'
"""


@pytest.mark.parametrize(
    "sql", [sql.strip() for lines in (WRITES, REACHES) for sql in lines.strip().replace("\n", "|").split("|")]
)
def test_whatever_is_no_reading_of_its_tables_is_refused(sandbox: Sandbox, database: Path, sql: str) -> None:
    before = hashlib.sha256(database.read_bytes()).digest()

    answer = sandbox.ask(database, sql)

    assert answer.error is not None
    assert answer.rows == []
    assert hashlib.sha256(database.read_bytes()).digest() == before
    assert [path.name for path in database.parent.iterdir()] == [database.name]


@pytest.mark.parametrize(
    ("sql", "says"),
    [
        ("SELECT 1; DROP TABLE city", "one statement"),
        ("", "asks for nothing"),
        ("EXPLAIN SELECT name FROM city", "explains a query"),
        (" ;/* a */ -- b\n explain query plan SELECT 1", "explains a query"),
        ("-- nothing", "asks for nothing"),
        ("SELECT '\ud800'", "surrogates"),
        ("SELECT \0", "null character"),
        ("SELECT nme FROM city", "no such column: nme"),
        ("SELEC 1", "syntax error"),
        ("SELECT ?", "too many SQL variables"),
        (f"SELECT {'(' * 300}1{')' * 300}", "overflow"),
        (f"SELECT {'+'.join('1' * 5_000)}", "too large"),
        (" UNION ".join(["SELECT 1"] * 300), "too many terms"),
        (f"SELECT {','.join('1' * 1_000)}", "too many columns"),
        (f"SELECT '{'x' * 200_000}'", "query string is too large"),
    ],
)
def test_what_is_no_query_is_an_error_in_words(sandbox: Sandbox, database: Path, sql: str, says: str) -> None:
    assert says in (sandbox.ask(database, sql).error or "")


@pytest.mark.parametrize(
    ("sql", "says"),
    [
        ("WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT count(*) FROM c", "50,000,000 steps"),
        (f"SELECT sum(c1.area) FROM {', '.join(f'city c{i}' for i in range(1, 41))}", "50,000,000 steps"),
        ("WITH RECURSIVE c(x) AS (SELECT 'a' UNION ALL SELECT x || x FROM c) SELECT length(x) FROM c", "too big"),
        (COUNT.format(300_000) + "SELECT group_concat(x, 'xxxxxxxxx') FROM c", "too big"),
        (COUNT.format(3_000_000) + "SELECT sum(x) OVER (ORDER BY printf('%900s', -x)) FROM c", "more memory"),
    ],
    ids=["recursion", "cross join", "doubling", "concatenation", "sorting"],
)
def test_a_bomb_ends_at_a_bound_that_no_clock_sets(sandbox: Sandbox, database: Path, sql: str, says: str) -> None:
    assert says in (sandbox.ask(database, sql).error or "")
    assert sandbox.ask(database, "SELECT 1").rows == [(1,)]


def test_a_width_that_no_memory_holds_gives_no_value(sandbox: Sandbox, database: Path) -> None:
    answer = sandbox.ask(database, "SELECT printf('%1000000000d', 1), format('%.2000000f', 1.5)")

    assert answer.rows == [(None, None)]


@pytest.mark.parametrize(
    ("sql", "taken"),
    [
        (COUNT.format(20_000) + "SELECT x FROM c", child.MAX_ROWS),
        (f"SELECT {', '.join(f'c{i}.*' for i in range(14))} FROM {', '.join(f'city c{i}' for i in range(14))}", 3_571),
        (COUNT.format(200) + "SELECT printf('%100000d', x) FROM c", 83),
    ],
    ids=["rows", "cells", "bytes"],
)
def test_an_answer_has_an_end(sandbox: Sandbox, database: Path, sql: str, taken: int) -> None:
    """200,000 cells are 3,571 rows of 14 x 4; 8 MiB are 83 texts of 100,000 letters."""
    answer = sandbox.ask(database, sql)

    assert (len(answer.rows), answer.whole, answer.error) == (taken, False, None)


@pytest.mark.skipif(not Path("/proc/self/limits").exists(), reason="limits of another process are told in /proc")
def test_the_process_can_write_no_file_and_has_an_end_of_memory_and_time(database: Path) -> None:
    with Sandbox() as sandbox:
        sandbox.ask(database, "SELECT 1")
        assert sandbox._process is not None
        told = Path(f"/proc/{sandbox._process.pid}/limits").read_text().splitlines()
        environment = Path(f"/proc/{sandbox._process.pid}/environ").read_bytes()

    soft = {line[:25].strip(): line[26:47].strip() for line in told}
    assert soft["Max file size"] == soft["Max core file size"] == "0"
    assert soft["Max address space"] == str(child.MAX_MEMORY_BYTES)
    assert child.MAX_CPU_S <= int(soft["Max cpu time"]) <= child.MAX_CPU_S + 2
    assert environment == b""


def test_a_process_that_does_not_answer_is_ended_and_replaced(database: Path) -> None:
    slow = "SELECT printf('%.*c', 300000000, 'a')"  # one instruction, which nothing inside interrupts

    with Sandbox(patience_s=0.3) as sandbox:
        assert "more than 0.3 s" in (sandbox.ask(database, slow).error or "")
        sandbox._patience_s = 30
        assert sandbox.ask(database, "SELECT 1").rows == [(1,)]


def test_the_same_budget_stops_the_same_query_at_the_same_row(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "MAX_STEPS", 1_000_000)
    budget = child.Budget()
    connection = child.connect(database, budget)

    def counted(rows: int) -> str | None:
        budget.renew()
        return child.answer(connection, COUNT.format(rows) + "SELECT count(*) FROM c", budget).get("error")

    assert counted(30_000) is None
    assert counted(100_000) == "it takes more than 1,000,000 steps"


@pytest.mark.parametrize("content", [None, b"", b"no database, only words\n" * 99], ids=["missing", "empty", "text"])
def test_what_is_no_database_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "notes.sqlite"
    if content is not None:
        path.write_bytes(content)

    with Sandbox() as sandbox, pytest.raises(DatasetInvalid, match=r"notes\.sqlite` cannot be asked"):
        sandbox.ask(path, "SELECT 1")


def test_a_database_with_changes_that_its_file_does_not_hold_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "live.sqlite"
    with closing(sqlite3.connect(path)) as writer:
        writer.executescript("PRAGMA journal_mode = WAL; CREATE TABLE t (a); INSERT INTO t VALUES (1);")

        with Sandbox() as sandbox, pytest.raises(DatasetInvalid, match=r"live\.sqlite-wal.*wal_checkpoint"):
            sandbox.ask(path, "SELECT a FROM t")

    with Sandbox() as sandbox:  # closed, the file holds all of it
        assert sandbox.ask(path, "SELECT a FROM t").rows == [(1,)]


def test_databases_take_turns(sandbox: Sandbox, database: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.sqlite"
    with closing(sqlite3.connect(other)) as connection:
        connection.execute("CREATE TABLE river (name TEXT)")

    assert "no such table" in (sandbox.ask(other, "SELECT * FROM city").error or "")
    assert sandbox.ask(other, "SELECT count(*) FROM river").rows == [(0,)]
    assert sandbox.ask(database, "SELECT count(*) FROM city").rows == [(2,)]


def test_a_process_that_holds_many_files_may_ask(database: Path) -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 4_096)), hard))
    held = [os.open(os.devnull, os.O_RDONLY) for _ in range(1_100)]
    try:
        with Sandbox() as sandbox:
            assert sandbox.ask(database, "SELECT 1").rows == [(1,)]
    finally:
        for descriptor in held:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
