"""Signing in through an identity provider: the device flow (RFC 8628), and the session that it leaves.

The registry names its providers (RFC 9728), a provider its endpoints (OpenID Connect Discovery). The person opens a
page on any device, compares the code, and agrees; we ask until they did. What we get is kept in the system's keyring
where there is one, else in a 0600 file, and renewed when it is about to end.
"""

import contextlib
import fcntl
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from enforcer.problems import NotConfigured, NotPermitted, Unauthenticated, Unavailable
from trainer.http import Link, ask_issuer
from trainer.settings import Settings, read_secret, session_file

DEVICE_GRANT = "urn:ietf:params:oauth:grant-type:device_code"
RENEWED_BEFORE_END_S = 60.0
USUAL_INTERVAL_S = 5.0  # RFC 8628 section 3.5
SLOWER_BY_S = 5.0
USUAL_LIFE_S = 300.0
MAX_SESSION_BYTES = 64 * 1024
KEYRING_SERVICE = "swift-submit"
Clock = Callable[[], float]
Sleep = Callable[[float], None]


@dataclass(frozen=True)
class Provider:
    """One provider of a registry, and where it is asked."""

    name: str
    issuer: str
    client_id: str
    scope: str
    resource: str | None
    device_endpoint: str
    token_endpoint: str
    revocation_endpoint: str | None

    @property
    def _to_whom(self) -> dict[str, str]:
        return {"client_id": self.client_id, **({"resource": self.resource} if self.resource else {})}


@dataclass(frozen=True)
class Prompt:
    """What the person is to do, and by when (seconds from now)."""

    user_code: str
    verification_uri: str
    verification_uri_complete: str | None
    expires_in_s: float
    interval_s: float
    device_code: str = field(repr=False)


@dataclass(frozen=True)
class Tokens:
    """`expires_at` is in seconds of the Unix clock."""

    access: str = field(repr=False)
    refresh: str | None = field(repr=False)
    expires_at: float


def find_provider(settings: Settings, name: str | None = None) -> Provider:
    """The provider to sign in with, as the registry names it.

    Raises:
        NotConfigured: the registry has none, has several and none was named, or speaks for another registry.
        RegistryUnreachable, Unavailable.
    """
    with Link(settings) as link:
        said = json.loads(link.ask("GET", "/.well-known/oauth-protected-resource", public=True, again=True))
    if said["resource"] not in (settings.server, settings.issuer):  # RFC 9728 section 3.3
        raise NotConfigured(
            f"`{settings.server}` says that it is `{said['resource']}`; name it so with `--server`, or set "
            "`SWIFT_SUBMIT_ISSUER` if you know it under both names"
        )
    offered = {each["name"]: each for each in said["tagwarden_sign_in"]}
    if not offered:
        raise NotConfigured(f"`{settings.server}` has no identity provider to sign in with; ask for an API token")
    if name is None and len(offered) > 1:
        raise NotConfigured(f"`{settings.server}` takes several providers; name one: {', '.join(sorted(offered))}")
    chosen = offered.get(name) if name is not None else next(iter(offered.values()))
    if chosen is None:
        raise NotConfigured(f"`{name}` is no provider of `{settings.server}`; it has {', '.join(sorted(offered))}")
    return _discovered(settings, chosen)


def start(provider: Provider, settings: Settings) -> Prompt:
    """Ask for a code (RFC 8628 section 3.1).

    Raises:
        NotPermitted: the provider refuses the client.
        Unavailable.
    """
    status, answer = _post(provider.device_endpoint, {**provider._to_whom, "scope": provider.scope}, settings)
    if status != 200:
        raise NotPermitted(f"`{provider.issuer}` starts no sign-in: {_error_of(answer)}")
    try:
        complete = answer.get("verification_uri_complete")
        return Prompt(
            user_code=str(answer["user_code"]),
            verification_uri=str(answer["verification_uri"]),
            verification_uri_complete=str(complete) if complete else None,
            expires_in_s=_seconds(answer.get("expires_in"), USUAL_LIFE_S),
            interval_s=_seconds(answer.get("interval"), USUAL_INTERVAL_S),
            device_code=str(answer["device_code"]),
        )
    except KeyError as error:
        raise Unavailable(f"`{provider.issuer}` answered the sign-in in a form that is not RFC 8628's") from error


