"""Which decisions differ between two policies: granted, revoked, to whom and for what; not which lines differ.

Only a rule that changed can change a decision, or a name that belongs elsewhere now. So only requests are asked that a
changed rule speaks of, or any rule about a name that moved: by those whom the rule names and, for a denial, by those
who would be allowed otherwise. What is too much to ask is sampled, and the answer says so.
"""

import random
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import product
from typing import Any, Literal, NamedTuple

from enforcer.policy import trees, wording
from enforcer.policy.conditions import Conditions, Context
from enforcer.policy.decision import Decision, Request
from enforcer.policy.exceptions import PolicyException
from enforcer.policy.probes import Space, contexts
from enforcer.policy.revision import Policy
from enforcer.policy.rules import ACTIONS, Rule, Scope
from enforcer.policy.scopes import Scopes
from enforcer.policy.snapshot import Snapshot

MAX_ASKED = 100_000
Outcome = Literal["GRANTED", "REVOKED"]
_Scope = Rule | PolicyException


@dataclass(frozen=True)
class Change:
    """Decisions that change alike for all of `who`. `by` are the rules that decide: the allow that grants, or what
    denies now, or the allow that is gone. `when` is what the facts of these decisions have in common, in words."""

    who: tuple[str, ...]
    outcome: Outcome
    actions: tuple[str, ...]
    tags: tuple[str, ...]
    units: tuple[str, ...]
    targets: tuple[str, ...]
    when: tuple[str, ...]
    by: tuple[str, ...]
    decisions: int


@dataclass(frozen=True)
class Difference:
    """`asked` of `possible` requests were decided by both policies."""

    old: str
    new: str
    changed_rules: tuple[str, ...]
    changes: tuple[Change, ...]
    asked: int
    possible: int
    granted: int
    revoked: int

    @property
    def sampled(self) -> bool:
        return self.asked < self.possible


class _Found(NamedTuple):
    """A request that the two answer differently."""

    request: Request
    before: Decision
    after: Decision

    @property
    def outcome(self) -> Outcome:
        return "GRANTED" if self.after.allowed else "REVOKED"

    @property
    def by(self) -> str:
        return self.after.rule or self.before.rule or self.after.reason


def compare(old: Snapshot, new: Snapshot, now: datetime, *, most: int = MAX_ASKED) -> Difference:
    """Decide the same requests by both, at most `most` of them."""
    changed = _changed(old.policy, new.policy)
    moved = _Moved.between(old, new)
    spaces = [space for gate in (old, new) for space in _Spaces(gate, changed, moved, now).all()]
    asked, possible = _requests(spaces, most)
    both = (_Found(request, old.decide(request), new.decide(request)) for request in asked)
    found = [one for one in both if one.before.allowed != one.after.allowed]
    granted = sum(one.after.allowed for one in found)
    return Difference(
        old=old.revision,
        new=new.revision,
        changed_rules=tuple(sorted({scope.id for scope in changed})),
        changes=tuple(_grouped(found, asked, new)),
        asked=len(asked),
        possible=possible,
        granted=granted,
        revoked=len(found) - granted,
    )


def _changed(old: Policy, new: Policy) -> list[_Scope]:
    """The rules and exceptions that do not stand in both and mean the same. Under another model none does."""
    before, after = _meanings(old), _meanings(new)
    unchanged = before.keys() & after.keys() if old.model == new.model else frozenset[str]()
    return [scope for side in (before, after) for meaning, scope in side.items() if meaning not in unchanged]


def _meanings(policy: Policy) -> dict[str, _Scope]:
    return {scope.model_dump_json(exclude={"reason"}): scope for scope in _scopes(policy)}


def _scopes(policy: Policy) -> list[_Scope]:
    return [*policy.rules, *policy.exceptions]


class _Moved(NamedTuple):
    """Names that are new, gone, or belong to something else than before."""

    who: frozenset[str]
    tags: frozenset[str]
    units: frozenset[str]
    targets: frozenset[str]

    @classmethod
    def between(cls, old: Snapshot, new: Snapshot) -> "_Moved":
        pairs = (
            (trees.above(old.groups), trees.above(new.groups)),
            (old.tags, new.tags),
            (old.units, new.units),
            (old.targets, new.targets),
        )
        return cls(*(frozenset(name for name in {*a, *b} if a.get(name) != b.get(name)) for a, b in pairs))


