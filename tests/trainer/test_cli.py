"""The command: what it costs to start, what goes to which stream, every bad input with its message and exit code."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from submitting import SWIFT_SUBMIT, Desk
from tiny import LABELS

from enforcer import problems
from enforcer.problems import Problem
from trainer import exits
from trainer.cli import COMMANDS, VARIABLES, cli
from trainer.settings import ENVIRONMENT


@pytest.fixture
def desk(tmp_path: Path, encoder: Path, live_registry: Any) -> Desk:
    return Desk(tmp_path, encoder, live_registry.url, live_registry.token("li", "retail-ds"))


@pytest.fixture
def lonely(tmp_path: Path, encoder: Path) -> Desk:
    """A desk whose registry is not there."""
    return Desk(tmp_path, encoder, "http://127.0.0.1:9", "twp_x")


# --- starting ---------------------------------------------------------------------------------------------------------

HEAVY = "pydantic httpx2 rich opentelemetry torch transformers yaml numpy cryptography".split()


@pytest.mark.parametrize(
    "command", [["--help"], ["--version"], ["run", "--help"], ["runs", "list", "-h"], ["nonsense"]]
)
def test_what_only_talks_about_itself_imports_nothing_heavy(command: list[str]) -> None:
    program = f"""
import sys
from trainer.cli import main
try:
    main({command!r})
