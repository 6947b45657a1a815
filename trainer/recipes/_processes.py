"""Training in several processes: every one takes its share of each batch, and the first decides for all.

`transformers` and `accelerate` split the batches and average the gradients (DistributedDataParallel, Li et al. 2020,
arXiv:2006.15704). What is here keeps the processes together, and sees that they really are.
"""

import logging
from typing import Any

import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel
from transformers import Trainer, TrainerCallback

from trainer.job import Helped, Job

log = logging.getLogger(__name__)


class NotTogether(RuntimeError):
    """The processes do not train one model: what came out would not be what was asked for."""


class Together(TrainerCallback):  # type: ignore[misc]
    """What one process wants (a stop, a checkpoint), all do, at the same step; else they would wait for each other."""

    def __init__(self, job: Job, trainer: Trainer) -> None:
        self.nproc, self.trainer, self.seen = int(job.arguments.get("nproc", 1)), trainer, False

    def on_step_end(self, args: Any, _state: Any, control: Any, **_: Any) -> None:
        if not self.seen:
            refuse_apart(self.nproc, self.trainer)
            self.seen = True
        self._agree(args, control)

    def on_log(self, args: Any, _state: Any, control: Any, **_: Any) -> None:
        self._agree(args, control)

    def _agree(self, args: Any, control: Any) -> None:
        if self.nproc == 1:
            return
        wishes = torch.tensor(
            [control.should_save, control.should_training_stop], dtype=torch.int32, device=args.device
        )
        distributed.all_reduce(wishes, op=distributed.ReduceOp.MAX)
        control.should_save, control.should_training_stop = (bool(wish) for wish in wishes.tolist())


def refuse_apart(nproc: int, trainer: Trainer) -> None:
    """After the first step: as many processes as were permitted, with one model between them.

    Raises:
        NotTogether: each trains a model of its own.
    """
    wrapped = isinstance(trainer.model_wrapped, DistributedDataParallel)
    have = distributed.get_world_size() if distributed.is_initialized() else 1
    if have != nproc or wrapped != (nproc > 1):
        mode = "their gradients averaged" if wrapped else "each a model of its own"
        raise NotTogether(f"{nproc} processes were to train one model; {have} train, {mode}")
    log.info("processes: %d, %s", have, how(nproc).get("parallel", "alone"))


def how(nproc: int) -> dict[str, Any]:
    """What a run says of its processes, where there are several."""
    return {"processes": nproc, "parallel": f"DDP over {distributed.get_backend()}"} if nproc > 1 else {}


def part(trainer: Trainer) -> None:
    """The end of training together: the first process goes on alone.

    Raises:
        Helped: in every other process.
    """
    if not distributed.is_initialized():
        return
    distributed.barrier()
    first = distributed.get_rank() == 0
    distributed.destroy_process_group()
    if not first:
        raise Helped
    trainer.model_wrapped = trainer.model
