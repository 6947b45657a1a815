"""How often a principal may ask: one bucket for each principal and budget, in the memory of this process.

A budget of N a minute holds N: all of them may come at once (a CI storm does), then one more every 60/N seconds. It is
kept as one number, the time at which the bucket is full again (GCRA, ITU-T I.371); a request costs about a microsecond.

With several processes each has buckets of its own: the sum is what a principal gets. Exact sums would need a store that
every request writes to; what is at stake is load, not permission.
"""

import hashlib
import math
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from typing import Literal

from enforcer.problems import RateLimited

Budget = Literal["reads", "writes", "tickets", "exports", "public", "failures"]
WINDOW_S = 60.0
MOST_BUCKETS = 20_000  # about 5 MB; the one that was not used for longest makes room, as if it were full again


class Rates:
    """The buckets. Safe to call from any thread."""

    def __init__(
        self,
        per_minute: Mapping[Budget, int],
        *,
        clock: Callable[[], float] = time.monotonic,
        most: int = MOST_BUCKETS,
    ) -> None:
        """`per_minute` of 0 is no limit."""
        self.per_minute = dict(per_minute)
        self.refused: Counter[Budget] = Counter()  # since the start
        self._clock = clock
        self._most = most
        self._full_at: OrderedDict[tuple[str, Budget], float] = OrderedDict()
        self._told: OrderedDict[tuple[str, Budget], tuple[float, int]] = OrderedDict()
        self._good: OrderedDict[bytes, None] = OrderedDict()
        self._lock = threading.Lock()

    def take(self, principal: str, budget: Budget) -> None:
        """Count one request of a principal.

        Raises:
            RateLimited: the budget is used up.
        """
        rate = self.per_minute[budget]
        if not rate:
            return
        step, key, now = WINDOW_S / rate, (principal, budget), self._clock()
        with self._lock:
            full_at = max(self._full_at.get(key, now), now) + step
            wait_s = full_at - now - WINDOW_S
            if wait_s <= 1e-9:
                self._full_at[key] = full_at
                self._full_at.move_to_end(key)
                if len(self._full_at) > self._most:
                    self._full_at.popitem(last=False)
                return
        raise self._refusal(key, wait_s)

    def check(self, principal: str, budget: Budget) -> None:
        """Raise what `take` would raise, and count nothing.

        Raises:
            RateLimited: the budget is used up.
        """
        wait_s = self._wait_s(principal, budget)
        if wait_s > 1e-9:
            raise self._refusal((principal, budget), wait_s)

    def has_room(self, principal: str, budget: Budget) -> bool:
        """Whether `take` would let it in. Nothing is counted, and no refusal is noted as told."""
        return self._wait_s(principal, budget) <= 1e-9

    def _wait_s(self, principal: str, budget: Budget) -> float:
        rate = self.per_minute[budget]
        if not rate:
            return 0.0
        return self._full_at.get((principal, budget), 0.0) + WINDOW_S / rate - self._clock() - WINDOW_S

    def remember(self, address: str, credential: str) -> None:
        """A credential that held, from here. Guesses by others at this address do not shut it out."""
        mark = _mark(address, credential)
        with self._lock:
            self._good[mark] = None
            self._good.move_to_end(mark)
            if len(self._good) > self._most:
                self._good.popitem(last=False)

    def held_before(self, address: str, credential: str) -> bool:
        return _mark(address, credential) in self._good

    def _refusal(self, key: tuple[str, Budget], wait_s: float) -> RateLimited:
        principal, budget = key
        after_s = max(1, math.ceil(wait_s))
        refusal = RateLimited(
            f"`{principal[:100]}` has used up the {self.per_minute[budget]} {_WORDS[budget]} a minute; "
            f"try again in {after_s} s",
            budget=budget,
            retry_after_s=after_s,
        )
        now = self._clock()
        with self._lock:
            self.refused[budget] += 1
            told_at, unsaid = self._told.get(key, (-math.inf, 0))
            if now - told_at < WINDOW_S:
                self._told[key] = (told_at, unsaid + 1)
                refusal.unsaid = None
            else:
                self._told[key] = (now, 0)
                self._told.move_to_end(key)
                if len(self._told) > self._most:
                    self._told.popitem(last=False)
                refusal.unsaid = unsaid
        return refusal


_WORDS: dict[Budget, str] = {
    "reads": "reads",
    "writes": "changes",
    "tickets": "ticket requests",
    "exports": "exports",
    "public": "public requests",
    "failures": "failed sign-ins",
}


def _mark(address: str, credential: str) -> bytes:
    return hashlib.blake2b(f"{address} {credential}".encode("utf-8", "replace"), digest_size=16).digest()
