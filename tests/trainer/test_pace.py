"""How fast a run says that it is, and what it says of its machine."""

import json
import os
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from enforcer import wire
from trainer.launch.worker import Events
from trainer.run.lease import MAX_LOGS, Heartbeats, Watch
from trainer.run.pace import Pace
from trainer.run.resources import Resources


def test_speed_and_time_left_count_from_the_first_step_on() -> None:
    """One step in 2 s after the first, 90 to go: 180 s. An epoch of 50 rows in 20 s: 2.5 rows/s. 4000 tokens: 200/s."""
    now = [1000.0]
    pace = Pace(rows=50, clock=lambda: now[0])

    first = pace.at(1, 101, {"loss": 1.0, "epoch": 0.1, "num_tokens": 400})
    now[0] += 20.0
    later = pace.at(11, 101, {"loss": 0.5, "epoch": 1.1, "num_tokens": 4400})

    assert first == {}
    assert later == {"pace/eta_s": 180.0, "pace/rows_per_s": 2.5, "pace/tokens_per_s": 200.0}


def test_between_the_steps_that_are_logged_only_the_time_left_changes() -> None:
    now = [0.0]
    pace = Pace(rows=50, clock=lambda: now[0])
    for step, epoch in ((1, 0.1), (2, 0.2)):
        pace.at(step, 10, {"loss": 1.0, "epoch": epoch})
        now[0] += 1.0

    assert pace.at(3, 10, {}) == {"pace/eta_s": 7.0, "pace/rows_per_s": 5.0}


def test_a_clock_that_stands_still_says_nothing() -> None:
    pace = Pace(rows=50, clock=lambda: 0.0)

    assert [pace.at(step, 10, {"epoch": step / 10}) for step in (1, 2)] == [{}, {}]


def test_the_pace_goes_to_launcher_and_registry_beside_the_logs() -> None:
    now, told = [0.0], list[dict[str, float]]()
    watch = Watch(60, lambda step, total, logs: told.append(dict(logs)), clock=lambda: now[0], rows=10)

    watch.on_step(1, 5, {"loss": 0.5, "epoch": 0.2})
    now[0] = 2.0
    watch.on_step(2, 5, {"loss": 0.25, "epoch": 0.4})

    assert told[-1] == {"loss": 0.25, "epoch": 0.4, "pace/eta_s": 6.0, "pace/rows_per_s": pytest.approx(1.0)}
    assert set(watch.pace) == {"pace/eta_s", "pace/rows_per_s"}


def test_steps_without_a_loss_are_thinned_out_although_they_have_a_pace() -> None:
    read, write = os.pipe()
    events = Events(write)

    for step in range(1, 101):
        events.step(step, 1000, {"pace/eta_s": 1.0})
    events.step(101, 1000, {"pace/eta_s": 1.0, "loss": 0.5})

    told = [json.loads(line) for line in os.read(read, 100_000).splitlines()]
    assert len(told) < 20
    assert told[-1]["loss"] == 0.5


def beaten(watch: Watch, measure: Any) -> wire.Heartbeat:
    """The heartbeat that a registry gets, from a thread that is over at once."""
    beats: list[wire.Heartbeat] = []

    class Books:
        class settings:  # noqa: N801
            timeout_s = 5.0

        def heartbeat(self, run_id: str, lease_token: str, beat: wire.Heartbeat) -> wire.HeartbeatAnswer:
            beats.append(beat)
            return wire.HeartbeatAnswer.model_validate({"expires_at": "2026-11-24T00:00:00Z", "stop": None})

    lease = wire.Lease.model_validate(
        {"run_id": "r", "lease_token": "t", "expires_at": "2026-11-24T00:00:00Z", "heartbeat_s": 60, "lease_s": 600,
         "grace_s": 600, "on_lease_loss": "finish", "checkpoint": ""}
    )  # fmt: skip
    with Heartbeats(Books(), lease, watch, measure=measure):  # type: ignore[arg-type]
        pass
    return beats[-1]


def test_a_heartbeat_says_what_the_process_holds(tmp_path: Path) -> None:
    watch = Watch(60)
    watch.on_step(7, 10, {"loss": 0.5})

    logs = beaten(watch, Resources(tmp_path).now).logs

    assert logs["loss"] == 0.5
    assert 10e6 < logs["resources/rss_bytes"] < 1e12
    assert logs["resources/disk_free_bytes"] > 0
    assert 0 <= logs["resources/cpu_share"] < 1000


def test_resources_find_room_however_much_is_logged(tmp_path: Path) -> None:
    watch = Watch(60)
    watch.on_step(7, 10, {f"rewards/{n}": 0.5 for n in range(100)})

    logs = beaten(watch, Resources(tmp_path).now).logs

    assert len(logs) == MAX_LOGS
    assert "resources/rss_bytes" in logs


def test_a_measurement_that_fails_costs_no_heartbeat() -> None:
    watch = Watch(60)
    watch.on_step(7, 10, {"loss": 0.5})

    assert beaten(watch, lambda: 1 / 0).logs == {"loss": 0.5}


def test_the_memory_of_gpus_is_told_once_they_are_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    used = [False]
    cuda = types.SimpleNamespace(
        is_initialized=lambda: used[0], device_count=lambda: 2, memory_reserved=lambda one: 1000 * (one + 1)
    )
    monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace(cuda=cuda))
    resources = Resources(tmp_path)

    before = resources.now()
    used[0] = True

    assert "resources/gpu_bytes" not in before
    assert resources.now()["resources/gpu_bytes"] == 3000