def wait(
    provider: Provider, prompt: Prompt, settings: Settings, *, now: Clock = time.time, sleep: Sleep = time.sleep
) -> Tokens:
    """Ask until the person agreed (RFC 8628 sections 3.4 and 3.5), slower when told so or when no answer comes.

    Raises:
        NotPermitted: they said no.
        Unauthenticated: the code was not used in time.
    """
    form = {**provider._to_whom, "grant_type": DEVICE_GRANT, "device_code": prompt.device_code}
    interval, until = prompt.interval_s, now() + prompt.expires_in_s
    while now() < until:
        sleep(interval)
        try:
            status, answer = _post(provider.token_endpoint, form, settings)
        except Unavailable:
            interval *= 2
            continue
        if status == 200:
            return _tokens(answer, now())
        match answer.get("error"):
            case "authorization_pending":
                pass
            case "slow_down":
                interval += SLOWER_BY_S
            case "access_denied":
                raise NotPermitted(f"the sign-in was refused on the page of `{provider.issuer}`")
            case "expired_token":
                break
            case _:
                raise Unauthenticated(f"`{provider.issuer}` gives no token: {_error_of(answer)}")
    raise Unauthenticated("the code was not used in time; `swift-submit auth login` asks for a new one")


@dataclass
class Session:
    """Somebody who is signed in to one registry. The file says with whom and until when; the tokens are in it only
    where there is no keyring."""

    path: Path
    server: str
    provider: Provider
    tokens: Tokens
    settings: Settings = field(repr=False)
    in_keyring: bool = False

    @classmethod
    def begin(cls, settings: Settings, provider: Provider, tokens: Tokens) -> Self:
        session = cls(session_file(settings.server), settings.server, provider, tokens, settings)
        session._save()
        return session

    @classmethod
    def open(cls, path: Path, settings: Settings) -> Self:
        """The session in this file.

        Raises:
            Unauthenticated: it cannot be read as one, or its tokens are not in the keyring any more.
            NotConfigured: others can read it.
        """
        try:
            held = json.loads(read_secret(path, MAX_SESSION_BYTES))
            in_keyring = held["tokens"] is None
            secret = _from_keyring(held["server"]) if in_keyring else held["tokens"]
            provider, tokens = Provider(**held["provider"]), Tokens(**secret)
        except (ValueError, KeyError, TypeError) as error:
            raise Unauthenticated(
                f"the sign-in kept in `{path}` cannot be read; `swift-submit auth login` makes a new one"
            ) from error
        if held["server"] != settings.server:
            raise Unauthenticated(f"the sign-in kept in `{path}` is for another server")
        return cls(path, held["server"], provider, tokens, settings, in_keyring)

    def access_token(self, *, now: Clock = time.time) -> str:
        """A token that is good for a minute at least, renewed if need be.

        Raises:
            Unauthenticated: the sign-in has ended.
            Unavailable: the provider does not answer, and the token has ended.
        """
        if now() < self.tokens.expires_at - RENEWED_BEFORE_END_S:
            return self.tokens.access
        with _alone(self.path):
            # Another process may have renewed it: a refresh token that is used twice ends the whole sign-in.
            self.tokens = type(self).open(self.path, self.settings).tokens
            if now() >= self.tokens.expires_at - RENEWED_BEFORE_END_S:
                self._renew(now)
        return self.tokens.access

    def end(self) -> None:
        """Forget the tokens, here and at the provider (RFC 7009). A provider that does not answer forgets by itself."""
        if self.provider.revocation_endpoint:
            token = self.tokens.refresh or self.tokens.access
            with contextlib.suppress(Unavailable, NotConfigured):
                form = {"client_id": self.provider.client_id, "token": token}
                _post(self.provider.revocation_endpoint, form, self.settings)
        if self.in_keyring and (keyring := _keyring()) is not None:
            with contextlib.suppress(keyring.errors.KeyringError):
                keyring.delete_password(KEYRING_SERVICE, self.server)
        self.path.unlink(missing_ok=True)

    def _renew(self, now: Clock) -> None:
        ended = Unauthenticated(
            f"your sign-in to `{self.server}` has ended; `swift-submit auth login` makes a new one", server=self.server
        )
        if self.tokens.refresh is None:
            raise ended
        form = {**self.provider._to_whom, "grant_type": "refresh_token", "refresh_token": self.tokens.refresh}
        try:
            status, answer = _post(self.provider.token_endpoint, form, self.settings)
        except Unavailable:
            if now() < self.tokens.expires_at:
                return
            raise
        if status != 200:
            raise ended
        self.tokens = _tokens(answer, now(), self.tokens.refresh)
        self._save()

    def _save(self) -> None:
        secret = asdict(self.tokens)
        self.in_keyring = _to_keyring(self.server, secret)
        held = {
            "server": self.server,
            "provider": asdict(self.provider),
            "tokens": None if self.in_keyring else secret,
        }
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor, draft = tempfile.mkstemp(dir=self.path.parent)  # 0600; whole or not there
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(held, file)
        os.replace(draft, self.path)


