"""The inside of the sandbox: a process that answers queries on one SQLite file and can do nothing else.

    python -I -S child.py DATABASE < queries > answers      one JSON text a line, one JSON answer a line

A query is written by a model, so it is hostile until proven otherwise. What holds it, from the inside out:

authorizer   SELECT, the columns of the file's own tables, and functions that only compute; nothing else is prepared
limits       of SQLite on the length of a value, of a query, of its program and its heap; no temporary files
steps        a budget of virtual machine instructions, not seconds: the same query ends the same on any machine
process      no file may be written, memory and CPU seconds are bounded; the parent's clock is the last resort

The file is opened read-only and `immutable`, so nothing is locked and no journal is looked for beside it. Standard
library only: it starts in the time that Python starts.
"""

import contextlib
import json
import re
import resource
import sqlite3
import sys
from pathlib import Path
from typing import Any

MAX_STEPS = 50_000_000  # VM instructions: about a second of a laptop
STEPS_BETWEEN_LOOKS = 10_000
MAX_CPU_S = 10  # of one query; single instructions (LIKE over a long text) can take long
MAX_ROWS = 10_000
MAX_CELLS = 200_000
MAX_BYTES = 8 * 2**20  # of all texts and blobs of an answer
MAX_VALUE_BYTES = 2**20
MAX_HEAP_BYTES = 256 * 2**20
MAX_MEMORY_BYTES = 2**30
LIMITS = {
    sqlite3.SQLITE_LIMIT_LENGTH: MAX_VALUE_BYTES,
    sqlite3.SQLITE_LIMIT_SQL_LENGTH: 100_000,
    sqlite3.SQLITE_LIMIT_COLUMN: 500,
    sqlite3.SQLITE_LIMIT_EXPR_DEPTH: 200,
    sqlite3.SQLITE_LIMIT_COMPOUND_SELECT: 100,
    sqlite3.SQLITE_LIMIT_VDBE_OP: 250_000,
    sqlite3.SQLITE_LIMIT_FUNCTION_ARG: 32,
    sqlite3.SQLITE_LIMIT_ATTACHED: 0,
    sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH: 1_000,
    sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER: 0,
    sqlite3.SQLITE_LIMIT_TRIGGER_DEPTH: 1,
    sqlite3.SQLITE_LIMIT_WORKER_THREADS: 0,
}
# Not among them: what reads files, loads code or answers otherwise each time (`random`).
FUNCTIONS = frozenset(
    """-> ->> abs acos acosh asin asinh atan atan2 atanh avg ceil ceiling char coalesce concat concat_ws cos cosh count
    cume_dist current_date current_time current_timestamp date datetime degrees dense_rank exp first_value floor format
    glob group_concat hex ifnull iif instr json json_array json_array_length json_extract json_group_array
    json_group_object json_object json_quote json_type json_valid julianday lag last_value lead length like ln log log10
    log2 lower ltrim max min mod nth_value ntile nullif octet_length percent_rank pi pow power printf quote radians rank
    replace round row_number rtrim sign sin sinh sqrt strftime string_agg substr substring sum tan tanh time timediff
    total trim trunc typeof unicode unixepoch upper""".split()
)
_EXPLAINS = re.compile(r"(?:\s|;|--[^\n]*(?:\n|$)|/\*.*?\*/)*explain\b", re.IGNORECASE | re.DOTALL)
SCHEMA_TABLES = frozenset({"sqlite_master", "sqlite_schema"})


class Budget:
    """Instructions that the query at hand may still take."""

    def __init__(self) -> None:
        self.left = 0

    def renew(self) -> None:
        self.left = MAX_STEPS // STEPS_BETWEEN_LOOKS

    def look(self) -> bool:
        """Whether SQLite shall stop."""
        self.left -= 1
        return self.left < 0


def main(database: str) -> None:
    with _as_the_system_allows():
        confine()
    budget = Budget()
    try:
        connection = connect(Path(database), budget)
    except sqlite3.Error as error:
        _say({"refused": str(error)})
        return
    _say({"ready": True})
    for line in sys.stdin:
        _allow_cpu()
        budget.renew()
        _say(answer(connection, json.loads(line), budget))


