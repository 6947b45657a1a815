"""What commands answer: on which stream, in which form, with which exit code."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from submitting import Desk


@pytest.fixture
def desk(tmp_path: Path, encoder: Path, live_registry: Any) -> Desk:
    return Desk(tmp_path, encoder, live_registry.url, live_registry.token("li", "retail-ds"))


def test_a_refusal_in_json_is_the_problem_document(desk: Desk) -> None:
    done = desk.cli("run", desk.config(task_type="DpoTask"), "--json")

    document = json.loads(done.stdout)
    assert (document["code"], document["status"], document["suggestion"]) == ("unknown-task-type", 404, "dpo")
    assert "✗" not in done.stderr


@pytest.mark.parametrize(
    "command", [["rn", "--json"], ["run", "--bogus", "--json"], ["--format=json", "run", "--gpus", "many"],
                ["runs", "list", "--limit", "0", "--format", "json"], ["--json", "requests", "approve", "x"]]
)  # fmt: skip
def test_a_command_line_that_is_wrong_is_one_problem_document_too(desk: Desk, command: list[str]) -> None:
    done = desk.cli(*command)

    document = json.loads(done.stdout)
    assert (done.returncode, document["code"], done.stderr) == (2, "command-line-invalid", "")
    assert document["detail"]


def test_no_command_at_all_is_answered_with_the_help(desk: Desk) -> None:
    done = desk.cli()

    assert (done.returncode, "Traceback" in done.stderr) == (2, False)
    assert "Commands:" in done.stderr


def test_flags_may_stand_before_or_after_the_command(desk: Desk) -> None:
    assert desk.cli("--json", "tags", "list").stdout == desk.cli("tags", "list", "--json").stdout
    assert desk.cli("tags", "list", "-q").stdout.split()[0] == "dpo"


def test_a_plan_makes_nothing_and_tells_what_would_be(desk: Desk, live_registry: Any) -> None:
    done = desk.cli("plan", desk.config(task_type="cls"), "--json")

    told = json.loads(done.stdout)
    assert done.returncode == 0
    assert told["would_run"] is True
    assert (told["plan"]["task_type"], told["plan"]["arguments"]["seed"]) == ("sequence-classification", 42)
    assert told["preflight"]["train_rows"] == 420
    assert live_registry.events("ticket.issued") == []
    assert not (desk.root / "output").exists()


@pytest.mark.parametrize(
    ("changes", "code"), [({"gpus": 3, "target": "ray"}, 3), ({"max_length": 1}, 6), ({"task_type": "nope-nope"}, 6)]
)
def test_a_plan_tells_refusals_apart_when_asked_to(desk: Desk, changes: dict[str, Any], code: int) -> None:
    config = desk.config(**changes)

    assert desk.cli("plan", config).returncode == 1
    assert desk.cli("plan", config, "--detailed-exitcode").returncode == code


def test_can_i_answers_with_0_or_3_and_explains_itself(desk: Desk) -> None:
    yes, no = desk.cli("can-i", "submit", "cls"), desk.cli("can-i", "submit", "dpo", "--explain")
    quiet = desk.cli("can-i", "submit", "dpo", "-q")

    assert (yes.returncode, yes.stdout) == (0, "yes\n")
    assert (no.returncode, no.stdout.split()[0]) == (3, "no")
    assert "nlp-trains-preference-alignment" in no.stdout
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (3, "", "")


def test_a_name_is_checked_before_it_is_proposed(desk: Desk) -> None:
    good, bad = desk.cli("tags", "check-name", "message-tone"), desk.cli("tags", "check-name", "dpo-final")

    assert good.returncode == 0
    assert (bad.returncode, "use `dpo`" in bad.stdout) == (6, True)


def test_a_proposal_goes_from_file_to_effect(desk: Desk, live_registry: Any) -> None:
    change = {"kind": "new-tag", "tag": "message-tone", "tag_kind": "business", "parent": "sequence-classification",
              "description": "Good or bad.", "overrides": {}}  # fmt: skip
    (desk.root / "p.yaml").write_text(yaml.safe_dump({"change": change, "reason": "every week"}))

    opened = desk.json("tags", "propose", "p.yaml")
    review = ["requests", "approve", opened["id"], "--digest", opened["digest"], "--reason", "read it"]
    own = desk.cli(*review)
    blind = desk.cli("requests", "approve", opened["id"])
    desk.token = live_registry.token("ana", "tag-stewards")
    stale = desk.cli(*review[:4], "sha256:" + "0" * 64, *review[5:])
    first = desk.cli(*review)
    desk.token = live_registry.token("bo", "tag-stewards")
    second = desk.cli(*review)

    assert own.returncode == 3
    assert (blind.returncode, "give --digest" in blind.stderr) == (2, True)
    assert (stale.returncode, "requests show ID" in stale.stderr) == (8, True)
    assert "1 more approvals are needed" in first.stdout
    assert "`message-tone@1` is in effect" in second.stdout
    assert "message-tone@1" in desk.cli("tags", "list").stdout
    assert opened["id"] in desk.cli("requests", "list", "--state", "applied").stdout
    assert "read it" in desk.cli("requests", "show", opened["id"]).stdout


def test_a_proposal_file_that_is_none_names_the_field(desk: Desk) -> None:
    (desk.root / "p.yaml").write_text("change: {kind: new-tag}\nreason: every week\n")

    done = desk.cli("tags", "propose", "p.yaml")

    assert (done.returncode, "change.new-tag.tag" in done.stderr) == (6, True)


def test_why_explains_a_refusal_by_its_id(desk: Desk) -> None:
    refused = desk.cli("run", desk.config(gpus=3, target="ray"), "--json")
    decision = json.loads(refused.stdout or refused.stderr)["decision_id"]

    why, nothing = desk.cli("why", decision), desk.cli("why", "no-such-decision")

    assert (why.returncode, why.stdout.split()[0]) == (0, "no")
    assert "max_gpus 2, asked for 3" in why.stdout
    assert "now: no" in why.stdout
    assert (nothing.returncode, "is not a decision that you may read" in nothing.stderr) == (7, True)
