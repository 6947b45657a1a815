"""The same run through ms-swift: rows and arguments out, its process watched, its model brought home and scored by us.

It works in `ms-swift/` inside the run folder. What stays there is what it said of itself: `args.json` and
`logging.jsonl`. It saves no checkpoint when it is told to end, so a run that is stopped leaves none.
"""

import contextlib
import importlib
import json
import logging
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path
from time import perf_counter
from typing import Any

from enforcer.bindings import Binding, spelling
from enforcer.problems import ArgumentInvalid, TrainingFailed
from trainer.backends import MS_SWIFT, ms_swift_arguments, ms_swift_installed, ms_swift_rows
from trainer.backends.ms_swift_installed import Installed
from trainer.backends.ms_swift_log import Log
from trainer.inputs import folders
from trainer.inputs.chat import Reader
from trainer.job import Job, Outcome

log = logging.getLogger(__name__)

LOOK_EVERY_S = 0.2
ENDS_WITHIN_S = 10.0


@dataclass(frozen=True)
class MsSwift:
    """A backend for one task type. `recipe` is ours: it says what rows look like, and scores what comes back."""

    tag: str
    recipe: str
    bindings: Sequence[Binding]

    def refuse(
        self, arguments: Mapping[str, Any], model: Path, checkpoint: Path | None = None
    ) -> tuple[Installed, Binding]:
        """What runs it, and how it is spelled there.

        Raises:
            NotConfigured: no ms-swift on this machine.
            NotBound: the task type has no binding to this version of it.
            ArgumentInvalid, ModelInvalid: it would do something else than asked.
        """
        if self.recipe not in ms_swift_rows.WRITERS:
            known = ", ".join(f"`{name}`" for name in ms_swift_rows.WRITERS)
            raise ArgumentInvalid(
                f"`backend`: runs by the recipe `{self.recipe}` have no way through ms-swift here; {known} have",
                pointer="/backend",
            )
        if checkpoint is not None:
            raise ArgumentInvalid("`resume`: a run through ms-swift starts afresh; leave it out", pointer="/resume")
        installed = ms_swift_installed.find()
        binding = spelling(self.tag, self.bindings, MS_SWIFT, installed.version)
        ms_swift_arguments.refuse(arguments, model)
        return installed, binding

    def train(self, job: Job) -> Outcome:
        """Train there, then save and score here."""
        installed, binding = self.refuse(job.arguments, job.model_dir, job.resume_from)
        steps = importlib.import_module("trainer.recipes._steps")  # by name: torch stands behind it
        steps.begin(job)
        place = _place(job)
        said = ms_swift_arguments.spelled(
            job.arguments, binding, job.model_dir, job.loss_mask,
            on_gpu=bool(os.environ.get("CUDA_VISIBLE_DEVICES")),
        )  # fmt: skip
        if "label_names" in job.arguments and job.arguments["use_lora"]:
            said |= _saved_whole(job)
        _write_rows(place, ms_swift_rows.written(self.recipe, job, Reader(job.model_dir)))
        with steps.board(job) as board:
            outcome = _follow(job, place, ms_swift_arguments.command(installed.python, binding, said), board)
            outcome = replace(
                outcome, details={**outcome.details, "backend": _told(job, place, installed, binding, said)}
            )
            if outcome.stopped is None:
                home = importlib.import_module("trainer.backends.ms_swift_home")
                outcome = home.bring(self.recipe, job, place / ms_swift_arguments.OUT, outcome, board)
                outcome = steps.finish(job, outcome, board)
                outcome = replace(outcome, peak_memory_bytes=_peak_of_children())
        _tidy(place)
        return outcome


def _saved_whole(job: Job) -> dict[str, Any]:
    """What the base has no weights for starts at random there: an adapter without it would be worth nothing."""
    recipe = importlib.import_module("trainer.recipes.sequence_classification")
    _, fresh = recipe.with_head(job)
    whole = recipe.saved_whole(fresh)
    return {"modules_to_save": whole} if whole else {}


