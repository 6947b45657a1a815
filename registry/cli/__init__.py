"""`tagwarden`: operate the registry.

Commands live in modules of their own and load when they are called; what is heavy they import when they run. So every
`--help` answers at once, also where only the base install is there.
"""

import importlib
from collections.abc import Mapping
from typing import Any

import click

from registry.cli.errors import stop

COMMANDS = {  # name: (where it lives, its first line of help)
    "serve": ("registry.cli.service:serve", "Migrate, seed an empty registry, and serve."),
    "migrate": ("registry.cli.service:migrate", "Bring the database to the newest schema."),
    "seed": (
        "registry.cli.service:seed",
        "Write the vocabulary of policies/vocabulary/ into the registry; what exists is left alone.",
    ),
    "token": ("registry.cli.token:token", "API tokens: create, list, revoke."),
    "keys": ("registry.cli.keys:keys", "The service's signing keys: list, rotate, retire."),
    "principal": ("registry.cli.principal:principal", "Who is let in: disable, enable, list."),
    "policy": (
        "registry.cli.policy:policy",
        "Policies as code: lint, test, coverage, fmt, diff, simulate, can, who-can.",
    ),
    "vocabulary": ("registry.cli.vocabulary:vocabulary", "Task types in files: import, export, diff, sync."),
    "bindings": ("registry.cli.bindings:bindings", "How other frameworks spell the task types: drift, lint."),
    "audit": ("registry.cli.audit:audit", "The audit log: verify, export, erase, retain, hold, vkey."),
    "witness": ("registry.cli.witness:witness", "Witness another registry's log."),
    "openapi": ("registry.cli.openapi:openapi", "Print the OpenAPI document."),
}


class LazyGroup(click.Group):
    """A group that knows names and one-line helps, and imports a command when it is called."""

    def __init__(self, *args: Any, lazy: Mapping[str, tuple[str, str]], **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._lazy = lazy

    def list_commands(self, _ctx: click.Context) -> list[str]:
        return list(self._lazy)

    def get_command(self, _ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self._lazy:
            return None
        module, _, name = self._lazy[cmd_name][0].partition(":")
        command = getattr(importlib.import_module(module), name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, said) for name, (_, said) in self._lazy.items()])

    def invoke(self, ctx: click.Context) -> Any:
        """The base install has the command but not the service behind it."""
        try:
            return super().invoke(ctx)
        except ModuleNotFoundError as missing:
            stop(
                f"the package `{missing.name}` is not installed; the registry needs `pip install 'tagwarden[registry]'`"
            )


@click.group(cls=LazyGroup, lazy=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="tagwarden")
def main() -> None:
    """Operate the registry of task types.

    Settings come from TAGWARDEN_* environment variables (see `registry/settings.py`); none is needed for the
    embedded default: loopback, a SQLite file, a token file for the local user.

    Exit codes: 0 ok, 1 failure, 2 usage or refused to start.
    """
