"""Why the gate answered so: the rules that came nearest, every clause they failed, and one sentence."""

from datetime import UTC, datetime
from typing import Any

import worlds

from enforcer.policy import explain
from enforcer.policy.conditions import Context
from enforcer.policy.decision import Request
from enforcer.policy.exceptions import PolicyException
from enforcer.policy.revision import Policy
from enforcer.policy.rules import Directory, Rule
from enforcer.policy.snapshot import Snapshot

NOW = datetime(2026, 12, 5, 23, tzinfo=UTC)  # a Saturday
DIRECTORY = Directory(
    units={"all": None, "shop": "all", "bank": "all"},
    targets={"any": None, "k8s": "any", "local": "any"},
    groups={"nlp": [], "staff": [], "leads": ["staff"], "audit": []},
)


def gate(*drafts: dict[str, Any], exceptions: list[PolicyException] | None = None) -> Snapshot:
    given = {"effect": "allow", "who": "group:nlp", "may": "submit", "reason": "Somebody has to."}
    rules = [Rule.model_validate({"id": f"r{at}", **given, **draft}) for at, draft in enumerate(drafts)]
    owners = dict.fromkeys((rule.id for rule in rules), "audit")
    policy = Policy.of(worlds.MODEL, DIRECTORY, rules, owners=owners, exceptions=exceptions or [])
    return Snapshot(policy, {"sft": None, "sql": "sft", "dpo": None})


def asking(*principals: str, **asked: Any) -> Request:
    context = Context(now=NOW, gpus=4, unit="shop", **asked.pop("context", {}))
    return Request(
        principals, context=context, **{"action": "submit", "tag": "sql", "unit": "shop", "target": "local", **asked}
    )


def test_every_clause_that_failed_is_told() -> None:
    strict = {
        "max_gpus": 2,
        "models": ["Qwen/*"],
        "until": "2026-12-01T00:00:00Z",
        "change_ticket": ["CHG-*"],
        "hours": "08:00-20:00",
        "weekdays": ["mon"],
        "zone": "UTC",
        "points": ["admission"],
        "own_unit": True,
    }
    one = gate({"unit": "bank", "target": "k8s", "when": strict})

    (miss,) = one.nearest(asking("group:staff"))

    assert (miss.rule, miss.who, miss.owner) == ("r0", ("group:nlp",), "audit")
    assert miss.failed == (
        "who: only group:nlp",
        "unit: only bank",
        "target: only k8s",
        "when: max_gpus 2, asked for 4",
        "when: models Qwen/*",
        "when: until 2026-12-01T00:00:00Z",
        "when: weekdays mon (UTC)",
        "when: hours 08:00-20:00 (UTC)",
        "when: change_ticket CHG-*",
        "when: points admission, asked at api",
        "when: own_unit: only the caller's own business unit",
    )


def test_the_nearest_fail_the_fewest_clauses_and_then_stand_first() -> None:
    far = {"unit": "bank", "when": {"max_gpus": 1}}
    one = gate(far, {"when": {"max_gpus": 2}}, {"who": "group:audit"}, {"who": "user:ann", "tag": "sft"}, far)

    nearest = one.nearest(asking("group:nlp"))

    assert [miss.rule for miss in nearest] == ["r1", "r2", "r3"]
    assert [miss.rule for miss in one.nearest(asking("group:nlp"), limit=1)] == ["r1"]


def test_only_allows_that_count_here_and_are_about_this_are_near() -> None:
    one = gate(
        {"effect": "deny"},
        {"may": "cancel"},
        {"tag": "dpo"},
        {"level": "shadow"},
        {"level": {"api": "off"}},
        {"level": "warn", "who": "group:audit"},
    )

    assert [miss.rule for miss in one.nearest(asking("group:staff"))] == ["r5"]


def test_a_matcher_that_demands_nothing_has_the_same_near_rules() -> None:
    one = gate({"who": "group:audit"}, {"may": "cancel"}, {"tag": "dpo"}, {"tag": "sft", "who": "group:audit"})
    head = one.policy.model[: one.policy.model.index("m = ")]
    loose = Policy.of(f"{head}m = when(p.cond, r.ctx)\n", DIRECTORY, one.policy.rules, owners=one.policy.owners)

    other = Snapshot(loose, one.tag_parents)

    assert [miss.rule for miss in other.nearest(asking("group:nlp"))] == ["r0", "r3"]
    assert one.nearest(asking("group:nlp")) == other.nearest(asking("group:nlp"))


def sentence(one: Snapshot, request: Request) -> str:
    return explain.sentence(one, one.decide(request), near=one.nearest(request))


def test_each_answer_is_told_in_one_sentence() -> None:
    lifted = PolicyException.model_validate(
        {"id": "e1", "who": "group:staff", "may": "submit", "reason": "r", "lifts": "r1", "granted_at": NOW,
         "until": "2026-12-06T00:00:00Z", "approved_by": ["user:a", "user:b"]}
    )  # fmt: skip
    one = gate({}, {"effect": "deny", "who": ["group:leads", "group:audit"], "tag": "dpo"}, exceptions=[lifted])

    assert [
        sentence(one, asking("group:nlp")),
        sentence(one, asking("group:nlp", "group:audit", tag="dpo")),
        sentence(one, asking("group:staff")),
        sentence(one, asking("group:nlp", action="cancel")),
        sentence(one, asking("group:nlp", action="cancel", tag="any")),
        sentence(one, asking("group:nlp", tag="dpo-v2")),
        sentence(one, asking("group:nlp", unit="all")),
        sentence(one, asking("group:nlp", target="any")),
    ] == [
        "rule `r0` allows it: Somebody has to.",
        "rule `r1` denies it: Somebody has to.",
        "no rule allows it; `r0` comes nearest, and fails on who: only group:nlp",
        "no rule allows anybody to cancel `sql`",
        "no rule allows anybody to cancel",
        "there is no tag `dpo-v2`, and what is unknown is denied",
        "a run is for one business unit, and `all` holds others; name one of them as `business_unit`: `bank`, `shop`",
        "a run is for one place, and `any` holds others; name one of them",
    ]


def test_a_lifted_deny_without_an_allow_says_that_lifting_is_not_allowing() -> None:
    lifted = PolicyException.model_validate(
        {"id": "e1", "who": "group:staff", "may": "submit", "reason": "r", "lifts": "r0", "granted_at": NOW,
         "until": "2026-12-06T00:00:00Z", "approved_by": ["user:a", "user:b"]}
    )  # fmt: skip
    one = gate({"effect": "deny", "who": "group:leads"}, exceptions=[lifted])

    assert sentence(one, asking("group:leads")) == "exception `e1` lifts `r0`, but no rule allows it"


def test_an_engine_that_failed_says_so() -> None:
    one = gate({})
    one._answer = lambda _: 1 / 0  # type: ignore[method-assign, assignment, return-value]

    assert sentence(one, asking("group:nlp")).startswith("the engine failed")


def test_what_came_near_is_kept_from_those_who_may_not_read_the_policy() -> None:
    one = gate({})

    assert explain.sentence(one, one.decide(asking("group:audit")), near=None) == "no rule allows it"
