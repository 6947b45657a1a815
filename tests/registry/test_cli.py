"""`tagwarden` as a command: what it costs to ask what there is, and what it says of itself."""

import subprocess
import sys

import click
import pytest

from registry import cli
from registry.cli import audit, policy

HEAVY = "pydantic sqlalchemy fastapi yaml cryptography casbin".split()


@pytest.mark.parametrize(
    "command",
    [
        ["--help"],
        ["--version"],
        ["keys", "rotate", "-h"],
        ["audit", "--help"],
        ["audit", "hold", "--help"],
        ["policy", "diff", "--help"],
        ["bindings", "drift", "--help"],
        ["vocabulary", "import", "--help"],
    ],
)
def test_what_only_talks_about_itself_imports_nothing_heavy(command: list[str]) -> None:
    program = f"""
import sys
from registry.cli import main
try:
    main({command!r})
except SystemExit:
    print("LOADED", *sorted(set({HEAVY!r}) & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert done.stdout.splitlines()[-1] == "LOADED"


@pytest.mark.parametrize(
    ("group", "commands"), [(cli.main, cli.COMMANDS), (audit.audit, audit.COMMANDS), (policy.policy, policy.COMMANDS)]
)
def test_the_one_line_helps_of_lazy_commands_are_their_own(
    group: click.Group, commands: dict[str, tuple[str, str]]
) -> None:
    context = click.Context(group)

    for name, (_, said) in commands.items():
        command = group.get_command(context, name)
        assert command is not None
        assert command.name == name
        assert command.get_short_help_str(limit=200) == said
