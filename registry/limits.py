"""What is refused before anything is routed, and the headers of every answer. Pure ASGI, a few microseconds a request.

In this order:

1. Host       the name must be one of ours (421): a page that rebinds its own name to 127.0.0.1 sends its own name
2. Origin     a browser sends a change from our own pages only (403)
3. size       a body up to 64 KiB, or 4 MiB of policy files with a credential (413), a URL without NUL (422; PostgreSQL
              cannot compare with one)
4. guessing   an address whose budget of failed sign-ins is used up waits (429), whoever it says it is
5. body       JSON and called so (415); UTF-8, at most 16 levels deep, no member twice (422)

The parsed body is left in `scope["json"]` for routes that read it there.
"""

import contextlib
import ipaddress
import json
import re
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, cast
from urllib.parse import parse_qsl, urlsplit

from fastapi import Request
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from enforcer.local import is_loopback, is_loopback_url
from enforcer.problems import (
    CrossOrigin,
    Malformed,
    Misdirected,
    RateLimited,
    TooDeep,
    TooLarge,
    UnsupportedMediaType,
)
from registry.rates import Rates
from registry.settings import Settings

MAX_BODY_BYTES = 64 * 1024
MAX_POLICY_BYTES = 4 * 1024 * 1024
POLICY_FILES = frozenset({"/v1/proposals", "/v1/policies:validate", "/v1/policies:replay"})
MAX_DEPTH = 16
PROBES = frozenset({"/healthz", "/readyz", "/metrics"})  # load balancers and scrapers ask by address
ASKING = frozenset({"GET", "HEAD", "OPTIONS"})
FORM = "application/x-www-form-urlencoded"
Render = Callable[[Request, Exception], Response]


