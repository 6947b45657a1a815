"""What the cases prove: which rules decide one, and which could go or say less without any case noticing."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from enforcer.policy.cases import Case, Outcome, run
from enforcer.policy.conditions import Conditions
from enforcer.policy.decision import Decision
from enforcer.policy.folder import Place
from enforcer.policy.revision import Policy
from enforcer.policy.snapshot import Snapshot


@dataclass(frozen=True)
class Coverage:
    """Which rules and exceptions decide a case that comes out as written. An exception that lifts a deny decides none
    itself: it is proven where the deny would have decided and was lifted."""

    decided: frozenset[str]
    missing: tuple[str, ...]
    missing_and_required: tuple[str, ...]

    @property
    def share(self) -> float:
        return len(self.decided) / max(1, len(self.decided) + len(self.missing))


def coverage(policy: Policy, outcomes: Iterable[Outcome]) -> Coverage:
    """All but what is at `off` or `shadow` can decide; each deny and each exception has to."""
    proven = {one for outcome in outcomes if outcome.failure is None for one in _proven_by(outcome.decision)}
    counting = [rule for rule in policy.rules if rule.level not in ("off", "shadow")]
    ids = [scope.id for scope in (*counting, *policy.exceptions)]
    required = {rule.id for rule in counting if rule.effect == "deny"} | {e.id for e in policy.exceptions}
    missing = tuple(one for one in ids if one not in proven)
    return Coverage(frozenset(ids) & proven, missing, tuple(one for one in missing if one in required))


def _proven_by(decision: Decision) -> Iterator[str]:
    if decision.rule:
        yield decision.rule
    yield from decision.warnings
    if decision.allowed:
        yield from (match.lifted_by for match in decision.matched if match.lifted_by)


@dataclass(frozen=True)
class Mutant:
    """The policy without one rule, exception or condition."""

    without: str
    policy: Policy


def mutants(policy: Policy) -> Iterator[Mutant]:
    for rule in policy.rules:
        others = tuple(other for other in policy.rules if other.id != rule.id)
        lifting = tuple(exception for exception in policy.exceptions if exception.lifts != rule.id)
        yield Mutant(f"rule `{rule.id}`", replace(policy, rules=others, exceptions=lifting))
        for clause in _clauses(rule.when):
            weaker = rule.model_copy(update={"when": rule.when.model_copy(update=_without(rule.when, clause))})
            changed = tuple(weaker if other.id == rule.id else other for other in policy.rules)
            yield Mutant(f"`{clause}` of rule `{rule.id}`", replace(policy, rules=changed))
    for exception in policy.exceptions:
        others_ = tuple(other for other in policy.exceptions if other.id != exception.id)
        yield Mutant(f"exception `{exception.id}`", replace(policy, exceptions=others_))


def survivors(
    policy: Policy, tags: Mapping[str, str | None], cases: list[tuple[Case, Place]], now: datetime
) -> list[str]:
    """Of which rules and conditions no case would notice that they are gone."""
    written = [outcome.failure for outcome in run(cases, Snapshot(policy, tags), now)]
    return [
        mutant.without
        for mutant in mutants(policy)
        if [outcome.failure for outcome in run(cases, Snapshot(mutant.policy, tags), now)] == written
    ]


def _clauses(when: Conditions) -> list[str]:
    """`hours` and `weekdays` bring their `zone` along."""
    return [name for name in type(when).model_fields if name != "zone" and getattr(when, name) not in (None, False)]


def _without(when: Conditions, clause: str) -> dict[str, Any]:
    gone: dict[str, Any] = {clause: Conditions.model_fields[clause].default}
    local = {"hours", "weekdays"}
    if clause in local and getattr(when, *(local - {clause})) is None:
        gone["zone"] = None
    return gone
