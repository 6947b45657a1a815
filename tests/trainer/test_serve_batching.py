"""Requests share a batch when they come together, and nobody pays for those who went away."""

import asyncio
import threading
from collections.abc import Sequence
from typing import Any

import pytest

from trainer.serve.batching import Batcher
from trainer.serve.limits import Batching
from trainer.serve.problems import Overloaded


class Model:
    """Answers with ten times the input, once `may_go` is set; remembers what came together."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.may_go = threading.Event()
        self.may_go.set()

    def answer(self, items: Sequence[int]) -> list[int]:
        self.batches.append([*items])
        assert self.may_go.wait(10)
        if 13 in items:
            raise ValueError("unlucky")
        return [10 * item for item in items]


async def with_batcher(model: Model, limits: Batching, work: Any, **how: Any) -> Any:
    batcher = Batcher(model.answer, limits, **how)
    running = asyncio.create_task(batcher.run())
    try:
        return await work(batcher)
    finally:
        model.may_go.set()
        batcher.close()
        await asyncio.wait_for(running, 10)


def test_requests_that_come_together_are_one_batch_and_each_gets_its_own_answers() -> None:
    model = Model()

    async def work(batcher: Batcher) -> Any:
        return await asyncio.gather(batcher.submit([1, 2]), batcher.submit([3]), batcher.submit([4]))

    answers = asyncio.run(with_batcher(model, Batching(max_batch=8, max_wait_s=0.2), work))

    assert answers == [[10, 20], [30], [40]]
    assert model.batches == [[1, 2, 3, 4]]


def test_a_full_batch_goes_at_once_and_the_rest_follows() -> None:
    model = Model()

    async def work(batcher: Batcher) -> Any:
        return await asyncio.wait_for(batcher.submit([1, 2, 3, 4, 5]), 5)

    answers = asyncio.run(with_batcher(model, Batching(max_batch=2, max_wait_s=0.05), work))

    assert answers == [10, 20, 30, 40, 50]
    assert model.batches == [[1, 2], [3, 4], [5]]


def test_only_what_is_alike_shares_a_batch_and_the_longest_waiting_goes_first() -> None:
    model = Model()

    async def work(batcher: Batcher) -> Any:
        return await batcher.submit([1, 2, 3, 4])

    answers = asyncio.run(with_batcher(model, Batching(max_wait_s=0.05), work, key=lambda item: item % 2))

    assert answers == [10, 20, 30, 40]
    assert model.batches == [[1, 3], [2, 4]]


def test_more_than_may_wait_is_refused_and_says_when_to_come_back() -> None:
    model = Model()
    model.may_go.clear()

    async def work(batcher: Batcher) -> Any:
        first = asyncio.create_task(batcher.submit([1]))
        while not model.batches:  # the model works on it, so it waits no more
            await asyncio.sleep(0.001)
        second = asyncio.create_task(batcher.submit([2, 3]))
        await asyncio.sleep(0)
        with pytest.raises(Overloaded) as refused:
            await batcher.submit([4])
        model.may_go.set()
        return refused.value.facts, await first, await second

    facts, first, second = asyncio.run(with_batcher(model, Batching(max_queue=2, max_wait_s=0), work))

    assert (facts, first, second) == ({"retry_after_s": 1}, [10], [20, 30])


def test_what_nobody_waits_for_any_more_is_not_computed() -> None:
    model = Model()
    model.may_go.clear()

    async def work(batcher: Batcher) -> Any:
        first = asyncio.create_task(batcher.submit([1]))
        while not model.batches:
            await asyncio.sleep(0.001)
        gone, stays = asyncio.create_task(batcher.submit([2])), asyncio.create_task(batcher.submit([3]))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.sleep(0)
        model.may_go.set()
        return await first, await stays

    assert asyncio.run(with_batcher(model, Batching(max_wait_s=0), work)) == ([10], [30])
    assert model.batches == [[1], [3]]


def test_a_model_that_fails_fails_this_batch_and_no_other() -> None:
    model = Model()

    async def work(batcher: Batcher) -> Any:
        with pytest.raises(ValueError, match="unlucky"):
            await batcher.submit([13])
        return await batcher.submit([1])

    assert asyncio.run(with_batcher(model, Batching(max_wait_s=0), work)) == [10]


def test_closing_answers_what_waits_and_takes_nothing_new() -> None:
    model = Model()
    model.may_go.clear()

    async def work(batcher: Batcher) -> Any:
        first = asyncio.create_task(batcher.submit([1]))
        while not model.batches:
            await asyncio.sleep(0.001)
        waits = asyncio.create_task(batcher.submit([2]))
        await asyncio.sleep(0)
        batcher.close()
        with pytest.raises(Overloaded):
            await batcher.submit([3])
        model.may_go.set()
        return await first, await waits

    assert asyncio.run(with_batcher(model, Batching(), work)) == ([10], [20])
