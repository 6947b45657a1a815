"""How far a run is: a bar on a terminal, a line in 30 s elsewhere, one event for each step in ndjson.

Beside it, the sentences that a worker has for people (`notice`).
"""

import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from trainer.cli.output import Output

LINE_EVERY_S = 30.0


class Progress:
    def __init__(self, output: Output, clock: Any = time.monotonic) -> None:
        self._output, self._clock = output, clock
        self._bar: Any = None
        self._task: Any = None
        self._loss = ""
        self._last_line = clock()
        self._first: tuple[int, float] | None = None  # step and time; loading is not counted into what is left

    def __enter__(self) -> Self:
        if self._output.live:
            from rich.console import Console
            from rich.progress import (
                BarColumn,
                MofNCompleteColumn,
                Progress as Bar,
                TextColumn,
                TimeElapsedColumn,
                TimeRemainingColumn,
            )

            columns = (
                TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[loss]}"),
                TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
            )  # fmt: skip
            self._bar = Bar(*columns, console=Console(stderr=True, no_color=not self._output.color), transient=True)
            self._bar.start()
            self._task = self._bar.add_task("loading", total=None, loss="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def show(self, event: Mapping[str, Any]) -> None:
        self._output.event(**event)
        if event["event"] == "notice":
            self._output.warn(event["text"])
        else:
            self._step(event)

    def _step(self, event: Mapping[str, Any]) -> None:
        step, total = int(event["step"]), int(event["total"])
        self._first = self._first or (step, self._clock())
        if "loss" in event:
            loss = event["loss"]
            self._loss = "loss nan" if loss is None else f"loss {loss:.4f}"
        if self._bar is not None:
            doing = "training" if step < total else "evaluating"
            self._bar.update(self._task, description=doing, completed=step, total=total, loss=self._loss)
        elif self._output.mode == "human" and self._is_time_for_a_line(step, total):
            parts = (f"step {step}/{total}", self._loss, f"{self._left(step, total)} left")
            self._output.talk("  ".join(part for part in parts if part))

    def _is_time_for_a_line(self, step: int, total: int) -> bool:
        now = self._clock()
        if step != total and now - self._last_line < LINE_EVERY_S:
            return False
        self._last_line = now
        return True

    def _left(self, step: int, total: int) -> str:
        first_step, started = self._first or (step, self._clock())
        seconds = (self._clock() - started) / max(step - first_step, 1) * (total - step)
        return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"
