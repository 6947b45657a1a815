"""Tests of webhooks, asked for and waited for by a request: few at once, since each may hold a thread of the service
for as long as its receiver is silent."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from enforcer.problems import RateLimited

AT_ONCE = 4
RETRY_AFTER_S = 15  # as long as one can take

_under_way: set[str] = set()
_lock = threading.Lock()


@contextmanager
def one(webhook_id: str) -> Iterator[None]:
    """Raises RateLimited: this webhook is being tested, or as many as may be are. It is not put on record: the tests
    under way are."""
    with _lock:
        if webhook_id in _under_way or len(_under_way) >= AT_ONCE:
            which = "this webhook is" if webhook_id in _under_way else f"{AT_ONCE} webhooks are"
            refusal = RateLimited(
                f"{which} being tested, and the receiver has not answered; try again in {RETRY_AFTER_S} s",
                budget="webhook tests",
                retry_after_s=RETRY_AFTER_S,
            )
            refusal.unsaid = None
            raise refusal
        _under_way.add(webhook_id)
    try:
        yield
    finally:
        with _lock:
            _under_way.discard(webhook_id)
