"""The gate beside stock Casbin: no difference in what is decided, nor in the rule that decides it.

And the test tested: an engine with any of the usual mistakes (`MUTANTS`) does not pass it.
"""

from collections import Counter
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import worlds

from enforcer.policy import exceptions, snapshot, trees
from enforcer.policy.conditions import Conditions
from enforcer.policy.decision import Decision, Match, Request
from enforcer.policy.reference import Answer, Reference
from enforcer.policy.snapshot import Snapshot

BY_RULES = {"allow", "explicit-deny", "no-matching-rule"}
WORLDS = range(42)


@cache
def answers(seed: int) -> tuple[worlds.World, dict[Request, Answer]]:
    """A world, and what stock Casbin says to each of its requests that it may be asked."""
    world = worlds.world(seed)
    reference = Reference(world.policy, world.tag_parents)
    gate = Snapshot(world.policy, world.tag_parents)
    fit = [request for request in world.requests if gate._unfit(request) is None]
    return world, {request: reference.ask(request) for request in fit}


def differences(seed: int) -> list[tuple[Decision, Answer]]:
    """Each request is asked twice: the second time the gate remembers."""
    world, expected = answers(seed)
    gate = Snapshot(world.policy, world.tag_parents)
    found = []
    for _ in range(2):
        for request, answer in expected.items():
            decision = gate.decide(request)
            if answer != (decision.allowed, decision.rule) or decision.reason not in BY_RULES:
                found.append((decision, answer))
    return found


@pytest.mark.parametrize("seed", WORLDS)
def test_the_gate_answers_as_stock_casbin_does(seed: int) -> None:
    assert differences(seed) == []


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1_000, 1_200))
def test_the_gate_answers_as_stock_casbin_does_in_many_more_worlds(seed: int) -> None:
    assert differences(seed) == []


def test_the_worlds_hold_what_goes_wrong() -> None:
    """20,000 requests that reach the rules, and of each kind of trouble enough."""
    seen: Counter[str] = Counter()
    for seed in WORLDS:
        world, expected = answers(seed)
        gate = Snapshot(world.policy, world.tag_parents)
        for decision in map(gate.decide, expected):
            deciding = {match.effect for match in decision.matched if match.decides}
            seen.update(
                {
                    "asked": 1,
                    decision.reason: 1,
                    "an allow and a deny": len(deciding) == 2,
                    "lifted": any(match.lifted_by for match in decision.matched),
                    "by an exception": str(decision.rule).startswith("e"),
                    "warned": bool(decision.warnings),
                    "shadowed": decision.shadowed is not None,
                }
            )

    assert seen["asked"] >= 19_000  # the same question now and then comes twice
    assert min(seen.values()) > 500, seen
    assert seen["an allow and a deny"] > 4_000


@pytest.mark.parametrize("seed", range(8))
def test_all_that_fits_is_told_whether_or_not_it_decides(seed: int) -> None:
    world, expected = answers(seed)
    gate = Snapshot(world.policy, world.tag_parents)

    for request in expected:
        assert gate.decide(request).matched == tuple(worlds.fitting(world.policy, request))


# --- another matcher --------------------------------------------------------------------------------------------------

LIFTED = "lifted(p.id, r.sub, r.dom, r.obj, r.act, r.env, r.ctx)"
MATCHERS = {
    "in another order": "when(p.cond, r.ctx) && member(r.sub, p.sub) && g4(r.env, p.env) && g2(r.dom, p.dom) "
    '&& g3(r.obj, p.obj) && (r.act == p.act || p.act == "*")',
    "in brackets": '((r.act == p.act || p.act == "*") && g3(r.obj, p.obj)) && (g2(r.dom, p.dom) && g4(r.env, p.env)) '
    "&& (member(r.sub, p.sub) && when(p.cond, r.ctx))",
    "without trees": "r.act == p.act && r.obj == p.obj && r.dom == p.dom && member(r.sub, p.sub)",
    "with a choice": '(r.act == p.act || p.act == "*") && (g3(r.obj, p.obj) || p.eft == "deny") '
    "&& member(r.sub, p.sub)",
    "about units only": f'g2(r.dom, p.dom) && !(r.env == "local") && !{LIFTED}',
    "the other way around": f'g(p.sub, "group:one") && !g3(r.obj, p.obj) && {LIFTED}',
}


@pytest.mark.parametrize("says", MATCHERS)
@pytest.mark.parametrize("seed", range(3))
def test_whatever_else_the_matcher_says_is_decided_as_casbin_does(says: str, seed: int) -> None:
    """The index goes only by terms that the matcher demands."""
    head = worlds.MODEL[: worlds.MODEL.index("m = ")]
    world = worlds.world(seed, requests=150, model=f"{head}m = {MATCHERS[says]}\n")
    reference, gate = Reference(world.policy, world.tag_parents), Snapshot(world.policy, world.tag_parents)

    for request in world.requests:
        decision = gate.decide(request)
        if decision.reason in BY_RULES:
            assert reference.ask(request) == (decision.allowed, decision.rule), request


# --- mutants ----------------------------------------------------------------------------------------------------------

Patch = Callable[[pytest.MonkeyPatch], None]


def patched(where: Any, name: str, wrong: Callable[..., Any]) -> Patch:
    """`wrong` is called with the right one and its arguments."""
    right = getattr(where, name)
    return lambda patch: patch.setattr(where, name, lambda *args, **kwargs: wrong(right, *args, **kwargs))


def rebuilt(kind: str, ancestors: Callable[[str, Any], Any]) -> Patch:
    """An engine with other ancestors for the names of this kind."""

    def wrong(right: Callable[..., None], gate: Snapshot, *args: Any, **kwargs: Any) -> None:
        right(gate, *args, **kwargs)
        tree = getattr(gate, kind)
        for name in tree:  # in place: the matcher's functions hold the same dictionary
            tree[name] = ancestors(name, tree)

    return patched(Snapshot, "__init__", wrong)


