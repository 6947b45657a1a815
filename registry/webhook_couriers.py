"""Who carries events to webhooks: a thread for each that something waits for, so that nobody waits for a receiver but
its own webhook. The threads are daemons: a process that ends leaves what is on its way to the next one."""

import logging
import threading
from collections.abc import Callable

from registry import db, webhook_delivery
from registry.books import Books

log = logging.getLogger("tagwarden")
AT_ONCE = 8


class Couriers:
    def __init__(self, books: Books, deliver: Callable[[Books, str], int] = webhook_delivery.deliver) -> None:
        self._books, self._deliver = books, deliver
        self._under_way: set[str] = set()
        self._lock = threading.Lock()
        self._returned = threading.Event()

    def send_out(self) -> None:
        """Begin with every webhook that is due, as far as there are couriers; the longest waiting first."""
        self._returned.clear()
        with self._lock:
            out = set(self._under_way)
        if len(out) >= AT_ONCE:
            return
        waiting = [hook for hook in webhook_delivery.due(self._books, db.utc_now()) if hook not in out]
        for hook in waiting[: AT_ONCE - len(out)]:
            with self._lock:
                self._under_way.add(hook)
            threading.Thread(target=self._carry, args=(hook,), name=f"webhook {hook}", daemon=True).start()

    def rest(self, seconds: float) -> None:
        """Until one comes back, and may go again; not longer than `seconds`."""
        self._returned.wait(seconds)

    def _carry(self, hook: str) -> None:
        told = 0
        try:
            told = self._deliver(self._books, hook)
        except Exception:
            log.exception("webhook %s was not told; it is tried again", hook)
        finally:
            with self._lock:
                self._under_way.discard(hook)
                full = len(self._under_way) == AT_ONCE - 1
            if told or full:
                self._returned.set()
