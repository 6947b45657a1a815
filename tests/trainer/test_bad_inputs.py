"""Every bad input: its message, what to do next, its exit code."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from submitting import Desk
from tiny import LABELS, make_chat

from enforcer.profiles import Limits, Profile
from trainer import contract
from trainer.contract import Contract, RecipeMissing


@pytest.fixture
def desk(tmp_path: Path, encoder: Path, live_registry: Any) -> Desk:
    return Desk(tmp_path, encoder, live_registry.url, live_registry.token("li", "retail-ds"))


@pytest.fixture
def lonely(tmp_path: Path, encoder: Path) -> Desk:
    """A desk whose registry is not there."""
    return Desk(tmp_path, encoder, "http://127.0.0.1:9", "twp_x")


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
    (
        "half a character",
        {"dataset": "half.jsonl"},
        6,
        "line 1 of `half.jsonl` holds half a character",
        "write it whole",
    ),
    ("an empty dataset", {"dataset": "empty.jsonl"}, 6, "`empty.jsonl` is empty", "at least one row"),
    ("an unreadable model", {"model_name_or_path": "Qwen/Qwen3-1B"}, 6, "no model folder", "hf download Qwen/Qwen3-1B"),
    ("a read-only output folder", {"output_dir": "/proc/output"}, 6, "cannot be written", "choose another"),
    ("a place without a launcher", {"target": "ray"}, 6, "starts runs on `local` only", "not on `ray`"),
    ("a tag for another group", {"task_type": "cls", "target": "ray", "gpus": 3}, 3, "max_gpus", "can-i submit TAG"),
]


@pytest.mark.parametrize(("changes", "code", "what", "next_step"), [case[1:] for case in BAD_CONFIGS],
                         ids=[case[0] for case in BAD_CONFIGS])  # fmt: skip
def test_a_bad_input_is_told_with_what_to_do_next(
    desk: Desk, changes: dict[str, Any], code: int, what: str, next_step: str
) -> None:
    (desk.root / "empty.jsonl").write_text("")
    (desk.root / "half.jsonl").write_text('{"text": "cut \\ud83d", "label": "科技"}\n')
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
    live_registry.propose(live_registry.as_("author", "trainers"), "message-tone")

    done = desk.cli("run", desk.config(task_type="message-tone"))

    assert done.returncode == 5
    assert "waits for 2 more approvals" in done.stderr


def test_a_group_that_may_not_is_refused_before_its_rows_are(desk: Desk, live_registry: Any) -> None:
    rows = [{"prompt": "p", "completion": f"c {i}", "label": True} for i in range(20)]
    model = make_chat(desk.root / "chat")
    changes = {
        "task_type": "dpo",
        "model_name_or_path": str(model),
        "dataset": str(desk.data(rows, "answers.jsonl")),
        "label_names": None,
    }
    refused = desk.cli("run", desk.config(**changes))
    desk.token = live_registry.token("mei", "nlp")
    permitted = desk.cli("run", desk.config(**changes))

    assert (refused.returncode, "only group:nlp" in refused.stderr) == (3, True)
    assert "ask   nlp, who answer for the rules on this" in refused.stderr
    assert (permitted.returncode, "that is what `kto` learns from" in permitted.stderr) == (6, True)
    assert live_registry.events("ticket.issued") == []


def test_a_recipe_of_a_later_release_is_missed_before_a_ticket_is_asked_for() -> None:
    limits = Limits(max_gpus=0, max_runtime_s=60)
    profile = Profile(recipe="foreseeing", parameters={}, columns={}, metrics=[], pool="p", limits=limits)

    with pytest.raises(RecipeMissing, match="`foreseeing`, which this release of the trainer does not have"):
        contract._need_recipe(Contract("oracle", 1, profile, profile.digest(), ended=False))


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


def test_whoever_is_for_all_units_is_told_to_name_one(desk: Desk, live_registry: Any) -> None:
    """As the token is that `tagwarden serve` leaves."""
    desk.token = live_registry.token("root", "platform-admins", "trainers", unit="all")

    refused, unread = (desk.cli("run", desk.config(**changes)) for changes in ({}, {"model_name_or_path": "/none"}))

    assert (refused.returncode, unread.returncode) == (3, 3)
    assert "name one of them as `business_unit`: `ai`" in " ".join(refused.stderr.split())  # the registry's words
    assert "name it with `business_unit`" in " ".join(unread.stderr.split())  # ours, where it could not be asked
