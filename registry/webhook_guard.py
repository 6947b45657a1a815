"""Requests to addresses that users name, and never to what only this machine can reach.

Where a name leads is asked once and checked; the socket goes to one of those addresses, and who answers there is
checked again: a name that leads elsewhere a moment later gains nothing. No redirect is followed, no proxy of the
environment is used, and the whole exchange has one deadline, however slowly the receiver drips.
"""

import functools
import ipaddress
import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpcore2

from enforcer.problems import Invalid

log = logging.getLogger("tagwarden")
CONNECT_S, TOTAL_S = 5.0, 15.0
MAX_ANSWER_BYTES = 64 * 1024
PORTS = (443, 8443)
Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Resolve = Callable[[str, int], list[str]]
# Addresses that carry another one inside: 6to4, Teredo, and both prefixes of NAT64.
_CARRIERS = [ipaddress.ip_network(net) for net in ("2002::/16", "2001::/32", "64:ff9b::/96", "64:ff9b:1::/48")]
# What `ipaddress` takes for global, or does in some of its versions, and no public receiver has: site-local,
# documentation, SIDs of segment routing, protocol assignments, and the relays of 6to4.
_NO_RECEIVERS = [
    ipaddress.ip_network(net) for net in ("fec0::/10", "3fff::/20", "5f00::/16", "192.0.0.0/24", "192.88.99.0/24")
]


class Unreachable(Exception):
    """No answer, or none that may be had; the message is for the webhook's owner."""


@dataclass(frozen=True)
class Answered:
    status: int
    retry_after: str | None


@dataclass(frozen=True)
class Allowed:
    """Hosts and networks that an operator exempts from the rules: internal receivers, and plain HTTP to them."""

    hosts: frozenset[str]
    networks: tuple[Network, ...]

    @classmethod
    def parse(cls, text: str) -> "Allowed":
        """Comma-separated host names, addresses and networks. Raises ValueError at a network that is none."""
        hosts, networks = set(), []
        for part in filter(None, (part.strip().lower() for part in text.split(","))):
            if "/" in part or _literal(part) is not None:
                networks.append(ipaddress.ip_network(part))
            else:
                hosts.add(part)
        return cls(frozenset(hosts), tuple(networks))

    def host(self, host: str) -> bool:
        address = _literal(host)
        return host.lower() in self.hosts or (address is not None and self.address(address))

    def address(self, address: Address) -> bool:
        return any(address in network for network in self.networks)


def check_url(url: str, allowed: Allowed) -> None:
    """What can be said of an address without asking anybody.

    Raises:
        Invalid: it is none that events are sent to.
    """
    try:
        parts = urlsplit(url)
        port, host = parts.port, parts.hostname
    except ValueError as error:
        raise Invalid(f"`{url[:200]}` is no URL: {error}") from error
    if not host or "@" in parts.netloc or parts.fragment or "\\" in url:
        raise Invalid(f"`{url[:200]}` is not an address for events; give an https URL without credentials or fragment")
    if allowed.host(host) and parts.scheme in ("http", "https"):
        return
    if parts.scheme != "https":
        raise Invalid(f"`{url[:200]}` is not https, and `TAGWARDEN_WEBHOOK_ALLOW` does not name `{host[:100]}`")
    if port not in (None, *PORTS):
        raise Invalid(f"port {port} is not one for events; use 443 or 8443, or have an operator allow `{host[:100]}`")
    address = _literal(host)
    if address is not None and not is_public(address):
        raise Invalid(f"`{host}` is not a public address, and `TAGWARDEN_WEBHOOK_ALLOW` does not name it")


def is_public(address: Address) -> bool:
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return is_public(address.ipv4_mapped)
        if any(address in carrier for carrier in _CARRIERS):
            return False
    if any(address in network for network in _NO_RECEIVERS):
        return False
    return address.is_global and not address.is_multicast and not address.is_reserved


