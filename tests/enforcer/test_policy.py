"""The gate, with the policy that ships: deny by default, deny overrides, and an allow names its rule."""

import shutil
import threading
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, strategies as st

from enforcer.policy.conditions import Conditions, Context
from enforcer.policy.decision import Decision, Request
from enforcer.policy.folder import load
from enforcer.policy.rules import PolicyInvalid
from enforcer.policy.snapshot import Snapshot

NOW = datetime(2026, 12, 1, 12, tzinfo=UTC)
TAGS = {
    "sequence-classification": None,
    "review-sentiment": "sequence-classification",
    "embedding": None,
    "dpo": None,
    "sft": None,
}
POLICY = load(Path("policies"))
GATE = Snapshot(POLICY, TAGS)


def decide(*principals: str, gate: Snapshot = GATE, **request: Any) -> Decision:
    context = {"now": NOW, "unit": request.get("unit", "retail"), "own_units": gate.units_below("retail")}
    context |= request.pop("context", {})
    asked = {"action": "submit", "tag": "dpo", "unit": "retail", "target": "local", **request}
    return gate.decide(Request(principals=("user:x", *principals), context=Context(**context), **asked))


def test_a_refusal_names_the_nearest_rule_and_who_may() -> None:
    decision = decide("group:search-ml")

    nearest = GATE.nearest(decision.request)[0]
    assert (decision.reason, nearest.rule, nearest.who) == (
        "no-matching-rule",
        "nlp-trains-preference-alignment",
        ("group:nlp",),
    )
    assert nearest.failed == ("who: only group:nlp",)


def test_the_nearest_rule_is_the_one_that_fails_the_fewest_clauses() -> None:
    decision = decide("group:nlp", context={"gpus": 9})

    assert GATE.nearest(decision.request)[0].failed == ("when: max_gpus 8, asked for 9",)


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        ({"tag": "dpo-v2-new"}, "unknown-tag"),
        ({"tag": ""}, "unknown-tag"),
        ({"unit": "retial"}, "unknown-unit"),
        ({"unit": ""}, "unknown-unit"),
        ({"target": "k8s/h100"}, "unknown-target"),
        ({"action": "sumbit"}, "unknown-action"),
        ({"action": "*"}, "unknown-action"),
        ({"action": ""}, "unknown-action"),
        ({"unit": "all"}, "unit-holds-others"),
        ({"target": "k8s"}, "target-holds-others"),
        ({"target": "any"}, "target-holds-others"),
    ],
)
def test_an_unknown_name_is_denied_even_to_those_who_may(request_: dict[str, str], reason: str) -> None:
    decision = decide("group:nlp", "group:platform-admins", **request_)

    assert (decision.allowed, decision.reason) == (False, reason)


def test_an_engine_that_fails_denies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GATE, "_answer", lambda _: 1 / 0)

    assert decide("group:nlp").reason == "engine-error"


@pytest.mark.parametrize("principals", ["group:nlp", None, 7, (["group:nlp"],)])
def test_principals_that_are_no_tuple_of_names_are_denied(principals: Any) -> None:
    """`"nlp" in "group:nlp-interns"` is true of text, so text is never searched for a name."""
    decision = GATE.decide(Request(principals, "submit", Context(now=NOW), "dpo", "retail", "local"))

    assert not decision.allowed


def test_a_user_cannot_be_called_like_a_group() -> None:
    decision = GATE.decide(Request(("user:nlp", "nlp", "user:group:nlp"), "submit", Context(now=NOW), "dpo", "retail"))

    assert not decision.allowed


def test_a_deny_twelve_groups_up_still_denies(tmp_path: Path) -> None:
    """Casbin's own role manager stops after ten links, and silently answers no."""
    folder = copy_of_policies(tmp_path)
    directory = yaml.safe_load((folder / "directory.yaml").read_text())
    directory["groups"] |= {f"level{n}": [f"level{n + 1}"] for n in range(12)} | {"level12": ["suspended"]}
    (folder / "directory.yaml").write_text(yaml.safe_dump(directory))

    decision = decide("group:nlp", "group:level0", gate=Snapshot(load(folder), TAGS))

    assert (decision.allowed, decision.rule) == (False, "suspended-nothing")


