"""The difference of two policies is told in decisions: who gains or loses what, and none is missed."""

import itertools
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
import worlds
from policy_folders import as_yaml

from enforcer.policy import folder
from enforcer.policy.coverage import Mutant, mutants
from enforcer.policy.diff import Change, Difference, compare
from enforcer.policy.snapshot import Snapshot

POLICIES = Path("policies")
FILES = folder.files_of(POLICIES)
TAGS = folder.tag_tree(POLICIES)
NOW = datetime(2026, 12, 1, 12, tzinfo=UTC)
OLD = Snapshot(folder.read(FILES), TAGS)
PREFERENCES = ("cpo", "dpo", "gkd", "grpo", "kto", "orpo", "reward-modeling", "simpo")
Edit = Callable[[dict[str, str]], None]


def edited(*changes: tuple[str, str, str]) -> Difference:
    """The policy that ships against itself with these words replaced, `(file, find, put)`."""
    files = dict(FILES)
    for file, find, put in changes:
        assert find in files[file]
        files[file] = files[file].replace(find, put, 1)
    return compare(OLD, Snapshot(folder.read(files), TAGS), NOW)


def the_only(found: Difference) -> Change:
    (change,) = found.changes
    return change


def test_what_a_word_in_a_rule_grants() -> None:
    found = edited(("rules/nlp.yaml", "who: group:trainers", "who: [group:trainers, group:auditors]"))

    change = the_only(found)
    assert (change.who, change.outcome, change.actions) == (("group:auditors",), "GRANTED", ("cancel", "submit"))
    assert (change.tags, change.units, change.targets) == (("sequence-classification",), ("all",), ("any",))
    assert (change.when, change.by) == (("up to 2 GPUs", "in their own unit"), ("trainers-train-classifiers",))
    assert (found.granted, found.revoked, found.changed_rules) == (
        change.decisions,
        0,
        ("trainers-train-classifiers",),
    )
    assert 0 < found.granted < found.asked == found.possible


@pytest.mark.parametrize(
    ("find", "put", "outcome", "when"),
    [
        ("max_gpus: 8", "max_gpus: 16", "GRANTED", "9 to 16 GPUs"),
        ("max_gpus: 8", "max_gpus: 4", "REVOKED", "5 to 8 GPUs"),
        ("max_gpus: 8, ", "", "GRANTED", "9 GPUs or more"),
        (", own_unit: true", "", "GRANTED", "in other units than their own"),
        ("own_unit", "models: [Qwen/*], own_unit", "REVOKED", "model another, none"),
        ("own_unit", "change_ticket: [CHG-*], own_unit", "REVOKED", "change ticket another, none"),
        ("own_unit", "points: [api], own_unit", "REVOKED", "asked at admission, cli, trainer"),
        ("own_unit", "until: 2027-01-01T00:00:00Z, own_unit", "REVOKED", "at 2027-01-01 00:00 UTC"),
        ("own_unit", "hours: '08:00-13:01', zone: Europe/Berlin, own_unit", "REVOKED", "at 2026-12-01 12:01 UTC"),
        ("effect: allow", "effect: allow\n    level: {cli: off}", "REVOKED", "asked at cli"),
    ],
)
def test_a_condition_changes_and_its_corner_is_told(find: str, put: str, outcome: str, when: str) -> None:
    change = the_only(edited(("rules/nlp.yaml", find, put)))

    assert (change.who, change.outcome, change.tags) == (("group:nlp",), outcome, PREFERENCES)
    assert when in change.when


@pytest.mark.parametrize(
    ("file", "find", "put", "outcome", "who"),
    [
        ("rules/platform-admins.yaml", "deny", "deny\n    level: warn", "GRANTED", "group:suspended with group:nlp"),
        ("directory.yaml", "search-ml: [trainers]", "search-ml: []", "REVOKED", "group:search-ml"),
        ("directory.yaml", "  auditors: []", "  auditors: [trainers]", "GRANTED", "group:auditors"),
    ],
)
def test_a_deny_and_the_directory_change_what_others_may(
    file: str, find: str, put: str, outcome: str, who: str
) -> None:
    found = edited((file, find, put))

    assert {change.outcome for change in found.changes} == {outcome}
    assert any(who in change.who for change in found.changes)


