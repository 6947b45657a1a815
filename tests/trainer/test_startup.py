"""What the command costs to start, what it says of itself, and how it shows progress."""

import importlib
import json
import os
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest
from submitting import SWIFT_SUBMIT

import trainer
from enforcer.problems import Problem
from trainer import exits
from trainer.cli import COMMANDS, VARIABLES, cli
from trainer.cli.output import Output
from trainer.cli.progress import Progress
from trainer.launch.worker import Events
from trainer.settings import ENVIRONMENT, HERE

HEAVY = "pydantic httpx2 rich opentelemetry torch transformers yaml numpy cryptography keyring".split()


@pytest.mark.parametrize(
    "command",
    [["--help"], ["--version"], ["run", "--help"], ["runs", "list", "-h"], ["auth", "login", "--help"], ["nonsense"]],
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
    "module", ["trainer", "trainer.run.permit", "trainer.run.work", "trainer.swift", "trainer.launch.worker"]
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
    for variable in VARIABLES:
        assert variable in done.stdout
    assert set(VARIABLES) == {*ENVIRONMENT.values(), *HERE.values()}


def test_the_room_s_readme_knows_every_exit_code() -> None:
    readme = (Path(exits.__file__).parent / "README.md").read_text("utf-8")

    told = [int(code) for code in re.findall(r"^\| (\d+) \|", readme, re.MULTILINE)]

    assert told == list(exits.MEANING)


def test_without_a_terminal_progress_is_a_line_in_half_a_minute(capsys: pytest.CaptureFixture[str]) -> None:
    now = [0.0]
    with Progress(Output({}), clock=lambda: now[0]) as progress:
        for step in range(1, 101):
            now[0] += 1.0
            pace = {"pace/rows_per_s": 1600.0, "pace/eta_s": 100.0 - step}
            progress.show({"event": "step", "step": step, "total": 100, "loss": 1 / step, **pace})

    told = capsys.readouterr()
    assert told.out == ""
    assert [line.split()[1] for line in told.err.splitlines()] == ["30/100", "60/100", "90/100", "100/100"]
    assert "loss 0.0333  1,600 rows/s  70 s left" in told.err


def test_a_loss_that_is_no_number_is_null_for_programs_and_told_to_people(capsys: pytest.CaptureFixture[str]) -> None:
    read, write = os.pipe()
    Events(write).step(1, 1, {"loss": float("nan")})
    event = json.loads(os.read(read, 1000), parse_constant=pytest.fail)

    with Progress(Output({})) as people, Progress(Output({"format": "ndjson"})) as programs:
        people.show(event)
        programs.show(event)

    told = capsys.readouterr()
    assert "step 1/1  loss nan" in told.err
    assert json.loads(told.out, parse_constant=pytest.fail)["loss"] is None


def test_the_one_line_helps_of_lazy_commands_are_their_own() -> None:
    import click

    context = click.Context(cli)
    for name, (_, said) in COMMANDS.items():
        command = cli.get_command(context, name)
        assert command is not None
        assert command.name == name
        assert command.get_short_help_str(limit=200) == said


def test_exit_codes_are_frozen() -> None:
    for module in pkgutil.walk_packages(trainer.__path__, "trainer."):
        heavy = module.name.startswith(("trainer.recipes", "trainer.serve.engines", "trainer.backends.ms_swift_home"))
        if not heavy and not module.name.endswith("__main__"):
            importlib.import_module(module.name)

    ours = [kind for kind in _all_problems() if kind.__module__.startswith(("enforcer.", "trainer."))]
    codes = {kind.code: exits.exit_code(kind("x")) for kind in ours}

    assert {code: sorted(name for name, value in codes.items() if value == code) for code in set(codes.values())} == {
        1: ["method-not-allowed", "misdirected-request", "problem"],
        2: ["command-line-invalid"],
        3: ["beneficiary-approval", "contributor-approval", "cross-origin", "groups-overage", "no-delegation",
            "not-permitted", "offline-not-permitted", "principal-disabled", "quota-exceeded", "self-approval"],
        4: ["exchange-refused", "unauthenticated"],
        5: ["approval-pending"],
        6: ["argument-invalid", "binding-invalid", "bounds-contradict", "checkpoint-invalid", "dataset-invalid",
            "export-refused", "filter-invalid", "framework-unreadable", "gate-against-direction", "gate-without-min-n",
            "idempotency-key-not-offered", "idempotency-key-reused", "input-refused", "invalid", "launcher-missing",
            "malformed-request", "metric-unknown", "model-invalid", "name-invalid", "name-is-variant",
            "name-needs-reason", "not-configured", "not-judgeable", "not-servable", "output-invalid",
            "page-token-invalid", "parent-cycle", "policy-refused", "precondition-required", "profile-invalid",
            "profile-widens", "recipe-missing", "specification-invalid", "sunset-invalid", "task-type-archived",
            "task-type-not-active", "task-type-sunset", "too-deep", "too-large", "unknown-task-type",
            "unsupported-media-type"],
        7: ["log-shorter", "model-not-found", "name-not-reserved", "not-bound", "not-found", "unknown-decision",
            "unknown-delegation", "unknown-event", "unknown-exception", "unknown-manifest", "unknown-policy",
            "unknown-proposal", "unknown-rule", "unknown-run", "unknown-ticket"],
        8: ["already-decided", "already-reviewed", "approval-lost", "approval-unsatisfiable", "break-glass-refused",
            "compatibility-broken", "conflict", "delegation-over", "erasure-refused", "exception-exists",
            "exception-over", "idempotency-key-in-use", "legal-hold", "log-inconsistent", "manifest-invalid",
            "not-continued", "not-overridable", "not-trained", "policy-comes-from-folder", "policy-moved",
            "policy-unchanged", "proposal-expired", "replacement-invalid", "revoked-ticket-used", "run-closed",
            "stale", "stale-base", "stale-review", "still-replaces", "ticket-expired", "ticket-invalid",
            "ticket-never-issued", "ticket-revoked", "ticket-used", "ticket-used-twice", "wrong-life-state"],
        9: ["internal-error", "judge-unavailable", "not-logged-yet", "overloaded", "rate-limited",
            "registry-unreachable", "unavailable"],
        10: ["training-failed"],
        11: ["not-accepted"],
    }  # fmt: skip


def _all_problems(kind: type[Problem] = Problem) -> list[type[Problem]]:
    return [kind, *(deeper for child in kind.__subclasses__() for deeper in _all_problems(child))]
