"""Approvals: how many agree to a change, of which groups and units, and until when (`policies/approvals.yaml`).

Rules are read from the top, and the first that fits a change decides; where none does, two people agree. What it says
is frozen into the proposal as its terms when it is opened: a later revision alters no proposal that is open.

What no rule can say otherwise: whoever wrote or gains by a change does not approve it, each review has a reason and
binds the digest of what was seen, and an edit voids all approvals.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from itertools import product
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from enforcer import canonical
from enforcer.policy.rules import RuleId, as_list
from enforcer.profile_changes import ChangeClass
from enforcer.profiles import Kind
from enforcer.runspec import digest

ChangeKind = Literal[
    "new-tag",
    "new-version",
    "alias",
    "reserved-name",
    "deprecation",
    "restoration",
    "archival",
    "policy",
    "exception",
]
Excluded = Literal["author", "contributors", "beneficiaries"]
ALL_EXCLUDED: tuple[Excluded, ...] = ("author", "contributors", "beneficiaries")
Wait = Annotated[timedelta, Field(ge=timedelta(hours=1), le=timedelta(days=365))]
Count = Annotated[int, Field(ge=1, le=20)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class When(_Part):
    """Which changes a rule is for; what is left out is not asked. A `root` is a new task type without a parent."""

    change: Annotated[tuple[ChangeKind, ...], BeforeValidator(as_list)] = ()
    change_class: Annotated[tuple[ChangeClass, ...], BeforeValidator(as_list)] = ()
    tag_kind: Annotated[tuple[Kind, ...], BeforeValidator(as_list)] = ()
    root: bool | None = None

    def fits(self, change: "Change") -> bool:
        return (
            (not self.change or change.kind in self.change)
            and (not self.change_class or change.change_class in self.change_class)
            and (not self.tag_kind or change.tag_kind in self.tag_kind)
            and (self.root is None or change.root == self.root)
        )

    def covers(self, other: "When") -> bool:
        """Whether this fits every change that the other one fits."""
        sides = (
            (self.change, other.change),
            (self.change_class, other.change_class),
            (self.tag_kind, other.tag_kind),
            ((), ()) if self.root is None else ((self.root,), (other.root,)),
        )
        return all(not mine or (theirs and set(theirs) <= set(mine)) for mine, theirs in sides)


class Threshold(_Part):
    """So many of a group, or of all who may review; with `each`, so many for every unit that the change affects, of
    those whose own unit it is, or one above."""

    name: RuleId
    group: str | None = None
    approve: Count = 1
    each: Literal["affected-unit"] | None = None


class ApprovalRule(_Part):
    """The terms for some changes. All thresholds have to be met; one approval may count for several."""

    id: RuleId
    when: When = Field(default_factory=When)
    thresholds: Annotated[tuple[Threshold, ...], Field(min_length=1, max_length=10)]
    distinct_units: Count = 1
    exclude: Annotated[tuple[Excluded, ...], BeforeValidator(as_list)] = ALL_EXCLUDED
    remind_after: Wait | None = None
    escalate_after: Wait | None = None
    escalate_to: str | None = None
    expires_after: Wait = timedelta(days=14)
    reason: Annotated[str, Field(min_length=1, max_length=300)]

    @model_validator(mode="after")
    def holds_together(self) -> Self:
        if unsaid := {"author", "beneficiaries"} - set(self.exclude):
            raise ValueError(f"`{min(unsaid)}` never approves, and stands in every `exclude`")
        if (self.escalate_after is None) != (self.escalate_to is None):
            raise ValueError("`escalate_after` and `escalate_to` come together")
        if late := [wait for wait in (self.remind_after, self.escalate_after) if wait and wait >= self.expires_after]:
            raise ValueError(f"nobody is told after {late[0]} of what expires after {self.expires_after}")
        return self


DEFAULT = ApprovalRule(
    id="default", thresholds=(Threshold(name="reviewers", approve=2),), reason="No rule of `approvals.yaml` fits."
)


@dataclass(frozen=True)
class Change:
    """What the rules look at. `at_least` and `more` are what the kind of change asks for beside them."""

    kind: str
    change_class: ChangeClass
    tag_kind: str | None = None
    root: bool = False
    affected_units: tuple[str, ...] = ()
    at_least: int = 1
    more: int = 0


class Needed(_Part):
    """A threshold as it is for one change: of this group, and for this unit, where there is one."""

    name: str
    group: str | None
    unit: str | None
    approve: int

    def covers(self, other: "Needed") -> bool:
        """Whether nobody agrees by this one without the other one being met."""
        return other.group in (None, self.group) and other.unit in (None, self.unit) and self.approve >= other.approve

    def counts(self, voter: "Voter") -> bool:
        return (self.group is None or self.group in voter.groups) and (
            self.unit is None or self.unit in voter.answers_for
        )


class Terms(_Part):
    """What was asked of a proposal when it was opened: `approvals` people in all, and each of `needed`."""

    rule: str
    policy_revision: str
    change_class: ChangeClass
    approvals: int
    needed: tuple[Needed, ...]
    distinct_units: int
    exclude: tuple[Excluded, ...]
    remind_after: timedelta | None
    escalate_after: timedelta | None
    escalate_to: str | None
    expires_after: timedelta

    def digest(self) -> str:
        return digest(canonical.dumps(self.model_dump(mode="json")))

    def counts(self, voter: "Voter") -> bool:
        """Whether this approval is one of those asked for."""
        return any(needed.counts(voter) for needed in self.needed)

    def missing(self, voters: Iterable["Voter"]) -> list["Missing"]:
        """What these approvals leave open; nothing when they suffice."""
        counting = [voter for voter in voters if self.counts(voter)]
        return list(self._missing(counting))

    def _missing(self, voters: list["Voter"]) -> Iterator["Missing"]:
        for needed in self.needed:
            have = sum(needed.counts(voter) for voter in voters)
            if have < needed.approve:
                yield Missing(needed.name, needed.group, needed.unit, have, needed.approve)
        if len(voters) < self.approvals:
            yield Missing("people in all", None, None, len(voters), self.approvals)
        units = len({voter.unit for voter in voters})
        if units < self.distinct_units:
            yield Missing("different business units", None, None, units, self.distinct_units)


@dataclass(frozen=True)
class Voter:
    """Somebody who approves. `groups` are theirs and all wider ones; they answer for their unit and those below."""

    who: str
    groups: frozenset[str]
    unit: str
    answers_for: frozenset[str]


@dataclass(frozen=True)
class Missing:
    """So many approvals there are, and so many are needed: by name, of a group, for a unit."""

    name: str
    group: str | None
    unit: str | None
    have: int
    need: int

    def __str__(self) -> str:
        of = f" of group `{self.group}`" if self.group else ""
        unit = f" for `{self.unit}`" if self.unit else ""
        return f"{self.name}{of}{unit}: {self.have} of {self.need}"


class Approvals(BaseModel):
    """The file, whole."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rules: tuple[ApprovalRule, ...] = ()

    def terms(self, change: Change, revision: str) -> Terms:
        """What is asked of this change by this revision of the policy."""
        rule = next((rule for rule in self.rules if rule.when.fits(change)), DEFAULT)
        needed = [one for threshold in rule.thresholds for one in _needed(threshold, change)]
        people = max(rule.distinct_units, change.at_least, *(one.approve for one in needed), 1) + change.more
        taken: dict[str, Any] = rule.model_dump(include=set(Terms.model_fields) & set(ApprovalRule.model_fields))
        return Terms(
            rule=rule.id,
            policy_revision=revision,
            change_class=change.change_class,
            approvals=people,
            needed=tuple(needed) or (Needed(name="reviewers", group=None, unit=None, approve=1),),
            **taken,
        )


