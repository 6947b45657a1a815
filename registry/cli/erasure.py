"""`tagwarden audit erase`, `retain`, `hold`: what is personal in the log, and what must stay."""

from typing import Any

import click

from registry.cli.errors import in_words
from registry.cli.opening import OPERATOR, migrated, refuse_unknown_unit, settings_of, the_books


@click.command("erase")
@click.option("--actor", required=True, help="Whom to erase, such as user:li.")
@click.option("--reason", required=True, help="Stays on record: do not name the person.")
@click.option("--unit", default="all", show_default=True, help="Only in this business unit.")
def erase_person(actor: str, reason: str, unit: str) -> None:
    """Erase what is personal about somebody, and print a receipt. The log's proofs stay valid."""
    from pydantic import ValidationError

    from enforcer import wire
    from registry import erasure, identity

    try:
        asked = wire.ErasureRequest(actor=actor, reason=reason)
    except ValidationError as error:
        first = error.errors()[0]
        raise click.UsageError(f"`{first['loc'][0]}`: {first['msg']}") from error

    def forget() -> str:
        books = the_books()
        refuse_unknown_unit(books, unit)
        receipt = erasure.erase(books.engine, asked, identity.Actor(OPERATOR, (), unit), unit, {})
        return receipt.model_dump_json(indent=2)

    click.echo(in_words(forget))


@click.command("retain")
@click.option("--dry-run", is_flag=True, help="Count, and erase nothing.")
def retain(dry_run: bool) -> None:
    """Erase what is personal in events that are past their retention class (policies/retention.yaml). The running
    service does it daily."""
    from registry import db, retention

    settings = settings_of()

    def keep() -> dict[str, dict[str, int]]:
        classes = retention.load(settings.policies_dir)
        return retention.run(migrated(settings), classes, now=db.utc_now(), dry_run=dry_run)

    for name, count in in_words(keep).items():
        would = "would be erased" if dry_run else "erased"
        click.echo(f"{name}: {count['erased']} {would}, {count['held']} on legal hold")


@click.group()
def hold() -> None:
    """Legal hold, which nobody erases: place, release, list."""


@hold.command("place")
@click.option("--reason", required=True, help="Why; it is on record.")
@click.option("--unit", "business_unit", help="Events of this business unit.")
@click.option("--actor", help="Events by or about them, such as user:li.")
@click.option("--run", "run_id", help="Events of this run.")
@click.option("--everything", is_flag=True, help="All events; needed when nothing else is named.")
def place_hold(reason: str, everything: bool, **covers: str | None) -> None:
    """Keep events from erasure and retention. Of several filters all have to fit."""
    from registry import db, erasure, identity

    if everything == any(covers.values()):
        raise click.UsageError("name what to hold with `--unit`, `--actor` or `--run`, or hold `--everything`")

    def place() -> str:
        books = the_books()
        if covers["business_unit"] is not None:
            refuse_unknown_unit(books, covers["business_unit"])
        with db.writing(books.engine) as session:
            return erasure.place_hold(session, reason, identity.Actor(OPERATOR, (), "all"), **covers).id

    click.echo(in_words(place))


@hold.command("release")
@click.argument("hold_id")
@click.option("--reason", required=True, help="Why; it is on record.")
def release_hold(hold_id: str, reason: str) -> None:
    """End a hold."""
    from registry import db, erasure, identity

    settings = settings_of()

    def release() -> None:
        with db.writing(migrated(settings)) as session:
            erasure.release_hold(session, hold_id, reason, identity.Actor(OPERATOR, (), "all"))

    in_words(release)
    click.echo(f"{hold_id} is released")


@hold.command("list")
def list_holds() -> None:
    """Holds that are active: id, since when, what they cover, why."""
    from registry import db, erasure

    settings = settings_of()

    def read() -> list[str]:
        with db.reading(migrated(settings)) as session:
            return [_hold_line(row) for row in erasure.active_holds(session)]

    for line in in_words(read):
        click.echo(line)


def _hold_line(row: Any) -> str:
    covers = {"unit": row.business_unit, "actor": row.actor, "run": row.run_id}
    named = " ".join(f"{name}={value}" for name, value in covers.items() if value is not None) or "everything"
    return f"{row.id}  {row.placed_at:%Y-%m-%d}  {named}  {row.reason}"
