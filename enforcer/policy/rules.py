"""A rule as people write it, and the names that it may use.

Left out, `tag`, `unit` and `target` mean all of them; each covers what is below it. `level` is how much it counts:

    enforce   it decides
    warn      it refuses nobody; whom it concerns is told
    shadow    it decides nothing; what it would have decided is written down
    off       as if it were not there

everywhere, or by enforcement point: `level: {admission: warn}`, the others being `enforce`.
"""

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

from enforcer.policy.conditions import Conditions, Context, Point

ACTIONS = frozenset(
    {
        *("submit", "cancel", "propose", "approve", "deprecate", "promote", "waive"),
        *("delegate", "break-glass"),
        *("run-read", "audit-read", "audit-erase", "metrics-read", "deactivate"),
        *("policy-read", "policy-write", "policy-approve", "override", "evaluate"),
        "webhook-admin",
    }
)
ANY_TAG = "any"
ROOT_UNIT = "all"
ANY_TARGET = "any"

Effect = Literal["allow", "deny"]
Level = Literal["off", "shadow", "warn", "enforce"]


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong with a policy: of which rule, exception or quota, and where it is written."""

    message: str
    about: str | None = None
    file: str | None = None
    line: int | None = None

    def __str__(self) -> str:
        place = ":".join(str(part) for part in (self.file, self.line) if part is not None)
        return f"{place}: {self.message}" if place else self.message


class PolicyInvalid(Exception):
    """The policy cannot go live. The message names the file, the line where there is one, and what is wrong."""

    def __init__(self, *faults: Fault | str) -> None:
        self.faults = tuple(Fault(fault) if isinstance(fault, str) else fault for fault in faults)
        super().__init__("\n".join(map(str, self.faults)))


def did_you_mean(word: object, known: Iterable[str]) -> str:
    """The end of a sentence about an unknown word."""
    near = difflib.get_close_matches(str(word), list(known), n=1, cutoff=0.7)
    return f" (did you mean `{near[0]}`?)" if near else ""


def as_list(value: object) -> object:
    return [value] if isinstance(value, str) else value


Who = Annotated[str, StringConstraints(pattern=r"^(user|service|ci|workload|group):[A-Za-z0-9@._/:~-]+$")]
RuleId = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9]*(-[a-z0-9]+)*$", max_length=80)]
Names = Annotated[tuple[str, ...], BeforeValidator(as_list), Field(min_length=1)]


class Scope(BaseModel):
    """Who may do what, to which task types, for which business units, where, when, and why."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: RuleId
    who: Annotated[tuple[Who, ...], BeforeValidator(as_list), Field(min_length=1)]
    may: Names
    tag: Names = (ANY_TAG,)
    unit: Names = (ROOT_UNIT,)
    target: Names = (ANY_TARGET,)
    when: Conditions = Field(default_factory=Conditions)
    reason: str = Field(min_length=1, max_length=300)


class Rule(Scope):
    """One rule. An `overridable` deny may be set aside by whoever may `override`, with a reason and an end."""

    effect: Effect
    level: Level | dict[Point, Level] = "enforce"
    overridable: bool = False

    def level_at(self, point: Point) -> Level:
        return self.level if isinstance(self.level, str) else self.level.get(point, "enforce")

    def first_failing(self, context: Context) -> str | None:
        """The condition that does not hold, in words; None when all hold."""
        return self.when.first_failing(context, of_deny=self.effect == "deny")


class Directory(BaseModel):
    """The names rules may use, each with what it belongs to, and the targets whose runs may redeem tickets offline."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    units: dict[str, str | None]
    targets: dict[str, str | None]
    groups: dict[str, list[str]]
    offline: list[str] = Field(default_factory=list)

    def covers(self, who: Iterable[str], principals: Iterable[str]) -> bool:
        """Whether one of these principals is meant by `who`: named there, or in a group that belongs to one."""
        meant, todo, seen = set(who), list(principals), set[str]()
        while todo:
            one = todo.pop()
            if one in meant:
                return True
            kind, _, name = one.partition(":")
            if kind == "group" and one not in seen:
                seen.add(one)
                todo += [f"group:{wider}" for wider in self.groups.get(name, ())]
        return False

    @property
    def trees(self) -> Mapping[str, Mapping[str, list[str]]]:
        """What belongs to what, by kind of name."""
        return {
            "unit": {name: [parent] if parent else [] for name, parent in self.units.items()},
            "target": {name: [parent] if parent else [] for name, parent in self.targets.items()},
            "group": self.groups,
        }
