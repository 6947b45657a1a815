"""A running run and those who may stop it: its heartbeats to the registry, the person at the keyboard, its time limit.

A registry that does not answer stops nothing while lease and grace last: the run goes on and beats again. After that
the organisation's choice, which came with the lease, decides: save a checkpoint and stop, or finish. A registry that
says stop, or that the run has ended, makes the run save a checkpoint and stop.
"""

import contextlib
import logging
import math
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from types import FrameType, TracebackType
from typing import Any, Self

from enforcer import wire
from enforcer.problems import Conflict, NotFound, Problem, Unauthenticated
from trainer.client import Registry
from trainer.run.pace import Pace

log = logging.getLogger(__name__)
Tell = Callable[[int, int, Mapping[str, float]], None]
Say = Callable[[str], None]
INTERRUPTED, LEASE_LOST, RUNTIME_LIMIT = "interrupted", "lease-lost", "runtime-limit"
MAX_LOGS = 50


class Watch:
    """The listener of a job (`trainer.job.Listener`): knows the last step, and whether anybody wants a stop."""

    def __init__(
        self,
        max_runtime_s: float,
        tell: Tell | None = None,
        clock: Callable[[], float] = time.monotonic,
        *,
        rows: int = 0,
    ) -> None:
        self.step, self.total, self.logs, self.pace = 0, 0, dict[str, float](), dict[str, float]()
        self._tell, self._clock = tell, clock
        self._pace = Pace(rows, clock)
        self._ends_at = clock() + max_runtime_s
        self._stop: str | None = None

    def on_step(self, step: int, total: int, logs: Mapping[str, float]) -> None:
        self.step, self.total = step, total
        if logs:
            self.logs = {name: value for name, value in logs.items() if math.isfinite(value)}
        self.pace = self._pace.at(step, total, logs)
        if self._tell is not None:
            self._tell(step, total, {**logs, **self.pace})

    @property
    def trained(self) -> bool:
        """The last step was taken; what follows is saving and evaluating, and asks nobody whether to stop."""
        return 0 < self.total <= self.step

    def should_stop(self) -> str | None:
        return self._stop or (RUNTIME_LIMIT if self._clock() > self._ends_at else None)

    def stop(self, why: str) -> None:
        """Ask for a checkpoint and an end; the first reason stays."""
        self._stop = self._stop or why


class Heartbeats:
    """A thread that tells the registry every `interval_s` how far the run is, how fast, and what it `measure`s."""

    def __init__(
        self,
        registry: Registry,
        lease: wire.Lease,
        watch: Watch,
        clock: Callable[[], float] = time.monotonic,
        measure: Callable[[], Mapping[str, float]] = dict,
    ) -> None:
        self._registry, self._lease, self._watch, self._clock = registry, lease, watch, clock
        self._measure = measure
        self._answered_at = clock()  # counted by our own clock, from when we were given time by theirs
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeats", daemon=True)
        self.missed = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join(timeout=self._registry.settings.timeout_s)

    def _beat(self) -> None:
        over = False
        while not over:  # the last beat comes at the end of training, so that the books know all its steps
            over = self._over.wait(self._lease.heartbeat_s)
            watch = self._watch
            beat = wire.Heartbeat(step=watch.step, total_steps=watch.total, logs=self._numbers())
            asked_at = self._clock()
            try:
                answer = self._registry.heartbeat(self._lease.run_id, self._lease.lease_token, beat)
            except (Conflict, NotFound, Unauthenticated) as refusal:
                watch.stop(f"{LEASE_LOST}: {refusal.detail}")
                return
            except Problem:  # an outage, or a fault of the registry's own: the run is worth more than one beat
                self.missed += 1
                if not over and self._lost() and self._lease.on_lease_loss == "checkpoint-and-stop":
                    return
                continue
            self._answered_at = asked_at
            if answer.stop is not None:
                watch.stop(answer.stop)

    def _numbers(self) -> dict[str, float]:
        """Pace and resources find room however much a trainer logs."""
        measured: Mapping[str, float] = {}
        with contextlib.suppress(Exception):  # a number that cannot be had must not cost the lease
            measured = self._measure()
        ours = {**self._watch.pace, **measured}
        return dict([*self._watch.logs.items()][: MAX_LOGS - len(ours)]) | ours

    def _lost(self) -> bool:
        """Whether lease and grace are over; what is to happen then is said to the run, or to its log."""
        silent_s, lease = self._clock() - self._answered_at, self._lease
        if silent_s <= lease.lease_s + lease.grace_s:
            return False
        why = f"the registry has not answered for {silent_s:.0f} s (lease {lease.lease_s} s, grace {lease.grace_s} s)"
        if lease.on_lease_loss == "checkpoint-and-stop":
            self._watch.stop(f"{LEASE_LOST}: {why}")
        else:
            log.warning("%s; the run finishes all the same", why)
        return True


def say_on_stderr(text: str) -> None:
    print(f"! {text}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def stopped_by_signals(watch: Watch, say: Say = say_on_stderr) -> Iterator[None]:
    """The first Ctrl-C (or SIGTERM) asks for a checkpoint; a second Ctrl-C does not wait for one, whoever else had
    asked for a stop before. `say` hears what the first does.

    Python delivers signals to its main thread only; elsewhere there is nothing to catch.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    asked = False

    def hear(number: int, _frame: FrameType | None) -> None:
        nonlocal asked
        if asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked = True
        watch.stop(INTERRUPTED)
        checkpoint = "saving a checkpoint; press Ctrl-C again to stop without one"
        say("evaluating; press Ctrl-C again to stop" if watch.trained else checkpoint)

    before: dict[int, Any] = {number: signal.signal(number, hear) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
