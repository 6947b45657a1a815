"""The seam between a permitted run and its recipe. Imports no torch, so that everything around training stays light."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from enforcer.columns import LossMask
from enforcer.gates import Score
from trainer.layout import RunFolder

Row = Mapping[str, Any]
"""One example, keyed by the columns of the profile (`text`, `label`, `anchor`, ...), never by those of the file."""


class Listener(Protocol):
    """Whoever watches a run: progress bar, heartbeat, event log."""

    def on_step(self, step: int, total: int, logs: Mapping[str, float]) -> None:
        """After an optimizer step; `logs` is empty between logging steps."""

    def should_stop(self) -> str | None:
        """Why to save a checkpoint and stop now (`interrupted`, `lease-lost`), or None to go on."""


@dataclass(frozen=True)
class Job:
    """One run as a recipe sees it: what was permitted, the rows, and where the outputs go.

    `arguments` holds every parameter of the tag's profile, defaults filled in by the registry: a recipe reads them by
    subscript and has no defaults of its own. `loss_mask` is the profile's: which tokens of a row carry loss.
    """

    task_type: str
    run_id: str
    arguments: Mapping[str, Any]
    model_dir: Path
    train_rows: Sequence[Row]
    eval_rows: Sequence[Row]
    folder: RunFolder
    listener: Listener
    loss_mask: LossMask | None = None


@dataclass(frozen=True)
class Outcome:
    """What training left. `model` is the live model, for `SwiftTrainer.save_model`; it never crosses a process."""

    scores: dict[str, Score]
    steps: int
    train_seconds: float
    peak_memory_bytes: int
    stopped: str | None = None
    details: dict[str, Any] = field(default_factory=dict)
    model: Any = None


class Recipe(Protocol):
    """A module in `trainer.recipes`, named as its tag."""

    def train(self, job: Job) -> Outcome:
        """Train, evaluate, and save the model under `job.folder.model`."""