class _Spaces:
    """The requests whose answer may differ, over the names of one side."""

    def __init__(self, gate: Snapshot, changed: list[_Scope], moved: _Moved, now: datetime) -> None:
        self._names = Scopes(gate.policy.directory, gate.tag_parents)
        self._policy = gate.policy
        self._changed = changed
        self._moved = moved
        self._now = now
        self._allowed: dict[str, set[str]] = defaultdict(set)
        self._conditions: dict[tuple[str, str, str], dict[Conditions, None]] = defaultdict(dict)
        for scope in _scopes(gate.policy):
            for action in _actions(scope):
                for who, tag in product(scope.who, scope.tag):
                    self._conditions[action, who, tag][scope.when] = None
                if scope.effect == "allow":
                    self._allowed[action].update(scope.who)

    def all(self) -> Iterator[Space]:
        for scope in self._changed:
            yield from self._of(scope)
        if any(self._moved):
            for scope in _scopes(self._policy):
                for space in self._of(scope):
                    yield from self._about_moved(space)

    def _of(self, scope: _Scope) -> Iterator[Space]:
        tags = self._names.tags_of(scope)
        units, targets = self._names.leaf_units_of(scope), self._names.leaf_targets_of(scope)
        for action in _actions(scope):
            who = self._principals(scope, action)
            yield Space(who, [action], tags, units, targets, self._contexts(scope, action, who, tags))

    def _about_moved(self, space: Space) -> Iterator[Space]:
        """The parts of a space that are about names that moved."""
        moved = self._moved
        yield replace(space, principals=[who for who in space.principals if not moved.who.isdisjoint(who)])
        yield replace(space, tags=[tag for tag in space.tags if tag in moved.tags])
        yield replace(space, units=[unit for unit in space.units if unit in moved.units])
        yield replace(space, targets=[target for target in space.targets if target in moved.targets])

    def _principals(self, scope: _Scope, action: str) -> list[tuple[str, ...]]:
        """Whom it names, with the groups below; for a denial also together with each group that is allowed."""
        named = sorted({who for name in scope.who for who in self._names.groups_of(name)})
        alone: list[tuple[str, ...]] = [(who,) for who in named]
        if isinstance(scope, Rule) and scope.effect == "allow":
            return alone
        return alone + [(who, also) for who in named for also in sorted(self._allowed[action]) if also != who]

    def _contexts(self, scope: _Scope, action: str, who: list[tuple[str, ...]], tags: list[str]) -> list[Context]:
        names = self._names
        above_who = {above for principals in who for one in principals for above in names.above_who(one)}
        above_tags = {above for tag in tags for above in names.above_tag(tag)}
        keys = product((action,), sorted(above_who), sorted(above_tags))
        beside = [when for key in keys for when in self._conditions.get(key, ())]
        moments = [self._now]
        if isinstance(scope, PolicyException):
            moments += [scope.granted_at, scope.until - timedelta(seconds=1), scope.until]
        by_point = isinstance(scope, Rule) and isinstance(scope.level, dict)
        return contexts([scope.when], beside, moments, by_point or any(when.points for when in [scope.when, *beside]))


def _actions(scope: Scope) -> list[str]:
    return sorted(ACTIONS) if "*" in scope.may else list(scope.may)


def _requests(spaces: list[Space], most: int) -> tuple[list[Request], int]:
    """All requests of these spaces once, or a sample by a fixed seed; and how many there are."""
    possible = sum(map(len, spaces))
    dice = random.Random(0)  # noqa: S311 - a sample that comes out the same again
    if possible <= 2 * most:  # the spaces of both sides are mostly the same
        unique = list(dict.fromkeys(request for space in spaces for request in space))
        return (unique if len(unique) <= most else dice.sample(unique, most)), len(unique)
    found: dict[Request, None] = {}
    for space in spaces:
        count = 1 + 2 * most * len(space) // possible
        found |= dict.fromkeys(space if len(space) <= count else space.sample(count, dice))
    return dice.sample(list(found), min(most, len(found))), possible


# --- for a reader -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Said:
    """What a change is about, so that those for whom it is the same stand together."""

    outcome: Outcome
    tags: tuple[str, ...]
    units: tuple[str, ...]
    targets: tuple[str, ...]
    when: tuple[str, ...]
    by: tuple[str, ...]


