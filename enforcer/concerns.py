"""What is said of some runs only: a gate, or a column, `when` arguments are among the words given for each of them."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

Condition = dict[str, Annotated[list[str], Field(min_length=1, max_length=100)]]
"""Parameter -> words; empty for every run."""


def holds(when: Condition, arguments: Mapping[str, Any]) -> bool:
    """Whether it is said of a run with these arguments, defaults filled in."""
    return all(arguments.get(name) in words for name, words in when.items())


def covers(wide: Condition, narrow: Condition) -> bool:
    """Whether the one is said of every run that the other is said of."""
    return all(name in narrow and set(narrow[name]) <= set(words) for name, words in wide.items())


def which(when: Condition) -> str:
    """`, where problem_type is single-label or multi-label`; nothing for every run."""
    return "".join(f", where {name} is {' or '.join(words)}" for name, words in sorted(when.items()))
