"""Who may stop a run, and what does not."""

import os
import signal
import threading
import time
from typing import Any

import pytest

from enforcer import wire
from enforcer.problems import RegistryUnreachable, RunClosed
from trainer.run.lease import Heartbeats, Watch, stopped_by_signals

LEASE = wire.Lease.model_validate(
    {
        "run_id": "r",
        "lease_token": "t",
        "expires_at": "2026-11-24T00:00:00Z",
        "heartbeat_s": 0,
        "lease_s": 600,
        "grace_s": 600,
        "on_lease_loss": "checkpoint-and-stop",
        "checkpoint": "",
    }
)


class Answers:
    """The one method of a registry that heartbeats use, at the edge of the network."""

    class settings:  # noqa: N801
        timeout_s = 5.0

    def __init__(self, *answers: Any) -> None:
        self.answers, self.beats = list(answers), list[wire.Heartbeat]()
        self.enough = threading.Event()

    def heartbeat(self, run_id: str, lease_token: str, beat: wire.Heartbeat) -> wire.HeartbeatAnswer:
        self.beats.append(beat)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if len(self.answers) == 1:
            self.enough.set()
        time.sleep(0.005)
        if isinstance(answer, Exception):
            raise answer
        return wire.HeartbeatAnswer.model_validate({"expires_at": "2026-11-24T00:00:00Z", "stop": answer})


def beat(answers: Answers, watch: Watch) -> Heartbeats:
    with Heartbeats(answers, LEASE, watch) as heartbeats:  # type: ignore[arg-type]
        assert answers.enough.wait(5)
        time.sleep(0.02)
    return heartbeats


def test_heartbeats_that_find_nobody_are_counted_and_go_on() -> None:
    watch = Watch(60)
    answers = Answers(RegistryUnreachable("away"), RegistryUnreachable("away"), None)

    heartbeats = beat(answers, watch)

    assert watch.should_stop() is None
    assert heartbeats.missed == 2
    assert len(answers.beats) > 2, "it beats again"


def outlast(silent_s: float, on_lease_loss: str = "checkpoint-and-stop", *answers: Any) -> Watch:
    """A run whose registry has been away for so long, by a clock that goes when we say so; 600 s lease, 600 s grace."""
    now = [0.0]
    watch, lease = Watch(1e9), LEASE.model_copy(update={"on_lease_loss": on_lease_loss})
    registry = Answers(*answers, RegistryUnreachable("away"))
    heartbeats = Heartbeats(registry, lease, watch, clock=lambda: now[0])  # type: ignore[arg-type]
    with heartbeats:
        assert registry.enough.wait(5)
        now[0] = silent_s
        deadline = time.monotonic() + 5
        while watch.should_stop() is None and heartbeats.missed < 20 and time.monotonic() < deadline:
            time.sleep(0.01)
    return watch


def test_an_outage_within_lease_and_grace_stops_nothing() -> None:
    assert outlast(1200).should_stop() is None


def test_an_outage_beyond_lease_and_grace_saves_a_checkpoint_and_stops() -> None:
    stopped = outlast(1201).should_stop()

    assert stopped == "lease-lost: the registry has not answered for 1201 s (lease 600 s, grace 600 s)"


def test_where_the_organisation_says_finish_an_outage_never_stops_a_run() -> None:
    assert outlast(90_000, "finish").should_stop() is None


def test_an_answer_starts_the_time_anew() -> None:
    """The lease counts from the last answer, not from the first."""
    now = [0.0]
    watch, registry = Watch(1e9), Answers(None)
    with Heartbeats(registry, LEASE, watch, clock=lambda: now[0]):  # type: ignore[arg-type]
        assert registry.enough.wait(5)
        now[0] = 5_000.0
        before = len(registry.beats)
        while len(registry.beats) < before + 3:
            time.sleep(0.01)
        registry.answers[:] = [RegistryUnreachable("away")]
        now[0] = 6_000.0
        time.sleep(0.1)

    assert watch.should_stop() is None


def test_a_registry_that_says_stop_is_obeyed_with_its_reason() -> None:
    watch = Watch(60)

    beat(Answers(None, "cancelled by user:boss"), watch)

    assert watch.should_stop() == "cancelled by user:boss"


def test_a_run_that_has_ended_in_the_books_stops() -> None:
    watch = Watch(60)

    beat(Answers(None, RunClosed("run `r` is failed")), watch)

    assert watch.should_stop() == "lease-lost: run `r` is failed"


def test_a_beat_carries_the_last_step_and_no_number_that_json_does_not_know() -> None:
    watch = Watch(60)
    watch.on_step(7, 10, {"loss": 0.5, "grad_norm": float("nan")})
    answers = Answers(None)

    beat(answers, watch)

    assert answers.beats[-1] == wire.Heartbeat(step=7, total_steps=10, logs={"loss": 0.5})


def test_a_run_ends_at_its_time_limit() -> None:
    now = [0.0]
    watch = Watch(60, clock=lambda: now[0])

    assert watch.should_stop() is None
    now[0] = 61.0

    assert watch.should_stop() == "runtime-limit"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_asks_for_a_checkpoint(number: int) -> None:
    watch = Watch(60)

    with stopped_by_signals(watch):
        os.kill(os.getpid(), number)

    assert watch.should_stop() == "interrupted"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler, "the handlers are put back"


def test_the_second_ctrl_c_does_not_wait() -> None:
    watch = Watch(60)

    def pressed_twice() -> None:
        with stopped_by_signals(watch):
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)

    with pytest.raises(KeyboardInterrupt):
        pressed_twice()


def test_the_second_ctrl_c_does_not_wait_for_a_run_that_was_lost_already() -> None:
    watch = Watch(60)
    watch.stop("lease-lost: run `r` is failed")

    def pressed(times: int) -> None:
        with stopped_by_signals(watch):
            for _ in range(times):
                os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.1)

    pressed(1)
    with pytest.raises(KeyboardInterrupt):
        pressed(2)


@pytest.mark.parametrize(
    ("step", "says"), [(3, "saving a checkpoint; press Ctrl-C again"), (10, "evaluating; press Ctrl-C again to stop")]
)
def test_the_first_ctrl_c_is_answered(step: int, says: str) -> None:
    watch, told = Watch(60), list[str]()
    watch.on_step(step, 10, {})

    with stopped_by_signals(watch, told.append):
        os.kill(os.getpid(), signal.SIGINT)

    assert [line[: len(says)] for line in told] == [says]


def test_the_first_reason_to_stop_stays() -> None:
    watch = Watch(60)

    watch.stop("cancelled")
    watch.stop("interrupted")

    assert watch.should_stop() == "cancelled"
