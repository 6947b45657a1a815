"""`tagwarden`: operate the registry. Heavy imports live in the commands, so that `--help` answers at once."""

import json
import os
import sys
from pathlib import Path
from typing import Any, NoReturn

import click

EXIT_USAGE = 2
OPERATOR = "system:operator"  # whoever can run this beside the database


class _Commands(click.Group):
    """The base install has the command but not the service behind it."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ModuleNotFoundError as missing:
            _stop(
                f"the package `{missing.name}` is not installed; the registry needs `pip install 'tagwarden[registry]'`"
            )


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="tagwarden")
def main() -> None:
    """Operate the registry of task types.

    Settings come from TAGWARDEN_* environment variables (see `registry/settings.py`); none is needed for the
    embedded default: loopback, a SQLite file, a token file for the local user.

    Exit codes: 0 ok, 1 failure, 2 usage or refused to start.
    """


@main.command()
@click.option("--host", help="Address to listen on.  [env: TAGWARDEN_HOST]")
@click.option("--port", type=int, help="Port to listen on; 0 picks a free one.  [env: TAGWARDEN_PORT]")
def serve(host: str | None, port: int | None) -> None:
    """Migrate, seed an empty registry, and serve."""
    from registry import server

    _in_words(lambda: server.serve(_settings(host=host, port=port)))


@main.command()
def migrate() -> None:
    """Bring the database to the newest schema."""
    from registry import db

    settings = _settings()
    _in_words(lambda: db.migrate(db.open_engine(settings)))
    click.echo("the schema is up to date")


@main.command()
def seed() -> None:
    """Write the vocabulary of policies/vocabulary/ into the registry; what exists is left alone."""
    from registry import db, tags

    settings = _settings()

    def plant() -> list[str]:
        with db.writing(_migrated(settings)) as session:
            return tags.seed(session, settings.policies_dir)

    added = _in_words(plant)
    click.echo(f"added {', '.join(added)}" if added else "nothing to add")


@main.group()
def token() -> None:
    """API tokens."""


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
    from registry import audit as audit_log
    from registry import db, identity

    settings = _settings()

    def make() -> str:
        directory = folder.load(settings.policies_dir).directory
        unknown = [f"group `{group}`" for group in groups if group not in directory.groups]
        unknown += [f"unit `{unit}`"] if unit not in directory.units else []
        if unknown:
            raise click.ClickException(f"{', '.join(unknown)} is not in policies/directory.yaml")
        with db.writing(_migrated(settings)) as session:
            life, now = timedelta(days=days), db.utc_now()
            made = identity.create_token(session, user, groups, unit, life=life, now=now, scopes=scopes)
            who = user if ":" in user else f"user:{user}"
            detail = {"user": who, "groups": list(groups), "scopes": list(scopes), "days": days}
            audit_log.record(session, "token.created", identity.Actor(OPERATOR, (), unit), detail=detail)
            return made

    click.echo(_in_words(make))


@token.command("list")
def list_tokens() -> None:
    """Tokens by user: id, user, groups, unit, scopes, end, last use. Never the secret."""
    from registry import db, identity

    settings = _settings()

    def read() -> list[str]:
        with db.reading(_migrated(settings)) as session:
            return [_token_line(row) for row in identity.tokens(session)]

    for line in _in_words(read):
        click.echo(line)


@token.command("revoke")
@click.argument("token_id")
def revoke_token(token_id: str) -> None:
    """End a token at once. TOKEN_ID is the part between the first two underscores."""
    from registry import audit as audit_log
    from registry import db, identity

    settings = _settings()

    def end() -> None:
        with db.writing(_migrated(settings)) as session:
            row = identity.revoke_token(session, token_id)
            actor = identity.Actor(OPERATOR, (), row.business_unit)
            audit_log.record(session, "token.revoked", actor, detail={"user": row.actor, "token": row.id})

    _in_words(end)
    click.echo(f"{token_id} is no longer valid")


@main.group()
def keys() -> None:
    """The service's signing keys: tickets, log, access tokens, attestations.

    Run it beside the service, as the service's user; the service takes up a change within a second.
    """


@keys.command("list")
def list_keys() -> None:
    """Every key that there is and was: id, purpose, algorithm, state, source, and when the next step is due."""
    from registry.keyring import Keyring

    settings = _settings()
    for record in _in_words(Keyring(settings.keys_dir).records):
        click.echo(_key_line(record))


@keys.command("rotate")
@click.argument("purpose", type=click.Choice(["ticket", "log", "token", "attestation"]))
@click.option(
    "--alg",
    type=click.Choice(["Ed25519", "EdDSA", "ES256"]),
    help="Ed25519 unless said otherwise. EdDSA is the same under its old name; the log takes nothing but Ed25519.",
)
@click.option(
    "--source",
    help="Where the private key is: `file:NAME.pem` in the folder `keys`, `env:VARIABLE` (base64 of PKCS#8, "
    "also in the service's environment), or `signer:NAME:ARGUMENT` for a plug-in. Left out, a new file.",
)
@click.option(
    "--now", "at_once", is_flag=True, help="Let it sign at once: for emergencies, verifiers may not know it yet."
)
def rotate_key(purpose: Any, alg: str | None, source: str | None, at_once: bool) -> None:
    """Publish the next key for PURPOSE.

    It begins to sign a day later (TAGWARDEN_KEY_PUBLISH_AHEAD_S); the one before stays published until the last thing
    that it signed has expired.
    """
    from datetime import timedelta

    settings = _settings()
    ahead = timedelta(seconds=0 if at_once else settings.key_publish_ahead_s)
    made = _turn_keys(
        settings,
        lambda ring, on_record, now: ring.rotate(
            purpose, on_record, alg=alg, source=source, dev=settings.uses_dev_keys, now=now, ahead=ahead
        ),
    )
    when = "signs now" if made.state == "active" else f"signs from {made.activate_at:%Y-%m-%d %H:%M} UTC"
    click.echo(f"{made.kid} is published as {purpose} key and {when}")


@keys.command("retire")
@click.argument("kid")
@click.option(
    "--compromised", is_flag=True, help="Somebody else may have it: nothing that it signed is valid any more."
)
def retire_key(kid: str, compromised: bool) -> None:
    """End the key KID, which does not sign (any more): it leaves the published sets at once, its file is deleted."""
    settings = _settings()
    over = _turn_keys(
        settings, lambda ring, on_record, now: ring.retire(kid, on_record, compromised=compromised, now=now)
    )
    click.echo(f"{over.kid} is {over.state}; it stays listed at /.well-known/retired-keys")


@main.group()
def principal() -> None:
    """Who is let in: disable, enable, list."""


@principal.command("disable")
@click.argument("principal_id", metavar="ID")
@click.option("--reason", required=True, help="Why; it is on record.")
def disable_principal(principal_id: str, reason: str) -> None:
    """Let none of ID's credentials open anything, from the next request on. ID is as in events: `user:li`.

    Tickets of theirs are revoked, and their runs save a checkpoint and stop.
    """
    from registry import identity, principals, revocations

    operator = identity.Actor(OPERATOR, (), "all")

    def disable(session: Any) -> int:
        principals.disable(session, principal_id, operator, reason)
        return revocations.revoke_all_of(session, principal_id, operator, reason)

    taken = _in_words(lambda: _write(disable))
    click.echo(f"{principal_id} is disabled; {taken} of their permits were taken back")


@principal.command("enable")
@click.argument("principal_id", metavar="ID")
@click.option("--reason", required=True, help="Why; it is on record.")
def enable_principal(principal_id: str, reason: str) -> None:
    """Let ID in again."""
    from registry import identity, principals

    operator = identity.Actor(OPERATOR, (), "all")
    _in_words(lambda: _write(lambda session: principals.enable(session, principal_id, operator, reason)))
    click.echo(f"{principal_id} is enabled")


@principal.command("list")
def list_principals() -> None:
    """Who is disabled: id, since when, by whom, why."""
    from registry import principals

    def read(session: Any) -> list[str]:
        return [
            f"{row.id}  since {row.disabled_at:%Y-%m-%d %H:%M}  by {row.disabled_by}  {row.reason}"
            for row in principals.disabled(session)
        ]

    for line in _in_words(lambda: _write(read)):
        click.echo(line)


@main.group()
def audit() -> None:
    """The audit log."""


_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)


@audit.command("verify")
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
            with export.open(encoding="utf-8", newline="\n") as lines:
                found = ndjson.verify(lines, known, outside=outside)
        else:
            found = _in_words(lambda: _verify_database(known, outside))
    except (ExportInvalid, tlog.LogInvalid, KeyUnusable, UnicodeDecodeError) as error:
        what = "export" if export is not None else "log"
        raise click.ClickException(f"the {what} does not hold: {error}") from error
    extent = "the whole log" if found.whole else f"of {found.head.size} in the log"
    click.echo(f"ok: {found.events} events, {extent}, under a checkpoint of {found.head.origin} by {found.head.kid}")
    if outside:
        click.echo(f"ok: it begins with the {'checkpoint' if len(outside) == 1 else 'checkpoints'} you brought")
    else:
        click.echo("compared with no checkpoint that was kept elsewhere; bring one with `--checkpoint`", err=True)


def _manifest_format(export: Path, manifest_keys: Path) -> str:
    """Check the manifest of an export, say what it says, and return the format."""
    from enforcer import exports
    from enforcer.keys import KeySet

    with export.open("rb") as content:
        manifest = exports.verify(content, KeySet.load(manifest_keys))
    click.echo(
        f"ok: {manifest.count} events in {manifest.format}, as {manifest.made_by} got them at {manifest.made_at} for "
        f"{json.dumps(manifest.filter)}"
    )
    return manifest.format


def _verify_database(keys: Any, outside: Any) -> Any:
    from registry import db
    from registry.verifying import verify_database

    with db.reading(db.open_engine(_settings())) as session:
        return verify_database(session, keys, outside)


@audit.command("vkey")
def print_vkey() -> None:
    """Print the log's verifier key, for witnesses and other tools of the field (C2SP signed-note)."""
    from enforcer.notes import NoteKey
    from registry.books import Books

    def read() -> str:
        books = Books.open(_settings())
        return NoteKey.of(books.log_key, books.log_origin).vkey

    click.echo(_in_words(read))