def _grouped(found: Iterable[_Found], asked: Iterable[Request], gate: Snapshot) -> list[Change]:
    facts: dict[str, _Facts] = defaultdict(_Facts)
    for request in asked:
        facts[request.action].add(request)
    by_who: dict[tuple[tuple[str, ...], Outcome, str], list[_Found]] = defaultdict(list)
    for one in found:
        by_who[one.request.principals, one.outcome, one.request.action].append(one)
    alike: dict[tuple[_Said, str], dict[tuple[str, ...], int]] = defaultdict(dict)
    for (who, _, action), ones in by_who.items():
        alike[_said(ones, facts[action], gate), action][who] = len(ones)
    actions: dict[tuple[_Said, tuple[str, ...]], dict[str, int]] = defaultdict(dict)
    for (said, action), whos in alike.items():
        actions[said, _folded_who(whos, gate)][action] = sum(whos.values())
    changes = [
        Change(who, actions=tuple(sorted(counts)), **vars(said), decisions=sum(counts.values()))
        for (said, who), counts in actions.items()
    ]
    return sorted(changes, key=lambda change: (change.outcome, -change.decisions, change.who))


def _said(ones: list[_Found], usual: "_Facts", gate: Snapshot) -> _Said:
    facts = _Facts()
    for one in ones:
        facts.add(one.request)
    return _Said(
        outcome=ones[0].outcome,
        tags=_folded({one.request.tag for one in ones}, gate.tags, frozenset(gate.tags)),
        units=_folded({one.request.unit for one in ones}, gate.units, _leaves(gate.units)),
        targets=_folded({one.request.target for one in ones}, gate.targets, _leaves(gate.targets)),
        when=tuple(facts.said(usual)),
        by=tuple(sorted({one.by for one in ones})),
    )


def _folded_who(whos: Iterable[tuple[str, ...]], gate: Snapshot) -> tuple[str, ...]:
    """The widest groups that say it all; two at once as `a with b`."""
    by_first: dict[str, set[str]] = defaultdict(set)
    for first, *rest in whos:
        by_first[" with ".join(rest)].add(first)
    groups = trees.above(gate.groups)
    return tuple(
        f"{first} with {rest}" if rest else first
        for rest, firsts in sorted(by_first.items())
        for first in _folded(firsts, groups, frozenset(groups))
    )


def _folded(names: set[str], above: trees.Above, all_: frozenset[str]) -> tuple[str, ...]:
    """These names, or what stands for them: a name whose parts are all among them."""
    whole = {wide for wide, below in trees.below(above).items() if below & all_ and below & all_ <= names}
    widest = {name for name in whole if not any(wide in whole for wide in above[name] - {name})}
    return tuple(sorted(widest | {name for name in names if widest.isdisjoint(above.get(name, ()))}))


def _leaves(above: trees.Above) -> frozenset[str]:
    return frozenset(name for name, below in trees.below(above).items() if below == {name})


class _Facts:
    """The values of the facts in some requests."""

    def __init__(self) -> None:
        self._values: dict[str, set[Any]] = defaultdict(set)

    def add(self, request: Request) -> None:
        context = request.context
        self._values["gpus"].add(context.gpus)
        self._values["own"].add(request.unit in context.own_units)
        for fact in ("model", "change_ticket", "point", "now"):
            self._values[fact].add(getattr(context, fact))

    def said(self, usual: "_Facts") -> Iterator[str]:
        """The facts that are others than usual, in words."""
        unlike = {fact: values for fact, values in self._values.items() if values != usual._values[fact]}
        if "gpus" in unlike:
            yield _span(unlike["gpus"], usual._values["gpus"])
        if "own" in unlike:
            yield "in their own unit" if unlike["own"] == {True} else "in other units than their own"
        if "model" in unlike:
            yield f"model {_listed(unlike['model'])}"
        if "change_ticket" in unlike:
            yield f"change ticket {_listed(unlike['change_ticket'])}"
        if "point" in unlike:
            yield f"asked at {_listed(unlike['point'])}"
        if "now" in unlike:
            yield f"at {_listed({wording.of_time(moment) for moment in unlike['now']})}"


def _span(values: set[int], usual: set[int]) -> str:
    low, high = min(values), max(values)
    if high == max(usual):
        return f"{low} GPUs or more"
    return f"up to {high} GPUs" if low == min(usual) else f"{low} to {high} GPUs"


def _listed(values: set[Any], most: int = 4) -> str:
    names = sorted("none" if value is None else str(value) for value in values)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
