"""Where events may be sent: never to what only the registry's machine can reach."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from pydantic import ValidationError

from enforcer.problems import Invalid
from registry import webhook_guard
from registry.settings import Settings
from registry.webhook_guard import Allowed, Unreachable, check_url, post

NOBODY = Allowed.parse("")


class _Receiver(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        seen.append(self.path)
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(302 if self.path == "/away" else 200)
        self.send_header("Location", "/elsewhere")
        self.send_header("Retry-After", "7")
        self.end_headers()
        if self.path == "/flood":
            try:
                for _ in range(1_000):
                    self.wfile.write(b"x" * 65_536)
            except OSError:
                cut_off.set()

    def log_message(self, *_: object) -> None:
        pass


seen: list[str] = []
cut_off = threading.Event()


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    server = HTTPServer(("127.0.0.1", 0), _Receiver)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def _nothing_seen() -> None:
    seen.clear()


@pytest.mark.parametrize(
    "url",
    [
        "http://hooks.example/", "https://user:secret@hooks.example/", "https://hooks.example/#x", "https:///x",
        "ftp://hooks.example/", "https://hooks.example:22/", "https://hooks.example:99999/", "https://127.0.0.1/",
        "https://10.0.0.1/", "https://169.254.169.254/", "https://[::1]/", "https://[::ffff:127.0.0.1]/",
        "https://[64:ff9b::7f00:1]/", "https://[2002:7f00:1::]/", "https://[fe80::1]/", "https://[fd00::1]/",
        "https://224.0.0.1/", "https://0.0.0.0/", "https://100.64.0.1/", "https://[::", "file:///etc/passwd",
        "https://hooks.example\\@127.0.0.1/",
    ],
)  # fmt: skip
def test_an_address_that_events_are_not_sent_to_is_refused(url: str) -> None:
    with pytest.raises(Invalid):
        check_url(url, NOBODY)


def test_public_addresses_are_taken_and_others_when_an_operator_names_them() -> None:
    check_url("https://hooks.example:8443/in?x=1", NOBODY)
    check_url("https://[2606:4700::1111]/", NOBODY)
    check_url("http://10.1.2.3:9000/", Allowed.parse("10.0.0.0/8"))
    check_url("http://Hooks.internal:9000/", Allowed.parse("hooks.internal"))


@pytest.mark.parametrize("inside", ["127.0.0.1", "::1", "::ffff:127.0.0.1", "169.254.169.254", "10.0.0.1"])
def test_a_public_name_that_leads_inside_gets_no_connection(inside: str) -> None:
    with pytest.raises(Unreachable, match="not public") as refused:
        post("https://hooks.example/", {}, b"{}", NOBODY, resolve=lambda host, port: ["93.184.216.34", inside])
    assert inside not in str(refused.value), "where a name leads inside is nothing for who made the webhook"


def test_who_answers_is_looked_at_again_on_the_connected_socket(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first look is made to see a public address, as if the name had led elsewhere between look and connection."""
    looks = iter([True, False])
    monkeypatch.setattr(webhook_guard, "is_public", lambda address: next(looks))

    with pytest.raises(Unreachable, match="not public"):
        post(f"http://allowed.example:{port}/", {}, b"{}", _only_by_name_in_urls(), resolve=lambda *_: ["127.0.0.1"])

    assert seen == []


def _only_by_name_in_urls() -> Allowed:
    """Lets the URL pass and no address."""

    class UrlOnly(Allowed):
        def host(self, host: str) -> bool:
            return True

    return UrlOnly(frozenset(), ())


def test_an_allowed_receiver_is_told_and_no_redirect_is_followed(port: int) -> None:
    allowed = Allowed.parse("127.0.0.0/8")

    taken = post(f"http://127.0.0.1:{port}/in", {"content-type": "text/plain"}, b"{}", allowed)
    away = post(f"http://127.0.0.1:{port}/away", {}, b"{}", allowed)

    assert (taken.status, taken.retry_after, away.status) == (200, "7", 302)
    assert seen == ["/in", "/away"]


def test_an_endless_answer_is_cut_off(port: int) -> None:
    assert post(f"http://127.0.0.1:{port}/flood", {}, b"{}", Allowed.parse("127.0.0.1")).status == 200
    assert cut_off.wait(10), "all 64 MiB of it were read"


def test_a_receiver_that_drips_is_left_at_the_deadline(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhook_guard, "TOTAL_S", 0.0)

    with pytest.raises(Unreachable):
        post(f"http://127.0.0.1:{port}/in", {}, b"{}", Allowed.parse("127.0.0.1"))


def test_each_address_of_a_name_is_tried(port: int) -> None:
    allowed = Allowed.parse("hooks.internal")

    def resolve(host: str, port: int) -> list[str]:
        return ["127.0.0.2", "127.0.0.2", "127.0.0.1"]  # nobody listens at the first

    assert post(f"http://hooks.internal:{port}/in", {}, b"{}", allowed, resolve=resolve).status == 200


def test_a_resolver_that_hangs_is_left_at_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhook_guard, "CONNECT_S", 0.1)
    let_go = threading.Event()

    def hang(host: str, port: int) -> list[str]:
        let_go.wait(20)
        return []

    with pytest.raises(Unreachable, match="TimeoutError"):
        post("https://hooks.example/", {}, b"{}", NOBODY, resolve=hang)
    assert not let_go.is_set()
    let_go.set()


def test_the_authorities_of_tls_are_read_once(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    webhook_guard._tls()
    monkeypatch.setattr(webhook_guard.ssl, "create_default_context", lambda: pytest.fail("read again"))

    assert post(f"http://127.0.0.1:{port}/in", {}, b"{}", Allowed.parse("127.0.0.1")).status == 200


def test_a_network_that_is_none_is_said_at_the_start() -> None:
    with pytest.raises(ValidationError, match="webhook_allow"):
        Settings(webhook_allow="10.0.0.0/99")
