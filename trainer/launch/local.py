"""Run a permit in a child process on this machine, and tell what it does.

The child gets the path of a 0600 permit file and nothing else: no key, ticket or API token on its command line or in
its environment. It stands in a session of its own, so that Ctrl-C reaches it once, from here.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import FrameType
from typing import IO, Any, Literal

from enforcer import wire
from enforcer.problems import Problem, TicketInvalid, TrainingFailed, from_document
from trainer import resume, telemetry
from trainer.client import Registry
from trainer.layout import RunFolder
from trainer.run import handover, offline, ranks, reporting
from trainer.run.permit import Permit
from trainer.settings import ENVIRONMENT

Tell = Callable[[Mapping[str, Any]], None]
LOG_LINES = 12
OF_TORCHRUN = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT")
_A_LEASE_THAT_ENDED: Mapping[str, Any] = {
    "expires_at": "1970-01-01T00:00:00Z", "heartbeat_s": 1, "lease_s": 1, "grace_s": 0, "on_lease_loss": "finish",
    "checkpoint": "",
}  # fmt: skip


@dataclass(frozen=True)
class Ended:
    """How the child ended. `run` is None while the report waits in the run folder, or when it was cut off."""

    stopped: str | None
    run: wire.Run | None


def launch(permit: Permit, tell: Tell) -> Ended:
    """Start the worker and follow it to its end. `tell` gets its `step` and `notice` events.

    Raises:
        Problem: what the worker refused or failed with; `TrainingFailed` carries the end of `train.log`.
    """
    written = permit.file is None  # else somebody left it here for us, and may want to try again
    permit = handover.write(permit) if written else permit
    try:
        with permit.folder.log.open("ab") as log, _signals_forwarded() as signals:
            worker = subprocess.Popen(
                _command(permit),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                env=_environment(),
                start_new_session=True,
            )
            signals.go_to(worker, permit.folder)
            assert worker.stdout is not None
            last, lease = _follow(worker.stdout, tell)
            code = worker.wait()
    finally:
        # The worker does both itself, unless it never got there or was killed.
        if written:
            handover.delete(permit)
        permit.folder.worker_pid.unlink(missing_ok=True)
        ranks.over(permit.folder)
    if last.get("event") == "ended":
        run = last.get("run")
        return Ended(last.get("stopped"), wire.Run.model_validate(run) if run else None)
    if last.get("event") == "problem":
        raise _with_log(from_document(last["problem"], int(last["problem"].get("status", 500))), permit.folder)
    if code == -signal.SIGINT or signals.asked > 1:  # while Python itself was starting, or without waiting any longer
        why = "killed at the third Ctrl-C" if signals.asked > 2 else "interrupted before a checkpoint was saved"
        return Ended("interrupted", _report_for_the_dead(permit, lease, "interrupted", why))
    why = f"the training process {_how_it_died(code)}"
    _report_for_the_dead(permit, lease, "failed", why)
    raise _with_log(TrainingFailed(why), permit.folder)


def _command(permit: Permit) -> list[str]:
    """The worker, or `torchrun` with as many as were permitted. It meets them on loopback, and starts none twice."""
    # -P: a folder named `trainer` in the working directory must not become the trainer.
    python, worker = [sys.executable, "-P", "-m"], ["trainer.launch.worker", str(permit.file)]
    try:
        nproc = int(permit.verify().spec.arguments.get("nproc", 1))
    except TicketInvalid:  # the worker finds that out again, and puts it on record
        nproc = 1
    if nproc == 1:
        return [*python, *worker]
    alone = ["--standalone", "--local-addr", "127.0.0.1", "--max-restarts", "0", "--nproc-per-node", str(nproc)]
    return [*python, "torch.distributed.run", *alone, "--module", *worker]


def _follow(pipe: IO[bytes], tell: Tell) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """The last event, and the lease that the worker told us of in case it cannot report its own end."""
    last: dict[str, Any] = {}
    lease: dict[str, Any] | None = None
    for line in pipe:
        try:
            event = json.loads(line)
        except ValueError:
            continue  # a library that found the descriptor
        match event.get("event"):
            case "lease":
                lease = event
            case "step" | "notice":
                tell(event)
            case "ended" | "problem":
                last = event
    return last, lease


class _Signals:
    """First Ctrl-C: the worker saves a checkpoint. Second: it stops without. Third: it is killed.

    What is pressed before there is a worker reaches it when there is.
    """

    def __init__(self) -> None:
        self.asked = self._passed_on = 0
        self._worker: subprocess.Popen[bytes] | None = None

    def go_to(self, worker: "subprocess.Popen[bytes]", folder: RunFolder) -> None:
        self._worker, self._folder = worker, folder
        self._pass_on()

    def hear(self, _number: int, _frame: FrameType | None) -> None:
        self.asked += 1
        self._pass_on()

    def _pass_on(self) -> None:
        while self._worker is not None and self._passed_on < self.asked:
            self._passed_on += 1
            if self._worker.poll() is None:
                self._send(signal.SIGINT if self._passed_on < 3 else signal.SIGKILL)

    def _send(self, number: signal.Signals) -> None:
        """To the worker that leads: `torchrun`, which may stand between, would end the others at once."""
        with contextlib.suppress(OSError, ValueError):
            os.kill(int(self._folder.worker_pid.read_text()), number)
            return
        self._worker.send_signal(number)  # type: ignore[union-attr]  # there is one, or nothing would be passed on


@contextlib.contextmanager
def _signals_forwarded() -> Iterator[_Signals]:
    signals = _Signals()
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, signals.hear) for number in numbers}
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _environment() -> dict[str, str]:
    """Ours, without what only a person needs, and without what another `torchrun` may have left: with a `RANK` of its
    own, a worker would take itself for a helper. A run reads its model and data from disk, never from the network."""
    left_out = {*ENVIRONMENT.values(), *OF_TORCHRUN}
    mine = {name: value for name, value in os.environ.items() if name not in left_out}
    mine |= {"HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1", "TOKENIZERS_PARALLELISM": "false"}
    mine |= {"PYTHONSAFEPATH": "1"}  # -P, for the processes that `torchrun` starts
    telemetry.hand_to_child(mine)
    return mine


def _report_for_the_dead(
    permit: Permit, lease: dict[str, Any] | None, state: Literal["failed", "interrupted"], why: str
) -> wire.Run | None:
    """A worker that was killed could not say so. One that redeemed nothing never started, and leaves nothing."""
    held: reporting.Held | None
    if lease is None:
        held = offline.resume(permit.folder, permit.key)
    else:
        held = wire.Lease.model_validate({**_A_LEASE_THAT_ENDED, **lease})
    if held is None:
        return None
    with contextlib.suppress(Problem), Registry(permit.settings) as registry:
        return reporting.send(registry, permit.folder, wire.Report(state=state, error=why), held)
    return None


def _how_it_died(code: int) -> str:
    if code >= 0:
        return f"ended with code {code} and no word"
    name = signal.Signals(-code).name if -code in signal.Signals.__members__.values() else str(-code)
    return f"was killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")


def _with_log(problem: Problem, folder: RunFolder) -> Problem:
    if not isinstance(problem, TrainingFailed):
        return problem
    tail = _tail(folder)
    kept = resume.in_words(folder)
    what = f"{problem.detail}; {kept}" if kept else problem.detail
    return TrainingFailed(
        f"{what}. See `{folder.log}`, which ends:\n{tail}", **{**problem.facts, "log": str(folder.log)}
    )


def _tail(folder: RunFolder) -> str:
    try:
        with folder.log.open(encoding="utf-8", errors="replace") as log:
            return "".join(f"    {line.rstrip()[:300]}\n" for line in deque(log, LOG_LINES)).rstrip("\n")
    except OSError:
        return "    (it cannot be read)"