def test_a_new_unit_and_who_may_in_it() -> None:
    found = edited(("directory.yaml", "  search: all", "  search: all\n  shop: all"))

    assert {change.units for change in found.changes} == {("shop",)}
    assert {change.outcome for change in found.changes} == {"GRANTED"}


def test_what_changes_no_decision_is_no_change() -> None:
    reworded = edited(("rules/nlp.yaml", "Alignment changes", "Preference alignment changes"))
    redundant = edited(("rules/nlp.yaml", "who: group:trainers", "who: [group:trainers, group:nlp]"))

    assert (reworded.changes, reworded.asked) == ((), 0)
    assert redundant.changes == ()
    assert redundant.asked > 0


@pytest.mark.parametrize("mutant", list(mutants(OLD.policy)), ids=lambda mutant: mutant.without)
def test_no_rule_and_no_condition_goes_unnoticed(mutant: Mutant) -> None:
    """Each of them decides a case, so a policy without it decides something else, and in one direction."""
    found = compare(OLD, Snapshot(mutant.policy, TAGS), NOW)
    back = compare(Snapshot(mutant.policy, TAGS), OLD, NOW)

    grants = " of rule " in mutant.without or "suspended-nothing" in mutant.without
    assert {change.outcome for change in found.changes} == {"GRANTED" if grants else "REVOKED"}
    assert (found.granted, found.revoked) == (back.revoked, back.granted)


@pytest.mark.parametrize("seed", range(4))
def test_what_quarrelsome_rules_decide_otherwise_is_found(seed: int) -> None:
    """Of what differs in random requests by one person of one group, the difference tells at least the direction."""
    world = worlds.world(seed, rules=16, requests=1000)
    old = Snapshot(world.policy, world.tag_parents)
    for mutant in itertools.islice(mutants(world.policy), 10):
        new = Snapshot(mutant.policy, world.tag_parents)
        asked = [request for request in world.requests if len(request.principals) == 1]
        seen = {new.decide(r).allowed for r in asked if new.decide(r).allowed != old.decide(r).allowed}

        found = compare(old, new, worlds.NOW)

        assert seen <= {change.outcome == "GRANTED" for change in found.changes}, mutant.without


def test_what_is_too_much_to_ask_is_sampled_and_said() -> None:
    files = FILES | {"model.conf": FILES["model.conf"] + "\n# another text, so no rule is known to mean the same\n"}
    new = Snapshot(folder.read(files), TAGS)

    some, same = compare(OLD, new, NOW, most=1_000), compare(OLD, new, NOW, most=1_000)

    assert some.sampled
    assert some.asked == 1_000 < some.possible
    assert some == same


def test_one_rule_of_ten_thousand_is_compared_in_seconds() -> None:
    groups = "".join(f"  team-{n}: [trainers]\n" for n in range(500))
    rules = [
        {"id": f"r-{n}", "effect": "allow", "who": f"group:team-{n % 500}", "may": ["submit"], "unit": "retail",
         "tag": sorted(TAGS)[n % len(TAGS)], "when": {"max_gpus": n % 16}, "reason": "because"}
        for n in range(10_000)
    ]  # fmt: skip
    files = FILES | {"directory.yaml": FILES["directory.yaml"] + groups}
    files |= {f"rules/many{at}.yaml": as_yaml({"owner": "nlp", "rules": rules[at::8]}) for at in range(8)}
    old = Snapshot(folder.read(files), TAGS)
    rules[4321]["when"] = {"max_gpus": 99}
    new = Snapshot(folder.read(files | {"rules/many1.yaml": as_yaml({"owner": "nlp", "rules": rules[1::8]})}), TAGS)
    begun = time.process_time()

    change = the_only(compare(old, new, NOW))

    assert (change.who, change.outcome, change.units) == (("group:team-321",), "GRANTED", ("retail",))
    assert time.process_time() - begun < 10
