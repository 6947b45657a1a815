"""Every recipe, from a ticket to a model that is handed over: asked for, permitted, trained, judged, proven, exported.

Two things are the same for all of them: the command, and what it leaves. The rest is the tag's.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import LiveRegistry
from submitting import Desk
from tiny import asked_rows, labelled_rows, make_chat, ranked_rows

from trainer import recipes

TINY = {"max_length": 128, "max_steps": 2, "logging_steps": 1, "eval_fraction": 0.3, "label_names": None}
LANGUAGE = {**TINY, "gradient_checkpointing": False, "per_device_train_batch_size": 8, "lora_rank": 4}
Rows = Callable[[], list[Any]]
# Recipe -> who may, the model that it takes, its rows, and what else is said.
STORIES: dict[str, tuple[str, str, Rows, dict[str, Any]]] = {
    "sft": ("nlp", "chat", lambda: asked_rows(60, 1), LANGUAGE),
    "pre-training": (
        "nlp", "chat", lambda: [{"text": row["text"]} for row in labelled_rows(60, 1)], {**LANGUAGE, "use_lora": None},
    ),
    "reranker": ("search", "encoder", lambda: ranked_rows(40, 1), {**TINY, "max_length": 32, "use_lora": True}),
}  # fmt: skip
TOLD_ELSEWHERE = {"sequence-classification", "embedding"}  # test_the_three_requests.py, test_run_a_ticket.py


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_chat(tmp_path_factory.mktemp("chat"))


def test_no_recipe_is_without_its_story() -> None:
    assert STORIES.keys() | TOLD_ELSEWHERE == set(recipes.known())


@pytest.mark.parametrize("tag", STORIES)
def test_a_ticket_becomes_a_model_that_is_judged_and_proven(
    tag: str, chat: Path, encoder: Path, live_registry: LiveRegistry, tmp_path: Path
) -> None:
    group, model, rows, said = STORIES[tag]
    token = live_registry.token("wang", group, "trainers", unit="retail")
    desk = Desk(tmp_path, {"chat": chat, "encoder": encoder}[model], live_registry.url, token)
    desk.data(rows())

    trained = desk.cli("run", desk.config(task_type=tag, **said))

    assert trained.returncode in (0, 11), trained.stderr  # two steps may well miss a gate
    (run_dir,) = desk.run_dirs
    metrics = json.loads((run_dir / "metrics.json").read_text())
    measured = set(json.loads((run_dir / "run-spec.json").read_text())["profile"]["metrics"])
    assert run_dir.parent.name == f"task-type={tag}"
    assert measured <= metrics["scores"].keys()
    assert all(score["n"] > 0 for score in metrics["scores"].values())
    verdict = json.loads((run_dir / "verdict.json").read_text())
    assert verdict["state"] == "finished"
    assert tag in (run_dir / "README.md").read_text()
    assert desk.cli("trust", "save", "trust.json").returncode == 0
    proven = desk.cli("verify", str(run_dir), "--trust", "trust.json")
    assert proven.returncode == 0, proven.stderr
