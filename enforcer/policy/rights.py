"""Who may do something, as the policy says it: rule by rule, with the conditions in words."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import islice, product

from enforcer.policy import trees, wording
from enforcer.policy.decision import Request
from enforcer.policy.exceptions import PolicyException
from enforcer.policy.probes import inside
from enforcer.policy.rules import ANY_TARGET, ROOT_UNIT, Rule, Scope
from enforcer.policy.scopes import Scopes
from enforcer.policy.snapshot import Snapshot

MOST_PLACES = 500


@dataclass(frozen=True)
class Matter:
    """What somebody would do. Left out, unit and target are any."""

    action: str
    tag: str
    unit: str | None = None
    target: str | None = None


@dataclass(frozen=True)
class Right:
    """That `who`, and the groups below, may by this rule or exception. `denied_by` refuses it everywhere though."""

    who: str
    includes: tuple[str, ...]
    rule: str
    owner: str | None
    conditions: tuple[str, ...]
    denied_by: str | None


@dataclass(frozen=True)
class Denial:
    """A deny that speaks of the matter: against whoever is one of `who` besides what else they are."""

    who: tuple[str, ...]
    rule: str
    conditions: tuple[str, ...]


@dataclass(frozen=True)
class WhoCan:
    rights: tuple[Right, ...]
    denials: tuple[Denial, ...]


def who_can(gate: Snapshot, matter: Matter, now: datetime) -> WhoCan:
    """Rules that speak of the matter and could match now or later. What they say of a unit or target that the matter
    leaves out stands among their conditions."""
    asking = _Asking(gate, matter, now)
    allows = [scope for scope in asking.speaking() if scope.effect == "allow" and asking.can_hold(scope)]
    denies = [scope for scope in asking.speaking() if scope.effect == "deny"]
    return WhoCan(
        rights=tuple(right for scope in allows for right in asking.rights(scope)),
        denials=tuple(Denial(scope.who, scope.id, tuple(wording.of_conditions(scope.when))) for scope in denies),
    )


class _Asking:
    def __init__(self, gate: Snapshot, matter: Matter, now: datetime) -> None:
        self._gate = gate
        self._matter = matter
        self._now = now
        self._names = Scopes(gate.policy.directory, gate.tag_parents)
        self._below = trees.below(self._names.who)

    def speaking(self) -> Iterator[Rule | PolicyException]:
        yield from (r for r in self._gate.policy.rules if r.level not in ("off", "shadow") and self._speaks(r))
        yield from (e for e in self._gate.policy.exceptions if e.lifts is None and self._speaks(e))

    def _speaks(self, scope: Scope) -> bool:
        names, matter = self._names, self._matter
        return (
            not {matter.action, "*"}.isdisjoint(scope.may)
            and not names.above_tag(matter.tag).isdisjoint(scope.tag)
            and (matter.unit is None or not names.units[matter.unit].isdisjoint(scope.unit))
            and (matter.target is None or not names.targets[matter.target].isdisjoint(scope.target))
        )

    def can_hold(self, scope: Rule | PolicyException) -> bool:
        ended = isinstance(scope, PolicyException) and not scope.live(self._now)
        return not ended and inside(scope.when, self._now) is not None

    def rights(self, scope: Rule | PolicyException) -> Iterator[Right]:
        conditions = wording.of_conditions(scope.when)
        if self._matter.unit is None and ROOT_UNIT not in scope.unit:
            conditions.append(f"for {', '.join(scope.unit)}")
        if self._matter.target is None and ANY_TARGET not in scope.target:
            conditions.append(f"on {', '.join(scope.target)}")
        if isinstance(scope, PolicyException):
            conditions.append(f"until {wording.of_time(scope.until)}")
        for who in scope.who:
            includes = tuple(sorted(self._below.get(who, frozenset()) - {who}))
            owner = self._gate.policy.owners.get(scope.id)
            yield Right(who, includes, scope.id, owner, tuple(conditions), self._denied_by(scope, who))

    def _denied_by(self, scope: Scope, who: str) -> str | None:
        """The deny that refuses whatever the scope allows them, in every unit and place."""
        unconditional = {rule.id for rule in self._gate.policy.rules if rule.when.is_empty}
        matter, facts = self._matter, inside(scope.when, self._now)
        assert facts is not None
        units = [matter.unit] if matter.unit else self._names.leaf_units_of(scope)
        targets = [matter.target] if matter.target else self._names.leaf_targets_of(scope)
        by: str | None = None
        for unit, target in islice(product(units, targets), MOST_PLACES):
            own = frozenset({unit}) if facts.own_units else frozenset[str]()
            context = replace(facts, unit=unit, own_units=own)
            decision = self._gate.decide(Request((who,), matter.action, context, matter.tag, unit, target))
            if decision.reason != "explicit-deny" or decision.rule not in unconditional:
                return None
            by = by or decision.rule
        return by
