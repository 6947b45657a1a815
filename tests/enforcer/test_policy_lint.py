"""Lint tells of rules that could go live and yet do not say what somebody meant."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from policy_folders import as_yaml

from enforcer.policy import cases, folder
from enforcer.policy.coverage import coverage
from enforcer.policy.lint import Finding, lint, owners_differ
from enforcer.policy.snapshot import Snapshot

POLICIES = Path("policies")
FILES = folder.files_of(POLICIES)
TAGS = folder.tag_tree(POLICIES)
NOW = datetime(2026, 12, 1, 12, tzinfo=UTC)
ALLOW = {
    "id": "tried",
    "effect": "allow",
    "who": "group:search-ml",
    "may": ["submit"],
    "tag": "sft",
    "reason": "because",
}
DENY = {**ALLOW, "effect": "deny"}


def findings(*rules: dict[str, Any], exceptions: list[dict[str, Any]] | None = None, **files: str) -> list[Finding]:
    """What lint says of these, on top of the policy that ships, where a case decides each rule of it."""
    more = {"rules/tried.yaml": as_yaml({"owner": "security", "rules": list(rules)})} if rules else {}
    more |= {"exceptions.yaml": as_yaml({"exceptions": exceptions or []})}
    written = folder.written(FILES | more | files)
    shipped = {rule.id for rule in folder.read(FILES).rules}
    return [f for f in lint(written, TAGS, NOW, shipped | {"decided"}) if f.file != "rules/nlp.yaml"]


def checks(*rules: dict[str, Any], **more: Any) -> set[tuple[str, str]]:
    """Which checks speak up about the rules, and how loud; that no case decides them is left out."""
    return {(f.check, f.severity) for f in findings(*rules, **more) if f.check != "untested"}


def test_the_policy_that_ships_has_no_findings() -> None:
    written = folder.written(FILES)
    decided = coverage(
        written.policy, cases.run(cases.read(POLICIES), Snapshot(written.policy, TAGS), datetime.now(UTC))
    ).decided

    found = lint(written, TAGS, datetime.now(UTC), decided)

    assert found == []
    assert owners_differ(written, (POLICIES / "CODEOWNERS").read_text()) == []


@pytest.mark.parametrize(
    ("rule", "check"),
    [
        (ALLOW, None),
        ({**ALLOW, "who": "user:li"}, ("no-end", "error")),
        ({**ALLOW, "who": "user:li", "when": {"until": "2027-01-01T00:00:00Z"}}, None),
        ({**ALLOW, "who": "ci:nightly"}, None),
        ({**DENY, "who": "user:li"}, None),
        ({**ALLOW, "when": {"until": "2026-12-01T12:00:00Z"}}, ("expired", "error")),
        ({**ALLOW, "when": {"until": "2026-12-01T12:00:01Z"}}, None),
        ({**ALLOW, "when": {"models": ["*"]}}, ("any-model", "warning")),
        ({**ALLOW, "level": "off"}, ("off", "warning")),
        ({**ALLOW, "tag": "sftt"}, ("unknown-tag", "warning")),
        ({**DENY, "when": {"max_gpus": 8}}, ("backwards", "error")),
        ({**DENY, "when": {"change_ticket": ["CHG-*"]}}, ("backwards", "error")),
        ({**DENY, "when": {"own_unit": True}}, ("backwards", "error")),
        ({**DENY, "when": {"models": ["meta-llama/*"], "hours": "20:00-08:00", "zone": "Asia/Shanghai"}}, None),
    ],
)
def test_one_rule_and_what_is_said_of_it(rule: dict[str, Any], check: tuple[str, str] | None) -> None:
    assert checks(rule) == ({check} if check else set())


@pytest.mark.parametrize(
    ("wide", "narrow", "check"),
    [
        ({}, {"may": ["submit"]}, ("shadowed", "warning")),
        ({"tag": "any"}, {}, ("shadowed", "warning")),
        ({"tag": "sequence-classification"}, {"tag": "product-classification"}, ("shadowed", "warning")),
        ({"unit": "all"}, {"unit": "retail"}, ("shadowed", "warning")),
        ({"target": "k8s"}, {"target": "k8s/a100"}, ("shadowed", "warning")),
        ({"who": "group:trainers"}, {"who": ["group:nlp", "group:search-ml"]}, ("shadowed", "warning")),
        ({"when": {"max_gpus": 2}}, {"when": {"max_gpus": 2}}, ("shadowed", "warning")),
        ({}, {"when": {"max_gpus": 2}}, ("shadowed", "warning")),
        ({"effect": "deny"}, {"when": {"max_gpus": 2}}, ("shadowed", "error")),
        ({"effect": "deny", "may": ["*"], "tag": "any"}, {}, ("shadowed", "error")),
        # The first does not cover the second.
        ({"when": {"max_gpus": 2}}, {}, None),
        ({"when": {"max_gpus": 2}}, {"when": {"max_gpus": 1}}, None),
        ({"tag": "dpo"}, {}, None),
        ({"unit": "retail"}, {"unit": "all"}, None),
        ({"target": "local"}, {"target": "any"}, None),
        ({"may": ["cancel"]}, {"may": ["submit", "cancel"]}, None),
        ({"who": "group:nlp"}, {"who": ["group:nlp", "group:search-ml"]}, None),
        ({"effect": "deny", "when": {"models": ["x"]}}, {}, None),
        ({"effect": "deny", "overridable": True}, {}, None),
        ({"effect": "deny", "level": "warn"}, {}, None),
        ({"level": {"cli": "off"}}, {}, None),
    ],
)
@pytest.mark.parametrize("order", [1, -1], ids=["wide first", "narrow first"])
def test_a_rule_that_another_covers_never_counts(
    wide: dict[str, Any], narrow: dict[str, Any], check: tuple[str, str] | None, order: int
) -> None:
    rules = [{**ALLOW, **wide, "id": "wide"}, {**ALLOW, **narrow, "id": "narrow"}][::order]

    alike = {**ALLOW, **wide} == {**ALLOW, **narrow}
    covered = rules[1]["id"] if alike else "narrow"

    told = [(f.check, f.severity) for f in findings(*rules) if f.check == "shadowed" and f.rule == covered]

    assert told == ([check] if check else [])


def test_an_allow_that_an_exception_brings_back_is_not_covered_by_its_deny() -> None:
    exception = {
        **{name: DENY[name] for name in ("who", "may", "tag", "reason")},
        "id": "lifting",
        "lifts": "denied",
        "granted_at": "2026-11-01T00:00:00Z",
        "until": "2026-12-15T00:00:00Z",
        "approved_by": ["user:li", "user:mei"],
    }

    assert checks(ALLOW, {**DENY, "id": "denied"}, exceptions=[exception]) == set()
    assert checks(ALLOW, {**DENY, "id": "denied"}) == {("shadowed", "error")}


def test_an_expired_exception_is_told_of_by_its_line() -> None:
    exception = {
        **{name: ALLOW[name] for name in ("id", "who", "may", "tag", "reason")},
        "granted_at": "2026-11-01T00:00:00Z",
        "until": "2026-12-01T12:00:00Z",
        "approved_by": ["user:li", "user:mei"],
    }

    told = [(f.check, f.severity, f.file, f.line) for f in findings(exceptions=[exception])]

    assert told == [("expired", "error", "exceptions.yaml", 3), ("untested", "error", "exceptions.yaml", 3)]


@pytest.mark.parametrize(
    ("rule", "severity"),
    [
        ({**ALLOW}, "warning"),
        ({**DENY}, "error"),
        ({**DENY, "level": "warn"}, "error"),
        ({**DENY, "level": {"cli": "off"}}, "error"),
        ({**DENY, "level": "shadow"}, None),
        ({**DENY, "id": "decided"}, None),
    ],
)
def test_a_deny_has_to_be_tested(rule: dict[str, Any], severity: str | None) -> None:
    assert [f.severity for f in findings(rule) if f.check == "untested"] == ([severity] if severity else [])


def test_a_group_that_no_rule_speaks_of_is_told_of() -> None:
    directory = FILES["directory.yaml"] + "  idle: []\n  busy: [nlp]\n"

    told = [(f.check, f.message, f.line) for f in findings(**{"directory.yaml": directory})]

    line = directory.splitlines().index("  idle: []") + 1
    assert told == [("idle-group", "no rule speaks of group `idle` or of one it belongs to", line)]


@pytest.mark.parametrize(
    ("codeowners", "asks"),
    [
        ("* @org/nlp", None),
        ("/policies/rules/ @org/nlp", None),
        ("rules/nlp.yaml @nlp @org/security", None),
        ("* @org/nlp\n/rules/nlp.yaml @org/security", "security"),
        ("# rules/nlp.yaml @org/nlp", "nobody"),
        ("/rules/nlp.yaml", "nobody"),
        ("/rules/nlp.yaml.bak @org/nlp", "nobody"),
    ],
)
def test_who_owns_a_file_is_asked_to_review_it(codeowners: str, asks: str | None) -> None:
    told = [f.message for f in owners_differ(folder.written(FILES), codeowners) if f.file == "rules/nlp.yaml"]

    assert told == ([f"`owner: nlp` does not review this file: CODEOWNERS asks {asks}"] if asks else [])


def test_ten_thousand_rules_are_linted_in_seconds() -> None:
    groups = "".join(f"  team-{n}: [trainers]\n" for n in range(500))
    rules = [
        {**ALLOW, "id": f"r-{n}", "who": f"group:team-{n % 500}", "unit": ["retail", "search"][n % 2],
         "tag": sorted(TAGS)[n % len(TAGS)], "when": {"max_gpus": n}}
        for n in range(10_000)
    ]  # fmt: skip
    many = {f"rules/many{at}.yaml": as_yaml({"owner": "nlp", "rules": rules[at::8]}) for at in range(8)}
    written = folder.written(FILES | many | {"directory.yaml": FILES["directory.yaml"] + groups})

    assert len(lint(written, TAGS, NOW)) >= 10_000
