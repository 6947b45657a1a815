"""`/v1/chat/completions`: one answer, whole or as server-sent events."""

import asyncio
import json
import logging
import time
import uuid
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Response
from fastapi.responses import StreamingResponse

from enforcer.problems import InternalError, Problem
from trainer.serve import errors
from trainer.serve.problems import InputRefused
from trainer.serve.saying import Piece, Prompt
from trainer.serve.serving import Serving
from trainer.serve.wire import ChatRequest

log = logging.getLogger(__name__)


def chat(serving: Serving) -> APIRouter:
    router = APIRouter()

    @router.post("/v1/chat/completions", operation_id="createChatCompletion", response_model=None)
    async def create(asked: ChatRequest) -> Response | dict[str, Any]:
        """The assistant's next turn. A prompt that leaves no room for an answer is refused, never cut."""
        serving.check_name(asked.model)
        ids = await _read(serving, asked)
        pieces = _pieces(serving, asked, ids)
        first = await anext(pieces)  # a refusal comes before the answer has begun
        told = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": serving.name}
        if asked.stream:
            events = _events(serving, asked, len(ids), told, first, pieces)
            return StreamingResponse(events, media_type="text/event-stream", headers={"Cache-Control": "no-store"})
        said = [first, *[piece async for piece in pieces]]
        message = {"role": "assistant", "content": "".join(piece.text for piece in said)}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": said[-1].finish}
        usage = serving.used(len(ids), said[-1].tokens).model_dump()
        return {**told, "object": "chat.completion", "choices": [choice], "usage": usage}

    return router


async def _read(serving: Serving, asked: ChatRequest) -> list[int]:
    """The prompt's tokens.

    Raises:
        InputRefused: the model cannot read it, or has no room left to answer.
    """
    messages = [message.for_template() for message in asked.messages]
    ids: list[int] = await serving.aside(serving.engine.read, messages, asked.tools)  # type: ignore[attr-defined]
    longest = serving.engine.max_tokens
    if len(ids) >= longest:
        raise InputRefused(
            f"the conversation has {len(ids)} tokens, and this model reads {longest} with its answer; shorten it",
            param="messages", tokens=len(ids), max_tokens=longest,
        )  # fmt: skip
    if (wanted := _wanted(asked)) is not None and wanted > serving.limits.max_new_tokens:
        raise InputRefused(
            f"an answer may have {serving.limits.max_new_tokens} tokens here, {wanted} are asked for",
            param="max_tokens" if asked.max_completion_tokens is None else "max_completion_tokens",
        )
    return ids


def _wanted(asked: ChatRequest) -> int | None:
    return asked.max_completion_tokens if asked.max_completion_tokens is not None else asked.max_tokens


async def _pieces(serving: Serving, asked: ChatRequest, ids: list[int]) -> AsyncIterator[Piece]:
    """The answer as it is said; the last piece has a `finish`. Whoever stops listening stops the model."""
    loop, heard = asyncio.get_running_loop(), asyncio.Queue[Piece | None]()

    def tell(piece: Piece) -> None:
        loop.call_soon_threadsafe(heard.put_nowait, piece)

    prompt = Prompt(
        ids=ids,
        max_new_tokens=min(_wanted(asked) or serving.limits.max_new_tokens, serving.engine.max_tokens - len(ids)),
        tell=tell,
        temperature=asked.temperature,
        top_p=asked.top_p,
        seed=asked.seed,
        stops=asked.stops,
    )
    answered = asyncio.create_task(serving.batcher.submit([prompt]))
    answered.add_done_callback(lambda _task: heard.put_nowait(None))
    try:
        while (piece := await heard.get()) is not None:
            yield piece
            if piece.finish is not None:
                return
        answered.result()  # raises what the model raised
        raise AssertionError("an engine ends every answer with a piece that says why")
    finally:
        prompt.gone.set()
        answered.cancel()


async def _events(
    serving: Serving, asked: ChatRequest, read: int, told: dict[str, Any], first: Piece, rest: AsyncIterator[Piece]
) -> AsyncIterator[str]:
    """Chunks as OpenAI sends them, up to `[DONE]`. A model that fails half way ends them with an `error`."""

    def chunk(delta: dict[str, str] | None, finish: str | None = None, **more: Any) -> str:
        choices = [] if delta is None else [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}]
        document = {**told, "object": "chat.completion.chunk", "choices": choices, **more}
        return f"data: {json.dumps(document, ensure_ascii=False)}\n\n"

    try:
        yield chunk({"role": "assistant", "content": ""})
        piece = first
        while True:
            if piece.text:
                yield chunk({"content": piece.text})
            if piece.finish is not None:
                break
            piece = await anext(rest)
        yield chunk({}, piece.finish)
        usage = serving.used(read, piece.tokens).model_dump()
        if asked.stream_options is not None and asked.stream_options.include_usage:
            yield chunk(None, usage=usage)
    except Exception as error:
        log.exception("an answer broke off")
        problem = error if isinstance(error, Problem) else InternalError("the model failed; the server's log says how")
        yield f"data: {json.dumps(errors.document(problem), ensure_ascii=False)}\n\n"
    finally:
        await rest.aclose()  # type: ignore[attr-defined]
    yield "data: [DONE]\n\n"
