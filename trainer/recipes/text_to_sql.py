"""text-to-sql -- turn a question about a database into the query that answers it.

Row      {"prompt": str, "completion": str, "database": str}: question (with the schema), query, SQLite file
Loss     that of `sft`: -1/T sum_t log p(x_t | x_<t) over the T tokens of the query   [nats]
         (Radford et al. 2018, "Improving Language Understanding", eq. 1)
Trains   trl.SFTTrainer, as `sft` does
Scores   of greedy answers to the evaluation rows, each run on its database in a sandbox (`trainer.sql`):
         execution_accuracy: share that gives the rows of the right query, Wilson interval. One database, so an upper
           bound of test-suite accuracy (Zhong et al. 2020, arXiv:2010.02840; `trainer.sql.results` compares)
         valid_sql: share that the database runs to the end, Wilson interval
         eval_loss, perplexity, token_accuracy: those of `sft`
Leaves   predictions.jsonl: question, right and given query, what came of it; in the details the share of queries that
         match word for word, how many right queries give no rows, and each database's digest
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from enforcer.gates import Score
from enforcer.problems import DatasetInvalid
from trainer import evaluate
from trainer.inputs import folders
from trainer.inputs.chat import Reader, Tokens
from trainer.job import Job, Outcome, Row
from trainer.recipes import _language
from trainer.sql import checking, results
from trainer.sql.sandbox import Answer, Sandbox

ROOM = 2  # how many times as long as the longest right query an answer may get


def train(job: Job) -> Outcome:
    """Train, evaluate, and save the model (with `use_lora` the adapter) under `job.folder.model`."""
    examination = _Examination(job)  # right answers first: who cannot be judged is told before hours of training
    outcome = _language.fine_tune(job, examination.score, packing=job.arguments["packing"], packing_strategy="bfd")
    return replace(outcome, details={**outcome.details, **examination.details})


load = _language.load


class _Examination:
    """The evaluation rows with their right answers, and what a model made of them."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.digests = _digests(job.eval_rows)
        with Sandbox() as sandbox:
            self.right = checking.answers(job.eval_rows, sandbox)
        for row, answer in zip(job.eval_rows, self.right, strict=True):
            if why := checking.unusable(answer):
                raise DatasetInvalid(f"the right query `{row['completion'][:300]}` cannot be judged by: {why}")
        self.details: dict[str, Any] = {}

    def score(self, model: Any, tokenizer: PreTrainedTokenizerBase, rows: Sequence[Tokens]) -> dict[str, Score]:
        job, reader = self.job, Reader(self.job.model_dir)
        said = _language.answers(
            model,
            tokenizer,
            [reader.prompt(row) for row in job.eval_rows],
            max_new_tokens=ROOM * max(sum(row.trained) for row in rows),
            batch=job.arguments["per_device_eval_batch_size"],
        )
        queries = [results.query_in(text) for text in said]
        with Sandbox() as sandbox:
            self.right = checking.answers(job.eval_rows, sandbox)  # again: one may ask for today
            given = [sandbox.ask(Path(row["database"]), sql) for row, sql in zip(job.eval_rows, queries, strict=True)]
        if _digests(job.eval_rows) != self.digests:
            raise DatasetInvalid("a database changed while the run used it; its scores say nothing. Run it again")
        verdicts = [
            _verdict(row, right, answer) for row, right, answer in zip(job.eval_rows, self.right, given, strict=True)
        ]
        self._tell(queries, given, verdicts)
        counts = Counter(verdicts)
        return {
            "execution_accuracy": evaluate.share(counts["right"], len(verdicts)),
            "valid_sql": evaluate.share(len(verdicts) - counts["error"], len(verdicts)),
            **_language.token_scores(job, model, tokenizer, rows),
        }

    def _tell(self, queries: Sequence[str], given: Sequence[Answer], verdicts: Sequence[str]) -> None:
        rows = self.job.eval_rows
        exact = sum(
            results.normal(row["completion"]) == results.normal(sql) for row, sql in zip(rows, queries, strict=True)
        )
        self.details = {
            "verdicts": dict(Counter(verdicts)),
            "exact_match": evaluate.share(exact, len(rows)).model_dump(mode="json"),
            "right_answers_without_rows": sum(not answer.rows for answer in self.right),
            "databases": {Path(path).name: digest for path, digest in self.digests.items()},  # not where they lie here
        }
        with (self.job.folder.root / "predictions.jsonl").open("w", encoding="utf-8") as file:
            for row, sql, answer, verdict in zip(rows, queries, given, verdicts, strict=True):
                line = {"prompt": row["prompt"], "right": row["completion"], "given": sql, "verdict": verdict}
                file.write(json.dumps({**line, "error": answer.error}, ensure_ascii=False) + "\n")


def _verdict(row: Row, right: Answer, given: Answer) -> str:
    if given.error:
        return "error"
    ordered = results.is_ordered(row["completion"])
    return "right" if results.same(right, given, ordered=ordered) else "wrong"


def _digests(rows: Sequence[Row]) -> dict[str, str]:
    return {path: folders.file_digest(Path(path)) for path in sorted({row["database"] for row in rows})}
