"""What can be mended by whoever called a command is said in a sentence, without a traceback."""

import sys
from typing import Any, NoReturn

import click

EXIT_USAGE = 2


def in_words(act: Any) -> Any:
    """Run a command's work; what can be mended by whoever called it is said without a traceback."""
    try:
        return act()
    except Exception as error:
        _say(error)
        raise


def _say(error: Exception) -> None:
    """What errors there are is asked when there is one: the modules that define them are most of the service."""
    from sqlalchemy.exc import SQLAlchemyError

    from enforcer.keys import KeyUnusable
    from enforcer.policy.rules import PolicyInvalid
    from enforcer.problems import Problem
    from registry.server import RefusedToStart

    match error:
        case RefusedToStart():
            stop(str(error))
        case SQLAlchemyError():
            raise click.ClickException(
                f"the database does not answer: {str(error.__cause__ or error)[:300]}"
            ) from error
        case Problem() | PolicyInvalid() | KeyUnusable() | OSError():
            raise click.ClickException(str(error)) from error


def stop(message: str) -> NoReturn:
    click.echo(f"Error: {message}", err=True)
    sys.exit(EXIT_USAGE)
