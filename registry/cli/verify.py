"""`tagwarden audit verify` and `vkey`: the log computed again, and the name under which others do it."""

import json
import os
from pathlib import Path
from typing import Any

import click

from registry.cli.errors import in_words
from registry.cli.opening import settings_of, the_books

_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)


@click.command("verify")
@click.argument("export", required=False, type=_FILE)
@click.option("--database", is_flag=True, help="Check this registry's own database instead of an export.")
@click.option("--keys", type=_FILE, help="The log's public keys, as served at /tlog/jwks.json and kept by you.")
@click.option(
    "--manifest-keys", type=_FILE, help="The manifests' keys, as served at /.well-known/attestation-jwks.json."
)
@click.option(
    "--checkpoint",
    "checkpoints",
    multiple=True,
    type=_FILE,
    help="A checkpoint that you kept: the log must begin with it. Repeat for more.",
)
def verify_log(
    export: Path | None, database: bool, keys: Path | None, manifest_keys: Path | None, checkpoints: tuple[Path, ...]
) -> None:
    """Check an EXPORT offline, or the database.

    With --manifest-keys: the file is whole, as it was signed (all formats). With --keys: the log is computed again,
    from an NDJSON export or from the database, and compared.

    Without a checkpoint that was kept elsewhere, whoever owns the log's key can have written all of it anew.
    """
    from enforcer import ndjson, tlog
    from enforcer.exports import ExportInvalid
    from enforcer.keys import KeySet, KeyUnusable

    if database == (export is not None):
        raise click.UsageError("name an export, or `--database`")
    if keys is None and (database or checkpoints or manifest_keys is None):
        raise click.UsageError("give `--keys` for the log's proofs, or `--manifest-keys` for the manifest of an export")
    try:
        if export is not None and manifest_keys is not None and _manifest_format(export, manifest_keys) != "ndjson":
            if keys is not None or checkpoints:
                click.echo("proofs were not checked: only NDJSON carries them", err=True)
            return
        if keys is None:
            click.echo("proofs were not checked: no `--keys`", err=True)
            return
        known = KeySet.load(keys)
        outside = [tlog.open_checkpoint(file.read_text("utf-8"), known) for file in checkpoints]
        if export is not None:
            with export.open("rb") as lines:
                found = ndjson.verify(lines, known, outside=outside, processes=_processes_for(export))
        else:
            found = in_words(lambda: _verify_database(known, outside))
    except (ExportInvalid, tlog.LogInvalid, KeyUnusable, UnicodeDecodeError) as error:
        what = "export" if export is not None else "log"
        raise click.ClickException(f"the {what} does not hold: {error}") from error
    extent = "the whole log" if found.whole else f"of {found.head.size} in the log"
    click.echo(f"ok: {found.events} events, {extent}, under a checkpoint of {found.head.origin} by {found.head.kid}")
    if outside:
        click.echo(f"ok: it begins with the {'checkpoint' if len(outside) == 1 else 'checkpoints'} you brought")
    else:
        click.echo("compared with no checkpoint that was kept elsewhere; bring one with `--checkpoint`", err=True)


@click.command("vkey")
def print_vkey() -> None:
    """Print the log's verifier key, for witnesses and other tools of the field (C2SP signed-note)."""
    from enforcer.notes import NoteKey
    from registry import log

    def read() -> str:
        books = the_books()
        with books.reading() as session:
            return NoteKey.of(books.log_key, log.name(books.settings, session)).vkey

    click.echo(in_words(read))


def _manifest_format(export: Path, manifest_keys: Path) -> str:
    """Check the manifest of an export, say what it says, and return the format."""
    from enforcer import exports
    from enforcer.keys import KeySet

    with export.open("rb") as content:
        manifest = exports.verify(content, KeySet.load(manifest_keys))
    click.echo(
        f"ok: {manifest.count} events in {manifest.format}, as {manifest.made_by} got them at {manifest.made_at} for "
        f"{json.dumps(manifest.filter) if manifest.filter else 'the whole log'}"
    )
    return manifest.format


def _processes_for(export: Path) -> int:
    """Other processes take half a second to start, in which this one reads 50 MB."""
    return 1 if export.stat().st_size < 200_000_000 else min(os.cpu_count() or 1, 4)


def _verify_database(keys: Any, outside: Any) -> Any:
    from registry import db
    from registry.verifying import verify_database

    with db.reading(db.open_engine(settings_of())) as session:
        return verify_database(session, keys, outside)
