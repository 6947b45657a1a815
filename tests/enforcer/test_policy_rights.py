"""Who may do something, told from the rules: nobody is left out, and nobody named who may not."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from policy_folders import as_yaml

from enforcer.policy import folder
from enforcer.policy.rights import Matter, WhoCan, who_can
from enforcer.policy.snapshot import Snapshot

FILES = folder.files_of(Path("policies"))
TAGS = folder.tag_tree(Path("policies"))
NOW = datetime(2026, 12, 1, 12, tzinfo=UTC)
RULE = {"id": "tried", "effect": "allow", "who": "group:auditors", "may": ["submit"], "tag": "dpo", "reason": "x"}
GRANT = {
    **{name: RULE[name] for name in ("who", "may", "tag", "reason")},
    "id": "granted",
    "granted_at": "2026-11-01T00:00:00Z",
    "until": "2026-12-15T00:00:00Z",
    "approved_by": ["user:li", "user:mei"],
}


def told(
    *rules: dict[str, Any],
    exceptions: list[dict[str, Any]] | None = None,
    unit: str | None = None,
    at: str | None = None,
) -> WhoCan:
    """Who may submit dpo, with these rules on top of those that ship."""
    files = dict(FILES)
    if rules:
        files["rules/tried.yaml"] = as_yaml({"owner": "security", "rules": list(rules)})
    files["exceptions.yaml"] = as_yaml({"exceptions": exceptions or []})
    return who_can(Snapshot(folder.read(files), TAGS), Matter("submit", "dpo", unit, at), NOW)


def by(answer: WhoCan) -> dict[str, tuple[str, ...]]:
    return {right.rule: right.conditions for right in answer.rights}


def test_rules_are_told_with_their_conditions_and_who_is_refused_all_the_same() -> None:
    answer = told()

    (right,) = answer.rights
    assert (right.who, right.rule, right.owner) == ("group:nlp", "nlp-trains-preference-alignment", "nlp")
    assert right.conditions == ("at most 8 GPUs", "in their own unit")
    assert [(denial.who, denial.rule) for denial in answer.denials] == [(("group:suspended",), "suspended-nothing")]


def test_each_condition_has_its_words() -> None:
    when = {
        "max_gpus": 1,
        "models": ["Qwen/*"],
        "weekdays": ["mon", "tue"],
        "hours": "08:00-20:00",
        "zone": "Europe/Berlin",
        "change_ticket": ["CHG-*"],
        "points": ["api"],
        "own_unit": True,
        "until": "2027-01-01T00:00:00Z",
    }

    answer = told({**RULE, "when": when, "unit": "retail", "target": ["local", "ray"]})

    assert by(answer)["tried"] == (
        "at most 1 GPU",
        "models Qwen/*",
        "on mon, tue",
        "at 08:00-20:00 in Europe/Berlin",
        "with a change ticket CHG-*",
        "asked at api",
        "in their own unit",
        "until 2027-01-01 00:00 UTC",
        "for retail",
        "on local, ray",
    )


def test_groups_below_are_told() -> None:
    (right,) = who_can(Snapshot(folder.read(FILES), TAGS), Matter("submit", "reranker"), NOW).rights

    assert (right.who, right.includes) == ("group:trainers", ("group:nlp", "group:retail-ds", "group:search-ml"))


def test_a_rule_about_another_unit_or_place_or_that_does_not_count_is_not_told() -> None:
    assert "tried" in by(told({**RULE, "unit": "retail"}, unit="retail"))
    assert "tried" not in by(told({**RULE, "unit": "retail"}, unit="finance"))
    assert "tried" in by(told({**RULE, "target": "k8s"}, at="k8s/a100"))
    assert "tried" not in by(told({**RULE, "target": "k8s"}, at="local"))
    assert "tried" not in by(told({**RULE, "level": "shadow"}))
    assert "tried" in by(told({**RULE, "level": "warn"}))
    assert "tried" not in by(told({**RULE, "when": {"until": "2026-12-01T12:00:00Z"}}))


def test_exceptions_count_while_they_live() -> None:
    expired = {**GRANT, "until": "2026-12-01T12:00:00Z"}

    assert by(told(exceptions=[GRANT]))["granted"] == ("until 2026-12-15 00:00 UTC",)
    assert "granted" not in by(told(exceptions=[expired]))


def test_a_right_that_a_deny_takes_away_everywhere_says_so() -> None:
    deny = {**RULE, "id": "no", "effect": "deny"}

    def denied_by(*rules: dict[str, Any], unit: str | None = None) -> str | None:
        return {right.rule: right.denied_by for right in told(*rules, unit=unit).rights}["tried"]

    assert denied_by(RULE, deny) == "no"
    assert denied_by(RULE) is None
    assert denied_by(RULE, {**deny, "unit": "finance"}) is None
    assert denied_by(RULE, {**deny, "unit": "finance"}, unit="finance") == "no"
    assert denied_by(RULE, {**deny, "when": {"models": ["Qwen/*"]}}) is None
