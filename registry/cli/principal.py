"""`tagwarden principal`: who is let in."""

from typing import Any

import click

from registry.cli.errors import in_words
from registry.cli.opening import OPERATOR, write


@click.group()
def principal() -> None:
    """Who is let in: disable, enable, list."""


@principal.command("disable")
@click.argument("principal_id", metavar="ID")
@click.option("--reason", required=True, help="Why; it is on record.")
def disable_principal(principal_id: str, reason: str) -> None:
    """Let none of ID's credentials open anything, from the next request on. ID is as in events: `user:li`.

    Tickets of theirs are revoked, and their runs save a checkpoint and stop.
    """
    from registry import identity, principals, revocations

    operator = identity.Actor(OPERATOR, (), "all")

    def disable(session: Any) -> int:
        principals.disable(session, principal_id, operator, reason)
        return revocations.revoke_all_of(session, principal_id, operator, reason)

    taken = in_words(lambda: write(disable))
    click.echo(f"{principal_id} is disabled; {taken} of their permits were taken back")


@principal.command("enable")
@click.argument("principal_id", metavar="ID")
@click.option("--reason", required=True, help="Why; it is on record.")
def enable_principal(principal_id: str, reason: str) -> None:
    """Let ID in again."""
    from registry import identity, principals

    operator = identity.Actor(OPERATOR, (), "all")
    in_words(lambda: write(lambda session: principals.enable(session, principal_id, operator, reason)))
    click.echo(f"{principal_id} is enabled")


@principal.command("list")
def list_principals() -> None:
    """Who is disabled: id, since when, by whom, why."""
    from registry import principals

    def read(session: Any) -> list[str]:
        return [
            f"{row.id}  since {row.disabled_at:%Y-%m-%d %H:%M}  by {row.disabled_by}  {row.reason}"
            for row in principals.disabled(session)
        ]

    for line in in_words(lambda: write(read)):
        click.echo(line)
