"""The connection: outages, lost answers, servers that are no registry, clocks that disagree."""

import time
from email.utils import formatdate
from typing import Any

import httpx2
import pytest

from enforcer import problems, wire
from enforcer.problems import NotConfigured, NotPermitted, RateLimited, RegistryUnreachable, Unauthenticated
from trainer import http, telemetry
from trainer.client import Registry
from trainer.http import Link, skew_in_words
from trainer.settings import Settings

SETTINGS = Settings(server="http://127.0.0.1:8710", token="twp_secret")


def answering(
    *answers: Any, settings: Settings = SETTINGS, kind: type[Link] = Link
) -> tuple[Any, list[httpx2.Request]]:
    """A link to a server that gives these answers in turn; an exception is raised instead."""
    asked: list[httpx2.Request] = []

    def handle(request: httpx2.Request) -> httpx2.Response:
        asked.append(request)
        answer = answers[min(len(asked), len(answers)) - 1]
        if isinstance(answer, Exception):
            raise answer
        return answer

    return kind(settings, transport=httpx2.MockTransport(handle)), asked


def test_a_registry_that_is_away_is_named_with_its_setting() -> None:
    away, _ = answering(httpx2.ConnectError("refused"))

    with pytest.raises(RegistryUnreachable) as refused:
        away.ask("GET", "/v1/tags")

    assert "`http://127.0.0.1:8710` cannot be reached" in refused.value.detail
    assert refused.value.facts["setting"] == "SWIFT_SUBMIT_SERVER"
    assert "twp_secret" not in refused.value.detail


def test_a_refusal_comes_back_as_the_class_that_was_raised() -> None:
    sent = NotPermitted("no", rule="r-1").document()
    refusing, _ = answering(httpx2.Response(403, json=sent))

    with pytest.raises(NotPermitted) as refused:
        refusing.ask("POST", "/v1/tickets", {})

    assert refused.value.facts == {"rule": "r-1"}


@pytest.mark.parametrize(
    "answer",
    [
        httpx2.Response(404, html="<h1>nginx</h1>"),
        httpx2.Response(302, headers={"Location": "https://elsewhere.example/"}),
        httpx2.Response(502, html="bad gateway"),
        httpx2.Response(429),
        httpx2.Response(200, html="<h1>a wiki</h1>"),
        httpx2.Response(200, json={"items": "?"}),
    ],
)
def test_a_server_that_is_no_registry_is_told_apart_from_a_refusal(answer: httpx2.Response) -> None:
    strange, asked = answering(answer, kind=Registry)

    with pytest.raises(RegistryUnreachable):
        list(strange.tags())

    assert {request.url.host for request in asked} == {"127.0.0.1"}, "no token follows a redirect"


def test_a_lost_answer_is_asked_for_again_under_the_same_idempotency_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "PAUSES_S", (0.0, 0.0))
    check = {"name": "x", "verdict": "ok", "matches": [], "suggestion": None}
    flaky, asked = answering(httpx2.ReadTimeout("slow"), httpx2.Response(200, json=check), kind=Registry)

    flaky.check_name(wire.NameCheckRequest(name="x"))

    assert len({request.headers["Idempotency-Key"] for request in asked}) == 1
    assert len(asked) == 2


def test_what_is_not_safe_to_repeat_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "PAUSES_S", (0.0, 0.0))
    flaky, asked = answering(httpx2.ReadError("lost"))

    with pytest.raises(RegistryUnreachable):
        flaky.ask("POST", "/v1/proposals/p/reviews", {})

    assert len(asked) == 1


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    waits: list[float] = []
    monkeypatch.setattr(http.time, "sleep", waits.append)
    return waits


def later(status: int, after: str) -> httpx2.Response:
    return httpx2.Response(status, json=RateLimited("x").document(), headers={"Retry-After": after})


def test_a_registry_that_asks_to_come_back_later_is_asked_again_then(slept: list[float]) -> None:
    busy, asked = answering(later(429, "7"), later(503, "5"), httpx2.Response(200, content=b"{}"))

    assert busy.ask("GET", "/v1/tags", again=True) == b"{}"
    assert (slept, len(asked)) == ([7.0, 5.0], 3)


def test_a_key_that_is_still_worked_on_is_asked_for_again_and_another_conflict_is_not(slept: list[float]) -> None:
    busy = httpx2.Response(409, json=problems.IdempotencyInUse("x").document(), headers={"Retry-After": "1"})
    waiting, asked = answering(busy, httpx2.Response(200, content=b"{}"))
    refused, once = answering(httpx2.Response(409, json=problems.RunClosed("x").document()))

    assert waiting.ask("POST", "/v1/runs/r:cancel", again=True) == b"{}"
    with pytest.raises(problems.RunClosed):
        refused.ask("POST", "/v1/runs/r:cancel", again=True)
    assert (slept, len(asked), len(once)) == ([1.0], 2, 1)


