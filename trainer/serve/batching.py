"""Requests that come at the same time go through the model together.

Whoever comes first waits `max_wait_s` for company, at most; while the model works, the next batch gathers by itself.
One thread runs the model, so it needs no lock. What nobody waits for any more is dropped before it is computed.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from trainer.serve.limits import Batching
from trainer.serve.problems import Overloaded

Answer = Callable[[Sequence[Any]], Sequence[Any]]


@dataclass(frozen=True, eq=False)
class _Waiting:
    item: Any
    key: Hashable
    answer: "asyncio.Future[Any]"


class Batcher:
    """`answer` takes a batch and returns as many answers, in a thread. Items of one batch have the same `key`."""

    def __init__(
        self,
        answer: Answer,
        limits: Batching,
        *,
        key: Callable[[Any], Hashable] = lambda _item: None,
        seen: Callable[[int], None] = lambda _size: None,
    ) -> None:
        self._answer, self._limits, self._key, self._seen = answer, limits, key, seen
        self._queue: deque[_Waiting] = deque()
        self._came = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._closing = False

    @property
    def waiting(self) -> int:
        return len(self._queue)

    async def submit(self, items: Sequence[Any]) -> list[Any]:
        """The answers to these items, in order. They share batches with those of other callers.

        Raises:
            Overloaded: they do not fit into the queue, or the server is about to end.
            Exception: whatever the model raised on the batch of one of them.
        """
        if self._closing:
            raise Overloaded("the server is about to end; ask another", retry_after_s=1)
        if len(self._queue) + len(items) > self._limits.max_queue:
            raise Overloaded(
                f"{len(self._queue)} inputs wait already, and {self._limits.max_queue} may; try again in a moment",
                retry_after_s=1,
            )
        loop = asyncio.get_running_loop()
        mine = [_Waiting(item, self._key(item), loop.create_future()) for item in items]
        self._queue.extend(mine)
        self._came.set()
        try:
            return list(await asyncio.gather(*(waiting.answer for waiting in mine)))
        finally:  # whoever hung up, or lost one of its answers, needs the others no more
            for waiting in mine:
                if not waiting.answer.cancel() and not waiting.answer.cancelled():
                    waiting.answer.exception()  # looked at, so that asyncio does not complain of it

    async def run(self) -> None:
        """Batch after batch, until `close` and nobody waits."""
        loop = asyncio.get_running_loop()
        try:
            while batch := await self._next():
                self._seen(len(batch))
                try:
                    answers = await loop.run_in_executor(self._thread, self._answer, [one.item for one in batch])
                    assert len(answers) == len(batch), "an engine answers each input once"
                except Exception as error:
                    for one in batch:
                        if not one.answer.done():
                            one.answer.set_exception(error)
                else:
                    for one, answer in zip(batch, answers, strict=True):
                        if not one.answer.done():
                            one.answer.set_result(answer)
        finally:
            self._thread.shutdown(wait=True)

    def close(self) -> None:
        """Take nothing new; `run` ends when what waits has been answered."""
        self._closing = True
        self._came.set()

    async def _next(self) -> list[_Waiting]:
        """The next batch: the longest waiting and those that came after it with its key. Empty at the end only."""
        while True:
            while not self._first():
                if self._closing:
                    return []
                self._came.clear()
                await self._came.wait()
            await self._gather()
            if batch := self._take():
                return batch

    async def _gather(self) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._limits.max_wait_s
        while (left := deadline - loop.time()) > 0 and not self._closing and not self._full():
            self._came.clear()
            try:
                await asyncio.wait_for(self._came.wait(), left)
            except TimeoutError:
                return

    def _first(self) -> bool:
        """Whether anybody waits. Those who went away are forgotten."""
        while self._queue and self._queue[0].answer.done():
            self._queue.popleft()
        return bool(self._queue)

    def _full(self) -> bool:
        return not self._queue or sum(one.key == self._queue[0].key for one in self._queue) >= self._limits.max_batch

    def _take(self) -> list[_Waiting]:
        """May be empty: those who waited may have gone away meanwhile."""
        batch: list[_Waiting] = []
        kept: deque[_Waiting] = deque()
        for one in self._queue:
            if one.answer.done():
                continue
            fits = not batch or (one.key == batch[0].key and len(batch) < self._limits.max_batch)
            (batch if fits else kept).append(one)
        self._queue = kept
        return batch
