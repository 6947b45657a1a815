"""`tagwarden audit`: the audit log."""

import click

from registry.cli import LazyGroup

COMMANDS = {
    "verify": ("registry.cli.verify:verify_log", "Check an EXPORT offline, or the database."),
    "vkey": (
        "registry.cli.verify:print_vkey",
        "Print the log's verifier key, for witnesses and other tools of the field (C2SP signed-note).",
    ),
    "export": (
        "registry.cli.export:export_events",
        "Write events of the database to a file that ends with a signed manifest.",
    ),
    "erase": ("registry.cli.erasure:erase_person", "Erase what is personal about somebody, and print a receipt."),
    "retain": (
        "registry.cli.erasure:retain",
        "Erase what is personal in events that are past their retention class (policies/retention.yaml).",
    ),
    "hold": ("registry.cli.erasure:hold", "Legal hold, which nobody erases: place, release, list."),
}


@click.group(cls=LazyGroup, lazy=COMMANDS)
def audit() -> None:
    """The audit log: verify, export, erase, retain, hold, vkey."""
