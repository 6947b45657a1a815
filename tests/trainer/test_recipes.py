"""A recipe trains what its data sheet says, repeats itself, listens, and computes what the plain library computes."""

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import CLASSIFICATION, EMBEDDING, Watcher, contents, losses, make_job, make_nested

from enforcer.problems import DatasetInvalid
from trainer import recipes
from trainer.recipes import embedding, sequence_classification
from trainer.recipes._checkpoints import Diverged

BOTH = pytest.mark.parametrize(
    ("recipe", "arguments"),
    [(sequence_classification, CLASSIFICATION), (embedding, EMBEDDING)],
    ids=["classify", "embed"],
)


# Finding a recipe


def test_every_recipe_in_the_folder_is_known_and_shared_parts_are_not() -> None:
    assert {"embedding", "sequence-classification"} <= set(recipes.known())
    assert not any("steps" in name for name in recipes.known())


@pytest.mark.parametrize("name", ["dpo2", "_steps", "-steps", "sequence_classification", "../embedding", "os", ""])
def test_an_unknown_recipe_is_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(LookupError, match="`embedding`") as refusal:
        recipes.load(name)

    assert f"`{name}` is no recipe" in str(refusal.value)


def test_every_recipe_has_a_data_sheet_for_a_head() -> None:
    for name in recipes.known():
        sheet = recipes.load(name).__doc__ or ""

        assert sheet.startswith(f"{name} -- ")
        assert re.findall(r"^(Row|Loss|Trains|Scores) ", sheet, re.MULTILINE) == ["Row", "Loss", "Trains", "Scores"]


# What both recipes promise


@BOTH
def test_training_learns_and_scores_with_intervals(
    recipe: Any, arguments: Mapping[str, Any], encoder: Path, tmp_path: Path
) -> None:
    watcher = Watcher()
    job = make_job(tmp_path, encoder, arguments, max_steps=40, listener=watcher)

    outcome = recipe.train(job)

    assert np.mean(watcher.losses[-5:]) < 0.7 * np.mean(watcher.losses[:5])
    assert outcome.steps == 40
    assert outcome.stopped is None
    assert outcome.peak_memory_bytes > 50 * 2**20
    for score in outcome.scores.values():
        assert score.n == len(job.eval_rows)
        assert score.confidence == 0.95
    assert [(step, total) for step, total, _ in watcher.steps] == [(step, 40) for step in range(1, 41)]


@BOTH
def test_steps_between_log_steps_are_told_without_logs(
    recipe: Any, arguments: Mapping[str, Any], encoder: Path, tmp_path: Path
) -> None:
    watcher = Watcher()

    recipe.train(make_job(tmp_path, encoder, arguments, max_steps=6, logging_steps=3, listener=watcher))

    assert [bool(logs) for _, _, logs in watcher.steps] == [False, False, True, False, False, True]


@BOTH
@pytest.mark.parametrize("use_lora", [False, True], ids=["full", "lora"])
def test_the_same_seed_gives_the_same_losses_and_another_seed_others(
    recipe: Any, arguments: Mapping[str, Any], use_lora: bool, encoder: Path, tmp_path: Path
) -> None:
    def run(name: str, seed: int) -> list[float]:
        changes = {"use_lora": use_lora, "lora_dropout": 0.1 if use_lora else 0.0, "max_steps": 5, "seed": seed}
        return losses(recipe.train(make_job(tmp_path, encoder, arguments, name, **changes)))

    first, again, other = run("first", 7), run("again", 7), run("other", 8)

    assert first == again
    assert first != other


@BOTH
def test_a_stop_request_leaves_a_checkpoint_and_no_scores(
    recipe: Any, arguments: Mapping[str, Any], encoder: Path, tmp_path: Path
) -> None:
    job = make_job(tmp_path, encoder, arguments, listener=Watcher(stop_at=3))

    outcome = recipe.train(job)

    assert (outcome.stopped, outcome.steps, outcome.scores) == ("interrupted", 3, {})
    assert (job.folder.checkpoints / "checkpoint-3" / "trainer_state.json").exists()
    assert (job.folder.checkpoints / "checkpoint-3" / "optimizer.pt").exists()
    assert not job.folder.model.exists()


