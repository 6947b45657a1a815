"""Signing in: the device flow with a real OpenID provider, and with one that misbehaves."""

import hashlib
import json
import stat
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import keyring
import keyring.backend
import pytest
import yaml
from conftest import LiveRegistry, free_port
from idp import IdentityProvider
from issuers import AUDIENCE, Provider
from keyring.backends import null
from submitting import Desk, events

from enforcer.problems import NotConfigured, NotPermitted, Unauthenticated, Unavailable
from registry.settings import Settings as RegistrySettings
from trainer import auth, settings
from trainer.http import ask_issuer
from trainer.settings import Settings, session_file

SERVER = "https://registry.example.org"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in settings.ENVIRONMENT.values():
        monkeypatch.delenv(name, raising=False)
    for name in ("CONFIG_HOME", "STATE_HOME", "RUNTIME_DIR"):
        monkeypatch.setenv(f"XDG_{name}", str(tmp_path / name.lower()))
    # Nothing of a test goes into the keyring of whoever runs it.
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", "keyring.backends.null.Keyring")
    keyring.set_keyring(null.Keyring())
    return tmp_path


# --- with a real provider ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def idp() -> Iterator[IdentityProvider]:
    provider = IdentityProvider()
    yield provider
    provider.stop()


def registry_for(tmp_path: Path, url: str) -> LiveRegistry:
    issuer = {
        "name": "corp",
        "issuer": url,
        "audience": AUDIENCE,
        "business_unit": "retail",
        "login": {"client_id": "swift-submit", "resource": AUDIENCE},
    }
    file = tmp_path / "identity.yaml"
    file.write_text(yaml.safe_dump({"issuers": [issuer]}))
    return LiveRegistry(RegistrySettings(state_dir=tmp_path / "registry", identity_file=file, port=free_port()))


@pytest.fixture
def trusting(tmp_path: Path, idp: IdentityProvider) -> Iterator[LiveRegistry]:
    live = registry_for(tmp_path, idp.url)
    live.start()
    yield live
    live.stop()


@pytest.fixture
def desk(tmp_path: Path, trusting: LiveRegistry) -> Desk:
    return Desk(tmp_path, tmp_path, trusting.url, "")


def sign_in(desk: Desk, act: Callable[[str], None]) -> tuple[list[dict[str, Any]], int]:
    """`auth login` in the background; `act` is what the person does with the address that it shows."""
    told = []
    with desk.start("auth", "login") as process:
        for event in events(process):
            told.append(event)
            if event["event"] == "sign-in":
                act(event["verification_uri_complete"])
        process.wait(timeout=60)
        return told, int(process.returncode)


@pytest.mark.node
def test_signing_in_asking_and_signing_out(desk: Desk, idp: IdentityProvider, trusting: LiveRegistry) -> None:
    told, code = sign_in(desk, lambda address: idp.agree(address, "li+trainers"))
    (kept,) = _sessions(desk)

    assert (code, told[-1]["result"]["server"]) == (0, trusting.url)
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    first = json.loads(kept.read_text())["tokens"]
    status = desk.json("auth", "status")
    assert (status["id"], status["groups"]) == ("user:corp:~" + _digest("li+trainers"), ["trainers"])
    assert desk.cli("can-i", "submit", "embedding").stdout.strip() == "yes"
    assert desk.cli("can-i", "submit", "dpo").returncode == 3

    # Tokens live 62 s and are renewed a minute before their end, which is now.
    _wait_until_renewal(first["expires_at"])
    shown = desk.cli("auth", "token").stdout.strip()
    second = json.loads(kept.read_text())["tokens"]
    assert shown == second["access"] != first["access"]
    assert second["refresh"] != first["refresh"]

    assert desk.cli("auth", "logout").returncode == 0
    assert list(_sessions(desk)) == []
    assert desk.cli("auth", "status").returncode == 4
    status_, answer = ask_issuer(
        f"{idp.url}/token",
        {"grant_type": "refresh_token", "client_id": "swift-submit", "refresh_token": second["refresh"]},
        timeout_s=10,
    )
    assert (status_, answer["error"]) == (400, "invalid_grant")  # the provider has forgotten it, too


