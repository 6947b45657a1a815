"""How far a run is: a bar on a terminal, a line in 30 s elsewhere, one event for each step in ndjson.

Loss, speed and time left are the run's own words (`trainer.run.pace`), so who follows it from elsewhere reads the same.
Beside them, the sentences that a worker has for people (`notice`).
"""

import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from trainer.cli.output import Output
from trainer.run.pace import ETA, ROWS, TOKENS

LINE_EVERY_S = 30.0


class Progress:
    def __init__(self, output: Output, clock: Any = time.monotonic) -> None:
        self._output, self._clock = output, clock
        self._bar: Any = None
        self._task: Any = None
        self._loss = ""
        self._last_line = clock()

    def __enter__(self) -> Self:
        if self._output.live:
            from rich.console import Console
            from rich.progress import (
                BarColumn,
                MofNCompleteColumn,
                Progress as Bar,
                TextColumn,
                TimeElapsedColumn,
            )

            columns = (
                TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[said]}"),
                TimeElapsedColumn(),
            )  # fmt: skip
            self._bar = Bar(*columns, console=Console(stderr=True, no_color=not self._output.color), transient=True)
            self._bar.start()
            self._task = self._bar.add_task("loading", total=None, said="")
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
        if "loss" in event:
            loss = event["loss"]
            self._loss = "loss nan" if loss is None else f"loss {loss:.4f}"
        if self._bar is not None:
            doing = "training" if step < total else "evaluating"
            self._bar.update(self._task, description=doing, completed=step, total=total, said=self._said(event))
        elif self._output.mode == "human" and self._is_time_for_a_line(step, total):
            self._output.talk(f"step {step}/{total}  {self._said(event)}".rstrip())

    def _is_time_for_a_line(self, step: int, total: int) -> bool:
        now = self._clock()
        if step != total and now - self._last_line < LINE_EVERY_S:
            return False
        self._last_line = now
        return True

    def _said(self, event: Mapping[str, Any]) -> str:
        return "  ".join(part for part in (self._loss, _speed(event), _left(event)) if part)


def _speed(event: Mapping[str, Any]) -> str:
    for name, unit in ((TOKENS, "tokens/s"), (ROWS, "rows/s")):
        if event.get(name) is not None:
            return f"{event[name]:,.0f} {unit}" if event[name] >= 10 else f"{event[name]:.2g} {unit}"
    return ""


def _left(event: Mapping[str, Any]) -> str:
    """Minutes from a minute and a half on, hours from as many hours."""
    if (seconds := event.get(ETA)) is None:
        return ""
    if seconds >= 5400:
        return f"{seconds / 3600:.1f} h left"
    return f"{seconds / 60:.0f} min left" if seconds >= 90 else f"{seconds:.0f} s left"
