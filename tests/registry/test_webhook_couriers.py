"""A receiver that is slow keeps nobody waiting, and nothing from ending."""

import subprocess
import sys
import threading
import time

import pytest
from conftest import Registry
from webhook_house import House

from registry import webhook_couriers, webhooks
from registry.books import Books
from registry.webhook_couriers import Couriers


@pytest.fixture
def house(registry: Registry) -> House:
    return House(registry, registry.as_("ops", "platform-admins", unit="all"))


class Slow:
    """In the place of a delivery: takes, for the webhooks that are named, until it is let go."""

    def __init__(self, *slow: str) -> None:
        self.slow, self.let_go = slow, threading.Event()
        self.began: list[str] = []
        self.reached = threading.Condition()

    def __call__(self, books: Books, hook: str) -> int:
        with self.reached:
            self.began.append(hook)
            self.reached.notify_all()
        if hook in self.slow:
            self.let_go.wait(20)
        with books.writing() as session:
            webhooks.get(session, hook).cursor = 1_000_000
        return 1

    def reaches(self, *hooks: str) -> bool:
        with self.reached:
            return self.reached.wait_for(lambda: set(hooks) <= set(self.began), 10)


def test_a_slow_receiver_keeps_no_other_waiting_and_is_called_once(house: House) -> None:
    slow, quick = house.hook(kinds=["test.slow"])["id"], house.hook(kinds=["test.quick"])["id"]
    deliver = Slow(slow)
    couriers = Couriers(house.registry.books, deliver)
    house.happen("test.slow")
    couriers.send_out()
    assert deliver.reaches(slow)

    house.happen("test.quick")
    couriers.send_out()

    assert deliver.reaches(quick)
    assert deliver.began.count(slow) == 1
    deliver.let_go.set()


def test_no_more_are_under_way_than_there_are_couriers(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhook_couriers, "AT_ONCE", 2)
    hooks = [house.hook()["id"] for _ in range(3)]
    deliver = Slow(*hooks)
    couriers = Couriers(house.registry.books, deliver)
    house.happen("test.ran")
    couriers.send_out()
    couriers.send_out()
    assert deliver.reaches(*hooks[:2])
    assert len(deliver.began) == 2

    deliver.let_go.set()
    couriers.rest(10)
    deadline = time.monotonic() + 10
    while hooks[2] not in deliver.began and time.monotonic() < deadline:
        couriers.send_out()
        couriers.rest(0.05)

    assert deliver.reaches(hooks[2])


def test_a_process_ends_while_something_is_on_its_way() -> None:
    """Threads that were joined at the end would hold it until the receiver answers."""
    program = (
        "import sys, time\n"
        "from registry import webhook_couriers, webhooks, webhook_delivery\n"
        "webhook_delivery.due = lambda books, now: ['a']\n"
        "webhook_couriers.Couriers(None, lambda books, hook: time.sleep(60)).send_out()\n"
        "print('sent', flush=True)\n"
    )
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=50, check=True)
    assert done.stdout == "sent\n"
    assert time.monotonic() - began < 40
