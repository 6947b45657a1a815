"""text-to-sql: a model is judged by what its queries give on the database of each row."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import LANGUAGE, losses, make_chat, make_job

from enforcer.problems import DatasetInvalid
from trainer.job import Row
from trainer.recipes import sft, text_to_sql

QUERIES = {"how many": "SELECT count(*) FROM t", "largest": "SELECT max(a) FROM t", "all": "SELECT a FROM t"}


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_chat(tmp_path_factory.mktemp("chat"))


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "numbers.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript("CREATE TABLE t (a INTEGER); INSERT INTO t VALUES (4), (5), (9);")
    return path


def asked(database: Path, count: int, **queries: str) -> list[Row]:
    pairs = list({**QUERIES, **queries}.items())
    return [
        {"prompt": pairs[i % len(pairs)][0], "completion": pairs[i % len(pairs)][1], "database": str(database)}
        for i in range(count)
    ]


def job_of(root: Path, chat: Path, database: Path, **changes: Any) -> Any:
    rows = {"train_rows": asked(database, 48), "eval_rows": asked(database, 12)}
    return make_job(root, chat, LANGUAGE, **{**rows, **changes})


def told(job: Any) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (job.folder.root / "predictions.jsonl").read_text().splitlines()]


def test_before_training_no_query_runs_and_after_it_every_query_is_right(
    chat: Path, database: Path, tmp_path: Path
) -> None:
    before = text_to_sql.train(job_of(tmp_path / "before", chat, database, max_steps=1, learning_rate=1e-8))
    job = job_of(tmp_path / "after", chat, database, max_steps=60, learning_rate=1e-2)
    after = text_to_sql.train(job)

    assert before.scores["execution_accuracy"].value == before.scores["valid_sql"].value == 0
    assert after.scores["execution_accuracy"].value == after.scores["valid_sql"].value == 1
    score = after.scores["execution_accuracy"]
    assert (score.n, score.confidence, score.high) == (12, 0.95, 1.0)
    assert score.low == pytest.approx(0.7575, abs=1e-4)  # 12 of 12: 1 / (1 + z^2 / n), z = 1.96
    assert after.details["exact_match"]["value"] == 1
    assert [line["given"] for line in told(job)][:3] == list(QUERIES.values())
    assert {"eval_loss", "perplexity", "token_accuracy"} < set(after.scores)


def test_it_trains_as_sft_does(chat: Path, database: Path, tmp_path: Path) -> None:
    def run(recipe: Any, name: str) -> list[float]:
        return losses(recipe.train(job_of(tmp_path, chat, database, max_steps=5, run_id=name)))

    assert np.abs(np.array(run(text_to_sql, "query")) - run(sft, "plain")).max() < 1e-4


def test_other_words_with_the_same_rows_are_right_and_the_same_words_with_others_are_not(
    chat: Path, database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = [
        "SELECT 3;",
        "```sql\nSELECT a FROM t ORDER BY a DESC LIMIT 1\n```",
        "SELECT a FROM t WHERE a > 4",
        "DROP TABLE t",
    ]
    rows = asked(database, 4)
    monkeypatch.setattr("trainer.recipes._language.answers", lambda *_, **__: said)
    job = job_of(tmp_path, chat, database, max_steps=1, eval_rows=rows)

    outcome = text_to_sql.train(job)

    assert [line["verdict"] for line in told(job)] == ["right", "right", "wrong", "error"]
    assert told(job)[3]["error"] == "not authorized"
    assert outcome.scores["execution_accuracy"].value == 0.5
    assert outcome.scores["valid_sql"].value == 0.75
    assert outcome.details["exact_match"]["value"] == 0
    assert outcome.details["verdicts"] == {"right": 2, "wrong": 1, "error": 1}


@pytest.mark.parametrize(
    ("sql", "why"),
    [
        ("SELECT b FROM t", "no such column: b"),
        ("DELETE FROM t", "not authorized"),
        ("WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT x FROM c", "more than 10,000 rows"),
    ],
)
def test_a_right_query_that_cannot_be_judged_by_is_told_before_training(
    sql: str, why: str, chat: Path, database: Path, tmp_path: Path
) -> None:
    job = job_of(tmp_path, chat, database, eval_rows=asked(database, 4, wrong=sql))

    with pytest.raises(DatasetInvalid, match=why):
        text_to_sql.train(job)

    assert not job.listener.steps


def test_scores_on_a_database_that_changed_meanwhile_are_none(
    chat: Path, database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def change(*_: Any, **__: Any) -> list[str]:
        with closing(sqlite3.connect(database)) as connection, connection:
            connection.execute("INSERT INTO t VALUES (1)")
        return ["SELECT 1"] * 12

    monkeypatch.setattr("trainer.recipes._language.answers", change)

    with pytest.raises(DatasetInvalid, match="changed while the run used it"):
        text_to_sql.train(job_of(tmp_path, chat, database, max_steps=1))


def test_a_right_answer_without_rows_is_counted_as_easy_to_meet(chat: Path, database: Path, tmp_path: Path) -> None:
    rows = asked(database, 4, none="SELECT a FROM t WHERE a > 99")

    outcome = text_to_sql.train(job_of(tmp_path, chat, database, max_steps=1, eval_rows=rows))

    assert outcome.details["right_answers_without_rows"] == 1
