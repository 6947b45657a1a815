"""Checkpoints while a run trains: when one is due, and that each is sealed when it is whole."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from trainer import sealed
from trainer.job import Job

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
        sealed.seal(Path(args.output_dir) / f"checkpoint-{state.global_step}")
        self._saved_at = self.clock()
        log.info("checkpoint of step %d of %d", state.global_step, state.max_steps)


def refuse_diverged(model: torch.nn.Module, step: int) -> None:
    spoilt = [name for name, weight in model.named_parameters() if not torch.isfinite(weight).all()]
    if spoilt:
        raise Diverged(
            f"after {step} steps {len(spoilt)} weights are not finite (`{spoilt[0]}`); lower `learning_rate`, or look "
            "for rows that are no text"
        )
