"""`tagwarden keys`: the key ring."""

from typing import Any

import click

from registry.cli.errors import in_words
from registry.cli.opening import OPERATOR, migrated, settings_of


@click.group()
def keys() -> None:
    """The service's signing keys: list, rotate, retire.

    There are keys for tickets, the log, access tokens and attestations. Run it beside the service, as the service's
    user; the service takes up a change within a second.
    """


@keys.command("list")
def list_keys() -> None:
    """Every key that there is and was: id, purpose, algorithm, state, source, and when the next step is due."""
    from registry.keyring import Keyring

    settings = settings_of()
    for record in in_words(Keyring(settings.keys_dir).records):
        click.echo(_key_line(record))


@keys.command("rotate")
@click.argument("purpose", type=click.Choice(["ticket", "log", "token", "attestation"]))
@click.option(
    "--alg",
    type=click.Choice(["Ed25519", "EdDSA", "ES256"]),
    help="Ed25519 unless said otherwise. EdDSA is the same under its old name; the log takes nothing but Ed25519.",
)
@click.option(
    "--source",
    help="Where the private key is: `file:NAME.pem` in the folder `keys`, `env:VARIABLE` (base64 of PKCS#8, "
    "also in the service's environment), or `signer:NAME:ARGUMENT` for a plug-in. Left out, a new file.",
)
@click.option(
    "--now", "at_once", is_flag=True, help="Let it sign at once: for emergencies, verifiers may not know it yet."
)
def rotate_key(purpose: Any, alg: str | None, source: str | None, at_once: bool) -> None:
    """Publish the next key for PURPOSE.

    It begins to sign a day later (TAGWARDEN_KEY_PUBLISH_AHEAD_S); the one before stays published until the last thing
    that it signed has expired.
    """
    from datetime import timedelta

    settings = settings_of()
    ahead = timedelta(seconds=0 if at_once else settings.key_publish_ahead_s)
    made = _turn_keys(
        settings,
        lambda ring, on_record, now: ring.rotate(
            purpose, on_record, alg=alg, source=source, dev=_is_local(settings), now=now, ahead=ahead
        ),
    )
    when = "signs now" if made.state == "active" else f"signs from {made.activate_at:%Y-%m-%d %H:%M} UTC"
    click.echo(f"{made.kid} is published as {purpose} key and {when}")


@keys.command("retire")
@click.argument("kid")
@click.option(
    "--compromised", is_flag=True, help="Somebody else may have it: nothing that it signed is valid any more."
)
def retire_key(kid: str, compromised: bool) -> None:
    """End the key KID, which does not sign (any more): it leaves the published sets at once, its file is deleted."""
    settings = settings_of()
    over = _turn_keys(
        settings, lambda ring, on_record, now: ring.retire(kid, on_record, compromised=compromised, now=now)
    )
    click.echo(f"{over.kid} is {over.state}; it stays listed at /.well-known/retired-keys")


def _is_local(settings: Any) -> bool:
    """Whether development keys will do. The log knows the service's name, also where this shell lacks its settings."""
    from enforcer import tlog
    from registry import db, log

    with db.reading(migrated(settings)) as session:
        return log.name(settings, session) == tlog.LOCAL


def _turn_keys(settings: Any, change: Any) -> Any:
    """Change the key ring, and put it on record first."""
    from functools import partial

    from registry import audit as audit_log, db, identity
    from registry.keyring import Keyring

    def turn() -> Any:
        on_record = partial(audit_log.record_keys, migrated(settings), identity.Actor(OPERATOR, (), "all"))
        return change(Keyring(settings.keys_dir), on_record, db.utc_now())

    return in_words(turn)


def _key_line(key: Any) -> str:
    due = {"next": ("signs from", key.activate_at), "retiring": ("until", key.retire_at)}.get(
        key.state, ("since", key.compromised_at or key.retired_at or key.activated_at)
    )
    source = key.source if key.state in {"next", "active", "retiring"} else "-"
    return (
        f"{key.kid:<20}  {key.purpose:<11}  {key.alg:<7}  {key.state:<11}  {due[0]} {due[1]:%Y-%m-%d %H:%M}  {source}"
    )
