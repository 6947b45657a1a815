"""What every recipe does around its own trainer: the arguments, the adapter, the watcher, the board, the memory.

Nothing here touches a batch, a loss or a gradient: at one seed, a recipe computes what a plain library script computes.
"""

import contextlib
import json
import logging
import resource
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path
from time import perf_counter
from types import MappingProxyType
from typing import Any

import torch
from peft import LoraConfig, TaskType
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams
from transformers import (
    AutoTokenizer,
    PreTrainedTokenizerBase,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    set_seed,
)
from transformers.integrations import TensorBoardCallback
from transformers.utils import logging as logging_of_transformers

from enforcer.problems import ArgumentInvalid, DatasetInvalid
from trainer.job import Job, Outcome
from trainer.recipes import _processes
from trainer.recipes._checkpoints import Checkpoints, Diverged, NothingLeft, at_hand, refuse_diverged
from trainer.run import ranks

log = logging.getLogger(__name__)

# How models are loaded: from this disk, without the code or the pickles that a model folder may carry, in float32.
# Read-only, because sentence-transformers writes into the dictionaries that it is given.
LOCAL: Mapping[str, Any] = MappingProxyType({"local_files_only": True, "trust_remote_code": False})
WEIGHTS: Mapping[str, Any] = MappingProxyType({**LOCAL, "use_safetensors": True, "dtype": torch.float32})


def begin(job: Job) -> None:
    """Seed everything. Comes before any module exists: the trainers seed too late for a new head or adapter."""
    set_seed(job.arguments["seed"])
    logging_of_transformers.disable_progress_bar()


def compute_dtype() -> torch.dtype:
    """bfloat16 autocast where the GPU has it, else float32. Weights and optimizer state are float32 in both cases."""
    on_gpu = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    log.info("dtype: %s", "bfloat16 autocast (the GPU supports it)" if on_gpu else "float32 (no GPU with bfloat16)")
    return torch.bfloat16 if on_gpu else torch.float32


def tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a model folder; one without a padding token (many decoders) pads with its end token."""
    found: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, **LOCAL)
    if found.pad_token is None:
        found.pad_token = found.eos_token
    return found


def name_base(adapter: Path, base: str) -> None:
    """Say in an adapter folder what its base model is called. peft writes the path that it was loaded from, which means
    nothing elsewhere and tells of this machine; while it saves it looks the base up there, so this comes after."""
    config = adapter / "adapter_config.json"
    document = {**json.loads(config.read_text()), "base_model_name_or_path": base}
    config.write_text(json.dumps(document, indent=2, sort_keys=True) + "\n")


def training_arguments(job: Job) -> dict[str, Any]:
    """The keyword arguments of a `transformers.TrainingArguments` (or a subclass) for this job.

    Checkpoints are written when `Checkpoints` or a stop asks for one, and logs go to our own callbacks only.
    """
    asked = job.arguments
    return {
        "output_dir": str(job.folder.checkpoints),
        "learning_rate": asked["learning_rate"],
        "num_train_epochs": asked["num_train_epochs"],
        "max_steps": asked["max_steps"],
        "per_device_train_batch_size": asked["per_device_train_batch_size"],
        "per_device_eval_batch_size": asked["per_device_eval_batch_size"],
        "gradient_accumulation_steps": asked["gradient_accumulation_steps"],
        "warmup_steps": _warmup(asked["warmup_ratio"]),
        "weight_decay": asked["weight_decay"],
        "lr_scheduler_type": asked["lr_scheduler_type"],
        "seed": asked["seed"],
        "logging_steps": asked["logging_steps"],
        "logging_nan_inf_filter": False,  # it would log the mean of the finite losses instead
        "bf16": compute_dtype() is torch.bfloat16,
        "dataloader_pin_memory": torch.cuda.is_available(),
        "use_cpu": not torch.accelerator.is_available(),  # unless said, several processes on CPU train apart
        "disable_tqdm": True,
        "eval_strategy": "no",
        "save_strategy": "no",
        "report_to": "none",
    }


def _warmup(ratio: float) -> float:
    """transformers 5 reads `warmup_steps` below 1 as a ratio; 1.0 itself would mean one step."""
    if not 0 <= ratio < 1:
        raise ArgumentInvalid(f"`warmup_ratio`: {ratio} is no share of the run; give a number from 0 up to, not, 1")
    return ratio


def lora(job: Job, task: TaskType, save_whole: list[str] | None = None) -> LoraConfig:
    """Low-rank adapters on every linear layer (Hu et al. 2021, arXiv:2106.09685; all layers: Dettmers et al. 2023,
    arXiv:2305.14314, section 4). `save_whole` modules are trained in full and saved with the adapter."""
    return LoraConfig(
        task_type=task,
        r=job.arguments["lora_rank"],
        lora_alpha=job.arguments["lora_alpha"],
        lora_dropout=job.arguments["lora_dropout"],
        target_modules="all-linear",
        modules_to_save=save_whole,
    )


def refuse_overlong(lengths: Sequence[int], max_length: int) -> None:
    """Raise `DatasetInvalid` for any row over the limit: nothing is cut or dropped unless `truncation` allowed it."""
    longer = sum(length > max_length for length in lengths)
    if longer:
        raise DatasetInvalid(
            f"{longer} rows are longer than `max_length` {max_length} ({max(lengths)} tokens) and `truncation` is off; "
            "raise `max_length`, shorten the rows, or allow `truncation`"
        )


def parameters(model: torch.nn.Module) -> dict[str, int]:
    """How many parameters learn, and how many there are."""
    sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]
    return {"trainable_parameters": sum(n for n, learns in sizes if learns), "parameters": sum(n for n, _ in sizes)}


def run(job: Job, trainer: Trainer, board: SummaryWriter) -> Outcome:
    """Train to the end or until the listener says stop. The outcome has no scores yet.

    A stopped run leaves `checkpoints/checkpoint-<step>` with optimizer, scheduler and random state, and keeps it. A run
    that continues another computes what that one would have: same losses, same weights.

    Raises:
        Diverged: a loss on the way, or a weight at the end, is not finite.
    """
    watcher = _Watcher(job)
    trainer.remove_callback(PrinterCallback)  # it prints every log line to stdout when tqdm is off
    trainer.add_callback(_Board(board))
    trainer.add_callback(watcher)
    trainer.add_callback(Checkpoints(job))
    trainer.add_callback(_processes.Together(job, trainer))
    _forget_peak_memory()

    started = perf_counter()
    with contextlib.suppress(NothingLeft), at_hand(job) as checkpoint:
        trainer.train(resume_from_checkpoint=checkpoint)
    parallel = _processes.how(int(job.arguments.get("nproc", 1)))
    _processes.part(trainer)
    if watcher.stopped is None:
        refuse_diverged(trainer.model, trainer.state.global_step)
    return Outcome(
        scores={},
        steps=trainer.state.global_step,
        train_seconds=perf_counter() - started,
        peak_memory_bytes=peak_memory_bytes(),
        stopped=watcher.stopped,
        details={**parameters(trainer.model), **parallel, "log_history": trainer.state.log_history},
    )


def finish(job: Job, outcome: Outcome, board: SummaryWriter) -> Outcome:
    """Put the scores on the board beside the arguments, and measure the memory peak again, evaluation included.

    The model is there, so the checkpoints on the way to it go."""
    shutil.rmtree(job.folder.checkpoints, ignore_errors=True)
    for name, score in outcome.scores.items():
        board.add_scalar(f"eval/{name}", score.value, outcome.steps)
    arguments = {name: _plain(value) for name, value in sorted(job.arguments.items())}
    values = {name: score.value for name, score in outcome.scores.items()}
    # Through the writer's own file: `SummaryWriter.add_hparams` would open a second run beside this one.
    for summary in hparams(arguments, values):  # type: ignore[no-untyped-call]
        board._get_file_writer().add_summary(summary)  # type: ignore[no-untyped-call]
    return replace(outcome, peak_memory_bytes=peak_memory_bytes())


@contextlib.contextmanager
def board(job: Job) -> Iterator[SummaryWriter]:
    """The run's TensorBoard, whose text summary `task` reads `task=<tag>`. That of a helper goes nowhere."""
    with contextlib.ExitStack() as stack:
        elsewhere = stack.enter_context(tempfile.TemporaryDirectory()) if ranks.rank() else None
        writer = stack.enter_context(SummaryWriter(log_dir=elsewhere or str(job.folder.tensorboard)))
        writer.add_text("task", f"task={job.task_type}")
        yield writer


