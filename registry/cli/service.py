"""`tagwarden serve`, `migrate`, `seed`: the service itself and its database."""

import click

from registry.cli.errors import in_words
from registry.cli.opening import migrated, settings_of


@click.command()
@click.option("--host", help="Address to listen on.  [env: TAGWARDEN_HOST]")
@click.option("--port", type=int, help="Port to listen on; 0 picks a free one.  [env: TAGWARDEN_PORT]")
def serve(host: str | None, port: int | None) -> None:
    """Migrate, seed an empty registry, and serve."""
    from registry import server

    in_words(lambda: server.serve(settings_of(host=host, port=port)))


@click.command()
def migrate() -> None:
    """Bring the database to the newest schema."""
    from registry import db

    settings = settings_of()
    in_words(lambda: db.migrate(db.open_engine(settings)))
    click.echo("the schema is up to date")


@click.command()
def seed() -> None:
    """Write the vocabulary of policies/vocabulary/ into the registry; what exists is left alone."""
    from registry import db, tags

    settings = settings_of()

    def plant() -> list[str]:
        with db.writing(migrated(settings)) as session:
            return tags.seed(session, settings.policies_dir)

    added = in_words(plant)
    click.echo(f"added {', '.join(added)}" if added else "nothing to add")