@BOTH
@pytest.mark.parametrize("use_lora", [False, True], ids=["full", "lora"])
def test_a_run_leaves_no_pickle_and_no_foreign_card_beside_its_model(
    recipe: Any, arguments: Mapping[str, Any], use_lora: bool, encoder: Path, tmp_path: Path
) -> None:
    job = make_job(tmp_path, encoder, arguments, use_lora=use_lora, max_steps=1)

    recipe.train(job)

    suffixes = {file.suffix for file in job.folder.model.rglob("*") if file.is_file()}
    assert suffixes == {".json", ".safetensors"}
    assert not list(job.folder.checkpoints.rglob("*"))


@BOTH
@pytest.mark.parametrize("use_lora", [False, True], ids=["full", "lora"])
def test_a_model_says_nothing_of_the_machine_it_was_trained_on(
    recipe: Any, arguments: Mapping[str, Any], use_lora: bool, encoder: Path, tmp_path: Path
) -> None:
    base = Path(shutil.copytree(encoder, tmp_path / "li" / "base"))
    job = make_job(tmp_path, base, arguments, use_lora=use_lora, max_steps=1)

    recipe.train(job)

    assert not [name for name, content in contents(job.folder.model).items() if bytes(tmp_path) in content]
    if use_lora:
        assert json.loads((job.folder.model / "adapter_config.json").read_text())["base_model_name_or_path"] == "base"


@BOTH
@pytest.mark.parametrize("logging_steps", [1, 500], ids=["seen in the loss", "seen in the weights"])
def test_a_run_that_diverged_has_failed_and_leaves_no_model(
    recipe: Any, arguments: Mapping[str, Any], logging_steps: int, encoder: Path, tmp_path: Path
) -> None:
    job = make_job(tmp_path, encoder, arguments, learning_rate=1e38, logging_steps=logging_steps)

    with pytest.raises(Diverged, match="lower `learning_rate`"):
        recipe.train(job)

    assert not job.folder.model.exists()


@BOTH
@pytest.mark.parametrize("use_lora", [False, True], ids=["full", "lora"])
def test_a_base_may_keep_its_weights_one_level_down(
    recipe: Any, arguments: Mapping[str, Any], use_lora: bool, encoder: Path, tmp_path: Path
) -> None:
    nested = make_nested(tmp_path / "nested", encoder)

    def run(name: str, base: Path) -> list[float]:
        return losses(recipe.train(make_job(tmp_path, base, arguments, name, use_lora=use_lora, max_steps=3)))

    assert run("nested-run", nested) == run("flat-run", encoder)


@BOTH
def test_the_board_says_which_task_this_is(
    recipe: Any, arguments: Mapping[str, Any], encoder: Path, tmp_path: Path
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    job = make_job(tmp_path, encoder, arguments, max_steps=2)

    outcome = recipe.train(job)

    (events,) = job.folder.tensorboard.rglob("*")  # one file: arguments and scores are no second run
    board = EventAccumulator(str(events)).Reload()
    (task,) = board.Tensors("task/text_summary")
    assert task.tensor_proto.string_val == [f"task={job.task_type}".encode()]
    assert [event.step for event in board.Scalars("train/loss")] == [1, 2]
    assert {f"eval/{name}" for name in outcome.scores} <= set(board.Tags()["scalars"])


@BOTH
def test_rows_that_are_too_long_are_refused_and_not_cut(
    recipe: Any, arguments: Mapping[str, Any], encoder: Path, tmp_path: Path
) -> None:
    with pytest.raises(DatasetInvalid, match="rows are longer than `max_length` 4"):
        recipe.train(make_job(tmp_path / "refused", encoder, arguments, max_length=4))

    cut = recipe.train(make_job(tmp_path / "cut", encoder, arguments, max_length=4, truncation=True, max_steps=1))

    assert cut.steps == 1


@BOTH
def test_lora_trains_the_adapter_and_a_new_head_only(
    recipe: Any, arguments: Mapping[str, Any], encoder: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load_file

    job = make_job(tmp_path, encoder, arguments, use_lora=True, max_steps=3)

    outcome = recipe.train(job)

    learned = {name for name, weight in outcome.model.named_parameters() if weight.requires_grad}
    assert learned
    assert all("lora_" in name or "classifier" in name for name in learned)
    saved = load_file(job.folder.model / "adapter_model.safetensors")
    assert all("lora_" in name or "classifier" in name for name in saved)
    assert outcome.details["trainable_parameters"] < 0.2 * outcome.details["parameters"]
