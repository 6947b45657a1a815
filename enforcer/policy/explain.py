"""Why the gate answered as it did. Asked for when somebody wants to know, never while a decision is made.

Near misses tell what the policy says to others: show them only to those who may read it.
"""

import heapq
from collections.abc import Iterator
from typing import TYPE_CHECKING

from enforcer.policy import trees
from enforcer.policy.decision import Decision, NearMiss, Request
from enforcer.policy.rules import ANY_TAG, Rule

if TYPE_CHECKING:
    from enforcer.policy.snapshot import Snapshot


def nearest(gate: "Snapshot", request: Request, limit: int = 3) -> tuple[NearMiss, ...]:
    """Allow rules that speak of this action and task type, those that fail the fewest clauses first, then as they stand
    in the policy."""
    principals = trees.climb(request.principals, gate.groups)
    misses = [
        NearMiss(rule.id, rule.who, gate.policy.owners[rule.id], tuple(_failing(gate, rule, request, principals)))
        for rule in gate.rules_about(request.action, request.tag)
        if rule.effect == "allow" and rule.level_at(request.context.point) in ("enforce", "warn")
    ]
    return tuple(heapq.nsmallest(limit, misses, key=lambda miss: len(miss.failed)))


def _failing(gate: "Snapshot", rule: Rule, request: Request, principals: frozenset[str]) -> Iterator[str]:
    if principals.isdisjoint(rule.who):
        yield f"who: only {', '.join(rule.who)}"
    if gate.units.get(request.unit, frozenset()).isdisjoint(rule.unit):
        yield f"unit: only {', '.join(rule.unit)}"
    if gate.targets.get(request.target, frozenset()).isdisjoint(rule.target):
        yield f"target: only {', '.join(rule.target)}"
    for clause in rule.when.failing(request.context):
        yield f"when: {clause}"


def sentence(gate: "Snapshot", decision: Decision, *, near: tuple[NearMiss, ...] | None) -> str:
    """`gate` is the snapshot that decided, or one of the same revision; `near` is None where it shall not be told."""
    asked = decision.request
    what = f"{asked.action} `{asked.tag}`" if asked.tag != ANY_TAG else asked.action
    match decision.reason:
        case "allow":
            return f"rule `{decision.rule}` allows it: {_reason_of(gate, decision.rule)}"
        case "explicit-deny":
            return f"rule `{decision.rule}` denies it: {_reason_of(gate, decision.rule)}"
        case "no-matching-rule" if near is None:
            return "no rule allows it"
        case "no-matching-rule" if near:
            return f"no rule allows it; `{near[0].rule}` comes nearest, and fails on {'; '.join(near[0].failed)}"
        case "no-matching-rule" if lifted := [match for match in decision.matched if match.lifted_by]:
            return f"exception `{lifted[0].lifted_by}` lifts `{lifted[0].id}`, but no rule allows it"
        case "no-matching-rule":
            return f"no rule allows anybody to {what}"
        case "unknown-action" | "unknown-tag" | "unknown-unit" | "unknown-target":
            kind = decision.reason.removeprefix("unknown-")
            return f"there is no {kind} `{getattr(asked, kind)}`, and what is unknown is denied"
        case "unit-holds-others":
            held = sorted(gate.units_below(asked.unit) - {str(asked.unit)})
            some = ", ".join(f"`{unit}`" for unit in held[:8])
            return (
                f"{_thing(asked.action)} is for one business unit, and `{asked.unit}` holds others; name one of them "
                f"as `business_unit`: {some}"
            )
        case "target-holds-others":
            return f"{_thing(asked.action)} is for one place, and `{asked.target}` holds others; name one of them"
        case "engine-error":
            return "the engine failed, and what fails is denied; the registry's log has the cause"
    return f"the answer is `{decision.reason}`"


def _thing(action: str) -> str:
    return "an override" if action == "override" else "a run"


def _reason_of(gate: "Snapshot", rule: str | None) -> str:
    scopes = (*gate.policy.rules, *gate.policy.exceptions)
    return next((scope.reason for scope in scopes if scope.id == rule), "it is no rule of this revision")
