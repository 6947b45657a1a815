"""`swift-submit runs watch`: ask the registry for one run until it has ended.

The registry knows of a run what its heartbeats say, so nothing here is fresher than the last of them. Asking changes
nothing for the run.
"""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from enforcer.problems import InternalError, Unavailable
from trainer.cli.output import Output
from trainer.cli.progress import Progress
from trainer.cli.run import judged, run_lines
from trainer.exits import INTERRUPTED, TRAINING_FAILED, UNREACHABLE

if TYPE_CHECKING:
    from enforcer import wire
    from trainer.client import Registry

GIVE_UP_S = 900.0  # a registry that is updated is back long before
SLOWEST_S = 60.0
SAID = {
    "permitted": "is permitted and has not been started",
    "running": "is running",
    "lost": "is lost: nothing has been heard of it for too long; it may train on, and is back once it is heard of",
}


def follow(
    output: Output,
    registry: "Registry",
    run_id: str,
    interval_s: float,
    sleep: Callable[[float], None] = time.sleep,
) -> int:
    """Tell how far the run is until it ends or is lost; returns the exit code that `run` would have had.

    Raises:
        Problem: the registry does not know the run, or may not show it; or it was away for a quarter of an hour.
    """
    with Progress(output) as progress:
        run = _show(output, progress, registry.run(run_id), None)
        while run.state in ("permitted", "running"):
            sleep(interval_s)
            run = _show(output, progress, _ask(output, registry, run_id, interval_s, sleep), run)
    output.result(run.model_dump(mode="json"), run_lines(run), brief=[run.state])
    if run.state == "finished":
        return judged(output, run)
    return {"failed": TRAINING_FAILED, "interrupted": INTERRUPTED}.get(run.state, UNREACHABLE)


def _show(output: Output, progress: Progress, run: "wire.Run", before: "wire.Run | None") -> "wire.Run":
    """What is new since `before`."""
    if before is None or run.state != before.state:
        output.event("state", run_id=run.id, state=run.state)
        if run.state in SAID:
            output.talk(f"run `{run.id}` {SAID[run.state]}")
    moved = before is None or (run.step, run.logs) != (before.step, before.logs)
    if moved and run.total_steps:
        progress.show({**run.logs, "event": "step", "step": run.step, "total": run.total_steps})
    return run


def _ask(
    output: Output, registry: "Registry", run_id: str, interval_s: float, sleep: Callable[[float], None]
) -> "wire.Run":
    """Once more, and less and less often while the registry is away: the run itself outlives that, too."""
    waited_s, pause_s = 0.0, interval_s
    while True:
        try:
            return registry.run(run_id)
        except (Unavailable, InternalError) as away:
            if waited_s >= GIVE_UP_S:
                raise
            if waited_s == 0:
                output.warn(f"the registry does not answer (`{away.code}`); asking again, the run needs no answer")
        pause_s = min(max(pause_s * 2, interval_s), max(SLOWEST_S, interval_s))
        sleep(pause_s)
        waited_s += pause_s
