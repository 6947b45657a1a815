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


def test_lint_fails_on_errors_and_when_asked_on_warnings(tmp_path: Path) -> None:
    assert tagwarden("lint").exit_code == 0
    assert tagwarden("lint", "--strict").exit_code == 1
    assert tagwarden("lint", policies=with_a_deny(tmp_path)).exit_code == 1


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
