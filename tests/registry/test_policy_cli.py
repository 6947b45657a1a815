"""`tagwarden policy`: what it prints and how it ends, on a folder and without a service."""

import json
import shutil
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner, Result
from policy_folders import changed_policy

from registry.cli import main


def tagwarden(*command: str, policies: Path | str = "policies") -> Result:
    return CliRunner().invoke(main, ["policy", *command, "--policies", str(policies)])


@pytest.fixture
def policies(tmp_path: Path) -> Path:
    return Path(shutil.copytree("policies", tmp_path / "policies"))


def edit(file: Path, find: str, put: str) -> None:
    assert find in file.read_text()
    file.write_text(file.read_text().replace(find, put, 1))


def with_a_deny(root: Path, **more: Any) -> Path:
    deny = {
        "id": "no-dpo",
        "effect": "deny",
        "who": "group:nlp",
        "may": ["submit"],
        "tag": "dpo",
        "reason": "x",
        **more,
    }
    return changed_policy(root, rules=[deny])


def test_the_policy_that_ships_passes() -> None:
    for command in (["lint"], ["test", "--mutants"], ["coverage"]):
        done = tagwarden(*command)

        assert done.exit_code == 0, done.output


def test_lint_names_the_line_of_what_refuses_a_policy(policies: Path) -> None:
    edit(policies / "rules" / "nlp.yaml", "max_gpus", "max_gpu")

    done = tagwarden("lint", policies=policies)

    assert done.exit_code == 1
    assert "rules/nlp.yaml:8: error: unknown key `when.max_gpu` (did you mean `max_gpus`?)" in done.output


def test_lint_fails_on_errors_and_when_asked_on_warnings(policies: Path, tmp_path: Path) -> None:
    assert tagwarden("lint", "--strict").exit_code == 0
    edit(policies / "rules" / "nlp.yaml", "kto", "ktoo")
    assert tagwarden("lint", policies=policies).exit_code == 0
    assert tagwarden("lint", "--strict", policies=policies).exit_code == 1
    (tmp_path / "deny").mkdir()
    assert tagwarden("lint", policies=with_a_deny(tmp_path / "deny")).exit_code == 1


def test_lint_speaks_to_machines_and_to_github(tmp_path: Path) -> None:
    policies = with_a_deny(tmp_path, reason="50 %")

    findings = json.loads(tagwarden("lint", "--json", policies=policies).stdout)
    annotations = tagwarden("lint", "--github", policies=policies).stdout.splitlines()

    (finding,) = (finding for finding in findings if finding["rule"] == "no-dpo")
    assert (finding["severity"], finding["check"], finding["file"]) == ("error", "untested", "rules/more.yaml")
    assert (
        f"::error file={policies}/rules/more.yaml,line={finding['line']},title=policy untested::"
        "no case is decided by the deny `no-dpo`; add one to `tests/`"
    ) in annotations


def test_a_failing_case_names_the_rule_that_decided_instead(tmp_path: Path) -> None:
    policies, report = with_a_deny(tmp_path), tmp_path / "report.xml"

    done = tagwarden("test", "--junit", str(report), policies=policies)

    suite = ElementTree.parse(report).getroot()
    said = "expected allow by `nlp-trains-preference-alignment`; the gate answers deny by `no-dpo`"
    assert done.exit_code == 1
    assert said in done.output
    assert int(suite.attrib["failures"]) == len(suite.findall("testcase/failure")) > 0
    assert {failure.attrib["message"] for failure in suite.findall("testcase/failure")} >= {said}
    assert int(suite.attrib["tests"]) == len(suite.findall("testcase"))


def test_a_rule_that_no_case_would_miss_fails_when_mutants_are_asked_for(policies: Path) -> None:
    edit(policies / "tests" / "training.yaml", "gpus: 3", "gpus: 300")
    (policies / "tests" / "audit.yaml").unlink()

    done = tagwarden("test", "--mutants", policies=policies)

    assert tagwarden("test", policies=policies).exit_code == 0
    assert done.exit_code == 1
    assert "no case notices that rule `auditors-read-their-own-unit` is gone" in done.output


def test_no_cases_are_no_success(policies: Path) -> None:
    shutil.rmtree(policies / "tests")

    assert tagwarden("test", policies=policies).exit_code == 1


def test_coverage_lists_what_no_case_decides(tmp_path: Path) -> None:
    policies = with_a_deny(tmp_path, tag="sft", when={"models": ["x"]})

    done = tagwarden("coverage", policies=policies)
    told = json.loads(tagwarden("coverage", "--json", policies=policies).stdout)

    assert done.exit_code == 1
    assert "no-dpo  a deny or an exception: a case is required" in done.output
    assert "no-dpo" in told["missing_and_required"]
    assert 0 < told["share"] < 1


def test_a_folder_that_is_not_there_is_a_mistake_of_usage() -> None:
    done = tagwarden("lint", policies="nowhere")

    assert done.exit_code == 2
    assert "`nowhere` is not a folder; name one with `--policies`" in done.output


# --- questions --------------------------------------------------------------------------------------------------------

NLP = ["submit", "dpo", "--as", "group:nlp", "--unit", "retail", "--target", "local"]