@pytest.mark.node
def test_pressing_abort_ends_the_command(desk: Desk, idp: IdentityProvider) -> None:
    told, code = sign_in(desk, idp.refuse)

    assert (code, told[-1]["problem"]["code"]) == (3, "not-permitted")
    assert list(_sessions(desk)) == []


@pytest.mark.node
def test_a_service_signs_in_with_its_own_secret(trusting: LiveRegistry, idp: IdentityProvider) -> None:
    token = idp.client_credentials()

    me = trusting.anonymous(headers={"Authorization": f"Bearer {token}"}).get("/v1/me").json()

    assert (me["id"], me["groups"]) == ("service:corp:nightly", ["trainers"])


def _sessions(desk: Desk) -> list[Path]:
    return sorted((desk.root / "home").rglob("sessions/*.json"))


def _digest(subject: str) -> str:
    return hashlib.sha256(subject.encode()).hexdigest()[:32]


def _wait_until_renewal(expires_at: float) -> None:
    time.sleep(max(0.0, expires_at - auth.RENEWED_BEFORE_END_S - time.time()) + 0.1)


# --- with a provider by hand ------------------------------------------------------------------------------------------


@pytest.fixture
def by_hand() -> Iterator[Provider]:
    provider = Provider()
    provider.answers["/.well-known/openid-configuration"] = (200, {}, {
        "issuer": provider.url,
        "device_authorization_endpoint": f"{provider.url}/device",
        "token_endpoint": f"{provider.url}/token",
        "revocation_endpoint": f"{provider.url}/revoke",
    })  # fmt: skip
    yield provider
    provider.stop()


def known(by_hand: Provider) -> auth.Provider:
    return auth.Provider(
        "corp", by_hand.url, "swift-submit", "openid", None, f"{by_hand.url}/device", f"{by_hand.url}/token",
        f"{by_hand.url}/revoke",
    )  # fmt: skip


PROMPT = auth.Prompt("ABCD", "https://x", None, 60.0, 5.0, "the-device-code")
TOKEN = {"access_token": "access-1", "refresh_token": "refresh-1", "token_type": "Bearer", "expires_in": 300}


class Time:
    """A clock that only waiting moves."""

    def __init__(self) -> None:
        self.at, self.waits = 1_000.0, []  # type: ignore[var-annotated]

    def now(self) -> float:
        return self.at

    def sleep(self, seconds: float) -> None:
        self.at += seconds
        self.waits.append(seconds)


def waited(by_hand: Provider, *answers: tuple[int, dict[str, Any]]) -> tuple[auth.Tokens, list[float]]:
    clock, by_hand.script = Time(), list(answers)
    tokens = auth.wait(known(by_hand), PROMPT, Settings(SERVER), now=clock.now, sleep=clock.sleep)
    return tokens, clock.waits


PENDING = (400, {"error": "authorization_pending"})


def test_it_asks_slower_when_told_so(by_hand: Provider) -> None:
    tokens, waits = waited(by_hand, PENDING, (400, {"error": "slow_down"}), PENDING, (200, TOKEN))

    assert (tokens.access, waits) == ("access-1", [5.0, 5.0, 10.0, 10.0])
    assert by_hand.posted[0] == {
        "client_id": "swift-submit",
        "grant_type": "urn:ietf:params:oauth:grant-type:device_code",
        "device_code": "the-device-code",
    }


