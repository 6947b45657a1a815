"""`python -P -m trainer.launch.worker PERMIT_FILE`: the process that trains.

It trusts nothing its parent says beyond where the permit lies, and checks the signed files by itself before anything
heavy loads. What it has to say goes as JSON lines to the descriptor that was its stdout; whatever libraries print goes
to stderr, which is the run's `train.log`.

Events: `lease` (for the parent alone), `step`, `notice` (a sentence for people), `ended` (with the run), `problem`
(with the problem document).
"""

import contextlib
import json
import logging
import math
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from enforcer import wire
from enforcer.problems import Problem, TrainingFailed
from trainer import telemetry
from trainer.exits import FINE, INTERRUPTED, exit_code
from trainer.layout import RunFolder
from trainer.run import handover, ranks, work

STEP_EVERY_S = 0.1


class Events:
    """JSON lines to whoever launched us; a launcher that went away stops nothing."""

    def __init__(self, pipe: int) -> None:
        self._pipe = pipe
        self._last_step_s = 0.0

    def say(self, event: str, **facts: Any) -> None:
        line = json.dumps({"event": event, **facts}, ensure_ascii=False, default=str, allow_nan=False).encode() + b"\n"
        with contextlib.suppress(OSError):
            while line:  # unbuffered: a signal handler speaks, too, and must not find a half-filled buffer
                line = line[os.write(self._pipe, line) :]

    def step(self, step: int, total: int, logs: Mapping[str, float]) -> None:
        """At most ten a second: a tiny model steps faster than anybody reads."""
        now = time.monotonic()
        if "loss" in logs or step == total or now - self._last_step_s >= STEP_EVERY_S:
            self._last_step_s = now
            finite = {name: value if math.isfinite(value) else None for name, value in logs.items()}
            self.say("step", step=step, total=total, **finite)

    def notice(self, text: str) -> None:
        self.say("notice", text=text)

    def lease(self, lease: wire.Lease) -> None:
        self.say("lease", run_id=lease.run_id, lease_token=lease.lease_token)


def main(permit_file: str) -> int:
    events = Events(os.dup(sys.stdout.fileno()))
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # native code prints, too
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    if ranks.rank() > 0:
        return _help(Path(permit_file))
    try:
        permit = handover.read(Path(permit_file))
        with telemetry.span("work"), _findable(permit.folder):
            done = work.execute(permit, tell=events.step, say=events.notice, on_lease=events.lease)
        if done.refused is not None:
            raise done.refused
    except Problem as problem:
        if not isinstance(problem, TrainingFailed):
            logging.getLogger(__name__).error("%s: %s", problem.code, problem.detail)
        events.say("problem", problem=problem.document())
        return exit_code(problem)
    except KeyboardInterrupt:
        events.say("ended", stopped="interrupted", run=None)
        return INTERRUPTED
    run = done.run.model_dump(mode="json") if done.run else None
    events.say("ended", stopped=done.outcome.stopped, run=run)
    return FINE if done.outcome.stopped is None else INTERRUPTED


def _help(permit_file: Path) -> int:
    """Only the first of several processes speaks, and hears of a stop."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ranks.help_out(RunFolder(permit_file.parent))
    return FINE


@contextlib.contextmanager
def _findable(folder: RunFolder) -> Iterator[None]:
    """Say in the run folder which process this is: it outlives a launcher that is killed."""
    with contextlib.suppress(OSError):
        folder.worker_pid.write_text(f"{os.getpid()}\n")
    try:
        yield
    finally:
        folder.worker_pid.unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
