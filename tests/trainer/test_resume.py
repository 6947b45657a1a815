"""A run that stopped is continued: what comes out is what would have come out, and nothing else is taken for it."""

import errno
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from tiny import (
    CLASSIFICATION,
    EMBEDDING,
    LANGUAGE,
    Watcher,
    asked_rows,
    contents,
    losses,
    make_chat,
    make_encoder,
    make_job,
)
from transformers import TrainerControl, TrainerState

from enforcer.problems import CheckpointInvalid
from trainer import sealed
from trainer.recipes import embedding, sequence_classification, sft
from trainer.recipes._checkpoints import SAVE_EVERY_S, Checkpoints, Diverged

BOTH = pytest.mark.parametrize(
    ("recipe", "arguments"),
    [(sequence_classification, CLASSIFICATION), (embedding, EMBEDDING)],
    ids=["classify", "embed"],
)


# The same losses, the same weights


@BOTH
@pytest.mark.parametrize(
    ("use_lora", "stop_at"), [(False, 6), (True, 8)], ids=["full, between passes", "lora, in the second pass"]
)
def test_a_continued_run_computes_what_an_uninterrupted_one_does(
    recipe: Any, arguments: Mapping[str, Any], use_lora: bool, stop_at: int, encoder: Path, tmp_path: Path
) -> None:
    """96 pairs or 192 texts in batches of 16 or 32 are 6 steps a pass; dropout in the model and in the adapter."""
    batch = 16 if recipe is embedding else 32
    changes = {"use_lora": use_lora, "lora_dropout": 0.2, "max_steps": 10, "per_device_train_batch_size": batch}

    def run(name: str, **more: Any) -> Any:
        return recipe.train(make_job(tmp_path, encoder, arguments, name, **changes, **more))

    whole = run("whole")
    run("stopped", listener=Watcher(stop_at=stop_at))
    rest = run("rest", resume_from=sealed.newest(_folder(tmp_path, "stopped") / "checkpoints"))

    assert len(losses(rest)) == 10
    assert losses(rest) == losses(whole)
    assert _weights(_folder(tmp_path, "rest")) == _weights(_folder(tmp_path, "whole"))
    assert rest.scores == whole.scores


def test_a_language_model_is_continued_as_well(tmp_path: Path) -> None:
    """4 steps a pass, with dropout in the adapter; stopped in the second pass."""
    chat, rows = make_chat(tmp_path / "chat"), asked_rows(32, 1)
    changes = {"use_lora": True, "lora_dropout": 0.2, "max_steps": 6, "train_rows": rows}

    def run(name: str, **more: Any) -> Any:
        return sft.train(make_job(tmp_path, chat, LANGUAGE, name, **changes, **more))

    whole = run("whole")
    run("stopped", listener=Watcher(stop_at=5))
    rest = run("rest", resume_from=sealed.newest(_folder(tmp_path, "stopped") / "checkpoints"))

    assert (losses(rest), rest.scores) == (losses(whole), whole.scores)
    assert _weights(_folder(tmp_path, "rest")) == _weights(_folder(tmp_path, "whole"))


def test_a_run_that_was_stopped_at_its_last_step_only_has_its_model_left_to_save(encoder: Path, tmp_path: Path) -> None:
    """5 steps in a pass of 12: the trainer's own loop would take a sixth."""
    whole = sequence_classification.train(make_job(tmp_path, encoder, CLASSIFICATION, "whole", max_steps=5))
    stopped = make_job(tmp_path, encoder, CLASSIFICATION, "stopped", max_steps=5, listener=Watcher(stop_at=5))
    sequence_classification.train(stopped)

    checkpoint = sealed.newest(stopped.folder.checkpoints)
    rest = sequence_classification.train(
        make_job(tmp_path, encoder, CLASSIFICATION, "rest", max_steps=5, resume_from=checkpoint)
    )

    assert (rest.steps, rest.scores) == (5, whole.scores)
    assert _weights(_folder(tmp_path, "rest")) == _weights(_folder(tmp_path, "whole"))


def test_an_adapter_is_continued_on_the_model_of_the_ticket_wherever_that_one_lies_now(
    encoder: Path, tmp_path: Path
) -> None:
    """What lies at the old place since then is another model, which nobody bound."""
    old, new = Path(shutil.copytree(encoder, tmp_path / "old")), Path(shutil.copytree(encoder, tmp_path / "new"))
    changes = {"use_lora": True, "max_steps": 4}
    whole = embedding.train(make_job(tmp_path, old, EMBEDDING, "whole", **changes))
    stopped = make_job(tmp_path, old, EMBEDDING, "stopped", listener=Watcher(stop_at=2), **changes)
    embedding.train(stopped)
    shutil.rmtree(old)
    make_encoder(old, seed=1)

    rest = make_job(tmp_path, new, EMBEDDING, "rest", resume_from=sealed.newest(stopped.folder.checkpoints), **changes)

    assert losses(embedding.train(rest)) == losses(whole)


# What is kept, and when


@BOTH
def test_a_run_that_dies_leaves_its_last_whole_checkpoint(
    recipe: Any, arguments: Mapping[str, Any], encoder: Path, tmp_path: Path
) -> None:
    class Dies(Watcher):
        def on_step(self, step: int, total: int, logs: Mapping[str, float]) -> None:
            if step == 6:
                raise MemoryError

    job = make_job(tmp_path, encoder, arguments, save_steps=2, max_steps=8, listener=Dies())

    with pytest.raises(MemoryError):
        recipe.train(job)

    (kept,) = job.folder.checkpoints.iterdir()
    assert kept.name == "checkpoint-4", "the one before it is gone"
    assert sealed.check(kept).startswith("sha256:")
    assert subprocess.run(["sha256sum", "--quiet", "-c", "SHA256SUMS"], cwd=kept, check=False).returncode == 0
    assert not (kept / "training_args.bin").exists(), "a pickle that nothing reads"