def _place(job: Job) -> Path:
    place = job.folder.root / MS_SWIFT
    place.mkdir(mode=0o700)
    return place


def _write_rows(place: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    with (place / ms_swift_arguments.ROWS).open("x", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _follow(job: Job, place: Path, command: Sequence[str], board: Any) -> Outcome:
    """Start it and hear it to its end, or end it.

    Raises:
        TrainingFailed: it failed, or trained on other rows than it was given.
        Diverged: a loss is not finite.
    """
    said = Log(place / ms_swift_arguments.OUT / "logging.jsonl")
    started, stopped = perf_counter(), None
    with _started(place, command) as process:
        over = False
        while not over:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(LOOK_EVERY_S)
                over = True
            _pass_on(job, said, board)
            if not over and (stopped := job.listener.should_stop()) is not None:
                log.warning("ms-swift is told to end: %s", stopped)
                break
    steps = int(said.history[-1]["step"]) if said.history else 0
    if stopped is None:
        _refuse_bad_end(job, process.returncode, said)
    return Outcome(
        scores={}, steps=steps, train_seconds=perf_counter() - started, peak_memory_bytes=_peak_of_children(),
        stopped=stopped, details={"log_history": said.history},
    )  # fmt: skip


@contextlib.contextmanager
def _started(place: Path, command: Sequence[str]) -> Iterator["subprocess.Popen[bytes]"]:
    """In a session of its own: a Ctrl-C is ours to hear. Whatever happens, none of its processes is left behind."""
    log.info("running: %s", " ".join(command))
    environment = ms_swift_installed.variables({})
    process = subprocess.Popen(
        command, cwd=place, env=environment, stdin=subprocess.DEVNULL, stdout=sys.stderr, stderr=sys.stderr,
        start_new_session=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.poll() is None:
            _send(process, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(ENDS_WITHIN_S)
        _send(process, signal.SIGKILL)
        process.wait()


def _send(process: "subprocess.Popen[bytes]", number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


def _pass_on(job: Job, said: Log, board: Any) -> None:
    for step in said.steps():
        if not isfinite(step.logs["loss"]):
            diverged = importlib.import_module("trainer.recipes._checkpoints").Diverged
            raise diverged(f"the loss is {step.logs['loss']} at step {step.number}; lower `learning_rate`")
        job.listener.on_step(step.number, step.total, {k: v for k, v in step.logs.items() if isfinite(v)})
        for name, value in step.logs.items():
            board.add_scalar(f"train/{name}", value, step.number)


def _refuse_bad_end(job: Job, code: int, said: Log) -> None:
    if code != 0:
        how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
        raise TrainingFailed(f"ms-swift {how}; what it said is in `{job.folder.log.name}`", run_id=job.run_id)
    if said.rows != len(job.train_rows):
        raise TrainingFailed(
            f"ms-swift trained on {said.rows} rows and was given {len(job.train_rows)}: what it made is not this run",
            run_id=job.run_id,
        )


def _told(job: Job, place: Path, installed: Installed, binding: Binding, said: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that decided what it did. In `metrics.json`, whose digest stands in the signed manifest."""
    args = place / ms_swift_arguments.OUT / "args.json"
    return {
        "name": MS_SWIFT,
        **installed.document(),
        "command": binding.command,
        "arguments": {**said, "model": folders.public_name(job.model_dir)},
        "environment": ms_swift_installed.OFFLINE,
        "args_json": folders.file_digest(args) if args.is_file() else None,
    }


def _tidy(place: Path) -> None:
    """Its words about itself stay; rows, checkpoints and caches go."""
    for name in ("args.json", "logging.jsonl"):
        if (place / ms_swift_arguments.OUT / name).is_file():
            (place / ms_swift_arguments.OUT / name).replace(place / name)
    for name in (ms_swift_arguments.OUT, "cache"):
        shutil.rmtree(place / name, ignore_errors=True)
    (place / ms_swift_arguments.ROWS).unlink(missing_ok=True)


def _peak_of_children() -> int:
    """Resident bytes of the largest process that ended; of its GPU it tells nothing that we could add up."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit
