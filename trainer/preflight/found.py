"""What one look at the data brings: sentences for people, and the same as facts for programs."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

MAX_SHOWN = 3


@dataclass
class Found:
    findings: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    def add(self, other: "Found") -> None:
        self.findings += other.findings
        self.facts |= other.facts


def quoted(text: str, most: int = 60) -> str:
    """The beginning of a text on one line, in backticks."""
    line = " ".join(text.split())
    return f"`{line if len(line) <= most else line[: most - 1] + '…'}`"


def some(shown: Iterable[str], count: int) -> str:
    """A few examples of `count`: `a; b; and 7 more`."""
    first = [text for text, _ in zip(shown, range(MAX_SHOWN), strict=False)]
    return "; ".join([*first, *([f"and {count - len(first):,} more"] if count > len(first) else [])])
