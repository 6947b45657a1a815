"""Continuing a run takes a ticket of its own, for the same run and its own checkpoint, or there is none."""

import contextlib
import json
import os
import shutil
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from submitting import Desk, events
from tiny import labelled_rows

from enforcer import manifest, tickets
from enforcer.problems import CheckpointInvalid, NotContinued, TicketInvalid, UnknownRun
from trainer import SwiftTrainer, TrainingArguments, sealed
from trainer.run import work
from trainer.run.lease import Watch
from trainer.settings import Settings

RUN = {"max_steps": 6, "save_steps": 0}


@pytest.fixture
def desk(tmp_path: Path, encoder: Path, live_registry: Any) -> Desk:
    return Desk(tmp_path, encoder, live_registry.url, live_registry.token("li", "retail-ds"))


@pytest.fixture
def stopped(desk: Desk) -> Path:
    """A run of 6 steps that was told to stop after the second."""

    def press(step: int, _total: int, _logs: Mapping[str, float]) -> None:
        if step == 2:
            os.kill(os.getpid(), signal.SIGINT)

    done = work.execute(desk.permitted(**RUN), tell=press)
    assert (done.outcome.stopped, done.outcome.steps) == ("interrupted", 2)
    return done.job.folder.root


def test_a_stopped_run_is_continued_by_its_folder_alone_and_the_proof_says_so(
    desk: Desk, stopped: Path, live_registry: Any
) -> None:
    ended = desk.cli("--json", "run", "--resume", str(stopped))

    assert ended.returncode in (0, 11), ended.stderr
    folder = Path(json.loads(ended.stdout)["run_dir"])
    assert folder.parent == stopped.parent
    metrics = json.loads((folder / "metrics.json").read_text())
    steps = [entry["step"] for entry in metrics["details"]["log_history"] if "loss" in entry]
    assert (metrics["state"], metrics["steps"], steps) == ("finished", 6, [1, 2, 3, 4, 5, 6])
    continued = {"run_id": stopped.name, "step": 2, "digest": metrics["continues"]["digest"]}
    assert metrics["continues"] == continued
    assert [event.detail.get("continues") for event in live_registry.events("ticket.issued")] == [None, continued]
    assert f"run {stopped.name} after step 2" in (folder / "README.md").read_text()
    assert f"continues run `{stopped.name}` after step 2" in ended.stderr
    left = manifest.open_manifest((folder / "manifest.json").read_bytes(), _jkt(folder))
    read = [resource.annotations for resource in left.predicate.build_definition.resolved_dependencies]
    assert {"role": "checkpoint", "run": stopped.name, "step": 2} in read
    assert desk.cli("verify", str(folder), "--trust", _trust(desk)).returncode == 0


@pytest.mark.slow
def test_rows_in_memory_are_continued_by_the_same_rows(desk: Desk) -> None:
    """As the article writes it; the run is cancelled in the second step, and asked for again with `resume`."""
    settings = Settings(server=desk.server, issuer=desk.server, token=desk.token)
    told = {**desk.arguments(max_steps=4), "dataset": None}
    rows = labelled_rows(48, 1)
    first = SwiftTrainer(TrainingArguments(**told), rows, settings=settings)
    with pytest.raises(KeyboardInterrupt), _pressed_at(2):
        first.train()

    with pytest.raises(NotContinued, match="train dataset"):
        SwiftTrainer(TrainingArguments(**told, resume=str(first.run_dir)), rows[1:], settings=settings).train()
    rest = SwiftTrainer(TrainingArguments(**told, resume=str(first.run_dir)), rows, settings=settings)
    rest.train()

    assert rest.run is not None
    assert rest.run.step == 4
    assert set(rest.metrics) == {"accuracy", "macro_f1"}


@pytest.mark.slow
def test_a_worker_that_is_killed_costs_what_it_did_since_its_last_checkpoint(desk: Desk, live_registry: Any) -> None:
    run = {"max_steps": 400, "save_steps": 10}
    with desk.start("run", desk.config(**run)) as process:
        told = events(process)
        assert any(event.get("step", 0) >= 25 for event in told)
        (worker,) = desk.workers
        os.kill(worker, signal.SIGKILL)
        *_, last = told
        assert process.wait(timeout=120) == 10
    (folder,) = desk.run_dirs
    ended = desk.cli("--json", "run", "--resume", str(folder))

    assert "continue with `swift-submit run --resume" in last["problem"]["detail"]
    assert ended.returncode in (0, 11), ended.stderr
    metrics = json.loads((Path(json.loads(ended.stdout)["run_dir"]) / "metrics.json").read_text())
    assert metrics["steps"] == 400
    assert metrics["continues"]["step"] >= 20
    assert [event.kind for event in live_registry.events("run.failed", "run.finished")] == [
        "run.failed",
        "run.finished",
    ]


