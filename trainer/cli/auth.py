"""`swift-submit auth`: sign in through an identity provider, without a browser on this machine."""

import contextlib
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from trainer.cli.flags import Group
from trainer.cli.output import plain
from trainer.cli.session import current

if TYPE_CHECKING:
    from trainer.auth import Session
    from trainer.settings import Settings


@click.group(cls=Group)
def auth() -> None:
    """Sign in and out: login, logout, status, token."""


@auth.command()
@click.option("--provider", metavar="NAME", help="Sign in with this one, where the registry takes several.")
def login(provider: str | None) -> None:
    """Sign in: open the page that is shown, on any device, and compare the code."""
    from trainer import auth as signing_in

    session = current()
    settings = session.settings
    chosen = signing_in.find_provider(settings, provider)
    prompt = signing_in.start(chosen, settings)
    shown = {"verification_uri": prompt.verification_uri, "user_code": prompt.user_code}
    session.output.event(
        "sign-in", **shown, verification_uri_complete=prompt.verification_uri_complete, expires_in_s=prompt.expires_in_s
    )
    # On stderr in every mode, since nothing goes on until somebody has read it.
    address = prompt.verification_uri_complete or prompt.verification_uri
    click.echo(plain(f"open {address}\nand compare the code: {prompt.user_code}"), err=True)
    begun = signing_in.Session.begin(settings, chosen, signing_in.wait(chosen, prompt, settings))
    kept = "the system's keyring" if begun.in_keyring else str(begun.path)
    document = {"server": settings.server, "issuer": chosen.issuer, "kept_in": kept, "expires_at": _end(begun)}
    lines = [f"signed in to {settings.server} through {chosen.issuer}", f"  kept in  {kept}"]
    if settings.token is not None:
        session.output.warn("a token in the environment or in a token file is used before this sign-in")
    session.output.result(document, lines, brief=[settings.server])


@auth.command()
def logout() -> None:
    """Sign out: forget the tokens, here and at the provider."""
    from enforcer.problems import Unauthenticated
    from trainer.settings import session_file

    session = current()
    file = session_file(session.settings.server)
    held = None
    with contextlib.suppress(Unauthenticated):  # one that cannot be read is forgotten as well
        held = _held(session.settings)
    if held is not None:
        held.end()
    file.unlink(missing_ok=True)
    document = {"server": session.settings.server, "was_signed_in": held is not None}
    said = "signed out of" if held is not None else "nobody was signed in to"
    session.output.result(document, [f"{said} {session.settings.server}"])


@auth.command()
def status() -> None:
    """Who you are to the registry, and what counts of it there. Exits 4 when nobody is signed in."""
    session = current()
    with session.link() as link:
        me: dict[str, Any] = json.loads(link.ask("GET", "/v1/me", again=True))
    how = "signed in" if session.settings.session else "API token"
    lines = [
        f"{me['id']} at {session.settings.server} ({how})",
        f"  groups  {', '.join(me['groups']) or 'none'}",
        f"  unit    {me['business_unit']}",
        f"  scopes  {', '.join(me['scopes']) or 'none'}",
        f"  until   {me['expires_at']}",
    ]
    session.output.result({**me, "server": session.settings.server, "credential": how}, lines, brief=[me["id"]])


@auth.command()
def token() -> None:
    """Print an access token of this sign-in, for another program's `Authorization: Bearer` header."""
    from enforcer.problems import Unauthenticated

    session = current()
    held = _held(session.settings)
    if held is None:
        raise Unauthenticated(
            f"nobody is signed in to `{session.settings.server}`; `swift-submit auth login` does that"
        )
    access = held.access_token()
    session.output.result({"access_token": access, "expires_at": _end(held)}, [access], brief=[access])


def _held(settings: "Settings") -> "Session | None":
    """The sign-in to this server, whether or not another token is used before it."""
    from trainer.auth import Session
    from trainer.settings import session_file

    file = session_file(settings.server)
    return Session.open(file, settings) if file.is_file() else None


def _end(session: "Session") -> str:
    return datetime.fromtimestamp(session.tokens.expires_at, UTC).isoformat(timespec="seconds")
