"""Past decisions made again by a candidate: what would have come out otherwise, in whose business unit, for which tag.

What counts is what was decided then, as it is on record, not what today's policy would say. The candidate is asked
with the facts and the clock of then.
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

from enforcer.policy.decision import Decision, Request
from enforcer.policy.snapshot import Snapshot

Outcome = Literal["same", "allow->deny", "deny->allow", "error"]
EXAMPLES = 10


@dataclass(frozen=True)
class Past:
    """A decision on record: `reason` and `rule` are those of then. `aside` is what no policy changes: what people may
    do with what is their own, and what their credential is not for."""

    id: str
    request: Request
    reason: str
    rule: str | None
    aside: bool = False

    @property
    def allowed(self) -> bool:
        return self.reason == "allow"


@dataclass(frozen=True)
class Example:
    """One decision that would have come out otherwise."""

    past: Past
    outcome: Outcome
    now: Decision


@dataclass
class Tally:
    """Outcomes by business unit and tag, and the first few examples of each kind."""

    counts: Counter[tuple[str, str, Outcome]] = field(default_factory=Counter)
    examples: list[Example] = field(default_factory=list)

    def add(self, past: Past, candidate: Snapshot) -> None:
        now = candidate.decide(past.request)
        outcome = compare(past, now)
        self.counts[past.request.unit, past.request.tag, outcome] += 1
        if outcome != "same" and sum(example.outcome == outcome for example in self.examples) < EXAMPLES:
            self.examples.append(Example(past, outcome, now))

    def total(self, outcome: Outcome) -> int:
        return sum(count for (_, _, one), count in self.counts.items() if one == outcome)


def compare(past: Past, now: Decision) -> Outcome:
    if past.aside:
        return "same"
    if now.reason == "engine-error":
        return "error"
    if past.allowed == now.allowed:
        return "same"
    return "allow->deny" if past.allowed else "deny->allow"