def peak_memory_bytes() -> int:
    """The most memory held since training began: allocated by torch on a GPU, else resident in this process.

    `VmHWM` counts what `ru_maxrss` counts but can be reset. Without /proc, `ru_maxrss` speaks for the whole process.
    """
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        unit = 1 if sys.platform == "darwin" else 1024  # getrusage(2): bytes on macOS, kilobytes elsewhere
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _forget_peak_memory() -> None:
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with contextlib.suppress(OSError):  # proc(5): 5 resets VmHWM; not everybody may write here
        Path("/proc/self/clear_refs").write_text("5")


@dataclass
class _Watcher(TrainerCallback):  # type: ignore[misc]
    """Tells the listener about each optimizer step, once, and carries its wish to stop to the trainer."""

    job: Job
    stopped: str | None = None

    def on_step_end(self, _args: Any, state: Any, control: Any, **_: Any) -> None:
        if not control.should_log:  # else `on_log` follows for the same step, with the logs
            self._tell(state, control, {})

    def on_log(self, _args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **_: Any) -> None:
        if logs and "loss" in logs:  # the closing summary of a run has none
            if not isfinite(logs["loss"]):
                raise Diverged(f"the loss is {logs['loss']} at step {state.global_step}; lower `learning_rate`")
            self._tell(
                state, control, {k: float(v) for k, v in logs.items() if isinstance(v, int | float) and isfinite(v)}
            )

    def _tell(self, state: Any, control: Any, logs: Mapping[str, float]) -> None:
        self.job.listener.on_step(state.global_step, state.max_steps, logs)
        self.stopped = self.job.listener.should_stop()
        if self.stopped is not None:
            log.warning("stopping at step %d of %d: %s", state.global_step, state.max_steps, self.stopped)
            control.should_save = control.should_training_stop = True


class _Board(TensorBoardCallback):  # type: ignore[misc]
    """Leaves our writer open at the end of training: the scores are still to come."""

    def on_train_end(self, *_: Any, **__: Any) -> None:
        self.tb_writer.flush()


def _plain(value: Any) -> bool | int | float | str:
    return value if isinstance(value, bool | int | float | str) else json.dumps(value, ensure_ascii=False)