def confine() -> None:
    """Of this process: no file written, no core left, memory bounded."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))


def connect(database: Path, budget: Budget) -> sqlite3.Connection:
    """Open the file and close everything but reading it.

    Raises:
        sqlite3.Error: it is no database, or an empty one.
    """
    address = f"{database.absolute().as_uri()}?mode=ro&immutable=1"
    connection = sqlite3.connect(address, uri=True, isolation_level=None)
    connection.text_factory = lambda text: text.decode("utf-8", "surrogateescape")
    for pragma in ("trusted_schema=OFF", "cell_size_check=ON", "query_only=ON", "temp_store=MEMORY", "mmap_size=0"):
        connection.execute(f"PRAGMA {pragma}")
    connection.execute(f"PRAGMA hard_heap_limit={MAX_HEAP_BYTES}")
    tables = connection.execute(
        "SELECT lower(name) FROM sqlite_master WHERE type IN ('table', 'view') AND sql NOT LIKE 'CREATE VIRTUAL%'"
    )
    own = {name for (name,) in tables}
    if not own:  # SQLite takes an empty file for an empty database
        raise sqlite3.DatabaseError("it has no tables")
    readable = SCHEMA_TABLES | own
    for limit, value in LIMITS.items():
        connection.setlimit(limit, value)
    connection.set_authorizer(lambda action, first, second, *_: _allow(action, first, second, readable))
    connection.set_progress_handler(budget.look, STEPS_BETWEEN_LOOKS)
    return connection


def _allow(action: int, first: str | None, second: str | None, readable: frozenset[str]) -> int:
    match action:
        case sqlite3.SQLITE_SELECT | sqlite3.SQLITE_RECURSIVE:
            return sqlite3.SQLITE_OK
        case sqlite3.SQLITE_READ:
            # Without a column it is asked of anything in a FROM, a query's own `WITH` included.
            return sqlite3.SQLITE_OK if not second or (first or "").lower() in readable else sqlite3.SQLITE_DENY
        case sqlite3.SQLITE_FUNCTION:
            return sqlite3.SQLITE_OK if (second or "").lower() in FUNCTIONS else sqlite3.SQLITE_DENY
    return sqlite3.SQLITE_DENY


def answer(connection: sqlite3.Connection, sql: str, budget: Budget) -> dict[str, Any]:
    """`{"columns": n, "rows": [...], "whole": bool}`, or `{"error": why}`. Not whole: there is more than we take."""
    if _EXPLAINS.match(sql):
        return {"error": "it explains a query and asks for nothing"}
    try:
        cursor = connection.execute(sql)
        if cursor.description is None:
            return {"error": "it asks for nothing"}
        rows, whole = _take(cursor)
        return {"columns": len(cursor.description), "rows": rows, "whole": whole}
    except MemoryError:
        return {"error": "it takes more memory than a query may"}
    except (sqlite3.Error, sqlite3.Warning, ValueError) as error:  # ValueError: a NUL, half a character
        slow = "interrupted" in str(error)
        return {"error": f"it takes more than {MAX_STEPS:,} steps" if slow and budget.left < 0 else str(error)}


def _take(cursor: sqlite3.Cursor) -> tuple[list[list[Any]], bool]:
    rows: list[list[Any]] = []
    cells = size = 0
    for row in cursor:
        cells += len(row)
        size += sum(len(value) for value in row if isinstance(value, str | bytes))
        if len(rows) == MAX_ROWS or cells > MAX_CELLS or size > MAX_BYTES:
            cursor.close()
            return rows, False
        rows.append([{"blob": value.hex()} if isinstance(value, bytes) else value for value in row])
    return rows, True


def _allow_cpu() -> None:
    with _as_the_system_allows():
        used = resource.getrusage(resource.RUSAGE_SELF)
        hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
        resource.setrlimit(resource.RLIMIT_CPU, (int(used.ru_utime + used.ru_stime) + MAX_CPU_S, hard))


def _as_the_system_allows() -> contextlib.AbstractContextManager[None]:
    """macOS knows no RLIMIT_AS that holds; the other limits stand."""
    return contextlib.suppress(ValueError, OSError)


def _say(document: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(document) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1])
