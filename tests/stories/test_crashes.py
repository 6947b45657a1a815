"""What was promised to clients holds after kill -9, at any moment, of anything."""

import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from clusters import Cluster, NoServer
from conftest import free_port
from crashing import FAKETIME, History, Service, check, load


@pytest.fixture
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A PostgreSQL of its own, since it will be killed."""
    try:
        made = Cluster(tmp_path_factory.mktemp("cluster"), free_port())
    except NoServer as missing:
        pytest.skip(str(missing))
    made.start()
    yield made
    made.stop()


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Callable[..., Service]]:
    """Makes services in one folder, that is: processes of one service; ended with the test, whatever came of it."""
    made: list[Service] = []

    def make(database_url: str | None = None, **more: Any) -> Service:
        made.append(Service(tmp_path, database_url, **more))
        return made[-1]

    yield make
    for service in made:
        service.stop()


Processes = Callable[..., Service]


def until(condition: Callable[[], bool]) -> None:
    """Wait for something that must come, however busy the machine is."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it did not come in a minute"
        time.sleep(0.05)


def tokens(service: Service) -> tuple[str, str]:
    return service.token("wang", "trainers"), service.token("boss", "group-auditors", unit="all")


def under_kills(service: Service, kills: int) -> int:
    """Kill the service under load, `kills` times, then check the history."""
    trainer, auditor = tokens(service)
    service.start()
    with load([service.url], service.url, trainer) as history:
        for _ in range(kills):
            time.sleep(random.uniform(0.4, 1.2))
            service.kill()
            service.start()
        time.sleep(0.5)
    count = check(service, history, auditor)
    assert count >= kills, f"hardly any load: {dict(history.statuses)}"
    return count


def test_nothing_told_is_lost_when_the_registry_is_killed(processes: Processes) -> None:
    under_kills(processes(), kills=3)


@pytest.mark.slow
def test_nothing_told_is_lost_when_the_registry_is_killed_often(processes: Processes) -> None:
    under_kills(processes(), kills=40)


@pytest.mark.postgresql
def test_nothing_told_is_lost_when_the_registry_on_postgresql_is_killed(cluster: Cluster, processes: Processes) -> None:
    under_kills(processes(cluster.fresh_database()), kills=2)


def under_database_kills(cluster: Cluster, service: Service, kills: int) -> History:
    trainer, auditor = tokens(service)
    service.start()
    with load([service.url], service.url, trainer) as history:
        for _ in range(kills):
            time.sleep(random.uniform(0.5, 1.5))
            cluster.kill()
            time.sleep(random.uniform(0.1, 0.6))
            cluster.start()
        time.sleep(1)
    service.wait_until_ready()
    check(service, history, auditor)
    return history


@pytest.mark.postgresql
def test_nothing_told_is_lost_when_postgresql_is_killed(cluster: Cluster, processes: Processes) -> None:
    history = under_database_kills(cluster, processes(cluster.fresh_database()), kills=2)

    assert history.grants
    assert "500" not in history.statuses, "a database that is away is a 503, not a fault of ours"


@pytest.mark.slow
@pytest.mark.postgresql
def test_nothing_told_is_lost_when_postgresql_is_killed_often(cluster: Cluster, processes: Processes) -> None:
    under_database_kills(cluster, processes(cluster.fresh_database()), kills=25)


@pytest.mark.postgresql
def test_two_leaders_and_one_of_them_asleep_make_one_log(cluster: Cluster, processes: Processes) -> None:
    """Both processes sequence the log, so there are two leaders all the time."""
    database = cluster.fresh_database()
    first = processes(database)
    second = processes(database, issuer=first.url)
    trainer, auditor = tokens(first)
    first.start()
    second.start()

    with load([first.url, second.url], first.url, trainer) as history:
        time.sleep(2)
        first.send(signal.SIGSTOP)  # perhaps in the middle of a batch, with the sequencer's lock
        time.sleep(2)
        first.send(signal.SIGCONT)
        time.sleep(1)
        second.kill()
        second.start()
        time.sleep(1)

    first.wait_until_ready()
    check(first, history, auditor)
    assert history.grants


def test_a_full_disk_refuses_and_breaks_nothing(processes: Processes) -> None:
    """No file of the process may grow past a limit, which write(2) answers as it does on a full disk."""
    service = processes()
    trainer, auditor = tokens(service)
    service.start()
    with load([service.url], service.url, trainer, clients=2) as before:
        until(lambda: len(before.grants) >= 3)
    service.stop()
    service.file_limit = (service.folder / "state" / "registry.db").stat().st_size + 200_000

    service.start()
    with load([service.url], service.url, trainer, clients=2) as during:
        until(lambda: during.statuses["503"] >= 5)
    service.stop()

    assert "500" not in during.statuses
    service.file_limit = None
    service.start()
    with load([service.url], service.url, trainer, clients=2) as after:
        until(lambda: len(after.grants) >= 3)  # with room again, it goes on
    together = History(
        before.grants + during.grants + after.grants,
        before.leases + during.leases + after.leases,
        before.checkpoints + during.checkpoints + after.checkpoints,
    )
    check(service, together, auditor)


@pytest.mark.skipif(not FAKETIME, reason="no libfaketime; install the package `faketime`")
@pytest.mark.parametrize("jump", ["-2h", "+2h"])
def test_a_clock_that_jumps_breaks_no_record(processes: Processes, tmp_path: Path, jump: str) -> None:
    """Tickets expire by the clock, whatever it says; the books and the log do not depend on it."""
    clock = tmp_path / "clock"
    clock.write_text("+0")
    service = processes(clock=clock)
    trainer, auditor = tokens(service)
    service.start()

    with load([service.url], service.url, trainer, clients=2) as history:
        until(lambda: len(history.leases) >= 3)
        clock.write_text(jump)
        until(lambda: history.statuses["401"] >= 3)  # a proof of possession of another hour: it did jump
        clock.write_text("+0")
        seen = len(history.leases)
        until(lambda: len(history.leases) >= seen + 3)

    check(service, history, auditor)
    assert "500" not in history.statuses
    assert history.grants
