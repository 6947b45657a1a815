"""What holds for every policy and every request, whatever the rules say."""

import random
from typing import Any

import worlds
from hypothesis import given, settings, strategies as st

from enforcer.policy.decision import Decision
from enforcer.policy.exceptions import PolicyException
from enforcer.policy.revision import Policy
from enforcer.policy.rules import Rule
from enforcer.policy.snapshot import Snapshot

seeds = st.integers(0, 2**32)


def decisions(policy: Policy, world: worlds.World) -> list[Decision]:
    gate = Snapshot(policy, world.tag_parents)
    return [gate.decide(request) for request in world.requests]


def with_parts(world: worlds.World, rules: list[Rule], exceptions: list[PolicyException]) -> Policy:
    owners = dict.fromkeys((rule.id for rule in rules), "one")
    return Policy.of(world.policy.model, worlds.DIRECTORY, rules, owners=owners, exceptions=exceptions)


def small_world(seed: int) -> tuple[worlds.World, random.Random]:
    return worlds.world(seed, rules=12, requests=60), random.Random(seed)


@settings(max_examples=40)
@given(seeds)
def test_another_deny_allows_nothing_more(seed: int) -> None:
    world, dice = small_world(seed)
    deny = worlds.deny_against(dice, dice.choice(world.policy.rules), at=99)
    denied = with_parts(world, [*world.policy.rules, deny], list(world.policy.exceptions))

    before, after = decisions(world.policy, world), decisions(denied, world)
    assert not [(b, a) for b, a in zip(before, after, strict=True) if a.allowed and not b.allowed]


@settings(max_examples=40)
@given(seeds)
def test_another_allow_denies_nothing_more(seed: int) -> None:
    world, dice = small_world(seed)
    allow = worlds.rule(dice, at=99)
    allowed = with_parts(world, [*world.policy.rules, allow], list(world.policy.exceptions))

    before, after = decisions(world.policy, world), decisions(allowed, world)
    assert not [(b, a) for b, a in zip(before, after, strict=True) if b.allowed and not a.allowed]


@settings(max_examples=40)
@given(seeds)
def test_an_exception_only_widens(seed: int) -> None:
    world, dice = small_world(seed)
    exception = worlds.exception(dice, dice.choice(world.policy.rules), at=99)
    widened = world.policy.with_exceptions([*world.policy.exceptions, exception])

    before, after = decisions(world.policy, world), decisions(widened, world)
    assert not [(b, a) for b, a in zip(before, after, strict=True) if b.allowed and not a.allowed]


@settings(max_examples=40)
@given(seeds)
def test_the_order_of_rules_changes_no_decision(seed: int) -> None:
    world, dice = small_world(seed)
    rules, exceptions = list(world.policy.rules), list(world.policy.exceptions)
    dice.shuffle(rules)
    dice.shuffle(exceptions)
    shuffled = with_parts(world, rules, exceptions)

    def answers(policy: Policy) -> list[tuple[Any, ...]]:
        return [(d.allowed, d.reason, {m.id for m in d.matched}) for d in decisions(policy, world)]

    assert answers(shuffled) == answers(world.policy)


@settings(max_examples=40)
@given(seeds)
def test_a_decision_names_a_rule_of_its_effect_and_only_one_that_decides(seed: int) -> None:
    world, _ = small_world(seed)

    for decision in decisions(world.policy, world):
        deciding = {match.id: match.effect for match in decision.matched if match.decides}
        if decision.allowed:
            assert set(deciding.values()) == {"allow"}
        assert (decision.rule is not None) == bool(deciding)
        assert decision.rule is None or deciding[decision.rule] == ("allow" if decision.allowed else "deny")