@main.group()
def witness() -> None:
    """Witness another registry's log."""


@witness.command("serve")
@click.option("--name", required=True, help="The witness's name, like `witness.example/w1`.")
@click.option("--log", "logs", multiple=True, required=True, help="A log's verifier key (`tagwarden audit vkey`).")
@click.option("--key", "key_file", required=True, type=click.Path(path_type=Path), help="Key file; made when missing.")
@click.option("--state", required=True, type=click.Path(path_type=Path), help="File that remembers what was cosigned.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8711, show_default=True, type=click.IntRange(0, 65535), help="Port to listen on.")
def serve_witness(name: str, logs: tuple[str, ...], key_file: Path, state: Path, host: str, port: int) -> None:
    """Cosign a log's head after it was shown to continue the last one (C2SP tlog-witness)."""
    from enforcer.keys import SigningKey
    from enforcer.notes import ED25519, LogInvalid, NoteKey
    from registry import witness as witnessing

    def listen() -> Any:
        if not key_file.exists():
            SigningKey.generate().save(key_file)
        try:
            known = [NoteKey.parse(vkey) for vkey in logs]
            if any(key.kind != ED25519 for key in known):
                raise LogInvalid("`--log` takes a log's key (kind 01)")
            seen = witnessing.Witness(name, SigningKey.load(key_file), {key.name: key for key in known}, state)
        except (LogInvalid, ValueError) as error:
            raise click.ClickException(str(error)) from error
        return seen, witnessing.server(seen, host, port)

    seen, server = _in_words(listen)
    click.echo(f"witness {seen.key.vkey}")
    click.echo(f"listening on {host}:{server.server_address[1]}")
    server.serve_forever()


@audit.command("export")
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
        books = _books()
        wanted = filter_of(books, query, unit)
        descriptor = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            for piece in exports.stream(books, query.format, wanted, identity.Actor(OPERATOR, (), unit), unit, {}):
                file.write(piece)

    _in_words(write)
    click.echo(f"wrote {out}")


@audit.command("erase")
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
        books = _books()
        _refuse_unknown_unit(books.policy.directory.units, unit)
        receipt = erasure.erase(books.engine, asked, identity.Actor(OPERATOR, (), unit), unit, {})
        return receipt.model_dump_json(indent=2)

    click.echo(_in_words(forget))


@audit.command("retain")
@click.option("--dry-run", is_flag=True, help="Count, and erase nothing.")
def retain(dry_run: bool) -> None:
    """Erase what is personal in events that are past their retention class (policies/retention.yaml). The running
    service does it daily."""
    from registry import db, retention

    settings = _settings()

    def keep() -> dict[str, dict[str, int]]:
        classes = retention.load(settings.policies_dir)
        return retention.run(_migrated(settings), classes, now=db.utc_now(), dry_run=dry_run)

    for name, count in _in_words(keep).items():
        would = "would be erased" if dry_run else "erased"
        click.echo(f"{name}: {count['erased']} {would}, {count['held']} on legal hold")


@audit.group()
def hold() -> None:
    """Legal hold: what is not erased, whoever asks."""


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
        books = _books()
        if covers["business_unit"] is not None:
            _refuse_unknown_unit(books.policy.directory.units, covers["business_unit"])
        with db.writing(books.engine) as session:
            return erasure.place_hold(session, reason, identity.Actor(OPERATOR, (), "all"), **covers).id

    click.echo(_in_words(place))


@hold.command("release")
@click.argument("hold_id")
@click.option("--reason", required=True, help="Why; it is on record.")
def release_hold(hold_id: str, reason: str) -> None:
    """End a hold."""
    from registry import db, erasure, identity

    settings = _settings()

    def release() -> None:
        with db.writing(_migrated(settings)) as session:
            erasure.release_hold(session, hold_id, reason, identity.Actor(OPERATOR, (), "all"))

    _in_words(release)
    click.echo(f"{hold_id} is released")


@hold.command("list")
def list_holds() -> None:
    """Holds that are active: id, since when, what they cover, why."""
    from registry import db, erasure

    settings = _settings()

    def read() -> list[str]:
        with db.reading(_migrated(settings)) as session:
            return [_hold_line(row) for row in erasure.active_holds(session)]

    for line in _in_words(read):
        click.echo(line)


@main.command()
@click.option("--check", type=click.Path(path_type=Path), help="Compare with this file instead of printing.")
def openapi(check: Path | None) -> None:
    """Print the OpenAPI document."""
    from registry.server import openapi_json

    written = openapi_json()
    if check is None:
        click.echo(written, nl=False)
    elif not check.exists() or check.read_text(encoding="utf-8") != written:
        raise click.ClickException(f"{check} differs from the app; run `make openapi`")


def _write(act: Any) -> Any:
    """Do this in one transaction on the configured database."""
    from registry import db

    with db.writing(_migrated(_settings())) as session:
        return act(session)


def _token_line(row: Any) -> str:
    groups = ",".join(row.groups) or "-"
    used = f"{row.last_used_at:%Y-%m-%d}" if row.last_used_at else "never"
    scopes = ",".join(row.scopes) or "-"
    until = f"until {row.expires_at:%Y-%m-%d}"
    return f"{row.id}  {row.actor}  {groups}  {row.business_unit}  {scopes}  {until}  used {used}"


def _key_line(key: Any) -> str:
    due = {"next": ("signs from", key.activate_at), "retiring": ("until", key.retire_at)}.get(
        key.state, ("since", key.compromised_at or key.retired_at or key.activated_at)
    )
    source = key.source if key.state in {"next", "active", "retiring"} else "-"
    return (
        f"{key.kid:<20}  {key.purpose:<11}  {key.alg:<7}  {key.state:<11}  {due[0]} {due[1]:%Y-%m-%d %H:%M}  {source}"
    )


def _turn_keys(settings: Any, change: Any) -> Any:
    """Change the key ring, and put it on record first."""
    from functools import partial

    from registry import audit as audit_log
    from registry import db, identity
    from registry.keyring import Keyring

    def turn() -> Any:
        on_record = partial(audit_log.record_keys, _migrated(settings), identity.Actor(OPERATOR, (), "all"))
        return change(Keyring(settings.keys_dir), on_record, db.utc_now())

    return _in_words(turn)


def _settings(**given: Any) -> Any:
    from pydantic import ValidationError

    from registry.settings import Settings

    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        _stop(f"a setting is wrong: {json.dumps([[e['loc'], e['msg']] for e in error.errors()], default=str)}")


def _hold_line(row: Any) -> str:
    covers = {"unit": row.business_unit, "actor": row.actor, "run": row.run_id}
    named = " ".join(f"{name}={value}" for name, value in covers.items() if value is not None) or "everything"
    return f"{row.id}  {row.placed_at:%Y-%m-%d}  {named}  {row.reason}"


def _migrated(settings: Any) -> Any:
    from registry import db

    engine = db.open_engine(settings)
    db.migrate(engine)
    return engine


def _books() -> Any:
    """What the service holds, over a migrated database."""
    from registry.books import Books

    settings = _settings()

    def open_() -> Books:
        _migrated(settings).dispose()
        return Books.open(settings)

    return _in_words(open_)


def _refuse_unknown_unit(units: Any, unit: str) -> None:
    if unit not in units:
        raise click.ClickException(f"unit `{unit}` is not in policies/directory.yaml")


def _in_words(act: Any) -> Any:
    """Run a command's work; what can be mended by whoever called it is said without a traceback."""
    from sqlalchemy.exc import SQLAlchemyError

    from enforcer.keys import KeyUnusable
    from enforcer.policy.rules import PolicyInvalid
    from enforcer.problems import Problem
    from registry.server import RefusedToStart

    try:
        return act()
    except RefusedToStart as error:
        _stop(str(error))
    except (Problem, PolicyInvalid, KeyUnusable) as error:
        raise click.ClickException(str(error)) from error
    except SQLAlchemyError as error:
        raise click.ClickException(f"the database does not answer: {str(error.__cause__ or error)[:300]}") from error
    except OSError as error:
        raise click.ClickException(str(error)) from error


def _stop(message: str) -> NoReturn:
    click.echo(f"Error: {message}", err=True)
    sys.exit(EXIT_USAGE)
