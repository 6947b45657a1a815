"""What `plan` shows of the data, and what a run keeps of it: the row that is learned from, losses, memory."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import LiveRegistry
from submitting import Desk
from test_columns import shipped
from tiny import LABELS, asked_rows, labelled_rows, make_chat

LANGUAGE = {"max_length": 128, "gradient_checkpointing": False, "label_names": None, "task_type": "sft"}


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_chat(tmp_path_factory.mktemp("chat"))


@pytest.fixture
def desk(tmp_path: Path, encoder: Path, live_registry: LiveRegistry) -> Desk:
    return Desk(tmp_path, encoder, live_registry.url, live_registry.token("li", "retail-ds"))


def test_a_plan_shows_a_row_with_its_mask_what_is_learned_and_the_memory(
    chat: Path, live_registry: LiveRegistry, tmp_path: Path
) -> None:
    desk = Desk(tmp_path, chat, live_registry.url, live_registry.token("wang", "nlp", "trainers", unit="retail"))
    desk.data(asked_rows(60, 1))
    config = desk.config(**LANGUAGE)

    told, shown = desk.json("plan", config)["preflight"], desk.cli("plan", config).stdout

    assert told["trained_tokens"] < told["tokens"]
    assert [part["trained"] for part in told["row"]["parts"]] == [False, True]
    assert told["memory"]["estimate_bytes"] == told["memory"]["lora_bytes"] != told["memory"]["full_bytes"]
    assert f"{told['trained_share']:.1%} of {told['tokens']:,} tokens" in shown
    assert f"{told['keeps_99_percent']} is the smallest `max_length` that keeps 99 % whole" in shown
    assert "as the model reads it; what stands in ⟦ ⟧ is learned:" in shown
    assert "  | <|im_start|>assistant" in shown
    assert "(estimate)" in shown


def test_rows_that_are_lost_are_allowed_by_a_word_that_the_ticket_holds(
    desk: Desk, live_registry: LiveRegistry
) -> None:
    """30 tasks of an export, 3 of them without an annotation: 10 %, and the task type allows 5 %."""
    tasks = [
        {"data": {"text": row["text"]}, "annotations": [] if i < 3 else [{"result": [_choice(row["label"])]}]}
        for i, row in enumerate(labelled_rows(30, 1))
    ]
    (desk.root / "export.json").write_text(json.dumps(tasks))
    data = {"dataset": str(desk.root / "export.json"), "columns": {"label": "topic"}, "max_steps": 2}

    refused = desk.cli("run", desk.config(**data))
    trained = desk.cli("run", desk.config(**data, allow_row_loss=0.1))

    assert refused.returncode == 6
    assert "cleaning would leave out 3 of 30 rows (10.0%), and this task type allows 5%" in refused.stderr
    assert "3 of 30 rows have no annotation in Label Studio" in refused.stderr
    assert "say `allow_row_loss: 0.1`, which the ticket will hold" in refused.stderr
    assert trained.returncode in (0, 11), trained.stderr
    assert "! 3 of 30 rows have no annotation in Label Studio" in trained.stderr
    (run_dir,) = desk.run_dirs
    assert json.loads((run_dir / "run-spec.json").read_text())["inputs"]["allow_row_loss"] == 0.1
    kept = json.loads((run_dir / "metrics.json").read_text())["details"]["data"]
    assert kept["dropped"] == {"not-annotated": 3}
    assert kept["train_rows"] + kept["eval_rows"] == 27


def _choice(label: str) -> dict[str, Any]:
    return {"type": "choices", "from_name": "topic", "to_name": "text", "value": {"choices": [label]}}


def test_what_was_seen_stays_in_the_run_folder_and_the_memory_is_compared(desk: Desk) -> None:
    done = desk.cli("run", desk.config(max_steps=2))

    (run_dir,) = desk.run_dirs
    seen = json.loads((run_dir / "preflight.json").read_text())
    assert seen["labels"].keys() == set(LABELS)
    assert any("held out" in finding for finding in seen["findings"])
    assert "GB measured; 0.0 GB were reckoned" in done.stderr


def test_a_plan_of_conversations_loads_no_training_stack(chat: Path, tmp_path: Path) -> None:
    rows = [{"messages": [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": "yes"}]}
            for row in asked_rows(40, 1)]  # fmt: skip
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    program = f"""
import sys
from enforcer.profiles import Profile
from trainer import preflight
from trainer.arguments import TrainingArguments
args = TrainingArguments(task_type="sft", model_name_or_path={str(chat)!r}, dataset={str(tmp_path / "d.jsonl")!r},
    output_dir={str(tmp_path / "o")!r})
checked = preflight.check(args, Profile.model_validate_json({shipped()["sft"].model_dump_json()!r}))
print(checked.facts["trained_tokens"] > 0, *sorted({{"torch", "transformers", "numpy", "datasets"}} & set(sys.modules)))
"""

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)

    assert done.stdout.split() == ["True"]
