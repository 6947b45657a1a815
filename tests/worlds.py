"""Small worlds of policy in which rules quarrel: many rules speak of most requests, and of a request at least one does.

Random requests over random rules are mostly about nothing, and would not notice an engine that has lost its denies. So
denies are made from allows, requests from rules, times lie at the edges of conditions, and groups are twelve deep.
"""

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from enforcer.policy import trees
from enforcer.policy.conditions import POINTS, Context
from enforcer.policy.decision import Match, Request
from enforcer.policy.exceptions import PolicyException
from enforcer.policy.revision import Policy
from enforcer.policy.rules import Directory, Rule

MODEL = (Path(__file__).parents[1] / "policies" / "model.conf").read_text()
NOW = datetime(2026, 12, 1, 12, tzinfo=UTC)  # a Tuesday
SECOND = timedelta(seconds=1)
TAGS = {"a": None, "a-b": "a", "a-b-c": "a-b", "a-b-c-d": "a-b-c", "e": None, "e-f": "e"}
UNITS = {"all": None, "shop": "all", "shop-x": "shop", "shop-y": "shop", "bank": "all", "bank-z": "bank"}
TARGETS = {"any": None, "local": "any", "k8s": "any", "k8s/a100": "k8s", "k8s/t4": "k8s"}
TOWER = [f"level{n}" for n in range(13)]  # each belongs to the next: twelve links
GROUPS = {
    **{low: [high] for low, high in itertools.pairwise(TOWER)},
    TOWER[-1]: [],
    "one": ["two"],
    "two": ["three"],
    "three": [],
    "both": ["one", TOWER[6]],
}
DIRECTORY = Directory(units=UNITS, targets=TARGETS, groups=GROUPS)
WHO = ["user:x", "group:one", "group:two", "group:three", "group:both", f"group:{TOWER[6]}", f"group:{TOWER[-1]}"]
ACTIONS = ["submit", "cancel", "approve"]
TIMES = [NOW, NOW - SECOND, NOW + SECOND, NOW + timedelta(hours=9), NOW + timedelta(days=4)]
CONDITIONS: list[dict[str, Any]] = [
    {"max_gpus": 0},
    {"max_gpus": 2},
    {"models": ("Qwen/*",)},
    {"models": ("local", "Qwen/*")},
    {"until": NOW},
    {"until": NOW + SECOND},
    {"hours": "08:00-20:00", "zone": "Europe/Berlin"},
    {"hours": "20:00-13:01", "zone": "Asia/Shanghai"},
    {"weekdays": ("mon", "tue"), "zone": "Europe/Berlin"},
    {"change_ticket": ("CHG-*",)},
    {"points": ("api",)},
    {"points": ("trainer", "admission")},
    {"own_unit": True},
]
LEVELS: list[Any] = ["off", "shadow", "warn", {"api": "shadow"}, {"cli": "warn", "trainer": "off"}, {"api": "off"}]


@dataclass(frozen=True)
class World:
    policy: Policy
    requests: tuple[Request, ...]
    tag_parents = TAGS


