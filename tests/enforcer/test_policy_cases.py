"""Cases are decisions that must come out as written; what they do not prove is told."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from enforcer.policy import cases, folder
from enforcer.policy.coverage import coverage, mutants, survivors
from enforcer.policy.revision import Policy
from enforcer.policy.rules import PolicyInvalid
from enforcer.policy.snapshot import Snapshot

POLICIES = Path("policies")
FILES = folder.files_of(POLICIES)
TAGS = folder.tag_tree(POLICIES)
NOW = datetime(2026, 12, 1, 12, tzinfo=UTC)
SHIPPED = cases.read(POLICIES)


def outcomes(text: str, policy: Policy | None = None) -> list[cases.Outcome]:
    gate = Snapshot(policy or folder.read(FILES), TAGS)
    return cases.run(cases.parsed(text, "tests/some.yaml"), gate, NOW)


@pytest.mark.parametrize("found", SHIPPED, ids=[case.says for case, _ in SHIPPED])
def test_the_decision_table(found: tuple[cases.Case, folder.Place]) -> None:
    (outcome,) = cases.run([found], Snapshot(folder.load(POLICIES), TAGS), datetime.now(UTC))

    assert outcome.failure is None


def test_each_rule_that_ships_decides_a_case_and_no_condition_could_go_unnoticed() -> None:
    policy = folder.load(POLICIES)

    assert coverage(policy, cases.run(SHIPPED, Snapshot(policy, TAGS), NOW)).missing == ()
    assert len(list(mutants(policy))) > len(policy.rules)
    assert survivors(policy, TAGS, SHIPPED, NOW) == []


def test_a_case_names_the_rule_that_must_decide_and_is_told_which_did() -> None:
    text = """
given: {who: group:nlp, tag: dpo, unit: retail, own_unit: retail, target: local}
cases:
  - {says: right, expect: allow, because: nlp-trains-preference-alignment}
  - {says: wrong rule, expect: allow, because: nlp-trains-language-models}
  - {says: wrong answer, gpus: 9, expect: allow, because: nlp-trains-preference-alignment}
"""

    right, wrong_rule, wrong_answer = outcomes(text)

    assert right.failure is None
    assert wrong_rule.place == ("tests/some.yaml", 5)
    assert wrong_rule.failure == (
        "expected allow by `nlp-trains-language-models`; the gate answers allow by `nlp-trains-preference-alignment`"
    )
    assert wrong_answer.failure == (
        "expected allow by `nlp-trains-preference-alignment`; the gate answers deny by `no-matching-rule`"
    )


def test_all_facts_of_a_request_can_be_said() -> None:
    rule = """owner: security
