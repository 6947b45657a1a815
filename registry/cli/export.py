"""`tagwarden audit export`: events in a file that ends with a signed manifest."""

import os
from pathlib import Path

import click

from registry.cli.errors import in_words
from registry.cli.opening import OPERATOR, the_books


@click.command("export")
@click.option(
    "--format",
    "format_",
    required=True,
    type=click.Choice(["ndjson", "csv", "cef", "ocsf"]),
    help="ndjson has the proofs.",
)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="A new file; it is readable for you only.")
@click.option("--unit", "business_unit", help="Only this business unit.")
@click.option("--task-type", help="Only of this task type.")
@click.option("--actor", help="Such as user:li.")
@click.option("--kind", help="Such as ticket.issued.")
@click.option("--outcome", type=click.Choice(["done", "refused"]), help="Only what was done, or only refusals.")
@click.option("--run", "run_id", help="Only of this run.")
@click.option("--ticket", "ticket_id", help="Only of this ticket.")
@click.option("--since", help="With time zone, such as 2026-11-01T00:00:00Z.")
@click.option("--until", help="Not including this moment.")
def export_events(format_: str, out: Path, **asked: str | None) -> None:
    """Write events of the database to a file that ends with a signed manifest. The export is on record."""
    from pydantic import ValidationError

    from registry import exports, identity
    from registry.routes.audit import ExportQuery, filter_of

    try:
        query = ExportQuery.model_validate({"format": format_, **{k: v for k, v in asked.items() if v is not None}})
    except ValidationError as error:
        first = error.errors()[0]
        raise click.UsageError(f"`{first['loc'][0]}`: {first['msg']}") from error
    unit = query.business_unit or "all"

    def write() -> None:
        books = the_books()
        wanted = filter_of(books, query, unit)
        descriptor = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            for piece in exports.stream(books, query.format, wanted, identity.Actor(OPERATOR, (), unit), unit, {}):
                file.write(piece)

    in_words(write)
    click.echo(f"wrote {out}")
