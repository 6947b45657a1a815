"""Rewards by name: small rules that score one answer between 0 and 1, the same on every machine. No torch, no network.

exact-match          1 when the answer is the row's `answer`, white space and case aside
contains-answer      1 when the row's `answer` stands in it, as whole words
number-match         1 when the last number in it equals the row's `answer` as a number; `1,234.50` equals `1234.5`
json-valid           1 when it is one JSON document (RFC 8259), and nothing else
at-most-N-words      1 up to N words, then N / words: 100 words where 50 are allowed earn 0.5

Several are added up, each with weight 1, as GRPO does it by itself (`trl.GRPOConfig.reward_weights`).
"""

import difflib
import json
import re
from collections.abc import Callable, Sequence
from decimal import Decimal
from functools import partial
from typing import Any

from enforcer.problems import ArgumentInvalid, DatasetInvalid
from trainer.job import Row

Reward = Callable[[str, Row], float]
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")
_AT_MOST = re.compile(r"at-most-([1-9][0-9]{0,4})-words")


def named(names: Sequence[str]) -> dict[str, Reward]:
    """The rewards of these names, in their order.

    Raises:
        ArgumentInvalid: none, one that does not exist, or one twice.
    """
    if not names or len(set(names)) < len(names):
        raise ArgumentInvalid(
            f"`reward_functions`: name each reward once, at least one of {_have()}", pointer="/reward_functions"
        )
    return {name: _named(name) for name in names}


def check(names: Sequence[str], rows: Sequence[Row]) -> None:
    """See that the rewards exist and that the rows have what they compare with.

    Raises:
        ArgumentInvalid, DatasetInvalid
    """
    comparing = [name for name in named(names) if name in COMPARING]
    missing = sum(not str(row.get("answer") or "").strip() for row in rows) if comparing else 0
    if missing:
        raise DatasetInvalid(
            f"`{comparing[0]}` compares with `answer`, which {missing:,} of {len(rows):,} rows do not have; add that "
            "column, or choose other `reward_functions`",
            pointer="/answer",
        )
    if "number-match" in comparing and (odd := next((row for row in rows if _number(row["answer"]) is None), None)):
        raise DatasetInvalid(
            f"`number-match` compares with a number, and the answer `{str(odd['answer'])[:100]}` holds none",
            pointer="/answer",
        )


def as_trl(name: str, reward: Reward) -> Callable[..., list[float]]:
    """The reward as TRL calls it: lists of completions and of every other column, completions as text or as turns."""

    def score(completions: Sequence[Any], **columns: Any) -> list[float]:
        answers = columns.get("answer") or [None] * len(completions)
        return [reward(text_of(said), {"answer": answer}) for said, answer in zip(completions, answers, strict=True)]

    score.__name__ = name  # it is what the reward is called in the logs
    return score


def text_of(completion: Any) -> str:
    """What was said: TRL gives turns where the prompt is a conversation."""
    return completion if isinstance(completion, str) else str(completion[-1]["content"])


def exact_match(said: str, row: Row) -> float:
    return float(_plain(said) == _plain(row["answer"]))


def contains_answer(said: str, row: Row) -> float:
    return float(re.search(rf"(?<!\w){re.escape(_plain(row['answer']))}(?!\w)", _plain(said)) is not None)


def number_match(said: str, row: Row) -> float:
    found = _number(said)
    return float(found is not None and found == _number(row["answer"]))


def json_valid(said: str, _row: Row) -> float:
    try:
        json.loads(said, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return 0.0
    return 1.0


def at_most(words: int, said: str, _row: Row) -> float:
    return min(1.0, words / max(1, len(said.split())))


COMPARING: dict[str, Reward] = {
    "exact-match": exact_match,
    "contains-answer": contains_answer,
    "number-match": number_match,
}
REWARDS: dict[str, Reward] = {**COMPARING, "json-valid": json_valid}


def _named(name: str) -> Reward:
    if (limit := _AT_MOST.fullmatch(name)) is not None:
        return partial(at_most, int(limit[1]))
    if name not in REWARDS:
        close = difflib.get_close_matches(name.replace("_", "-").lower(), [*REWARDS, "at-most-50-words"], n=1)
        hint = f"did you mean `{close[0]}`?" if close else f"there are {_have()}"
        raise ArgumentInvalid(f"`reward_functions`: `{name}` is no reward; {hint}", pointer="/reward_functions")
    return REWARDS[name]


def _have() -> str:
    return ", ".join(f"`{name}`" for name in [*REWARDS, "at-most-N-words"])


def _plain(text: Any) -> str:
    return " ".join(str(text).split()).casefold()


def _number(text: Any) -> Decimal | None:
    """The last number in a text. Decimal, so that 0.1 is 0.1."""
    found = _NUMBER.findall(str(text))
    return Decimal(found[-1].replace(",", "")) if found else None


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")