def test_another_run_does_not_continue_this_one(
    desk: Desk, stopped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second time with a client that looks away: the books hold what was signed for the run that stopped."""
    other_data, other_model = tmp_path / "other.jsonl", Path(shutil.copytree(desk.model, tmp_path / "other"))
    other_data.write_text("".join((desk.root / "train.jsonl").read_text().splitlines(keepends=True)[1:]))
    (other_model / "config.json").write_text((other_model / "config.json").read_text() + "\n")
    differences: dict[str, dict[str, Any]] = {
        "argument `learning_rate`: it was `0.001`, and would be `0.01`": {"learning_rate": 0.01},
        "argument `max_steps`": {"max_steps": 7},
        r"train dataset \(number 1\)": {"dataset": str(other_data)},
        "`eval_fraction`": {"eval_fraction": 0.4},
        "another model": {"model_name_or_path": str(other_model)},
    }

    for _ in ("the client", "the registry"):
        for what, changes in differences.items():
            with pytest.raises(NotContinued, match=what):
                desk.permitted(**RUN | changes, resume=str(stopped))
        monkeypatch.setattr("trainer.resume.Earlier.check", lambda *_: None)


def test_a_broken_checkpoint_is_refused_before_a_ticket_is_asked_for(
    desk: Desk, stopped: Path, live_registry: Any
) -> None:
    _cut(stopped / "checkpoints" / "checkpoint-2" / "optimizer.pt")

    refused = desk.cli("run", "--resume", str(stopped))

    assert (refused.returncode, "`optimizer.pt` was changed" in refused.stderr) == (6, True), refused.stderr
    assert len(live_registry.events("ticket.issued")) == 1


def test_a_checkpoint_that_was_sealed_anew_is_not_the_one_that_the_run_left(desk: Desk, stopped: Path) -> None:
    """Whoever changes a weight and writes new sums deceives a checksum, and neither the run's own signature nor, where
    that is gone, the books."""
    weights = stopped / "checkpoints" / "checkpoint-2" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    sealed.seal(weights.parent)

    with pytest.raises(CheckpointInvalid, match="not what the run signed for"):
        desk.permitted(**RUN, resume=str(stopped))
    (stopped / "manifest.json").unlink()
    with pytest.raises(NotContinued, match="reported no checkpoint of step 2 with the digest"):
        desk.permitted(**RUN, resume=str(stopped))


def test_a_checkpoint_that_changes_after_the_ticket_spends_none(desk: Desk, stopped: Path, live_registry: Any) -> None:
    given = desk.permitted(**RUN, resume=str(stopped))
    _cut(stopped / "checkpoints" / "checkpoint-2" / "model.safetensors")

    with pytest.raises(TicketInvalid, match="the checkpoint changed since it was issued"):
        work.execute(given)

    assert len(live_registry.events("ticket.redeemed")) == 1


def test_nobody_continues_the_run_of_somebody_else(desk: Desk, stopped: Path, live_registry: Any) -> None:
    desk.token = live_registry.token("wang", "retail-ds")

    with pytest.raises(UnknownRun, match=f"`{stopped.name}` is not one of your runs for `retail`"):
        desk.permitted(**RUN, resume=str(stopped))


def test_a_folder_that_is_no_run_cannot_be_continued(desk: Desk) -> None:
    refused = desk.cli("run", "--resume", str(desk.root))

    assert refused.returncode == 8
    assert "is not the folder of a run" in refused.stderr


@contextlib.contextmanager
def _pressed_at(step: int) -> Iterator[None]:
    """Ctrl-C when that step was told."""
    told = Watch.on_step

    def press(watch: Watch, at: int, total: int, logs: Mapping[str, float]) -> None:
        told(watch, at, total, logs)
        if at == step:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Watch, "on_step", press)
        yield


def _jkt(folder: Path) -> str:
    return str(tickets.unverified_claims((folder / "ticket.jwt").read_text().strip())["cnf"]["jkt"])


def _cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def _trust(desk: Desk) -> str:
    assert desk.cli("trust", "save", "trust.json").returncode == 0
    return "trust.json"