except SystemExit:
    print("LOADED", *sorted(set({HEAVY!r}) & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert done.stdout.splitlines()[-1] == "LOADED"


@pytest.mark.parametrize(
    "module", ["trainer", "trainer.permit", "trainer.work", "trainer.swift", "trainer.launch.worker"]
)
def test_a_ticket_is_asked_for_and_verified_without_the_training_stack(module: str) -> None:
    stack = "torch transformers numpy peft sentence_transformers faiss datasets".split()
    program = f"import sys, {module}; print(*sorted(set({stack!r}) & set(sys.modules)))"

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == ""


def test_help_says_every_exit_code_and_every_variable() -> None:
    done = subprocess.run([*SWIFT_SUBMIT, "--help"], capture_output=True, text=True, check=True)

    for code, meaning in exits.MEANING.items():
        assert f"  {code} " in done.stdout
        assert meaning.split(";")[0][:30] in done.stdout
    for variable in ENVIRONMENT.values():
        assert variable in done.stdout
    assert set(VARIABLES) == set(ENVIRONMENT.values())


def test_the_one_line_helps_of_lazy_commands_are_their_own() -> None:
    import click

    context = click.Context(cli)
    for name, (_, said) in COMMANDS.items():
        command = cli.get_command(context, name)
        assert command is not None
        assert command.name == name
        assert command.get_short_help_str(limit=200) == said


def test_exit_codes_are_frozen() -> None:
    codes = {kind.code: exits.exit_code(kind("x")) for kind in _all_problems() if kind.__module__ == problems.__name__}

    assert {code: sorted(name for name, value in codes.items() if value == code) for code in set(codes.values())} == {
        1: ["method-not-allowed", "problem"],
        3: ["not-permitted", "self-approval"],
        4: ["unauthenticated"],
        6: ["argument-invalid", "dataset-invalid", "idempotency-key-reused", "invalid", "malformed-request",
            "model-invalid", "name-invalid", "name-is-variant", "not-configured", "output-invalid", "profile-invalid",
            "task-type-not-active", "too-large", "unknown-task-type"],
        7: ["not-found", "unknown-proposal", "unknown-run", "unknown-ticket"],
        8: ["already-decided", "already-proposed", "already-reviewed", "conflict", "run-closed", "stale-review",
            "ticket-expired", "ticket-invalid", "ticket-used"],
        9: ["internal-error", "registry-unreachable", "unavailable"],
        10: ["training-failed"],
    }  # fmt: skip


def _all_problems(kind: type[Problem] = Problem) -> list[type[Problem]]:
    return [kind, *(deeper for child in kind.__subclasses__() for deeper in _all_problems(child))]


# --- bad inputs -------------------------------------------------------------------------------------------------------

BAD_CONFIGS: list[tuple[str, dict[str, Any], int, str, str]] = [
    (
        "an unknown tag",
        {"task_type": "sentiment-of-cats"},
        6,
        "`sentiment-of-cats` is not a task type",
        "tags propose FILE",
    ),
    ("a name with a version in it", {"task_type": "dpo-v2-new"}, 6, "without its version and noise words", "use `dpo`"),
    ("a name that is not kebab-case", {"task_type": "DpoTask"}, 6, "lower-case words", "use `dpo`"),
    ("an unknown version", {"task_type": "cls@9"}, 6, "has no version 9; the current one is", "tags list"),
    ("a wrong column", {"columns": {"text": "review"}}, 6, "has no column `review`", "file"),
    ("an unknown argument", {"lora_rnk": 3}, 6, "did you mean `lora_rank`?", "tags show TAG"),
    ("a foreign argument", {"pooling_method": "cls"}, 6, "not a parameter of this task type", "tags show TAG"),
    (
        "a label outside",
        {"label_names": ["科技", "体育"]},
        6,
        "rows whose label is not in `label_names`: `财经`",
        "label",
    ),
    (
        "an over-long text",
        {"max_length": 8, "dataset": "long.jsonl"},
        6,
        "longer than `max_length` 8",
        "truncation: true",
    ),
    ("a missing label", {"dataset": "missing.jsonl"}, 6, "line 2 of `missing.jsonl`: `label` is missing", "at /label"),
    ("an empty dataset", {"dataset": "empty.jsonl"}, 6, "`empty.jsonl` is empty", "at least one row"),
    ("an unreadable model", {"model_name_or_path": "Qwen/Qwen3-1B"}, 6, "no model folder", "hf download Qwen/Qwen3-1B"),
    ("a read-only output folder", {"output_dir": "/proc/output"}, 6, "cannot be written", "choose another"),
    ("a tag for another group", {"task_type": "cls", "target": "ray", "gpus": 3}, 3, "max_gpus", "can-i submit TAG"),
]


@pytest.mark.parametrize(("changes", "code", "what", "next_step"), [case[1:] for case in BAD_CONFIGS],
                         ids=[case[0] for case in BAD_CONFIGS])  # fmt: skip
def test_a_bad_input_is_told_with_what_to_do_next(
    desk: Desk, changes: dict[str, Any], code: int, what: str, next_step: str
) -> None:
    (desk.root / "empty.jsonl").write_text("")
    desk.data([{"text": "a", "label": LABELS[0]}, {"text": "b"}], "missing.jsonl")
    desk.data([{"text": "chip " * 20, "label": LABELS[0]}] * 3, "long.jsonl")

    done = desk.cli("run", desk.config(**changes))

    assert done.returncode == code, done.stderr
    assert what in done.stderr
    assert next_step in done.stderr
    assert f"(exit {code})" in done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert desk.run_dirs == []


def test_an_unknown_tag_is_on_record_at_the_registry(desk: Desk, live_registry: Any) -> None:
    desk.cli("run", desk.config(task_type="sentiment-of-cats"))

    (refused,) = live_registry.events("submit.refused")
    assert (refused.actor, refused.task_type, refused.detail["asked_for"]) == ("user:li", None, "sentiment-of-cats")


def test_a_tag_whose_proposal_is_open_waits_for_approval(desk: Desk, live_registry: Any) -> None:
    live_registry.propose(live_registry.as_("author", "trainers"), "review-sentiment")

    done = desk.cli("run", desk.config(task_type="review-sentiment"))

    assert done.returncode == 5
    assert "waits for 2 more approvals" in done.stderr


def test_a_group_that_may_not_is_refused_though_this_trainer_has_no_recipe(desk: Desk, live_registry: Any) -> None:
    rows = [{"prompt": "p", "chosen": "c", "rejected": f"r {i}"} for i in range(20)]
    data = str(desk.data(rows, "pairs.jsonl"))
    changes = {"task_type": "dpo", "dataset": data}
    refused = desk.cli("run", desk.config(**changes))
    desk.token = live_registry.token("mei", "nlp")
    permitted = desk.cli("run", desk.config(**changes))

    assert (refused.returncode, "only group:nlp" in refused.stderr) == (3, True)
    assert "who   group:nlp" in refused.stderr
    assert (permitted.returncode, "which this release of the trainer does not have" in permitted.stderr) == (6, True)
    assert live_registry.events("ticket.issued") == []


@pytest.mark.parametrize(
    "command", [["tags", "list"], ["can-i", "submit", "dpo"], ["runs", "show", "x"], ["plan", "c.yaml"]]
)
def test_without_a_registry_nothing_runs_and_the_setting_is_named(lonely: Desk, command: list[str]) -> None:
    (lonely.root / "c.yaml").write_text(yaml.safe_dump(lonely.arguments()))

    done = lonely.cli(*command)

    assert done.returncode == 9
    assert "`http://127.0.0.1:9` cannot be reached" in done.stderr
    assert "SWIFT_SUBMIT_SERVER" in done.stderr
    assert "tagwarden serve" in done.stderr


def test_a_wrong_token_is_not_signed_in(desk: Desk) -> None:
    desk.token = "twp_wrong"

    done = desk.cli("tags", "list")

    assert done.returncode == 4
    assert "SWIFT_SUBMIT_TOKEN" in done.stderr


def test_a_mistyped_command_is_answered_with_the_near_one(lonely: Desk) -> None:
    done = lonely.cli("tickt")

    assert (done.returncode, "did you mean `ticket`?" in done.stderr) == (2, True)


def test_a_fault_of_ours_is_told_without_a_traceback_and_kept_for_us(lonely: Desk) -> None:
    program = """
import sys
from trainer.cli import main
from trainer.cli.session import Session
Session.link = lambda self: 1 / 0
main(["can-i", "submit", "dpo"])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=lonely.environment)

    assert done.returncode == 1
    assert "this is a fault of swift-submit" in done.stderr
    assert "Traceback" not in done.stderr
    kept = lonely.root / "home" / ".local" / "state" / "swift-submit" / "last-fault.log"
    assert "ZeroDivisionError" in kept.read_text()
    assert kept.stat().st_mode & 0o077 == 0


def test_words_of_others_cannot_steer_the_terminal(desk: Desk) -> None:
    data = desk.data([{"text": "a", "label": "\x1b[2J\x1b]0;gone\x07"}] * 3, "evil.jsonl")

    done = desk.cli("run", desk.config(dataset=str(data)))

    assert done.returncode == 6
    assert "\x1b" not in done.stderr


# --- forms of output --------------------------------------------------------------------------------------------------


def test_a_refusal_in_json_is_the_problem_document(desk: Desk) -> None:
    done = desk.cli("run", desk.config(task_type="DpoTask"), "--json")

    document = json.loads(done.stdout)
    assert (document["code"], document["status"], document["suggestion"]) == ("unknown-task-type", 404, "dpo")
    assert "✗" not in done.stderr


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
    good, bad = desk.cli("tags", "check-name", "review-sentiment"), desk.cli("tags", "check-name", "dpo-final")

    assert good.returncode == 0
    assert (bad.returncode, "use `dpo`" in bad.stdout) == (6, True)


def test_a_proposal_goes_from_file_to_effect(desk: Desk, live_registry: Any) -> None:
    change = {"kind": "new-tag", "tag": "review-sentiment", "tag_kind": "business", "parent": "sequence-classification",
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
    assert "`review-sentiment@1` is in effect" in second.stdout
    assert "review-sentiment@1" in desk.cli("tags", "list").stdout
    assert opened["id"] in desk.cli("requests", "list", "--state", "applied").stdout
    assert "read it" in desk.cli("requests", "show", opened["id"]).stdout


def test_a_proposal_file_that_is_none_names_the_field(desk: Desk) -> None:
    (desk.root / "p.yaml").write_text("change: {kind: new-tag}\nreason: every week\n")

    done = desk.cli("tags", "propose", "p.yaml")

    assert (done.returncode, "change.new-tag.tag" in done.stderr) == (6, True)
