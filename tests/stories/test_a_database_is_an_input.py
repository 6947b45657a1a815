"""text-to-sql, from a ticket that binds its database to a score that was measured on it, and on no other."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from conftest import LiveRegistry
from submitting import Desk
from tiny import make_chat

from enforcer.problems import TicketInvalid
from trainer.inputs.folders import file_digest
from trainer.run import work

TINY = {
    "task_type": "text-to-sql", "max_length": 128, "max_steps": 2, "logging_steps": 1, "label_names": None,
    "gradient_checkpointing": False, "per_device_train_batch_size": 8, "lora_rank": 4, "eval_fraction": 0.2,
    "columns": {"prompt": "question", "completion": "sql", "database": "db_id"},
}  # fmt: skip


@pytest.fixture
def desk(tmp_path: Path, live_registry: LiveRegistry) -> Desk:
    token = live_registry.token("wang", "nlp", "trainers", unit="retail")
    desk = Desk(tmp_path, make_chat(tmp_path / "chat"), live_registry.url, token)
    with closing(sqlite3.connect(tmp_path / "numbers.sqlite")) as connection:
        connection.executescript("CREATE TABLE t (a INTEGER); INSERT INTO t VALUES (4), (5), (9);")
    desk.data([{"question": f"which is {i}?", "sql": f"SELECT {i}", "db_id": "numbers"} for i in range(20)])
    return desk


def add_a_row(desk: Desk) -> None:
    with closing(sqlite3.connect(desk.root / "numbers.sqlite")) as connection, connection:
        connection.execute("INSERT INTO t VALUES (1)")


def test_the_database_is_signed_for_like_a_dataset_and_the_queries_ran_on_it(desk: Desk) -> None:
    trained = desk.cli("run", desk.config(**TINY))

    assert trained.returncode == 0, trained.stderr  # four rows are too few for the gate to say no
    (run_dir,) = desk.run_dirs
    database = file_digest(desk.root / "numbers.sqlite")
    bound = json.loads((run_dir / "run-spec.json").read_text())["inputs"]["datasets"]
    assert bound[1] == {"role": "file", "name": "numbers", "digest": database, "rows": 20}
    metrics = json.loads((run_dir / "metrics.json").read_text())
    assert metrics["details"]["databases"] == {"numbers.sqlite": database}
    assert {"execution_accuracy", "valid_sql"} < metrics["scores"].keys()
    assert len((run_dir / "predictions.jsonl").read_text().splitlines()) == metrics["scores"]["valid_sql"]["n"] == 4
    assert "data file" not in desk.cli("reproduce", str(run_dir)).stdout
    add_a_row(desk)
    assert "data file numbers" in desk.cli("reproduce", str(run_dir)).stdout


def test_a_database_that_changed_after_the_ticket_is_refused_and_the_ticket_is_not_spent(
    desk: Desk, live_registry: LiveRegistry
) -> None:
    given = desk.permitted(**TINY)
    add_a_row(desk)

    with pytest.raises(TicketInvalid, match="file `numbers` changed since it was issued") as refused:
        work.execute(given)

    assert refused.value.facts["step"] == 16
    assert [event.kind for event in live_registry.events("ticket.redeemed")] == []