def test_can_says_yes_or_no_and_exits_so() -> None:
    yes, no = tagwarden("can", *NLP, "--gpus", "8"), tagwarden("can", *NLP, "--gpus", "9")

    assert (yes.exit_code, yes.output) == (0, "yes, by nlp-trains-preference-alignment\n")
    assert (no.exit_code, no.output) == (1, "no, by no-matching-rule\n")
    assert json.loads(tagwarden("can", *NLP, "--json").stdout)["allowed"] is True


def test_simulate_explains_a_denial_by_the_rules_that_came_near() -> None:
    done = tagwarden("simulate", *NLP, "--gpus", "9")

    assert done.exit_code == 0
    assert "nearest  nlp-trains-preference-alignment  (owner nlp) fails on when: max_gpus 8, asked for 9" in done.output


def test_simulate_lists_all_that_fits(tmp_path: Path) -> None:
    shadow = {"id": "x", "effect": "deny", "level": "shadow", "who": "group:nlp", "may": ["submit"], "reason": "x"}
    policies = changed_policy(tmp_path, rules=[shadow])

    said = tagwarden("simulate", *NLP, policies=policies).output
    told = json.loads(tagwarden("simulate", *NLP, "--json", policies=policies).stdout)

    assert "fits     x  (deny, shadow)  rules/more.yaml:" in said
    assert "with rules at `shadow` it would be denied" in said
    assert told["allowed"] is True
    assert told["would_be_allowed_with_shadow_rules"] is False
    assert [match["id"] for match in told["matched"]] == ["x", "nlp-trains-preference-alignment"]


@pytest.mark.parametrize(
    ("option", "says"),
    [
        (["--as", "nlp"], "`who`: write `group:<name>`, or `user:`"),
        (["--now", "tomorrow"], "`now`: write a time with its zone, like `2026-12-15T00:00:00Z`, not `tomorrow`"),
        (["--gpus", "-1"], "-1 is not in the range"),
    ],
)
def test_a_question_that_is_none_is_a_mistake_of_usage(option: list[str], says: str) -> None:
    done = tagwarden("can", "submit", "dpo", *option)

    assert done.exit_code == 2
    assert says in done.output


def test_who_can_tells_groups_conditions_and_who_is_refused() -> None:
    assert tagwarden("who-can", "submit", "dpo").output == (
        "group:nlp: at most 8 GPUs, in their own unit  [nlp-trains-preference-alignment]\n"
        "never group:suspended  [suspended-nothing]\n"
    )


def test_who_can_knows_what_there_is() -> None:
    done = tagwarden("who-can", "sumbit", "dpo")

    assert done.exit_code == 2
    assert "there is no action `sumbit` (did you mean `submit`?)" in done.output


# --- changes ----------------------------------------------------------------------------------------------------------


def test_diff_tells_who_gains_what(policies: Path) -> None:
    edit(policies / "rules" / "nlp.yaml", "max_gpus: 8", "max_gpus: 16")

    done = tagwarden("diff", "policies", policies=policies)
    told = json.loads(tagwarden("diff", "policies", "--json", policies=policies).stdout)

    assert done.exit_code == 0
    assert done.output.startswith(
        "group:nlp GRANTED cancel, submit on cpo, dpo, gkd, grpo, kto, orpo, reward-modeling, simpo, 9 to 16 GPUs, "
    )
    assert "rules that changed: nlp-trains-preference-alignment" in done.output
    assert told["granted"] > told["revoked"] == 0
    assert tagwarden("diff", "policies", "--exit-code", policies=policies).exit_code == 1
    assert "SAMPLED" in tagwarden("diff", "policies", "--most", "5", policies=policies).output


def test_diff_of_the_same_says_so() -> None:
    done = tagwarden("diff", "policies", "--exit-code")

    assert (done.exit_code, done.output) == (0, "the two are the same revision\n")


def test_diff_wants_one_thing_to_compare_with() -> None:
    assert tagwarden("diff").exit_code == 2
    assert tagwarden("diff", "policies", "--live").exit_code == 2


def test_diff_with_what_is_live(policies: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAGWARDEN_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("TAGWARDEN_POLICIES_DIR", str(policies))
    assert CliRunner().invoke(main, ["seed"]).exit_code == 0
    assert tagwarden("diff", "--live", policies=policies).exit_code == 1  # nothing is live yet
    assert tagwarden("publish", policies=policies).exit_code == 0

    same = tagwarden("diff", "--live", policies=policies)
    edit(policies / "rules" / "nlp.yaml", "max_gpus: 8", "max_gpus: 4")
    other = tagwarden("diff", "--live", policies=policies)

    assert same.output == "the two are the same revision\n"
    assert "5 to 8 GPUs, in their own unit" in other.output


def test_fmt_writes_the_one_form_or_says_what_it_would_write(policies: Path) -> None:
    file = policies / "rules" / "nlp.yaml"
    before = file.read_text()
    edit(file, "may: [submit, cancel]", "may: [ 'submit',cancel ]  # both")

    check = tagwarden("fmt", "--check", policies=policies)
    done = tagwarden("fmt", policies=policies)

    assert (check.exit_code, check.output) == (1, f"would format {file}\n")
    assert (done.exit_code, done.output) == (0, f"formatted {file}\n")
    assert file.read_text() == before.replace("may: [submit, cancel]", "may: [submit, cancel]  # both", 1)
    assert tagwarden("fmt", "--check", policies=policies).exit_code == 0