def test_nobody_waits_longer_than_a_minute_in_all(slept: list[float]) -> None:
    busy, asked = answering(later(429, "25"))

    with pytest.raises(RateLimited):
        busy.ask("GET", "/v1/tags", again=True)

    assert (slept, len(asked)) == ([25.0, 25.0], 3)


@pytest.mark.parametrize("after", ["61", "", "soon", "-1", "1.5", "Wed, 25 Nov 2026 07:28:00 GMT", "9" * 40])
def test_what_is_no_short_wait_in_seconds_is_not_waited_for(slept: list[float], after: str) -> None:
    busy, asked = answering(later(429, after))

    with pytest.raises(RateLimited):
        busy.ask("GET", "/v1/tags", again=True)

    assert (slept, len(asked)) == ([], 1)


def test_what_is_not_safe_to_repeat_is_not_repeated_later_either(slept: list[float]) -> None:
    busy, asked = answering(later(429, "1"))

    with pytest.raises(RateLimited):
        busy.ask("POST", "/v1/proposals", {})

    assert (slept, len(asked)) == ([], 1)


def test_without_a_token_the_refusal_says_how_to_get_one() -> None:
    nobody, asked = answering(
        httpx2.Response(401, json=Unauthenticated("x").document()), settings=Settings(server="http://127.0.0.1:8710")
    )

    with pytest.raises(
        Unauthenticated, match=r"nobody is signed in to .*; `swift-submit auth login`.*`SWIFT_SUBMIT_TOKEN`"
    ):
        nobody.ask("GET", "/v1/tags")

    assert "Authorization" not in asked[0].headers


def test_a_token_with_a_line_break_never_becomes_a_header() -> None:
    broken, asked = answering(httpx2.Response(200), settings=Settings(token="twp_a\r\nX-Admin: 1"))

    with pytest.raises(Unauthenticated, match="was it copied whole"):
        broken.ask("GET", "/v1/tags")

    assert asked == []


def test_no_secret_crosses_a_network_in_clear_unless_somebody_says_so() -> None:
    with pytest.raises(NotConfigured, match=r"in clear; use `https://`, or, .* set `SWIFT_SUBMIT_ALLOW_HTTP=1`"):
        Link(Settings(server="http://registry.example.org", token="twp_secret"))

    private = Settings(server="http://registry.example.org", token="twp_secret", allow_http=True)
    allowed, asked = answering(httpx2.Response(200), settings=private)
    allowed.ask("GET", "/v1/tags")
    assert asked[0].headers["Authorization"] == "Bearer twp_secret"


@pytest.mark.parametrize(("ahead_s", "says"), [(120, "behind the registry's"), (-120, "ahead of the registry's")])
def test_a_clock_that_is_wrong_is_told(ahead_s: int, says: str) -> None:
    ahead, _ = answering(httpx2.Response(200, headers={"Date": formatdate(time.time() + ahead_s, usegmt=True)}))

    ahead.ask("GET", "/v1/tags")

    assert ahead.skew_s == pytest.approx(ahead_s, abs=2)
    assert says in (skew_in_words(ahead.skew_s) or "")


def test_a_clock_that_is_right_is_not_mentioned() -> None:
    right, _ = answering(httpx2.Response(200, headers={"Date": formatdate(time.time(), usegmt=True)}))

    right.ask("GET", "/v1/tags")

    assert skew_in_words(right.skew_s) is None


def test_a_name_with_a_slash_stays_one_path_segment() -> None:
    strange, asked = answering(httpx2.Response(404, json={"code": "unknown-task-type", "detail": "x"}), kind=Registry)

    with pytest.raises(Exception, match="x"):
        strange.tag("../admin?x=1")

    assert asked[0].url.raw_path == b"/v1/tags/..%2Fadmin%3Fx%3D1"


def test_a_trace_that_came_in_the_environment_goes_on_to_registry_and_child(monkeypatch: pytest.MonkeyPatch) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    monkeypatch.setenv("TRACEPARENT", trace)
    child: dict[str, str] = {"TRACEPARENT": "stale"}

    with telemetry.span("swift-submit run"), telemetry.span("launch"):
        headers = telemetry.carrier()
        telemetry.hand_to_child(child)

    assert headers["traceparent"] == child["TRACEPARENT"] == trace, "without an SDK spans pass the parent on"
    assert telemetry.carrier() == {}