def resolve(host: str, port: int) -> list[str]:
    return [str(found[4][0]) for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


@functools.cache
def _tls() -> ssl.SSLContext:
    """One for all: reading the system's authorities takes longer than the rest of a request."""
    return ssl.create_default_context()


def post(
    url: str, headers: Mapping[str, str], body: bytes, allowed: Allowed, *, resolve: Resolve = resolve
) -> Answered:
    """Send one request and read what is needed of its answer.

    Raises:
        Unreachable: it got no answer.
    """
    try:
        check_url(url, allowed)  # what an operator allows may have become less since
        deadline = time.monotonic() + TOTAL_S
        backend = _Guarded(allowed, resolve, deadline)
        timeouts = {"connect": CONNECT_S, "read": TOTAL_S, "write": TOTAL_S, "pool": TOTAL_S}
        with (
            httpcore2.ConnectionPool(ssl_context=_tls(), network_backend=backend) as pool,
            pool.stream(
                "POST", url, headers=list(headers.items()), content=body, extensions={"timeout": timeouts}
            ) as answer,
        ):
            size = 0
            for chunk in answer.iter_stream():  # to the end, so that the receiver sees no broken connection
                size += len(chunk)
                if size > MAX_ANSWER_BYTES:
                    break
            retry = {name.lower(): value for name, value in answer.headers}.get(b"retry-after")
            return Answered(answer.status, retry.decode("latin-1") if retry else None)
    except Invalid as error:
        raise Unreachable(error.detail) from error
    except (
        OSError,
        UnicodeError,
        httpcore2.NetworkError,
        httpcore2.TimeoutException,
        httpcore2.ProtocolError,
    ) as error:
        raise Unreachable(f"no answer: {type(error).__name__}") from error


class _Guarded(httpcore2.SyncBackend):
    def __init__(self, allowed: Allowed, resolve: Resolve, deadline: float) -> None:
        super().__init__()
        self._allowed, self._resolve, self._deadline = allowed, resolve, deadline

    def connect_tcp(
        self, host: str, port: int, timeout: float | None = None, local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.NetworkStream:  # fmt: skip
        found = list(dict.fromkeys(_resolved(self._resolve, host, port, min(CONNECT_S, _left(self._deadline)))))
        for one in found:  # one that is refused refuses the name: an honest one does not lead to both
            self._check(host, one)
        failure: Exception = Unreachable(f"`{host}` leads nowhere")
        for one in found:
            timeout = min(CONNECT_S, _left(self._deadline))
            try:
                stream = super().connect_tcp(one, port, timeout, local_address, socket_options)
            except (httpcore2.NetworkError, httpcore2.TimeoutException) as error:
                failure = error
                continue
            return self._checked(host, stream)
        raise failure

    def _checked(self, host: str, stream: httpcore2.NetworkStream) -> httpcore2.NetworkStream:
        try:
            self._check(host, stream.get_extra_info("socket").getpeername()[0])
        except (Unreachable, OSError):
            stream.close()
            raise
        return _Bounded(stream, self._deadline)

    def _check(self, host: str, text: str) -> None:
        address = _literal(text)
        if address is None:
            raise Unreachable(f"`{host}` leads to what is no address")
        if host.lower() not in self._allowed.hosts and not self._allowed.address(address) and not is_public(address):
            log.warning("a webhook's `%s` leads to `%s`, which is not public", host, text)  # for the operator alone
            raise Unreachable(f"`{host}` leads to an address that is not public; see TAGWARDEN_WEBHOOK_ALLOW")


def _resolved(resolve: Resolve, host: str, port: int, timeout: float) -> list[str]:
    """The system's resolver has no deadline that we could set: one that hangs is left behind in a thread of its own."""
    answer: Future[list[str]] = Future()

    def ask() -> None:
        try:
            answer.set_result(resolve(host, port))
        except Exception as error:
            answer.set_exception(error)

    threading.Thread(target=ask, name="resolver", daemon=True).start()
    return answer.result(timeout)


class _Bounded(httpcore2.NetworkStream):
    """A stream of which every wait ends at the deadline."""

    def __init__(self, stream: httpcore2.NetworkStream, deadline: float) -> None:
        self._stream, self._deadline = stream, deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ARG002 -- the deadline rules
        return self._stream.read(max_bytes, _left(self._deadline))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ARG002
        self._stream.write(buffer, _left(self._deadline))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ARG002
    ) -> httpcore2.NetworkStream:
        left = min(CONNECT_S, _left(self._deadline))
        return _Bounded(self._stream.start_tls(ssl_context, server_hostname, left), self._deadline)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise httpcore2.ReadTimeout("the exchange took too long")
    return left


def _literal(text: str) -> Address | None:
    try:
        return ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
