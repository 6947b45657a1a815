"""`tagwarden token`: API tokens, made and ended beside the service."""

from typing import Any

import click

from registry.cli.errors import in_words
from registry.cli.opening import OPERATOR, migrated, settings_of


@click.group()
def token() -> None:
    """API tokens: create, list, revoke."""


@token.command("create")
@click.argument("user")
@click.option("--group", "groups", multiple=True, help="A group of the user; repeat for more.")
@click.option("--unit", required=True, help="The user's business unit.")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    default=["*"],
    show_default="all that the groups allow",
    help="An action it may be used for (submit, run-read, ...); repeat for more.",
)
@click.option("--days", default=30, show_default=True, type=click.IntRange(1, 90), help="Days until it expires.")
def create_token(user: str, groups: tuple[str, ...], unit: str, scopes: tuple[str, ...], days: int) -> None:
    """Make a token for USER and print it once.

    USER is a name, or the whole id of a user or service: somebody who also signs in through a provider should be one
    person here (`user:<issuer>:<subject>`, as `GET /v1/me` and events show it).
    """
    from datetime import timedelta

    from enforcer.policy import folder
    from registry import audit as audit_log, db, identity

    settings = settings_of()

    def make() -> str:
        directory = folder.load(settings.policies_dir).directory
        unknown = [f"group `{group}`" for group in groups if group not in directory.groups]
        unknown += [f"unit `{unit}`"] if unit not in directory.units else []
        if unknown:
            raise click.ClickException(f"{', '.join(unknown)} is not in policies/directory.yaml")
        with db.writing(migrated(settings)) as session:
            life, now = timedelta(days=days), db.utc_now()
            made = identity.create_token(session, user, groups, unit, life=life, now=now, scopes=scopes)
            who = user if ":" in user else f"user:{user}"
            detail = {"user": who, "groups": list(groups), "scopes": list(scopes), "days": days}
            audit_log.record(session, "token.created", identity.Actor(OPERATOR, (), unit), detail=detail)
            return made

    click.echo(in_words(make))


@token.command("list")
def list_tokens() -> None:
    """Tokens by user: id, user, groups, unit, scopes, end, last use. Never the secret."""
    from registry import db, identity

    settings = settings_of()

    def read() -> list[str]:
        with db.reading(migrated(settings)) as session:
            return [_token_line(row) for row in identity.tokens(session)]

    for line in in_words(read):
        click.echo(line)


@token.command("revoke")
@click.argument("token_id")
def revoke_token(token_id: str) -> None:
    """End a token at once. TOKEN_ID is the part between the first two underscores."""
    from registry import audit as audit_log, db, identity

    settings = settings_of()

    def end() -> None:
        with db.writing(migrated(settings)) as session:
            row = identity.revoke_token(session, token_id)
            actor = identity.Actor(OPERATOR, (), row.business_unit)
            audit_log.record(session, "token.revoked", actor, detail={"user": row.actor, "token": row.id})

    in_words(end)
    click.echo(f"{token_id} is no longer valid")


def _token_line(row: Any) -> str:
    groups = ",".join(row.groups) or "-"
    used = f"{row.last_used_at:%Y-%m-%d}" if row.last_used_at else "never"
    scopes = ",".join(row.scopes) or "-"
    until = f"until {row.expires_at:%Y-%m-%d}"
    return f"{row.id}  {row.actor}  {groups}  {row.business_unit}  {scopes}  {until}  used {used}"
