"""What is checked of every request before it is routed. Pure ASGI; whatever is refused here has not been parsed.

1. Host   on loopback the name must be a loopback one (421): a page that rebinds its own name sends its own name
2. Key    outside of /health, where keys are set (401)
3. Size   of the body (413)

It also counts: paths that nobody serves are `_other`.
"""

import hashlib
import hmac
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import cast

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from enforcer.local import is_loopback
from enforcer.problems import Misdirected, Problem, TooLarge, Unauthenticated
from trainer.serve.metrics import Metrics

PUBLIC = "/health"
Render = Callable[[Request, Problem], Response]


class Gate:
    def __init__(
        self, app: ASGIApp, *, keys: Sequence[str], loopback: bool, max_body_bytes: int, paths: frozenset[str],
        metrics: Metrics, render: Render,
    ) -> None:  # fmt: skip
        self._app, self._loopback, self._max, self._render = app, loopback, max_body_bytes, render
        self._keys = [_digest(key) for key in keys]
        self._paths, self._metrics = paths, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.monotonic(), 500

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            headers = dict(reversed(list(cast("Iterable[tuple[bytes, bytes]]", scope["headers"]))))
            self._check_host(headers.get(b"host", b"").decode("latin-1"))
            if scope["path"] != PUBLIC:
                self._check_key(headers.get(b"authorization", b"").decode("latin-1"))
            body = await self._body(headers.get(b"content-length", b""), receive)
        except Problem as refusal:
            await self._render(Request(scope), refusal)(scope, receive, answer)
        else:
            await self._app(scope, _again(body, receive), answer)
        finally:
            path = scope["path"] if scope["path"] in self._paths else "_other"
            self._metrics.requests.labels(path, str(status)).inc()
            self._metrics.seconds.labels(path).observe(time.monotonic() - began)

    def _check_host(self, host: str) -> None:
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
        if self._loopback and not is_loopback(name.strip("[]")):
            raise Misdirected(f"`{host[:100]}` is no name of this server; it answers on this machine only")

    def _check_key(self, authorization: str) -> None:
        if not self._keys:
            return
        scheme, _, key = authorization.partition(" ")
        # Every key is compared, and in constant time: how long it takes tells nothing.
        matches = [hmac.compare_digest(_digest(key.strip()), one) for one in self._keys]
        if scheme.lower() != "bearer" or not any(matches):
            raise Unauthenticated("send one of this server's keys as `Authorization: Bearer KEY`")

    async def _body(self, length: bytes, receive: Receive) -> bytes:
        too_large = TooLarge(f"a body may have {self._max} bytes; send fewer or shorter inputs")
        if length.isdigit() and int(length) > self._max:
            raise too_large
        parts, size, more = [], 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                break
            parts.append(message.get("body", b""))
            size, more = size + len(parts[-1]), message.get("more_body", False)
            if size > self._max:
                raise too_large
        return b"".join(parts)


def _again(body: bytes, receive: Receive) -> Callable[[], Awaitable[Message]]:
    """The body once more, and then what still comes: that the client hung up."""
    told = False

    async def read() -> Message:
        nonlocal told
        if told:
            return await receive()
        told = True
        return {"type": "http.request", "body": body, "more_body": False}

    return read


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
