"""How fast a run trains and when it will be done, worked out once, by the process that trains.

    pace/tokens_per_s   where the trainer counts tokens (`num_tokens`, as TRL logs it)
    pace/rows_per_s     training rows, from the share of an epoch that passed
    pace/eta_s          seconds to the last step, at the mean speed so far; evaluation comes on top

They travel with the logs of the run, to its launcher and to the registry; no trainer names a log so. Loading, and the
first step that compiles and warms up, are not counted in.
"""

import time
from collections.abc import Callable, Mapping

TOKENS, ROWS, ETA = "pace/tokens_per_s", "pace/rows_per_s", "pace/eta_s"


class Pace:
    """`rows` is how many an epoch has; 0 where nobody knows."""

    def __init__(self, rows: int = 0, clock: Callable[[], float] = time.monotonic) -> None:
        self._rows, self._clock = rows, clock
        self._first: dict[str, tuple[float, float]] = {}
        self._speeds: dict[str, float] = {}

    def at(self, step: int, total: int, logs: Mapping[str, float]) -> dict[str, float]:
        """What is known after this step; of tokens and rows, what the last step that was logged said."""
        now = self._clock()
        if (per_s := self._speed("step", step, now)) is not None:
            self._speeds[ETA] = max(total - step, 0) / per_s
        if "num_tokens" in logs and (per_s := self._speed("num_tokens", logs["num_tokens"], now)) is not None:
            self._speeds[TOKENS] = per_s
        if self._rows and "epoch" in logs and (per_s := self._speed("epoch", logs["epoch"], now)) is not None:
            self._speeds[ROWS] = per_s * self._rows
        return dict(self._speeds)

    def _speed(self, of: str, value: float, now: float) -> float | None:
        """Since it was first seen; None before there is anything to divide."""
        before, since = self._first.setdefault(of, (value, now))
        passed = now - since
        return (value - before) / passed if passed > 0 and value > before else None
