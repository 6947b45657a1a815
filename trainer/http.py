"""The wire: the one module of this room that imports `httpx2` (the maintained continuation of httpx).

Documents in, documents out; refusals come back as the class that the registry raised. No pydantic here, so that
`swift-submit can-i` stays close to a bare round trip; `trainer.client` puts types on top.
"""

import json
import re
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import httpx2

from enforcer.local import is_loopback_url
from enforcer.problems import NotConfigured, Problem, RegistryUnreachable, Unauthenticated, Unavailable, from_document
from trainer import telemetry
from trainer.settings import Settings

if TYPE_CHECKING:
    from trainer.auth import Session

PAUSES_S = (0.2, 1.0)  # between tries of a request whose answer got lost
LATER = (409, 429, 503)  # where `Retry-After` says when; 409: the first request with this key is still worked on
LONGEST_WAIT_S = 60.0  # in all, for one request; a budget refills within a minute
SKEW_WORTH_SAYING_S = 5.0
JUDGE_PAUSES_S = (0.5, 3.0, 10.0)
LOST = (httpx2.ReadError, httpx2.ReadTimeout, httpx2.RemoteProtocolError)


class Link:
    """A connection to one registry. `skew_s` is how far its clock is ahead of ours, once it has answered; `etag` is
    that of the newest answer, for a change of what was read.

    Raises:
        NotConfigured: it would carry tokens over a network in clear.
    """

    def __init__(self, settings: Settings, *, transport: httpx2.BaseTransport | None = None) -> None:
        if settings.in_clear:  # at the one place that sends, so that no caller can forget it
            raise NotConfigured(
                f"`{settings.server}` would be sent your tokens in clear; use `https://`, or, where the network in "
                "between is yours alone (a tunnel, a container network), set `SWIFT_SUBMIT_ALLOW_HTTP=1`",
                server=settings.server,
                setting="SWIFT_SUBMIT_ALLOW_HTTP",
            )
        self.settings = settings
        self.skew_s = 0.0
        self.etag: str | None = None
        self._session: Session | None = None
        self._http = httpx2.Client(
            base_url=settings.server,
            timeout=settings.timeout_s,
            transport=transport,
            trust_env=not settings.on_loopback,  # a proxy has no business between us and this machine
            follow_redirects=False,  # a redirect must not carry a token elsewhere
            headers={"User-Agent": "swift-submit", "Accept": "application/json, application/problem+json"},
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def ask(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        query: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        authorization: str | None = None,
        again: bool = False,
        public: bool = False,
    ) -> bytes:
        """Send one request and return the body of a 2xx answer. `again` marks it safe to repeat: when an answer
        is lost, and when the registry asks to come back later, as told, for up to a minute in all.

        Raises:
            RegistryUnreachable: no answer, or one that no registry gives.
            Problem: whatever the registry refused with.
        """
        headers = {**telemetry.carrier(), **(headers or {})}
        if authorization is None and not public:
            authorization = self._authorization()
        if authorization is not None:
            headers["Authorization"] = authorization
        query = {name: value for name, value in (query or {}).items() if value is not None}
        content = None if body is None else json.dumps(body, ensure_ascii=False, allow_nan=False).encode()
        if content is not None:
            headers["Content-Type"] = "application/json"
        answer = self._send(method, path, content, query, headers, again=again)
        waited_s = 0.0
        while again and (wait_s := _told_to_wait(answer)) is not None and waited_s + wait_s <= LONGEST_WAIT_S:
            time.sleep(wait_s)
            waited_s += wait_s
            answer = self._send(method, path, content, query, headers, again=again)
        self._note_the_time(answer)
        if answer.is_success:
            self.etag = answer.headers.get("ETag")
            return answer.content
        if answer.status_code == 401 and authorization is None and not public:
            raise Unauthenticated(
                f"nobody is signed in to `{self.settings.server}`; `swift-submit auth login` signs you in, an API "
                "token goes into `SWIFT_SUBMIT_TOKEN` or `SWIFT_SUBMIT_TOKEN_FILE`, and a registry of your own "
                "(`tagwarden serve`) leaves you one"
            )
        raise self._refusal(answer)

    def _authorization(self) -> str | None:
        """None without a token: whether that matters, a registry that answers will say; one that is away says more."""
        token = self.settings.token
        if token is None and self.settings.session is not None:
            from trainer.auth import Session  # only whoever signed in pays for it

            self._session = self._session or Session.open(self.settings.session, self.settings)
            token = self._session.access_token()
        if token and not (token.isascii() and token.isprintable()):
            raise Unauthenticated("the API token holds characters that no token has; was it copied whole?")
        return f"Bearer {token}" if token else None

    def _send(
        self,
        method: str,
        path: str,
        content: bytes | None,
        query: Mapping[str, Any],
        headers: Mapping[str, str],
        *,
        again: bool,
    ) -> httpx2.Response:
        for pause in (*PAUSES_S, None):
            try:
                return self._http.request(method, path, content=content, params=dict(query), headers=dict(headers))
            except LOST as error:
                if pause is None or not again:
                    raise self._unreachable(error) from error
                time.sleep(pause)
            except (httpx2.TransportError, httpx2.InvalidURL) as error:
                raise self._unreachable(error) from error
        raise AssertionError("the last try returns or raises")

    def _unreachable(self, error: Exception) -> RegistryUnreachable:
        why = "no answer in time" if isinstance(error, httpx2.TimeoutException) else str(error) or type(error).__name__
        return RegistryUnreachable(
            f"the registry at `{self.settings.server}` cannot be reached: {why}; without it there is no ticket and no "
            "run. Start it with `tagwarden serve`, or name another with `--server` or `SWIFT_SUBMIT_SERVER`",
            server=self.settings.server,
            setting="SWIFT_SUBMIT_SERVER",
        )

    def _refusal(self, answer: httpx2.Response) -> Problem:
        try:
            document = answer.json()
        except ValueError:
            document = None
        if isinstance(document, dict) and "code" in document:
            return from_document(document, answer.status_code)
        if answer.status_code >= 500 or answer.status_code == 429:
            return RegistryUnreachable(
                f"`{self.settings.server}` answered {answer.status_code}; try again in a moment",
                server=self.settings.server,
            )
        return RegistryUnreachable(
            f"`{self.settings.server}` answered {answer.status_code} to `{answer.request.method} "
            f"{answer.request.url.path}`, but not as a registry does; check `--server` or `SWIFT_SUBMIT_SERVER`",
            server=self.settings.server,
            setting="SWIFT_SUBMIT_SERVER",
        )

    def _note_the_time(self, answer: httpx2.Response) -> None:
        try:
            said = parsedate_to_datetime(answer.headers.get("Date", "")).timestamp()
        except (TypeError, ValueError):
            return
        self.skew_s = said + 0.5 - time.time()  # the header is cut to whole seconds, so 0.5 late on average


def _told_to_wait(answer: httpx2.Response) -> float | None:
    """Seconds until the registry wants to be asked again, at least 1; None when it did not say so in seconds."""
    told = answer.headers.get("Retry-After", "")
    return float(max(1, int(told))) if answer.status_code in LATER and re.fullmatch(r"[0-9]{1,6}", told) else None


def ask_issuer(
    url: str, form: Mapping[str, str] | None = None, *, timeout_s: float, allow_http: bool = False
) -> tuple[int, dict[str, Any]]:
    """GET a document of an identity provider, or POST a form to it: status and JSON object.

    Secrets travel in the form, so not in clear, and to no address that an answer redirects to.

    Raises:
        NotConfigured: the address is neither https nor on this machine.
        Unavailable: no answer, or not a JSON object.
    """
    local = is_loopback_url(url)
    if not url.startswith("https://") and not (url.startswith("http://") and (local or allow_http)):
        raise NotConfigured(f"the identity provider's address `{url[:200]}` is not `https://`; nothing was sent there")
    try:
        with httpx2.Client(timeout=timeout_s, follow_redirects=False, trust_env=not local) as client:
            headers = {"User-Agent": "swift-submit", "Accept": "application/json"}
            answer = client.get(url, headers=headers) if form is None else client.post(url, data=form, headers=headers)
        document = answer.json() if answer.content else {}
    except (httpx2.TransportError, httpx2.InvalidURL) as error:
        why = "no answer in time" if isinstance(error, httpx2.TimeoutException) else str(error) or type(error).__name__
        raise Unavailable(f"the identity provider at `{url[:200]}` cannot be reached: {why}") from error
    except ValueError as error:
        raise Unavailable(
            f"`{url[:200]}` answered {answer.status_code}, but not as an identity provider does"
        ) from error
    if not isinstance(document, dict):
        raise Unavailable(f"`{url[:200]}` answered {answer.status_code}, but not as an identity provider does")
    return answer.status_code, document


class JudgeUnavailable(Unavailable):
    """A judge of answers does not answer, or not as one."""

    code, title = "judge-unavailable", "the judge cannot be reached"


class JudgeLink:
    """An OpenAI-compatible server that somebody of this machine named; it is sent the key and whatever is judged.

    Raises:
        NotConfigured: it would carry a key, or answers, over a network in clear.
    """

    def __init__(self, url: str, key: str | None, *, timeout_s: float, allow_http: bool = False) -> None:
        local = is_loopback_url(url)
        if not url.startswith("https://") and not (url.startswith("http://") and (local or allow_http)):
            raise NotConfigured(
                f"the judge `{url[:200]}` would read answers, and your key, over a network in clear; use `https://`, "
                "or, where the network in between is yours alone, set `SWIFT_SUBMIT_ALLOW_HTTP=1`",
                setting="SWIFT_SUBMIT_JUDGE",
            )
        if key and not (key.isascii() and key.isprintable()):
            raise NotConfigured("the judge's key holds characters that no key has; was it copied whole?")
        self.url = url
        headers = {"User-Agent": "swift-submit", "Accept": "application/json"}
        self._http = httpx2.Client(
            base_url=url,
            timeout=timeout_s,
            trust_env=not local,
            follow_redirects=False,  # a redirect must not carry the key elsewhere
            headers={**headers, **({"Authorization": f"Bearer {key}"} if key else {})},
        )

    def close(self) -> None:
        self._http.close()

    def ask(self, path: str, body: Mapping[str, Any], *, again: bool = True) -> dict[str, Any]:
        """POST a document and return the answer. Threads may share this.

        Raises:
            NotConfigured: refused for good: the key, the model's name, or the address is wrong.
            JudgeUnavailable: no answer, with `again` after `JUDGE_PAUSES_S`, or none that is a JSON object.
        """
        content = json.dumps(body, ensure_ascii=False).encode()
        why = ""
        for pause in (*(JUDGE_PAUSES_S if again else ()), None):
            try:
                answer = self._http.post(path, content=content, headers={"Content-Type": "application/json"})
            except (httpx2.TransportError, httpx2.InvalidURL) as error:
                timed_out = isinstance(error, httpx2.TimeoutException)
                why = "no answer in time" if timed_out else str(error) or type(error).__name__
            else:
                if answer.is_success:
                    return self._object(answer)
                why = f"it answered {answer.status_code}: {_said(answer)}"
                if answer.status_code < 500 and answer.status_code not in (408, 429):
                    raise NotConfigured(f"the judge `{self.url}` refuses: {why}", setting="SWIFT_SUBMIT_JUDGE")
                pause = None if pause is None else max(pause, min(_told_to_wait(answer) or 0.0, LONGEST_WAIT_S))
            if pause is not None:
                time.sleep(pause)
        raise JudgeUnavailable(f"the judge `{self.url}` cannot be reached: {why}")

    def _object(self, answer: httpx2.Response) -> dict[str, Any]:
        try:
            document = answer.json()
        except ValueError:
            document = None
        if not isinstance(document, dict):
            raise JudgeUnavailable(
                f"`{self.url}` answered {answer.status_code}, but not as an OpenAI-compatible server"
            )
        return document


def _said(answer: httpx2.Response) -> str:
    """The server's own words, short; a server that echoes the key in them does not get it into a log."""
    key = answer.request.headers.get("Authorization", "").removeprefix("Bearer ")
    text = " ".join(answer.text.split())
    return (text.replace(key, "[the key]") if key else text)[:300]


def skew_in_words(skew_s: float) -> str | None:
    """A sentence about two clocks that disagree; None when they agree well enough."""
    if abs(skew_s) <= SKEW_WORTH_SAYING_S:
        return None
    direction = "behind" if skew_s > 0 else "ahead of"
    return (
        f"this machine's clock is {abs(skew_s):.0f} s {direction} the registry's; set it (`timedatectl set-ntp true`)"
    )