def flat(kind: str) -> Patch:
    """Nothing belongs to anything."""
    return rebuilt(kind, lambda name, _: [] if kind == "groups" else frozenset({name}))


def one_heap(kind: str) -> Patch:
    """Everything belongs to everything."""
    return rebuilt(kind, lambda _, tree: frozenset(tree))


def without(kind: Callable[[snapshot.Line], bool]) -> Patch:
    return patched(Snapshot, "_candidates", lambda right, *args: tuple(line for line in right(*args) if not kind(line)))


def matches_whatever(function: str, answer: bool) -> Patch:
    return patched(
        Snapshot, "_functions", lambda right, *args, **named: {**right(*args, **named), function: lambda *_: answer}
    )


def forgetful_of(part: int) -> Patch:
    """A memo whose key has one part of the request less."""

    def without_it(key: tuple[Any, ...]) -> tuple[Any, ...]:
        return key[:part] + key[part + 1 :]

    class Memo(dict[Any, Any]):
        def get(self, key: Any, default: Any = None) -> Any:
            return super().get(without_it(key), default)

        def __setitem__(self, key: Any, value: Any) -> None:
            super().__setitem__(without_it(key), value)

    def wrong(right: Callable[..., None], gate: Snapshot, *args: Any, **kwargs: Any) -> None:
        right(gate, *args, **kwargs)
        gate._memo = Memo()

    return patched(Snapshot, "__init__", wrong)


MUTANTS: dict[str, Patch] = {
    "ignores the tag tree": flat("tags"),
    "ignores the unit tree": flat("units"),
    "ignores the target tree": flat("targets"),
    "ignores nested groups": flat("groups"),
    "climbs nine links, as Casbin's role manager does": patched(trees, "climb", lambda right, *args: nine_links(*args)),
    "lost the denies": without(lambda line: line.eft == "deny"),
    "lost rules for every action": without(lambda line: line.act == "*"),
    "lost rules for any tag": without(lambda line: line.obj == "any"),
    "lost exceptions": without(lambda line: line.id.startswith("e")),
    "ignores conditions": matches_whatever("when", True),
    "ignores targets": matches_whatever("g4", True),
    "ignores units": one_heap("units"),
    "ignores task types": one_heap("tags"),
    "ignores lifts": patched(Snapshot, "_lifting", lambda right, *args: None),
    "lifts by exceptions that have ended": patched(exceptions.PolicyException, "live", lambda *_: True),
    "counts for those who approved": patched(exceptions.PolicyException, "approved_by_one_of", lambda *_: False),
    "grants to those who approved": patched(Snapshot, "_approved", lambda *_: False),
    "lifts for everybody": patched(
        Snapshot, "_lifting", lambda right, gate, id_, names, *args: right(gate, id_, frozenset(worlds.WHO), *args)
    ),
    "ignores levels": lambda patch: patch.setattr(Match, "decides", property(lambda match: match.lifted_by is None)),
    "takes a warning for a refusal": lambda patch: patch.setattr(
        Match, "decides", property(lambda match: match.lifted_by is None and match.level in ("warn", "enforce"))
    ),
    "has one level for all points": patched(
        Snapshot, "_judge", lambda right, gate, lines, *rest: right(gate, [flattened(line) for line in lines], *rest)
    ),
    "remembers what depends on the facts": patched(Snapshot, "_steady", lambda *_: True),
    "takes conditions for none": lambda patch: patch.setattr(Conditions, "is_empty", property(lambda _: True)),
    "remembers for other principals": forgetful_of(0),
    "remembers for other actions": forgetful_of(1),
    "remembers for other tags": forgetful_of(2),
    "remembers for other units": forgetful_of(3),
    "remembers for other targets": forgetful_of(4),
    "lets the first rule decide": patched(
        Snapshot, "_candidates", lambda right, *args: right(*args)[:1]
    ),
    "lets an allow win": lambda patch: patch.setattr(
        "enforcer.policy.model.Model.merge",
        lambda _, effects: max(((e == "allow", rule) for rule, e in effects), default=(False, None)),
    ),
    "names the last deny": lambda patch: patch.setattr(
        "enforcer.policy.model.Model.merge", lambda _, effects: last_deny(list(effects))
    ),
    "asks rules in any order": patched(Snapshot, "_candidates", lambda right, *args: right(*args)[::-1]),
}  # fmt: skip


def nine_links(names: tuple[str, ...], parents: Any) -> frozenset[str]:
    found, level = set(names), list(names)
    for _ in range(9):
        level = [parent for name in level for parent in parents.get(name, ())]
        found.update(level)
    return frozenset(found)


def flattened(line: snapshot.Line) -> snapshot.Line:
    return line if isinstance(line.level, str) else line._replace(level="enforce")


def last_deny(effects: list[tuple[str, str]]) -> tuple[bool, str | None]:
    denies = [rule for rule, effect in effects if effect == "deny"]
    return (False, denies[-1]) if denies else (bool(effects), effects[-1][0] if effects else None)


@pytest.mark.parametrize("mutant", MUTANTS)
def test_an_engine_that_is_wrong_is_caught(mutant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within the first quarter of the worlds, by the decision or by the rule, and not because it falls over."""
    few = range(10)
    for seed in few:
        answers(seed)  # the reference speaks before the engine is broken

    MUTANTS[mutant](monkeypatch)

    found = [decision for seed in few for decision, _ in differences(seed)]
    assert found
    assert "engine-error" not in {decision.reason for decision in found}