def test_many_threads_get_the_right_answer() -> None:
    wrong: list[Decision] = []

    def ask_often() -> None:
        for _ in range(100):
            yes, no = decide("group:nlp"), decide("group:nlp", "group:suspended")
            if not yes.allowed or no.allowed:
                wrong.append(no)

    threads = [threading.Thread(target=ask_often) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert wrong == []


groups = st.lists(st.sampled_from(sorted(POLICY.directory.groups)).map("group:{}".format), max_size=4, unique=True)


@given(groups, st.sampled_from(sorted(TAGS)), st.sampled_from(["submit", "approve", "audit-read", "propose"]))
def test_suspension_takes_everything_away_and_an_allow_names_an_allow_rule(
    held: list[str], tag: str, action: str
) -> None:
    decision = decide(*held, tag=tag, action=action)
    suspended = decide(*held, "group:suspended", tag=tag, action=action)

    assert not suspended.allowed
    if decision.allowed:
        assert {rule.id: rule.effect for rule in POLICY.rules}[str(decision.rule)] == "allow"


# --- loading ----------------------------------------------------------------------------------------------------------


def copy_of_policies(tmp_path: Path) -> Path:
    return Path(shutil.copytree("policies", tmp_path / "policies"))


@pytest.mark.parametrize(
    ("find", "put", "says"),
    [
        ("effect: allow", "effect: ALLOW", "effect"),
        ("effect: allow", "effekt: allow", "effekt"),
        ("who: group:nlp\n", "who: nlp\n", "who"),
        ("who: group:nlp\n", "who: group:nlq\n", "unknown group `nlq`"),
        ("[submit, cancel]", "[sumbit]", "unknown action `sumbit`"),
        ("[submit, cancel]", '["*"]', "allows every action"),
        ("max_gpus: 8", "max_gpu: 8", "max_gpu"),
        ("max_gpus: 8", "max_gpus: many", "max_gpus"),
        ("max_gpus: 8", "until: 2026-12-01T00:00:00", "until"),
        ("max_gpus: 8", 'models: ["*/x"]', "stands only at the end"),
        ("id: nlp-trains-language-models", "id: nlp-trains-preference-alignment", "used twice"),
        ("owner: nlp", "owner: nobody", "owner `nobody`"),
        ("rules:", "rules: [", "nlp.yaml"),
    ],
)
def test_a_mistake_in_a_rule_is_refused_at_load(tmp_path: Path, find: str, put: str, says: str) -> None:
    folder = copy_of_policies(tmp_path)
    file = folder / "rules" / "nlp.yaml"
    assert find in file.read_text()
    file.write_text(file.read_text().replace(find, put, 1))

    with pytest.raises(PolicyInvalid, match=says.replace("*", r"\*").replace("/", "/")):
        load(folder)


def test_an_empty_policy_is_refused(tmp_path: Path) -> None:
    folder = copy_of_policies(tmp_path)
    shutil.rmtree(folder / "rules")

    with pytest.raises(PolicyInvalid, match="no rule"):
        load(folder)


def test_a_circle_of_groups_is_refused(tmp_path: Path) -> None:
    folder = copy_of_policies(tmp_path)
    directory = (folder / "directory.yaml").read_text().replace("trainers: []", "trainers: [nlp]")
    (folder / "directory.yaml").write_text(directory)

    with pytest.raises(PolicyInvalid, match="cycle"):
        load(folder)


def test_the_revision_follows_the_content(tmp_path: Path) -> None:
    folder = copy_of_policies(tmp_path)
    same = load(folder).revision
    file = folder / "rules" / "nlp.yaml"
    file.write_text(file.read_text().replace("max_gpus: 8", "max_gpus: 9", 1))

    assert same == POLICY.revision
    assert load(folder).revision != same


# --- conditions -------------------------------------------------------------------------------------------------------


def test_an_exception_ends_at_its_second() -> None:
    until = Conditions.model_validate({"until": "2026-12-01T12:00:00Z"})

    assert until.first_failing(Context(now=NOW.replace(hour=11, minute=59, second=59))) is None
    assert until.first_failing(Context(now=NOW)) == "until 2026-12-01T12:00:00Z"


@pytest.mark.parametrize(
    ("model", "fits"), [("Qwen/Qwen3-7B", True), ("local", True), ("local2", False), ("qwen/x", False), (None, False)]
)
def test_models_match_by_prefix_or_exactly(model: str | None, fits: bool) -> None:
    models = Conditions.model_validate({"models": ["Qwen/*", "local"]})

    assert (models.first_failing(Context(now=NOW, model=model)) is None) is fits


@pytest.mark.parametrize(
    ("when", "at", "holds"),
    [
        # Berlin is UTC+1 in winter and UTC+2 in summer.
        ({"hours": "08:00-20:00", "zone": "Europe/Berlin"}, "2026-12-01T06:59:59Z", False),
        ({"hours": "08:00-20:00", "zone": "Europe/Berlin"}, "2026-12-01T07:00:00Z", True),
        ({"hours": "08:00-20:00", "zone": "Europe/Berlin"}, "2026-12-01T18:59:59Z", True),
        ({"hours": "08:00-20:00", "zone": "Europe/Berlin"}, "2026-12-01T19:00:00Z", False),
        ({"hours": "08:00-20:00", "zone": "Europe/Berlin"}, "2026-07-01T06:00:00Z", True),
        ({"hours": "22:00-06:00", "zone": "UTC"}, "2026-12-01T23:59:59Z", True),
        ({"hours": "22:00-06:00", "zone": "UTC"}, "2026-12-01T05:59:59Z", True),
        ({"hours": "22:00-06:00", "zone": "UTC"}, "2026-12-01T06:00:00Z", False),
        ({"hours": "18:00-24:00", "zone": "UTC"}, "2026-12-01T23:59:59Z", True),
        # Sunday evening in UTC is Monday in Shanghai.
        ({"weekdays": ["mon"], "zone": "Asia/Shanghai"}, "2026-11-29T15:59:59Z", False),
        ({"weekdays": ["mon"], "zone": "Asia/Shanghai"}, "2026-11-29T16:00:00Z", True),
    ],
)
def test_hours_and_weekdays_are_those_of_the_zone(when: dict[str, Any], at: str, holds: bool) -> None:
    context = Context(now=datetime.fromisoformat(at))

    assert (Conditions.model_validate(when).first_failing(context) is None) is holds


@pytest.mark.parametrize(
    ("when", "facts", "holds"),
    [
        ({"change_ticket": ["CHG-*"]}, {"change_ticket": "CHG-17"}, True),
        ({"change_ticket": ["CHG-*"]}, {"change_ticket": "XCHG-17"}, False),
        ({"change_ticket": ["CHG-*"]}, {}, False),
        ({"points": ["api", "admission"]}, {"point": "admission"}, True),
        ({"points": ["api", "admission"]}, {"point": "cli"}, False),
        ({"max_gpus": 0}, {"gpus": 0}, True),
        ({"max_gpus": 0}, {"gpus": 1}, False),
        ({"own_unit": True}, {"unit": "retail", "own_units": frozenset({"retail"})}, True),
        ({"own_unit": True}, {"unit": "search", "own_units": frozenset({"retail"})}, False),
    ],
)
def test_facts_are_held_against_conditions(when: dict[str, Any], facts: dict[str, Any], holds: bool) -> None:
    assert (Conditions.model_validate(when).first_failing(Context(now=NOW, **facts)) is None) is holds


@pytest.mark.parametrize(
    ("when", "says"),
    [
        ({"hours": "08:00-20:00"}, "need a `zone`"),
        ({"weekdays": ["mon"]}, "need a `zone`"),
        ({"zone": "UTC"}, "stands beside"),
        ({"hours": "08:00-20:00", "zone": "Mars/Olympus"}, "is not a time zone"),
        ({"hours": "08:00-08:00", "zone": "UTC"}, "no span of a day"),
        ({"hours": "08:00-24:30", "zone": "UTC"}, "no span of a day"),
        ({"hours": "8-20", "zone": "UTC"}, "hours"),
        ({"weekdays": ["Monday"], "zone": "UTC"}, "weekdays"),
        ({"weekdays": [], "zone": "UTC"}, "weekdays"),
        ({"points": ["gateway"]}, "points"),
        ({"change_ticket": ["*-1"]}, "only at the end"),
        ({"max_gpus": -1}, "max_gpus"),
    ],
)
def test_a_condition_that_says_nothing_clear_is_refused(when: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Conditions.model_validate(when)


def test_a_condition_that_is_written_as_its_default_is_none() -> None:
    assert Conditions.model_validate({"own_unit": False, "models": None}).is_empty
    assert not Conditions.model_validate({"max_gpus": 0}).is_empty


# --- what no snapshot is made of --------------------------------------------------------------------------------------


def test_a_rule_that_multiplies_to_too_many_lines_is_refused() -> None:
    rule = POLICY.rules[0].model_copy(update={"who": tuple(f"user:{n}" for n in range(1_000)), "tag": ("dpo",) * 11})

    with pytest.raises(PolicyInvalid, match=r"multiplies to \d+ lines .* at most 10000"):
        Snapshot(replace(POLICY, rules=(rule,)), TAGS)


def test_the_frozen_casbin_beside_pycasbin_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both put their files into the same package; the older answers no rule for an allow."""
    monkeypatch.setattr("importlib.metadata.version", lambda name: "1.43.0")

    with pytest.raises(PolicyInvalid, match="uninstall both"):
        Snapshot(POLICY, TAGS)
