"""A decision in words: what it was, why, and whom to ask. What rules came near is told to whoever may read the policy;
to others it would tell the policy bit by bit."""

from enforcer import wire
from enforcer.policy import explain
from enforcer.policy.decision import Decision, NearMiss
from enforcer.policy.rules import ANY_TAG
from enforcer.policy.snapshot import Snapshot
from enforcer.problems import NotPermitted
from registry.identity import Actor


def reason(gate: Snapshot, decision: Decision, *, whole: bool) -> wire.DecisionReason:
    """Everything about a decision but the answer; the near rules only where `whole`."""
    near = _near(gate, decision)
    return wire.DecisionReason(
        reason=decision.reason,
        rule=decision.rule,
        matched=[wire.RuleMatch.model_validate(m) for m in decision.matched if whole or m.level != "shadow"],
        warnings=warnings(gate, decision),
        policy_revision=decision.revision,
        nearest=[wire.NearRule.model_validate(miss) for miss in near if whole],
        ask=_whom_to_ask(gate, decision, near),
    )


def refusal(gate: Snapshot, decision: Decision, actor: Actor, *, whole: bool) -> NotPermitted:
    """The refusal: who, what, why not, and whom to ask."""
    asked, near = decision.request, _near(gate, decision)
    who = f"`{actor.id}` (groups: {', '.join(actor.groups) or 'none'})"
    what = f"{asked.action} `{asked.tag}`" if asked.tag != ANY_TAG else asked.action
    why = _why(gate, decision, actor, near if whole else None)
    return NotPermitted(
        f"{who} may not {what} for `{asked.unit}`: {why}",
        reason_code=decision.reason,
        rule=decision.rule,
        nearest=[miss.rule for miss in near if whole] or None,
        ask=_whom_to_ask(gate, decision, near) or None,
        policy_revision=decision.revision,
    )


def warnings(gate: Snapshot, decision: Decision) -> list[str]:
    """What the caller is to be told, though it was not refused for it."""
    told = frozenset(decision.warnings)
    return [f"rule `{rule.id}`: {rule.reason}" for rule in gate.policy.rules if rule.id in told] if told else []


def _near(gate: Snapshot, decision: Decision) -> tuple[NearMiss, ...]:
    return gate.nearest(decision.request) if decision.reason == "no-matching-rule" else ()


def _whom_to_ask(gate: Snapshot, decision: Decision, near: tuple[NearMiss, ...]) -> list[str]:
    """The groups that answer for the rule that denied, or for the rules that came near."""
    if decision.reason == "explicit-deny" and decision.rule is not None:
        return [owner for owner in [gate.policy.owners.get(decision.rule)] if owner is not None]
    return list(dict.fromkeys(miss.owner for miss in near))


def _why(gate: Snapshot, decision: Decision, actor: Actor, near: tuple[NearMiss, ...] | None) -> str:
    if decision.reason == "not-in-scope":
        return f"this credential is for {', '.join(f'`{scope}`' for scope in actor.scopes) or 'no action'} only"
    return explain.sentence(gate, decision, near=near)
