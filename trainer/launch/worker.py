"""`python -P -m trainer.launch.worker PERMIT_FILE`: the process that trains.

It trusts nothing its parent says beyond where the permit lies, and checks the signed files by itself before anything
heavy loads. What it has to say goes as JSON lines to the descriptor that was its stdout; whatever libraries print goes
to stderr, which is the run's `train.log`.

Events: `lease` (for the parent alone), `step`, `ended` (with the run), `problem` (with the problem document).
"""

import json
import logging
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from enforcer import wire
from enforcer.problems import Problem, TrainingFailed
from trainer import handover, telemetry, work
from trainer.exits import FINE, INTERRUPTED, exit_code

STEP_EVERY_S = 0.1


class Events:
    """JSON lines to whoever launched us; a launcher that went away stops nothing."""

    def __init__(self, pipe: TextIO) -> None:
        self._pipe = pipe
        self._last_step_s = 0.0

    def say(self, event: str, **facts: Any) -> None:
        line = json.dumps({"event": event, **facts}, ensure_ascii=False, default=str)
        try:
            self._pipe.write(line + "\n")
            self._pipe.flush()
        except OSError:
            pass

    def step(self, step: int, total: int, logs: Mapping[str, float]) -> None:
        """At most ten a second: a tiny model steps faster than anybody reads."""
        now = time.monotonic()
        if logs or step == total or now - self._last_step_s >= STEP_EVERY_S:
            self._last_step_s = now
            self.say("step", step=step, total=total, **logs)

    def lease(self, lease: wire.Lease) -> None:
        self.say("lease", run_id=lease.run_id, lease_token=lease.lease_token)


def main(permit_file: str) -> int:
    events = Events(os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8"))
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # native code prints, too
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    try:
        with telemetry.span("work"):
            done = work.execute(handover.read(Path(permit_file)), tell=events.step, on_lease=events.lease)
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


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