class Limits:
    """`forms` are the paths that take a form (RFC 6749) instead of JSON; `render` makes the answer of a refusal."""

    def __init__(
        self, app: ASGIApp, *, settings: Settings, rates: Rates, forms: frozenset[str], render: Render
    ) -> None:
        self.app = app
        self._rates = rates
        self._forms = forms
        self._render = render
        self._hosts, self._host_and_ports = _names(settings)
        self._headers = _security_headers(settings)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        # Of a header that stands twice the first counts, as for the routes: the one that is checked is the one used.
        headers = dict(reversed(list(cast("Iterable[tuple[bytes, bytes]]", scope["headers"]))))
        state, started = scope.setdefault("state", {}), False
        authorization = headers.get(b"authorization", b"").decode("latin-1")

        async def answer(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message["headers"] = self._with_security(message.get("headers", ()))
                if authorization and message["status"] == 401:
                    self._count_failure(scope)
                elif authorization and state.get("admitted"):
                    self._rates.remember(address(scope), authorization)
            await send(message)

        try:
            self._check_head(scope, headers, authorization)
            receive = await self._checked(scope, headers, receive)
            await self.app(scope, receive, answer)
        except Exception as error:  # a fault of ours is answered here too, for its answer needs the same headers
            if started:
                raise
            await self._render(Request(scope), error)(scope, receive, answer)

    def _check_head(self, scope: Scope, headers: dict[bytes, bytes], authorization: str) -> None:
        host = headers.get(b"host", b"").decode("latin-1").lower()
        if scope["path"] not in PROBES and host not in self._host_and_ports and _name_of(host) not in self._hosts:
            raise Misdirected(
                f"`{host[:100]}` is not a name of this registry; call it by its public URL, or have its operator add "
                "the name to TAGWARDEN_ALLOWED_HOSTS"
            )
        if scope["method"] not in ASKING and b"origin" in headers:
            origin = headers[b"origin"].decode("latin-1").lower().partition("://")[2]
            if origin != host and origin not in self._host_and_ports and _name_of(origin) not in self._hosts:
                raise CrossOrigin("a browser sent this from a page of another site; nothing was done")
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or len(length) > 12 or int(length) > _most(scope, headers):
            raise _too_large(_most(scope, headers))
        if "\x00" in scope["path"] or b"%00" in scope["query_string"]:
            raise Malformed("the URL holds a NUL; nothing is called so")
        if authorization:
            try:
                self._rates.check(address(scope), "failures")
            except RateLimited:
                if not self._rates.held_before(address(scope), authorization):
                    raise

    async def _checked(self, scope: Scope, headers: dict[bytes, bytes], receive: Receive) -> Receive:
        """The body, read whole and checked, to be received again by the application."""
        if b"content-length" not in headers and b"transfer-encoding" not in headers:
            return receive
        body, most = bytearray(), _most(scope, headers)
        while True:
            message = await receive()
            if message["type"] != "http.request":  # the caller is gone
                return _replay(message, receive)
            body += message.get("body", b"")
            if len(body) > most:
                raise _too_large(most)
            if not message.get("more_body", False):
                break
        whole = bytes(body)
        if whole and scope["method"] not in ASKING:
            kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower().decode("latin-1")
            if scope["path"] in self._forms:
                if kind != FORM:
                    raise UnsupportedMediaType(f"send the body as `Content-Type: {FORM}`, not as `{kind[:60]}`")
            elif kind != "application/json":
                raise UnsupportedMediaType(f"send the body as `Content-Type: application/json`, not as `{kind[:60]}`")
            else:
                scope["json"] = strict_json(whole)
        return _replay({"type": "http.request", "body": whole, "more_body": False}, receive)

    def _with_security(self, headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        given = list(headers)
        names = {name.lower() for name, _ in given}
        return given + [(name, value) for name, value in self._headers if name not in names]

    def _count_failure(self, scope: Scope) -> None:
        with contextlib.suppress(RateLimited):  # this answer says that it failed; the next attempt is told to wait
            self._rates.take(address(scope), "failures")


def strict_json(body: bytes) -> Any:
    """Parse what has one reading only (I-JSON, RFC 7493): what is signed must not mean two things to two parsers.

    Raises:
        TooDeep: more than 16 levels.
        Malformed: not UTF-8, not JSON, a member twice. NaN and half a surrogate pair are for the fields to refuse.
    """
    if b"\x00" in body:  # UTF-16 and UTF-32 always hold one, UTF-8 never does
        raise Malformed("the body is not JSON in UTF-8")
    if body.count(b"[") + body.count(b"{") > MAX_DEPTH and depth(body) > MAX_DEPTH:
        raise TooDeep(f"the body is nested more than {MAX_DEPTH} levels deep; no document of this API is")
    try:
        return _DECODER.decode(body.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise Malformed("the body is not JSON in UTF-8") from None
    except ValueError as error:  # also an integer of thousands of digits
        raise Malformed(f"the body is not JSON: {str(error)[:200]}") from None


_ESCAPES = re.compile(rb"\\.", re.DOTALL)
_STRINGS = re.compile(rb'"[^"]*"')
_NOT_STRUCTURE = bytes(set(range(256)) - set(b'"[]{}'))


def depth(body: bytes) -> int:
    """How deep the brackets outside of strings go; of what is no JSON, a bound up to its first fault."""
    brackets = _STRINGS.sub(b"", _ESCAPES.sub(b"", body).translate(None, _NOT_STRUCTURE))
    level = deepest = 0
    for bracket in brackets:
        if bracket in b"[{":
            level += 1
            deepest = max(deepest, level)
        elif bracket in b"]}":
            level -= 1
    return deepest


def only_declared_parameters(request: Request) -> None:
    """A misspelt filter must not widen an answer, and of two values nobody knows which one counts.

    Raises:
        Malformed: names the query parameters that this route does not take, or that were given twice.
    """
    if not request.scope["query_string"]:
        return
    given = [name for name, _ in parse_qsl(request.scope["query_string"].decode("latin-1"), keep_blank_values=True)]
    declared = _declared(request.scope["route"], request.method)
    unknown = sorted({name for name in given if name not in declared})
    if unknown:
        takes = f"it takes {', '.join(f'`{name}`' for name in sorted(declared))}" if declared else "it takes none"
        names = ", ".join(f"`{name[:60]}`" for name in unknown[:5])
        raise Malformed(f"{names} is not a query parameter of this route; {takes}")
    twice = sorted({name for name in given if given.count(name) > 1 and not declared[name]})
    if twice:
        raise Malformed(f"`{twice[0]}` was given more than once; give it once")


def _declared(route: APIRoute, method: str) -> dict[str, bool]:
    """The query parameters as the OpenAPI operation lists them, and whether each may come more than once. Of this route
    alone: the whole document takes half a second, for which the first to ask would wait."""
    key = (route.endpoint, method)
    if key not in _DECLARED:
        _DECLARED[key] = {
            parameter["name"]: parameter["schema"].get("type") == "array"
            for operations in get_openapi(title="", version="", routes=[route])["paths"].values()
            for parameter in operations.get(method.lower(), {}).get("parameters", ())
            if parameter["in"] == "query"
        }
    return _DECLARED[key]


_DECLARED: dict[tuple[Callable[..., Any], str], dict[str, bool]] = {}


def address(scope: Scope) -> str:
    """Who is counted when nobody is known: an IPv4 address, or the /64 that one IPv6 customer has."""
    host: str = scope["client"][0] if scope.get("client") else "unknown"
    if ":" not in host:
        return host
    try:
        return str(ipaddress.ip_network((host.partition("%")[0], 64), strict=False))
    except ValueError:
        return host


def _most(scope: Scope, headers: dict[bytes, bytes]) -> int:
    """Strangers send nothing large: the body is read and parsed before anybody knows who they are."""
    return MAX_POLICY_BYTES if scope["path"] in POLICY_FILES and b"authorization" in headers else MAX_BODY_BYTES


def _too_large(most: int) -> TooLarge:
    return TooLarge(f"the body is larger than {most} bytes")


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise Malformed(f"`{twice[:60]}` stands twice in one object of the body; parsers differ on which one counts")
    return members


_DECODER = json.JSONDecoder(object_pairs_hook=_members)  # `json.loads` would make one for each request


def _replay(first: Message, rest: Receive) -> Receive:
    waiting = [first]

    def receive() -> Awaitable[Message]:
        return _given(waiting.pop()) if waiting else rest()

    return receive


async def _given(message: Message) -> Message:
    return message


def _names(settings: Settings) -> tuple[frozenset[str], frozenset[str]]:
    """`(host names at any port, host:port)` under which this service may be called.

    A listener on loopback takes loopback names, with its own port: they cannot be rebound. The public name is taken at
    any port, since proxies differ in what they hand on.
    """
    hosts, with_port = set(settings.more_hosts), set()
    public = urlsplit(settings.issuer)
    if not is_loopback_url(settings.issuer):
        hosts.add(_name_of(public.netloc.lower()))
    if is_loopback(settings.host):
        names = {"localhost", "127.0.0.1", "[::1]", f"[{settings.host}]" if ":" in settings.host else settings.host}
        ports = {settings.port, public.port or settings.port}
        with_port = {f"{name}:{port}" for name in names for port in ports}
        with_port |= {name for name in names if 80 in ports}
    return frozenset(hosts), frozenset(with_port)


def _name_of(host: str) -> str:
    return re.sub(r":\d*\Z", "", host)


def _security_headers(settings: Settings) -> tuple[tuple[bytes, bytes], ...]:
    headers = {
        "x-content-type-options": "nosniff",
        "cache-control": "no-store",
        "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
        "referrer-policy": "no-referrer",
        "cross-origin-resource-policy": "same-origin",
    }
    if settings.issuer.startswith("https://"):
        headers["strict-transport-security"] = "max-age=63072000; includeSubDomains"
    return tuple((name.encode(), value.encode()) for name, value in headers.items())