rules:
  - id: exact
    effect: allow
    who: user:li
    may: [submit]
    tag: sft
    unit: search
    target: k8s/t4
    when:
      max_gpus: 3
      models: [Qwen/*]
      hours: 08:00-20:00
      zone: Asia/Shanghai
      change_ticket: [CHG-*]
      points: [admission]
      own_unit: true
      until: 2027-01-01T00:00:00Z
    reason: because
"""
    all_said = (
        "says: all, who: user:li, do: submit, tag: sft, unit: search, own_unit: search, target: k8s/t4, gpus: 3, "
        "model: Qwen/x, now: 2026-12-01T00:00:00Z, change_ticket: CHG-7, point: admission, "
        "expect: allow, because: exact"
    )
    policy = folder.read(FILES | {"rules/some.yaml": rule})
    wrong = {
        "who: user:li": "who: user:mei",
        "do: submit": "do: cancel",
        "tag: sft": "tag: dpo",
        " unit: search": " unit: retail",
        "own_unit: search": "own_unit: retail",
        "target: k8s/t4": "target: local",
        "gpus: 3": "gpus: 4",
        "model: Qwen/x": "model: x",
        "now: 2026-12-01T00:00:00Z": "now: 2026-12-01T12:00:00Z",  # 20:00 in Shanghai
        "change_ticket: CHG-7": "change_ticket: X",
        "point: admission": "point: api",
    }

    def passes(said: str) -> bool:
        return outcomes(f"[{{{said}}}]", policy)[0].failure is None

    assert passes(all_said)
    assert [said for said, other in wrong.items() if passes(all_said.replace(said, other))] == []


def test_a_rule_that_only_warns_is_expected_as_a_warning() -> None:
    warn = FILES["rules/platform-admins.yaml"].replace("effect: deny", "effect: deny\n    level: warn")
    policy = folder.read(FILES | {"rules/platform-admins.yaml": warn})
    told = "says: x, who: [group:suspended, group:tag-stewards], do: approve, expect: allow, because: stewards-approve"

    assert outcomes(f"[{{{told}, warns: suspended-nothing}}]", policy)[0].failure is None
    assert outcomes(f"[{{{told}}}]", policy)[0].failure is None
    assert outcomes(f"[{{{told}, warns: []}}]", policy)[0].failure == (
        "expected warnings none; the gate gives `suspended-nothing`"
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[{says: x, expect: alow, because: y}]", "tests/some.yaml:1: `expect`: write 'allow' or 'deny', not `alow`"),
        ("cases:\n  - {says: x, expect: allow}", "tests/some.yaml:2: `because` is missing"),
        ("cases:\n- {says: x, expect: deny, because: y, gpu: 1}", "unknown key `gpu` (did you mean `gpus`?)"),
        ("given: {points: api}\ncases: []", "tests/some.yaml:1: unknown key `given.points` (did you mean `point`?)"),
        ("cases:\n- {says: x, expect: deny, because: y, who: nlp}", "`who`: write `group:<name>`"),
    ],
)
def test_a_mistake_in_a_case_is_told_by_its_line(text: str, says: str) -> None:
    with pytest.raises(PolicyInvalid) as refused:
        outcomes(text)

    assert says in str(refused.value)


EXCEPTIONS = """
exceptions:
  - id: search-tries-dpo
    who: group:search-ml
    may: [submit]
    tag: dpo
    reason: because
    granted_at: 2026-11-01T00:00:00Z
    until: 2026-12-15T00:00:00Z
    approved_by: [user:li, user:mei]
  - id: suspended-may-follow
    lifts: suspended-nothing
    who: group:suspended
    may: [run-read]
    reason: because
    granted_at: 2026-11-01T00:00:00Z
    until: 2026-12-15T00:00:00Z
    approved_by: [user:li, user:mei]
"""
PROVEN = """
given: {unit: retail, own_unit: retail, target: local, now: 2026-12-01T00:00:00Z}
cases:
  - {says: granted, who: group:search-ml, tag: dpo, expect: allow, because: search-tries-dpo}
  - says: lifted
    who: [group:suspended, group:trainers]
    do: run-read
    expect: allow
    because: trainers-follow-runs-of-their-unit
"""


def test_denies_and_exceptions_have_to_decide_a_case() -> None:
    policy = folder.read(FILES | {"exceptions.yaml": EXCEPTIONS})

    without, with_ = coverage(policy, outcomes("[]", policy)), coverage(policy, outcomes(PROVEN, policy))

    assert without.missing_and_required == ("suspended-nothing", "search-tries-dpo", "suspended-may-follow")
    assert with_.missing_and_required == ("suspended-nothing",)
    assert with_.decided == {"search-tries-dpo", "suspended-may-follow", "trainers-follow-runs-of-their-unit"}


def test_a_case_that_fails_proves_nothing() -> None:
    text = "[{says: x, who: group:suspended, do: propose, expect: allow, because: suspended-nothing}]"

    assert "suspended-nothing" in coverage(folder.read(FILES), outcomes(text)).missing_and_required


def test_what_no_case_would_miss_survives() -> None:
    policy = folder.read(FILES | {"exceptions.yaml": EXCEPTIONS})
    kept = [(case, place) for case, place in SHIPPED if case.gpus < 9] + list(cases.parsed(PROVEN, "x"))

    assert survivors(policy, TAGS, kept, NOW) == [
        "`max_gpus` of rule `nlp-trains-preference-alignment`",
        "`max_gpus` of rule `nlp-trains-language-models`",
    ]
