"""Many threads ask while revisions come and go: every answer is one that the asked revision gives."""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest
import worlds

from enforcer.policy.decision import Decision, Request
from enforcer.policy.snapshot import Snapshot


@dataclass
class Holder:
    """What the registry does: whoever asks reads one reference, whoever publishes assigns it."""

    gate: Snapshot
    asked: int = 0
    wrong: list[Decision] = field(default_factory=list)


@contextmanager
def impatient() -> Iterator[None]:
    """Threads change places a hundred times as often."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(before / 100)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def reload_while_asked(decisions: int, reloads: int) -> Holder:
    """Four threads ask until there were so many decisions and so many reloads, between two quarrelling revisions."""
    one, other = worlds.world(1), worlds.world(2)
    requests = [request for request in one.requests if Snapshot(one.policy, worlds.TAGS)._unfit(request) is None]
    expected: dict[str, dict[Request, tuple[bool, str | None]]] = {}
    for policy in (one.policy, other.policy):
        gate = Snapshot(policy, worlds.TAGS)
        expected[policy.revision] = {r: (d.allowed, d.rule) for r in requests for d in [gate.decide(r)]}
    holder = Holder(Snapshot(one.policy, worlds.TAGS))
    done = threading.Event()

    def ask() -> None:
        while not done.is_set():
            for request in requests:
                decision = holder.gate.decide(request)
                if (decision.allowed, decision.rule) != expected[decision.revision][request]:
                    holder.wrong.append(decision)
            with lock:
                holder.asked += len(requests)

    lock = threading.Lock()
    readers = [threading.Thread(target=ask) for _ in range(4)]
    with impatient():
        for reader in readers:
            reader.start()
        for number in range(reloads):
            while holder.asked < decisions * number // reloads:
                time.sleep(0.002)
            holder.gate = Snapshot((one, other)[number % 2].policy, worlds.TAGS)
        while holder.asked < decisions:
            time.sleep(0.01)
        done.set()
        for reader in readers:
            reader.join()
    return holder


def test_no_answer_is_wrong_while_revisions_change() -> None:
    holder = reload_while_asked(60_000, reloads=50)

    assert holder.wrong == []


@pytest.mark.slow
def test_no_answer_of_a_million_is_wrong_while_revisions_change() -> None:
    holder = reload_while_asked(1_000_001, reloads=50)

    assert (holder.asked > 1_000_000, holder.wrong) == (True, [])


def test_a_memory_that_is_full_starts_anew() -> None:
    world = worlds.world(3)
    small, none = (Snapshot(world.policy, worlds.TAGS, remembered=most) for most in (7, 0))

    assert [small.decide(request) for request in world.requests] == [none.decide(r) for r in world.requests]
    assert (0 < len(small._memo) <= 7, len(none._memo)) == (True, 0)
