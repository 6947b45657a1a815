"""Queries of a model, asked of a SQLite file without trusting either.

Each database is opened by a process of its own (`child.py`), which has no way to write, to load or to run on for ever.
What it cannot hold back from the inside, this side ends: a query that is not answered in time loses its process, and
the next one gets a new process.
"""

import contextlib
import json
import os
import selectors
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import Any, Self

from enforcer.problems import DatasetInvalid
from trainer.sql import child

Cell = str | int | float | bytes | None

# The child stops a query by what it did, not by the time it took (`child.MAX_STEPS`, `child.MAX_CPU_S`). This is for a
# child that does not, on a machine that is very busy.
PATIENCE_S = 120.0


@dataclass(frozen=True)
class Answer:
    """What a query gave. `whole` is false where there were more rows than are taken; `error` says why there is none."""

    columns: int = 0
    rows: list[tuple[Cell, ...]] = field(default_factory=list)
    whole: bool = True
    error: str | None = None


class Sandbox:
    """Answers queries until it is closed; holds one process, for the database that was asked last."""

    def __init__(self, patience_s: float = PATIENCE_S) -> None:
        self._patience_s = patience_s
        self._database: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._unread = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def ask(self, database: Path, sql: str) -> Answer:
        """Run one query.

        Raises:
            DatasetInvalid: `database` is no SQLite file, or it is being written to.
        """
        if database != self._database or self._process is None:
            self._open(database)
        document = self._exchange(json.dumps(sql).encode() + b"\n")
        if isinstance(document, str):
            return Answer(error=document)
        if "error" in document:
            return Answer(error=document["error"])
        rows = [tuple(_cell(value) for value in row) for row in document["rows"]]
        return Answer(document["columns"], rows, document["whole"])

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
        self._process = self._database = None

    def _open(self, database: Path) -> None:
        self.close()
        _refuse_unsettled(database)
        self._unread = b""
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", child.__file__, str(database)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={},
            cwd="/",
            start_new_session=True,  # Ctrl-C is ours to answer
        )
        ready = self._exchange(b"")
        if isinstance(ready, str) or "refused" in ready:
            self.close()
            why = ready if isinstance(ready, str) else ready["refused"]
            raise DatasetInvalid(f"`{database}` cannot be asked: {why}; `database` names a SQLite file")
        self._database = database

    def _exchange(self, line: bytes) -> dict[str, Any] | str:
        """The child's next line, or why there will be none; then the child is gone."""
        assert self._process is not None
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # its end says more, below
            self._process.stdin.write(line)
            self._process.stdin.flush()
        deadline = monotonic() + self._patience_s
        while b"\n" not in self._unread:
            ended = self._wait(deadline)
            if ended is not None:
                self.close()
                return ended
        answer, _, self._unread = self._unread.partition(b"\n")
        document: dict[str, Any] = json.loads(answer)
        return document

    def _wait(self, deadline: float) -> str | None:
        assert self._process is not None
        assert self._process.stdout is not None
        with selectors.DefaultSelector() as selector:  # `select` itself knows no descriptor above 1,023
            selector.register(self._process.stdout, selectors.EVENT_READ)
            ready = selector.select(max(0.0, deadline - monotonic()))
        if not ready:
            return f"it takes more than {self._patience_s:g} s"
        part = os.read(self._process.stdout.fileno(), 1 << 20)
        self._unread += part
        return None if part else f"it ended the process that ran it (exit status {self._process.wait()})"


def _refuse_unsettled(database: Path) -> None:
    """A journal beside a database holds changes that are not in the file, so not in its digest, and that we ignore."""
    for ending in ("-wal", "-journal"):
        journal = database.with_name(database.name + ending)
        if journal.is_file() and journal.stat().st_size:
            raise DatasetInvalid(
                f"`{database}` has changes that are not in the file yet (`{journal.name}`); close what writes to it, "
                "or run `PRAGMA wal_checkpoint(TRUNCATE)`"
            )


def _cell(value: Any) -> Cell:
    return bytes.fromhex(value["blob"]) if isinstance(value, dict) else value