def test_it_asks_slower_when_nobody_answers(by_hand: Provider) -> None:
    clock = Time()
    nowhere = replace(known(by_hand), token_endpoint=f"http://127.0.0.1:{free_port()}/token")

    with pytest.raises(Unauthenticated, match="not used in time"):
        auth.wait(nowhere, PROMPT, Settings(SERVER, timeout_s=2), now=clock.now, sleep=clock.sleep)

    assert clock.waits == [5.0, 10.0, 20.0, 40.0]


@pytest.mark.parametrize(
    ("answer", "refusal", "says"),
    [
        ({"error": "access_denied"}, NotPermitted, "refused on the page"),
        ({"error": "expired_token"}, Unauthenticated, "not used in time"),
        ({"error": "invalid_grant", "error_description": "no such code"}, Unauthenticated, "no such code"),
        ({}, Unauthenticated, "no reason given"),
    ],
)
def test_an_end_without_a_token_says_why(
    by_hand: Provider, answer: dict[str, str], refusal: type[Exception], says: str
) -> None:
    with pytest.raises(refusal, match=says):
        waited(by_hand, (400, answer))


def test_a_code_that_nobody_uses_ends(by_hand: Provider) -> None:
    with pytest.raises(Unauthenticated, match="not used in time"):
        waited(by_hand, *[PENDING] * 50)


@pytest.mark.parametrize("answer", [{"access_token": "x"}, {"token_type": "Bearer"}, {**TOKEN, "token_type": "mac"}])
def test_an_answer_without_a_bearer_token_is_none(by_hand: Provider, answer: dict[str, str]) -> None:
    with pytest.raises(Unavailable, match="no bearer token"):
        waited(by_hand, (200, answer))


@pytest.mark.parametrize("seconds", [None, -5, "soon", 0, float("inf")])
def test_nonsense_about_time_is_not_waited_for(by_hand: Provider, seconds: Any) -> None:
    said = {"device_code": "d", "user_code": "u", "verification_uri": "https://x", "interval": seconds}
    by_hand.script = [(200, {**said, "expires_in": seconds})]

    prompt = auth.start(known(by_hand), Settings(SERVER))

    assert (prompt.interval_s, prompt.expires_in_s) == (auth.USUAL_INTERVAL_S, auth.USUAL_LIFE_S)


def session(by_hand: Provider, *, expires_at: float = 2_000.0, refresh: str | None = "refresh-0") -> auth.Session:
    return auth.Session.begin(Settings(SERVER), known(by_hand), auth.Tokens("access-0", refresh, expires_at))


def test_a_token_is_renewed_a_minute_before_its_end(by_hand: Provider) -> None:
    held, by_hand.script = session(by_hand), [(200, TOKEN)]

    early = held.access_token(now=lambda: 1_939.0)
    late = held.access_token(now=lambda: 1_941.0)

    assert (early, late) == ("access-0", "access-1")
    assert by_hand.posted[0]["refresh_token"] == "refresh-0"
    again = auth.Session.open(held.path, Settings(SERVER))
    assert (again.tokens.access, again.tokens.refresh, again.tokens.expires_at) == ("access-1", "refresh-1", 2_241.0)


def test_a_provider_that_does_not_rotate_lets_us_keep_the_refresh_token(by_hand: Provider) -> None:
    held, by_hand.script = session(by_hand), [(200, {**TOKEN, "refresh_token": None})]

    held.access_token(now=lambda: 1_990.0)

    assert held.tokens.refresh == "refresh-0"


def test_two_processes_use_a_refresh_token_once(by_hand: Provider) -> None:
    """A provider that rotates them takes the second use for a theft, and ends the whole sign-in."""
    begun, by_hand.script = session(by_hand), [(200, TOKEN), (400, {"error": "invalid_grant"})]
    others = [auth.Session.open(begun.path, Settings(SERVER)) for _ in range(4)]
    found: list[str] = []
    threads = [
        threading.Thread(target=lambda each=each: found.append(each.access_token(now=lambda: 1_990.0)))
        for each in others
    ]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert (found, len(by_hand.posted)) == (["access-1"] * 4, 1)