def world(seed: int, *, rules: int = 24, requests: int = 500, model: str = MODEL) -> World:
    """The same world for the same seed."""
    dice = random.Random(seed)
    allows = [rule(dice, at) for at in range(rules * 2 // 3)]
    denies = [deny_against(dice, dice.choice(allows), at) for at in range(rules * 2 // 3, rules)]
    ruled = allows + denies
    dice.shuffle(ruled)
    exceptions = [exception(dice, dice.choice(ruled), at) for at in range(6)]
    policy = Policy.of(
        model, DIRECTORY, ruled, owners=dict.fromkeys((rule.id for rule in ruled), "one"), exceptions=exceptions
    )
    scopes = [*ruled, *exceptions]
    return World(policy, tuple(_request(dice, dice.choice(scopes)) for _ in range(requests)))


def _some(dice: random.Random, names: Sequence[str]) -> tuple[str, ...]:
    return tuple(dice.sample(names, 1 if dice.random() < 0.7 else 2))


def _draft(dice: random.Random) -> dict[str, Any]:
    return {
        "who": _some(dice, WHO),
        "may": _some(dice, ACTIONS),
        "tag": _some(dice, ["any", *TAGS]),
        "unit": _some(dice, list(UNITS)),
        "target": _some(dice, list(TARGETS)),
        "when": dice.choice(CONDITIONS) if dice.random() < 0.4 else {},
        "reason": "because",
    }


def rule(dice: random.Random, at: int, **fixed: Any) -> Rule:
    level = dice.choice(LEVELS) if dice.random() < 0.25 else "enforce"
    return Rule.model_validate({**_draft(dice), "id": f"r{at}", "effect": "allow", "level": level, **fixed})


def deny_against(dice: random.Random, allow: Rule, at: int) -> Rule:
    """A deny that overlaps this allow: the same but for two things, every third for every action."""
    same = allow.model_dump(include={"who", "may", "tag", "unit", "target"})
    for other in dice.sample(sorted(same), 2):
        del same[other]
    if dice.random() < 0.33:
        same["may"] = ("*",)
    return rule(dice, at, **same, effect="deny", overridable=True)


def exception(dice: random.Random, rule: Rule, at: int) -> PolicyException:
    """For an allow its twin with an end, for a deny one that lifts it."""
    granted = dice.choice([NOW - timedelta(days=3), NOW])
    may = ("submit", "cancel") if "*" in rule.may else rule.may
    return PolicyException.model_validate(
        {
            **rule.model_dump(include={"who", "tag", "unit", "target", "reason"}),
            **({} if dice.random() < 0.5 else {"who": _some(dice, WHO)}),
            "when": dice.choice([{}, {}, {"max_gpus": 2}, {"points": ("api", "cli")}]),
            "id": f"e{at}",
            "may": may,
            "lifts": rule.id if rule.effect == "deny" else None,
            "granted_at": granted,
            "until": dice.choice([NOW + SECOND, NOW + timedelta(days=1)]),
            # `user:y` asks all the questions, often as a member of low groups of the tower.
            "approved_by": ["user:ann", {4: f"group:{TOWER[5]}", 5: "user:y"}.get(at, "user:bob")],
        }
    )


def _request(dice: random.Random, scope: Rule | PolicyException) -> Request:
    """One that this scope speaks of, but for its conditions; every other one then differs in something."""
    unit = dice.choice(_below(UNITS, dice.choice(scope.unit)))
    asked: dict[str, Any] = {
        "principals": _principals(dice, dice.choice(scope.who)),
        "action": dice.choice(ACTIONS) if "*" in scope.may else dice.choice(scope.may),
        "tag": dice.choice(_below({"any": None, **{t: p or "any" for t, p in TAGS.items()}}, dice.choice(scope.tag))),
        "unit": unit,
        "target": dice.choice(_below(TARGETS, dice.choice(scope.target))),
    }
    if dice.random() < 0.5:
        other = dice.choice(sorted(asked))
        names = {"action": ACTIONS, "tag": ["any", *TAGS], "unit": list(UNITS), "target": list(TARGETS)}
        asked[other] = _principals(dice, dice.choice(WHO)) if other == "principals" else dice.choice(names[other])
    context = Context(
        now=dice.choice(TIMES),
        gpus=dice.randrange(4),
        model=dice.choice([None, "local", "Qwen/x", "other"]),
        unit=asked["unit"],
        own_units=dice.choice([frozenset(), frozenset({asked["unit"]}), frozenset({"shop", "shop-x", "shop-y"})]),
        change_ticket=dice.choice([None, "CHG-1", "INC-1"]),
        point=dice.choice(POINTS),
    )
    return Request(context=context, **asked)


def _below(parents: dict[str, str | None], name: str) -> list[str]:
    above = trees.above({child: [parent] if parent else [] for child, parent in parents.items()})
    leaves = [child for child in parents if name in above[child] and child not in parents.values()]
    return [*leaves, *leaves, name]


def _principals(dice: random.Random, who: str) -> tuple[str, ...]:
    """Somebody who is meant by this name, seldom because the name is their own."""
    if who.startswith("group:"):
        name = who.removeprefix("group:")
        who = "group:" + dice.choice([group for group in GROUPS if name in trees.climb((group,), GROUPS)])
    others = dice.sample(WHO, dice.choice([0, 0, 1]))
    return tuple(dict.fromkeys(["user:y", who, "group:stranger", *others]))


def fitting(policy: Policy, request: Request) -> Iterator[Match]:
    """What `Decision.matched` must be, by walking up from each name: an oracle that shares no code with the engine."""
    covers = {"unit": UNITS, "target": TARGETS, "tag": {"any": None, **{t: p or "any" for t, p in TAGS.items()}}}

    def walk(name: str | None, parents: dict[str, str | None]) -> Iterator[str]:
        while name is not None:
            yield name
            name = parents[name]

    def groups(name: str) -> Iterator[str]:
        yield name
        for wider in GROUPS.get(name.removeprefix("group:"), []) if name.startswith("group:") else []:
            yield from groups(f"group:{wider}")

    def fits(scope: Rule | PolicyException) -> bool:
        return (
            (request.action in scope.may or "*" in scope.may)
            and all(set(walk(getattr(request, kind), covers[kind])) & set(getattr(scope, kind)) for kind in covers)
            and bool({name for one in request.principals for name in groups(one)} & set(scope.who))
            and scope.first_failing(request.context) is None
            and not (isinstance(scope, PolicyException) and approved(scope))
        )

    def approved(exception: PolicyException) -> bool:
        return bool({name for one in request.principals for name in groups(one)} & set(exception.approved_by))

    lifting: dict[str, str] = {}
    for exception in policy.exceptions:
        if exception.lifts and fits(exception):
            lifting.setdefault(exception.lifts, exception.id)
    for rule in policy.rules:
        if (level := rule.level_at(request.context.point)) != "off" and fits(rule):
            yield Match(rule.id, rule.effect, level, lifting.get(rule.id))
    for exception in policy.exceptions:
        if exception.lifts is None and fits(exception):
            yield Match(exception.id, "allow")
