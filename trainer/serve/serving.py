"""A loaded model and the queue in front of it: what the routes work with.

Tokens are counted before anything waits, in a thread of their own with a tokenizer of their own: a fast tokenizer must
not be used by two threads at once.
"""

import asyncio
import time
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

from trainer.serve.accepted import Servable
from trainer.serve.batching import Batcher
from trainer.serve.limits import Limits
from trainer.serve.metrics import Metrics
from trainer.serve.problems import InputRefused, ModelNotServed
from trainer.serve.wire import ModelCard, Usage


class Engine(Protocol):
    """A model that answers batches. `count` and `answer` run in a thread each, never two of a kind at once."""

    max_tokens: int

    def count(self, items: Sequence[Any]) -> list[int]:
        """Tokens of each input, uncut."""

    def answer(self, items: Sequence[Any]) -> Sequence[Any]:
        """One answer for each; longer inputs are cut to `max_tokens`."""

    def key(self, item: Any) -> Hashable:
        """Inputs share a batch when their keys are equal."""


class Serving:
    """`names` are what requests may call the model; the first is the one that is answered."""

    def __init__(self, run: Servable, engine: Engine, limits: Limits, names: Sequence[str]) -> None:
        self.run, self.engine, self.limits, self.names = run, engine, limits, list(names)
        self.created = int(time.time())
        self.metrics = Metrics(
            task_type=run.spec.task_type,
            version=run.spec.version,
            run_id=run.spec.run_id,
            accepted=run.forced is None,
        )
        self.batcher = Batcher(engine.answer, limits.batching, key=engine.key, seen=self.metrics.batches.observe)
        self.metrics.waiting.set_function(lambda: self.batcher.waiting)
        self._counting = ThreadPoolExecutor(1, thread_name_prefix="tokens")

    @property
    def name(self) -> str:
        return self.names[0]

    @property
    def card(self) -> ModelCard:
        spec = self.run.spec
        return ModelCard(
            id=self.name,
            created=self.created,
            owned_by="tagwarden",
            root=spec.run_id,
            max_model_len=self.engine.max_tokens,
            task_type=spec.task_type,
            version=spec.version,
            run_id=spec.run_id,
            accepted=self.run.forced is None,
        )

    def check_name(self, asked: str) -> None:
        """Raises `ModelNotServed`: a client that means another model must not get this one's answers."""
        if asked not in self.names:
            raise ModelNotServed(f"`{asked[:200]}` is not served here; there is `{self.name}`", param="model")

    async def aside(self, read: Callable[..., Any], *arguments: Any) -> Any:
        """Something that takes the tokenizer, in the thread that has one."""
        return await asyncio.get_running_loop().run_in_executor(self._counting, read, *arguments)

    async def fitting(self, items: Sequence[Any], param: str, truncate: bool | None) -> list[int]:
        """How many tokens the model reads of each; longer ones are cut as `truncate` says, else as in training.

        Raises:
            InputRefused: too many, or one that is too long and shall not be cut.
        """
        if len(items) > self.limits.max_inputs:
            raise InputRefused(
                f"`{param}` has {len(items)} texts, and a request may have {self.limits.max_inputs}; send several",
                param=param,
            )
        longest, counts = self.engine.max_tokens, await self.aside(self.engine.count, items)
        cut = bool(self.run.arguments.get("truncation")) if truncate is None else truncate
        for i, count in enumerate(counts):
            if count > longest and not cut:
                raise InputRefused(
                    f"text {i} of `{param}` has {count} tokens, and this model reads {longest}; shorten it, or say "
                    "`truncate: true` to have its end left out",
                    param=param, tokens=count, max_tokens=longest,
                )  # fmt: skip
        return [min(count, longest) for count in counts]

    def used(self, read: int, said: int = 0) -> Usage:
        """Count tokens, for the answer and for Prometheus."""
        self.metrics.tokens.labels("prompt").inc(read)
        self.metrics.tokens.labels("completion").inc(said)
        return Usage(prompt_tokens=read, completion_tokens=said, total_tokens=read + said)