@pytest.mark.parametrize("answer", [(400, {"error": "invalid_grant"}), (401, {}), (500, {})])
def test_a_sign_in_that_has_ended_says_how_to_begin_again(by_hand: Provider, answer: Any) -> None:
    held, by_hand.script = session(by_hand), [answer]

    with pytest.raises(Unauthenticated, match="swift-submit auth login"):
        held.access_token(now=lambda: 1_990.0)


def test_without_a_refresh_token_a_sign_in_ends_with_its_token(by_hand: Provider) -> None:
    with pytest.raises(Unauthenticated, match="has ended"):
        session(by_hand, refresh=None).access_token(now=lambda: 2_001.0)


def test_an_outage_of_the_provider_costs_nothing_while_the_token_holds(by_hand: Provider) -> None:
    held = session(by_hand)
    by_hand.stop()

    assert held.access_token(now=lambda: 1_990.0) == "access-0"
    with pytest.raises(Unavailable, match="cannot be reached"):
        held.access_token(now=lambda: 2_010.0)


def test_secrets_do_not_show_in_representations(by_hand: Provider) -> None:
    held = session(by_hand)

    assert not any(secret in repr(held) + repr(PROMPT) for secret in ("access-0", "refresh-0", "the-device-code"))


class Kept(keyring.backend.KeyringBackend):
    """A keyring in memory."""

    priority = 5.0  # type: ignore[assignment]

    def __init__(self) -> None:
        super().__init__()
        self.held: dict[tuple[str, str], str] = {}

    def set_password(self, service: str, username: str, password: str) -> None:
        self.held[service, username] = password

    def get_password(self, service: str, username: str) -> str | None:
        return self.held.get((service, username))

    def delete_password(self, service: str, username: str) -> None:
        del self.held[service, username]


@pytest.fixture
def in_keyring() -> Iterator[Kept]:
    kept = Kept()
    keyring.set_keyring(kept)
    yield kept
    keyring.set_keyring(null.Keyring())


def test_where_there_is_a_keyring_the_file_holds_no_token(by_hand: Provider, in_keyring: Kept) -> None:
    held = session(by_hand)

    assert held.in_keyring
    assert "access-0" not in held.path.read_text()
    assert auth.Session.open(held.path, Settings(SERVER)).tokens == held.tokens
    held.end()
    assert (in_keyring.held, held.path.exists()) == ({}, False)


def test_a_keyring_that_lost_the_tokens_means_signing_in_again(by_hand: Provider, in_keyring: Kept) -> None:
    held = session(by_hand)
    in_keyring.held.clear()

    with pytest.raises(Unauthenticated, match="auth login"):
        auth.Session.open(held.path, Settings(SERVER))


def test_without_a_keyring_the_file_is_private_and_one_that_is_not_is_refused(by_hand: Provider) -> None:
    held = session(by_hand)

    assert not held.in_keyring
    assert stat.S_IMODE(held.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(held.path.parent.stat().st_mode) == 0o700
    held.path.chmod(0o640)
    with pytest.raises(NotConfigured, match="can be read by others"):
        auth.Session.open(held.path, Settings(SERVER))


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"server": "x", "provider": {}, "tokens": {}}'])
def test_a_session_file_that_is_none_means_signing_in_again(by_hand: Provider, content: str) -> None:
    held = session(by_hand)
    held.path.write_text(content)

    with pytest.raises(Unauthenticated, match="auth login"):
        auth.Session.open(held.path, Settings(SERVER))