def _discovered(settings: Settings, offered: dict[str, Any]) -> Provider:
    issuer = str(offered["issuer"])
    status, document = ask_issuer(
        f"{issuer.rstrip('/')}/.well-known/openid-configuration",
        timeout_s=settings.timeout_s,
        allow_http=settings.allow_http,
    )
    if status != 200 or document.get("issuer") != issuer:
        raise Unavailable(f"`{issuer}` does not describe itself as an OpenID provider; ask who runs the registry")
    device, token = document.get("device_authorization_endpoint"), document.get("token_endpoint")
    if not isinstance(device, str) or not isinstance(token, str):
        raise NotConfigured(f"`{issuer}` does not offer the device flow; ask for an API token")
    revocation = document.get("revocation_endpoint")
    return Provider(
        name=str(offered["name"]),
        issuer=issuer,
        client_id=str(offered["client_id"]),
        scope=str(offered["scope"]),
        resource=offered["resource"],
        device_endpoint=device,
        token_endpoint=token,
        revocation_endpoint=revocation if isinstance(revocation, str) else None,
    )


def _post(url: str, form: dict[str, str], settings: Settings) -> tuple[int, dict[str, Any]]:
    return ask_issuer(url, form, timeout_s=settings.timeout_s, allow_http=settings.allow_http)


def _tokens(answer: dict[str, Any], now: float, refresh: str | None = None) -> Tokens:
    """A provider that does not renew the refresh token lets us keep the old one (RFC 6749 section 6)."""
    access = answer.get("access_token")
    if not isinstance(access, str) or str(answer.get("token_type", "")).lower() != "bearer":
        raise Unavailable("the identity provider's answer holds no bearer token")
    renewed = answer.get("refresh_token")
    return Tokens(
        access=access,
        refresh=renewed if isinstance(renewed, str) else refresh,
        expires_at=now + _seconds(answer.get("expires_in"), USUAL_LIFE_S),
    )


def _seconds(said: object, usual: float) -> float:
    return float(said) if isinstance(said, int | float) and 0 < said < 10 * 365 * 86_400 else usual


def _error_of(answer: dict[str, Any]) -> str:
    return (
        f"`{str(answer.get('error', 'no reason given'))[:80]}` {str(answer.get('error_description', ''))[:300]}".strip()
    )


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    with path.with_suffix(".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _keyring() -> Any:
    """The `keyring` package, when it is installed and has a place that keeps secrets; None otherwise."""
    try:
        import keyring
        import keyring.errors

        # Backends that keep nothing, or fail, say so by a priority below 1.
        return keyring if keyring.get_keyring().priority >= 1 else None
    except Exception:  # a desktop's keyring fails in many ways without a desktop
        return None


def _to_keyring(server: str, secret: dict[str, Any]) -> bool:
    keyring = _keyring()
    if keyring is None:
        return False
    try:
        keyring.set_password(KEYRING_SERVICE, server, json.dumps(secret))
    except keyring.errors.KeyringError:
        return False
    return True


def _from_keyring(server: str) -> dict[str, Any]:
    keyring = _keyring()
    kept = None
    if keyring is not None:
        with contextlib.suppress(keyring.errors.KeyringError):
            kept = keyring.get_password(KEYRING_SERVICE, server)
    if kept is None:
        raise ValueError("the keyring does not have it")
    found: dict[str, Any] = json.loads(kept)
    return found