def _needed(threshold: Threshold, change: Change) -> Iterator[Needed]:
    units: tuple[str | None, ...] = change.affected_units if threshold.each else (None,)
    for unit in units:
        yield Needed(name=threshold.name, group=threshold.group, unit=unit, approve=threshold.approve)


def weakened(before: Approvals, after: Approvals) -> list[str]:
    """Where the second asks less than the first, a sentence for each pair of rules that decides. Both are asked about
    every kind of change, so that a rule that moved, or went, or shadows another one is seen as well."""
    found: dict[tuple[str, str], set[str]] = {}
    tag_kinds: tuple[Kind | None, ...] = (None, *Kind)
    for kind, class_, tag_kind, root in product(get_args(ChangeKind), ChangeClass, tag_kinds, (False, True)):
        change = Change(kind, class_, tag_kind, root, affected_units=("an affected unit",))
        old, new = before.terms(change, ""), after.terms(change, "")
        if less := set(_less(old, new)):
            found.setdefault((old.rule, new.rule), set()).update(less)
    return [
        f"approvals are weaker where rule `{old}` decided and rule `{new}` would: {'; '.join(sorted(less))}"
        for (old, new), less in found.items()
    ]


def _less(old: Terms, new: Terms) -> Iterator[str]:
    if new.approvals < old.approvals:
        yield f"{new.approvals} instead of {old.approvals} people in all"
    if new.distinct_units < old.distinct_units:
        yield f"{new.distinct_units} instead of {old.distinct_units} different business units"
    if unheld := set(old.exclude) - set(new.exclude):
        yield f"{', '.join(sorted(unheld))} may approve"
    for needed in old.needed:
        if not any(other.covers(needed) for other in new.needed):
            of = f" of group `{needed.group}`" if needed.group else ""
            for_ = f" for {needed.unit}" if needed.unit else ""
            yield f"no more {needed.approve}{of}{for_}"
