"""What a command beside the service works on: the settings, the migrated database, the books."""

import json
from typing import Any

import click

from registry.cli.errors import in_words, stop

OPERATOR = "system:operator"  # whoever can run this beside the database


def settings_of(**given: Any) -> Any:
    from pydantic import ValidationError

    from registry.settings import Settings

    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        stop(f"a setting is wrong: {json.dumps([[e['loc'], e['msg']] for e in error.errors()], default=str)}")


def migrated(settings: Any) -> Any:
    from registry import db

    engine = db.open_engine(settings)
    db.migrate(engine)
    return engine


def the_books() -> Any:
    """What the service holds, over a migrated database."""
    from registry.books import Books

    settings = settings_of()

    def open_() -> Books:
        migrated(settings).dispose()
        return Books.open(settings)

    return in_words(open_)


def write(act: Any) -> Any:
    """Do this in one transaction on the configured database."""
    from registry import db

    with db.writing(migrated(settings_of())) as session:
        return act(session)


def refuse_unknown_unit(books: Any, unit: str) -> None:
    with books.reading() as session:
        units = books.gate(session).policy.directory.units
    if unit not in units:
        raise click.ClickException(f"unit `{unit}` is not in the directory of the policy")