def test_a_token_said_outright_goes_before_a_sign_in_and_that_before_the_one_left_here(
    by_hand: Provider, home: Path
) -> None:
    local = settings.DEFAULT_SERVER
    left = home / "runtime_dir" / "tagwarden" / "token"
    left.parent.mkdir(parents=True)
    left.write_text("twp_left")
    left.chmod(0o600)
    before = settings.load({}, {})
    auth.Session.begin(Settings(local), known(by_hand), auth.Tokens("access-0", None, 2_000.0))

    signed_in, said = settings.load({}, {}), settings.load({}, {"SWIFT_SUBMIT_TOKEN": "twp_said"})

    assert (before.token, before.session) == ("twp_left", None)
    assert (signed_in.token, signed_in.session) == (None, session_file(local))
    assert (said.token, said.session) == ("twp_said", None)
    assert settings.load({"server": SERVER}, {}).session is None


@pytest.mark.parametrize("url", ["http://login.example/token", "ftp://x", "login.example", "http://127.0.0.1.evil/x"])
def test_nothing_goes_to_a_provider_in_clear(url: str) -> None:
    with pytest.raises(NotConfigured, match="nothing was sent there"):
        ask_issuer(url, {"refresh_token": "secret"}, timeout_s=1)


def test_a_provider_that_redirects_is_not_followed(by_hand: Provider) -> None:
    by_hand.answers["/moved"] = (302, {"Location": f"{by_hand.url}/elsewhere"}, {})

    assert ask_issuer(f"{by_hand.url}/moved", timeout_s=5) == (302, {})
    assert by_hand.asked == ["/moved"]


@pytest.mark.parametrize("content", [b"<html>", b"[]", b"\xff"])
def test_an_answer_that_is_no_json_object_is_none(by_hand: Provider, content: bytes) -> None:
    by_hand.answers["/odd"] = (200, {}, content)

    with pytest.raises(Unavailable, match="not as an identity provider does"):
        ask_issuer(f"{by_hand.url}/odd", timeout_s=5)


# --- where to sign in -------------------------------------------------------------------------------------------------


def offering(by_hand: Provider, *names: str, **changes: Any) -> Settings:
    """A registry that says these providers; the issuer by hand plays it, too."""
    sign_in = [
        {"name": name, "issuer": by_hand.url, "client_id": "swift-submit", "scope": "openid", "resource": None}
        for name in names
    ]
    document = {"resource": by_hand.url, "tagwarden_sign_in": sign_in, **changes}
    by_hand.answers["/.well-known/oauth-protected-resource"] = (200, {}, document)
    return Settings(by_hand.url)


def test_the_only_provider_needs_no_name(by_hand: Provider) -> None:
    assert auth.find_provider(offering(by_hand, "corp")) == known(by_hand)


def test_of_several_providers_one_is_named(by_hand: Provider) -> None:
    desk = offering(by_hand, "corp", "partners")

    with pytest.raises(NotConfigured, match="name one: corp, partners"):
        auth.find_provider(desk)
    with pytest.raises(NotConfigured, match="`other` is no provider"):
        auth.find_provider(desk, "other")
    assert auth.find_provider(desk, "partners").name == "partners"


def test_a_registry_without_a_provider_says_so(by_hand: Provider) -> None:
    with pytest.raises(NotConfigured, match="ask for an API token"):
        auth.find_provider(offering(by_hand))


def test_a_registry_that_speaks_for_another_is_not_believed(by_hand: Provider) -> None:
    with pytest.raises(NotConfigured, match="says that it is"):
        auth.find_provider(offering(by_hand, "corp", resource=SERVER))


@pytest.mark.parametrize(
    ("document", "refusal"),
    [({"issuer": "https://evil"}, Unavailable), ({}, Unavailable), ({"token_endpoint": "https://x"}, NotConfigured)],
)
def test_a_provider_that_cannot_be_used_is_told(
    by_hand: Provider, document: dict[str, str], refusal: type[Exception]
) -> None:
    desk = offering(by_hand, "corp")
    said = document if refusal is Unavailable else {"issuer": by_hand.url, **document}
    by_hand.answers["/.well-known/openid-configuration"] = (200, {}, said)

    with pytest.raises(refusal):
        auth.find_provider(desk)
