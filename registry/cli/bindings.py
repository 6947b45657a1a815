"""`tagwarden bindings`: has a framework still the words that task types are bound to; what was a run of it?"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from registry.cli.errors import in_words
from registry.cli.opening import migrated, settings_of
from registry.cli.policy_folder import folder_of, of_a_folder, print_json

if TYPE_CHECKING:
    from enforcer.bindings import BoundTag, Match, Reading
    from enforcer.drift import Drift

MAX_ARGS = 4 * 1024 * 1024  # bytes; one of ms-swift has some ten thousand
of_a_version = click.option("--framework-version", help="Where it is not written.")


class _NotCompared(click.ClickException):
    """A nightly job must not take a framework that is not there for one that has drifted."""

    exit_code = 3


@click.group()
def bindings() -> None:
    """How other frameworks spell the task types: drift, lint."""


@bindings.command()
@click.option("--framework", default="ms-swift", show_default=True, help="Or trl, sentence-transformers.")
@click.option("--path", type=click.Path(path_type=Path), help="An unpacked wheel or checkout, not what is installed.")
@of_a_version
@of_a_folder
def drift(
    framework: str,
    path: Path | None,
    framework_version: str | None,
    policies: Path | None,
    database: bool,
    as_json: bool,
) -> None:
    """Hold the framework's own lists against what is bound; exit 1 when they differ.

    Exit 3 when they were not compared, since it is not installed or cannot be read. Its source is read, nothing of it
    is run. Removed: bound, and no longer there. New: there, and neither bound nor listed in frameworks.yaml with a
    reason. Outside: a task type is bound to it, but not to this version.
    """

    def held() -> "Drift":
        from enforcer import drift
        from registry import bindings as books, frameworks

        if framework_version:
            _refuse_no_version(framework_version)
        found = frameworks.read(framework, path, framework_version)
        return drift.drift(found, _tags(policies, database), books.unbound(folder_of(policies), framework))

    try:
        found: Drift = in_words(held)
    except click.ClickException as refused:
        raise _NotCompared(refused.message) from refused
    if as_json:
        print_json(found)
    else:
        _show(found)
    raise SystemExit(0 if found.is_none else 1)


@bindings.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@of_a_version
@of_a_folder
def lint(file: Path, framework_version: str | None, policies: Path | None, database: bool, as_json: bool) -> None:
    """Which task type was the run of ms-swift that wrote this args.json? Exit 1 when none, or not one, is meant."""
    args = in_words(lambda: _record(file))
    version = framework_version or args.get("swift_version")
    if not isinstance(version, str):
        raise click.ClickException(f"`{file}` has no `swift_version`; say it with `--framework-version`")
    _refuse_no_version(version)
    reading = in_words(lambda: _read(args, version, policies, database))
    if as_json:
        print_json({"tags": [_told(match) for match in reading.matches], "forbidden": dict(reading.forbidden)})
    else:
        click.echo(_sentence(reading, args, version))
    raise SystemExit(0 if len(reading.matches) == 1 else 1)


def _tags(policies: Path | None, database: bool) -> "list[BoundTag]":
    from registry import bindings as books, db

    if not database:
        return books.of_folder(folder_of(policies))
    with db.reading(migrated(settings_of())) as session:
        return books.bound_tags(session)


def _refuse_no_version(text: str) -> None:
    from enforcer.bindings import version_of

    try:
        version_of(text)
    except ValueError as error:
        raise click.ClickException(str(error)) from error


def _record(file: Path) -> dict[str, Any]:
    with file.open("rb") as opened:
        text = opened.read(MAX_ARGS + 1)
    try:
        found = json.loads(text) if len(text) <= MAX_ARGS else None
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise click.ClickException(f"`{file}` is no args.json: a JSON object of at most {MAX_ARGS >> 20} MiB")
    return found


def _read(args: dict[str, Any], version: str, policies: Path | None, database: bool) -> "Reading":
    from enforcer.bindings import tags_of
    from registry import frameworks

    commands = frameworks.commands_of("ms-swift", args)
    return tags_of(_tags(policies, database), "ms-swift", version, commands, args)


def _show(found: "Drift") -> None:
    for kind in ("removed", "new", "unbound"):
        for one in getattr(found, kind):
            click.echo(f"{kind:<8} {one.axis:<10} {one.value:<40} {one.note}".rstrip())
    for tag in found.outside:
        click.echo(f"outside  {tag:<51} not bound to {found.version}")
    click.echo(
        f"{found.framework} {found.version}: {len(found.removed)} removed, {len(found.new)} new, "
        f"{len(found.unbound)} unbound on purpose, {len(found.outside)} task types outside"
    )


def _told(match: "Match") -> dict[str, Any]:
    return {"tag": match.tag, "by": dict(match.literals), "narrower": match.narrower}


def _sentence(reading: "Reading", args: dict[str, Any], version: str) -> str:
    if len(reading.matches) == 1:
        match = reading.matches[0]
        narrower = f"; or narrower: {', '.join(match.narrower)}" if match.narrower else ""
        return f"{match.tag}  ({_literals(match)}, ms-swift {version}){narrower}"
    if reading.matches:
        several = "; ".join(f"{match.tag} by {_literals(match)}" for match in reading.matches)
        return f"ambiguous: {several}. Say which in the run's `task_type`"
    against = "".join(f"; not {tag}, because of {', '.join(said)}" for tag, said in reading.forbidden.items())
    said = ", ".join(f"{name}={args[name]}" for name in ("rlhf_type", "task_type", "loss_type") if args.get(name))
    return f"no task type is bound to {said or 'what it says'} of ms-swift {version}{against}"


def _literals(match: "Match") -> str:
    return ", ".join(f"{name}={value}" for name, value in match.literals.items()) or match.binding.command