def test_a_finished_run_keeps_its_model_and_no_checkpoint(encoder: Path, tmp_path: Path) -> None:
    job = make_job(tmp_path, encoder, CLASSIFICATION, save_steps=1, max_steps=3)

    sequence_classification.train(job)

    assert job.folder.model.is_dir()
    assert not job.folder.checkpoints.exists()


@pytest.mark.parametrize(
    ("save_steps", "seconds", "due"),
    [
        (None, SAVE_EVERY_S - 1, False),
        (None, SAVE_EVERY_S, True),
        (0, SAVE_EVERY_S, False),
        (4, 0, True),
        (3, 0, False),
    ],
)
def test_a_checkpoint_is_due_each_half_hour_or_by_steps_or_never(
    save_steps: int | None, seconds: float, due: bool, encoder: Path, tmp_path: Path
) -> None:
    now = 0.0
    job = make_job(tmp_path, encoder, CLASSIFICATION, save_steps=save_steps)
    checkpoints, control = Checkpoints(job, clock=lambda: now), TrainerControl()
    state = TrainerState(global_step=4, max_steps=9)
    checkpoints.on_train_begin(None, state, control)
    now = seconds

    checkpoints.on_step_end(None, state, control)

    assert control.should_save is due


def test_a_model_that_diverged_does_not_take_the_place_of_a_good_checkpoint(encoder: Path, tmp_path: Path) -> None:
    """At step 2 the model is sound; the rate of 1e38 warms up from 0 and spoils it after that. Nothing is logged."""
    job = make_job(
        tmp_path, encoder, CLASSIFICATION, learning_rate=1e38, lr_scheduler_type="constant_with_warmup",
        warmup_ratio=0.1, save_steps=1, max_steps=8, logging_steps=500,
    )  # fmt: skip

    with pytest.raises(Diverged, match=r"after 2 steps .* weights are not finite"):
        sequence_classification.train(job)

    assert sealed.newest(job.folder.checkpoints).name == "checkpoint-1"


# What is taken for a checkpoint


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "checkpoints" / "checkpoint-7"
    (folder / "adapter").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "adapter" / "config.json").write_bytes(b"{}")
    for state in ("optimizer.pt", "rng_state_0.pth", "rng_state_1.pth"):
        (folder / state).write_bytes(b"state")
    sealed.seal(folder)
    return folder


def test_a_checkpoint_that_was_cut_off_is_passed_over(checkpoint: Path) -> None:
    later = checkpoint.with_name("checkpoint-8")
    later.mkdir()
    (later / "model.safetensors").write_bytes(b"weig")

    assert sealed.newest(checkpoint.parent) == checkpoint


def test_a_disk_that_is_full_takes_no_checkpoint_away(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    later = checkpoint.with_name("checkpoint-8")
    later.mkdir()
    (later / "model.safetensors").write_bytes(b"weights")
    monkeypatch.setattr(os, "fsync", _full)

    with pytest.raises(OSError, match="No space left"):
        sealed.seal(later)

    assert sealed.newest(checkpoint.parent) == checkpoint


def _full(_descriptor: int) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(("made", "why"), [(False, "there is none"), (True, "the only one was cut off")])
def test_without_a_whole_checkpoint_there_is_nothing_to_continue(made: bool, why: str, tmp_path: Path) -> None:
    if made:
        (tmp_path / "checkpoint-1").mkdir()

    with pytest.raises(CheckpointInvalid, match=why):
        sealed.newest(tmp_path)


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda folder: (folder / "model.safetensors").write_bytes(b"weig"), "`model.safetensors` was changed"),
        (lambda folder: (folder / "optimizer.pt").unlink(), "`optimizer.pt` is gone"),
        (lambda folder: (folder / "adapter" / "x.json").write_text("{}"), "`adapter/x.json` was not saved with it"),
        (lambda folder: (folder / "SHA256SUMS").write_text("\n"), "is not what `sha256sum` writes"),
        (lambda folder: (folder / "SHA256SUMS").write_text(""), "is not what `sha256sum` writes"),
        (lambda folder: (folder / "SHA256SUMS").unlink(), "cannot be read"),
        (
            lambda folder: _sealed_with(folder, "pytorch_model.bin", "cos\nsystem\n"),
            r"holds a pickle \(`pytorch_model.bin`\)",
        ),
        (
            lambda folder: _sealed_with(folder, "modules.json", '[{"type": "antigravity.Module"}]'),
            "wants `antigravity.Module` imported",
        ),
        (lambda folder: _sealed_with(folder, "modules.json", "[1]"), "`.*modules.json` cannot be read"),
    ],
    ids=[
        "truncated",
        "lost",
        "added",
        "garbled sums",
        "empty sums",
        "no sums",
        "a sealed pickle",
        "a sealed import",
        "no modules",
    ],
)
def test_a_checkpoint_that_is_not_what_was_saved_is_refused(spoil: Any, why: str, checkpoint: Path) -> None:
    spoil(checkpoint)

    with pytest.raises(CheckpointInvalid, match=why):
        sealed.check(checkpoint)


def _sealed_with(folder: Path, name: str, content: str) -> None:
    (folder / name).write_text(content)
    sealed.seal(folder)


def _folder(root: Path, name: str) -> Path:
    (found,) = root.glob(f"task-type=*/{name}")
    return found


def _weights(run: Path) -> dict[str, bytes]:
    return {name: content for name, content in contents(run / "model").items() if name.endswith(".safetensors")}
