"""Checkpoints while a run trains: when one is due, and that each is sealed when it is whole."""

import contextlib
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import distributed
from transformers import TrainerCallback

from trainer import sealed
from trainer.inputs.folders import weights_folder
from trainer.job import Job

ADAPTER_CONFIG = "adapter_config.json"
log = logging.getLogger(__name__)
SAVE_EVERY_S = 30 * 60  # what a power cut may cost; saving an adapter takes a second, 7 billion weights a minute or two


class Diverged(ArithmeticError):
    """Training has left the finite numbers: nothing that it would save could answer."""


class NothingLeft(Exception):
    """The run that is continued was stopped at its last step: what is left is to evaluate and to save its model."""


@dataclass
class Checkpoints(TrainerCallback):  # type: ignore[misc]
    """Asks for a checkpoint when one is due, and seals whatever was saved. The one before goes only after that."""

    job: Job
    clock: Callable[[], float] = time.monotonic

    def on_train_begin(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
        self._saved_at = self.clock()
        if self.job.resume_from is not None and state.global_step >= state.max_steps:
            raise NothingLeft  # model and state are loaded by now, and the loop would take one more step

    def on_step_end(self, _args: Any, state: Any, control: Any, **_: Any) -> None:
        every = self.job.save_steps
        due = (
            self.clock() - self._saved_at >= SAVE_EVERY_S if every is None else every and not state.global_step % every
        )
        if due and state.global_step < state.max_steps:
            control.should_save = True

    def on_save(self, args: Any, state: Any, _control: Any, model: Any = None, **_: Any) -> None:
        refuse_diverged(model, state.global_step)
        if distributed.is_initialized():
            distributed.barrier()  # every process has put its random state there
        if state.is_world_process_zero:
            sealed.seal(Path(args.output_dir) / f"checkpoint-{state.global_step}")
        self._saved_at = self.clock()
        log.info("checkpoint of step %d of %d", state.global_step, state.max_steps)


@contextlib.contextmanager
def at_hand(job: Job) -> Iterator[str | None]:
    """The checkpoint to go on from, as the trainers read it; None where a run begins anew.

    An adapter names its base model by the path where it lay then, and sentence-transformers reads the base from there.
    It has to be the model whose digest the ticket binds, so an adapter's checkpoint is shown as links, with that name.
    """
    checkpoint = job.resume_from
    if checkpoint is None or not (configs := list(checkpoint.rglob(ADAPTER_CONFIG))):
        yield str(checkpoint) if checkpoint else None
        return
    with tempfile.TemporaryDirectory(prefix=checkpoint.name) as shown:
        shutil.copytree(checkpoint.absolute(), shown, copy_function=os.symlink, dirs_exist_ok=True)
        for config in configs:
            link = Path(shown) / config.relative_to(checkpoint)
            link.unlink()
            document = {**json.loads(config.read_text()), "base_model_name_or_path": str(weights_folder(job.model_dir))}
            link.write_text(json.dumps(document))
        yield shown


def refuse_diverged(model: torch.nn.Module, step: int) -> None:
    spoilt = [name for name, weight in model.named_parameters() if not torch.isfinite(weight).all()]
    if spoilt:
        raise Diverged(
            f"after {step} steps {len(spoilt)} weights are not finite (`{spoilt[0]}`); lower `learning_rate`, or look "
            "for rows that are no text"
        )
