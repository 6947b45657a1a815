"""A registry that a command asks over HTTP, like anybody else: with somebody's token, and no way past what it rules."""

import os
import stat
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import httpx2

from enforcer import local
from enforcer.problems import NotConfigured, Problem, RegistryUnreachable, from_document

LATER = (409, 429, 503)  # where `Retry-After` says when to come back
LONGEST_WAIT_S = 120.0  # in all, for one request; a budget refills within a minute
PAGE = 100


class Remote:
    """Answers as documents; a refusal is raised as the class that the registry raised.

    Raises:
        NotConfigured: no token, one that others can read, or a network that would carry it in clear.
    """

    def __init__(
        self,
        server: str,
        token: str | None = None,
        token_file: Path | None = None,
        *,
        transport: httpx2.BaseTransport | None = None,
    ) -> None:
        here = local.is_loopback_url(server)
        if not server.startswith("https://") and not here:
            raise NotConfigured(f"`{server}` would be sent your token in clear; use `https://`")
        if token is None and token_file is None and here and os.path.lexists(local.token_file()):
            token_file = local.token_file()
        token = token or (_secret(token_file) if token_file else "")
        if not token or not (token.isascii() and token.isprintable()):
            raise NotConfigured(
                f"no usable API token for `{server}`; put one into `SWIFT_SUBMIT_TOKEN`, or name its file with "
                "`--token-file` (`tagwarden token create` makes one)"
            )
        self.server = server
        self._http = httpx2.Client(
            base_url=server,
            timeout=30.0,
            transport=transport,
            trust_env=not here,  # a proxy has no business between us and this machine
            follow_redirects=False,  # a redirect must not carry a token elsewhere
            headers={"User-Agent": "tagwarden", "Authorization": f"Bearer {token}"},
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def get(self, path: str, **query: Any) -> Any:
        return self._ask("GET", path, query={name: value for name, value in query.items() if value is not None})

    def each(self, path: str, **query: Any) -> Iterator[Any]:
        """The items of a list, page after page."""
        token: str | None = ""
        while token is not None:
            answer = self.get(path, page_size=PAGE, page_token=token or None, **query)
            yield from answer["items"]
            token = answer["next_page_token"]

    def post(self, path: str, body: Mapping[str, Any], *, key: str | None = None, **query: Any) -> Any:
        return self._ask("POST", path, body, query, {"Idempotency-Key": key} if key else {})

    def _ask(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        query: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        waited_s = 0.0
        while True:
            try:
                answer = self._http.request(
                    method, path, json=body, params=dict(query or {}), headers=dict(headers or {})
                )
            except (httpx2.TransportError, httpx2.InvalidURL) as error:
                said = str(error) or type(error).__name__
                raise RegistryUnreachable(f"the registry at `{self.server}` cannot be reached: {said}") from error
            told = answer.headers.get("Retry-After", "")
            wait_s = max(1, int(told)) if told.isascii() and told.isdecimal() and len(told) < 5 else None
            if answer.status_code not in LATER or wait_s is None or waited_s + wait_s > LONGEST_WAIT_S:
                return self._read(answer)
            time.sleep(wait_s)
            waited_s += wait_s

    def _read(self, answer: httpx2.Response) -> Any:
        try:
            document = answer.json()
        except ValueError:
            document = None
        if answer.is_success and isinstance(document, dict):
            return document
        raise self._refusal(document, answer.status_code)

    def _refusal(self, document: Any, status: int) -> Problem:
        if isinstance(document, dict) and "code" in document:
            return from_document(document, status)
        return RegistryUnreachable(f"`{self.server}` answered {status}, but not as a registry does; check `--server`")


def _secret(path: Path) -> str:
    """The content of a file that is ours alone."""
    try:
        descriptor = os.open(path.expanduser(), os.O_RDONLY | os.O_NOFOLLOW)
    except OSError as error:
        raise NotConfigured(f"the token file `{path}` cannot be opened: {(error.strerror or '').lower()}") from error
    with os.fdopen(descriptor, "r", encoding="utf-8") as file:
        status = os.fstat(file.fileno())
        if status.st_uid != os.getuid() or stat.S_IMODE(status.st_mode) & 0o077:
            raise NotConfigured(f"the token file `{path}` has to be yours alone; run `chmod 600 {path}`")
        return file.read(16_384).strip()
