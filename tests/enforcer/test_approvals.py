"""`approvals.yaml`: which change asks whom, and when those who agreed suffice."""

import shutil
from datetime import timedelta
from pathlib import Path

import pytest

from enforcer.approvals import Approvals, Change, Terms, Voter
from enforcer.policy import folder
from enforcer.policy.rules import PolicyInvalid
from enforcer.profile_changes import ChangeClass

POLICIES = Path(__file__).parents[2] / "policies"
SHIPPED = folder.load(POLICIES).approvals


def change(change_class: str = "tightening", kind: str = "new-version", **more: object) -> Change:
    return Change(kind, ChangeClass(change_class), **more)  # type: ignore[arg-type]


def terms(asked: Change, approvals: Approvals = SHIPPED) -> Terms:
    return approvals.terms(asked, "sha256:" + "0" * 64)


def voter(who: str, unit: str, *groups: str, answers_for: tuple[str, ...] = ()) -> Voter:
    return Voter(who, frozenset(groups), unit, frozenset({unit, *answers_for}))


@pytest.mark.parametrize(
    ("asked", "rule", "people", "units"),
    [
        (change("editorial"), "editorial", 1, 1),
        (change("tightening"), "everything-else", 2, 1),
        (change("compatible", "new-tag"), "everything-else", 2, 1),
        (change("loosening"), "loosening", 2, 2),
        (change("breaking"), "loosening", 2, 2),
        (change("breaking", "new-tag", root=True), "new-roots", 2, 2),
        (change("breaking", "policy", more=1), "policy", 3, 1),
        (change("breaking", "exception"), "exceptions", 2, 1),
        (change("editorial", at_least=2), "editorial", 2, 1),
    ],
)
def test_the_first_rule_that_fits_says_how_many(asked: Change, rule: str, people: int, units: int) -> None:
    found = terms(asked)

    assert (found.rule, found.approvals, found.distinct_units) == (rule, people, units)


def test_where_no_rule_fits_two_people_agree() -> None:
    found = terms(change(), Approvals())

    assert (found.rule, found.approvals, found.expires_after) == ("default", 2, timedelta(days=14))
    assert found.exclude == ("author", "contributors", "beneficiaries")


def test_each_affected_unit_is_asked_and_a_unit_above_answers_for_it() -> None:
    asked = terms(change("loosening", affected_units=("retail", "search")))
    stewards = [voter("li", "ai", "tag-stewards"), voter("wu", "retail", "tag-stewards", "unit-owners")]
    root = voter("gao", "all", "unit-owners", answers_for=("retail", "search"))

    assert [(m.name, m.unit) for m in asked.missing(stewards)] == [("owners-of-affected-units", "search")]
    assert asked.missing([*stewards, root]) == []


def test_two_of_one_unit_are_not_two_units() -> None:
    asked = terms(change("breaking", "new-tag", root=True))
    one, two = (voter(name, "ai", "tag-stewards") for name in ("li", "wu"))
    outsider = voter("chen", "search", "nlp")

    assert [m.name for m in asked.missing([one, two])] == ["different business units"]
    assert [m.name for m in asked.missing([one, two, outsider])] == ["different business units"]


@pytest.mark.parametrize(
    ("rule", "line", "says"),
    [
        ("thresholds: [{name: a, group: stewards-of-tags}]", 2, "stewards-of-tags"),
        ("thresholds: []", 4, "thresholds"),
        ("threshold: [{name: a}]", 4, "did you mean `thresholds`"),
        ("thresholds: [{name: a}]\n    when: {change: new-tga}", 5, "new-tag"),
        ("thresholds: [{name: a}]\n    exclude: [contributors]", 2, "`author` never approves"),
        ("thresholds: [{name: a}]\n    exclude: [author, contributors]", 2, "`beneficiaries` never approves"),
        ("thresholds: [{name: a}]\n    escalate_after: P1D", 2, "come together"),
        ("thresholds: [{name: a}]\n    escalate_after: P1D\n    escalate_to: nobody", 2, "`nobody`"),
        ("thresholds: [{name: a}]\n    expires_after: PT1S", 5, "expires_after"),
        ("thresholds: [{name: a}]\n    remind_after: P20D", 2, "nobody is told"),
        (
            "thresholds: [{name: a}]\n  - {id: y, when: {root: true}, thresholds: [{name: a}], reason: r}",
            5,
            "never decides",
        ),
        ("thresholds: [{name: a}]\n  - {id: x, thresholds: [{name: a}], reason: r}", 5, "twice"),
    ],
)
def test_what_is_wrong_is_told_by_file_and_line(tmp_path: Path, rule: str, line: int, says: str) -> None:
    policies = Path(shutil.copytree(POLICIES, tmp_path / "policies"))
    (policies / "approvals.yaml").write_text(f"rules:\n  - id: x\n    reason: r\n    {rule}\n")

    with pytest.raises(PolicyInvalid) as refused:
        folder.load(policies)

    assert [fault for fault in refused.value.faults if says in fault.message and fault.line == line], refused.value
    assert {fault.file for fault in refused.value.faults} == {"approvals.yaml"}


def test_the_revision_is_another_when_it_asks_for_something_else(tmp_path: Path) -> None:
    policies = Path(shutil.copytree(POLICIES, tmp_path / "policies"))
    text = (policies / "approvals.yaml").read_text()
    (policies / "approvals.yaml").write_text(text.replace("approve: 2", "approve: 3"))

    assert folder.load(policies).revision != folder.load(POLICIES).revision
