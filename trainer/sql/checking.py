"""Whether the right queries of a dataset run, told before anybody trains on them or is judged by them."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from trainer.job import Row
from trainer.sql.results import query_in
from trainer.sql.sandbox import Answer, Sandbox


def answers(rows: Sequence[Row], sandbox: Sandbox) -> list[Answer]:
    """What each row's `completion` gives on its `database`, in order.

    Raises:
        DatasetInvalid: a `database` that is none.
    """
    asked: dict[tuple[str, str], Answer] = {}
    for row in sorted(rows, key=lambda row: str(row["database"])):  # one database after the other
        question = (row["database"], row["completion"])
        if question not in asked:
            asked[question] = sandbox.ask(Path(row["database"]), query_in(row["completion"]))
    return [asked[row["database"], row["completion"]] for row in rows]


def broken(rows: Sequence[Row]) -> Iterator[tuple[int, str]]:
    """Number (from 0) of every row whose query gives no answer that can be compared with, and why."""
    with Sandbox() as sandbox:
        for index, answer in enumerate(answers(rows, sandbox)):
            if why := unusable(answer):
                yield index, why


def unusable(answer: Answer) -> str | None:
    """Why no other answer can be held against this one."""
    return answer.error or (None if answer.whole else f"it gives more than {len(answer.rows):,} rows")
