"""`tagwarden vocabulary`: task types in files, compared with a registry, proposed to it, and written from it."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

from registry.cli.errors import in_words, stop
from registry.cli.policy_folder import print_json

if TYPE_CHECKING:
    from enforcer.policy.rules import PolicyInvalid
    from enforcer.vocabulary import Placed
    from registry.cli.vocabulary_plan import Live, Step

PENDING, REJECTED = 5, 8  # as `swift-submit` has them
MOST_FAULTS = 20
Command = TypeVar("Command", bound=Callable[..., Any])


@click.group()
def vocabulary() -> None:
    """Task types in files: import, export, diff, sync.

    The registry is asked over HTTP with your own API token, and nothing takes effect before others approve it.
    """


def of_a_registry(command: Command) -> Command:
    """The options that say which registry, and who we are there."""
    for option in (
        click.option("--json", "as_json", is_flag=True, help="For machines."),
        click.option(
            "--token-file",
            type=click.Path(path_type=Path),
            envvar="SWIFT_SUBMIT_TOKEN_FILE",
            help="Your API token (or SWIFT_SUBMIT_TOKEN).  [env: SWIFT_SUBMIT_TOKEN_FILE]",
        ),
        click.option(
            "--server",
            envvar="SWIFT_SUBMIT_SERVER",
            default="http://127.0.0.1:8710",
            help="The registry.  [env: SWIFT_SUBMIT_SERVER]",
        ),
    ):
        command = option(command)
    return command


_REASON = click.option("--reason", required=True, metavar="TEXT", help="Why; kept with each proposal for ever.")


@vocabulary.command("import")
@click.argument("path", type=click.Path(path_type=Path, exists=True), metavar="FILE|DIR")
@_REASON
@of_a_registry
def import_(path: Path, reason: str, server: str, token_file: Path | None, as_json: bool) -> None:
    """Propose what FILE or DIR/*.yaml say.

    What the registry says already is left alone. All of it is checked first: where one entry would be refused, nothing
    is proposed.
    """
    _show(_proposed(path, reason, server, token_file), as_json)


@vocabulary.command()
@click.argument("path", type=click.Path(path_type=Path, exists=True, file_okay=False), metavar="FOLDER")
@_REASON
@of_a_registry
def sync(path: Path, reason: str, server: str, token_file: Path | None, as_json: bool) -> None:
    """Import, to be run again and again.

    What FOLDER/*.yaml say and the registry does not is proposed; what is proposed already is left alone. Exits 0 when
    the registry says what the folder says, 5 while proposals wait, 8 when others have rejected what is left.
    """
    steps = _proposed(path, reason, server, token_file)
    _show(steps, as_json)
    if any(step.state != "rejected" for step in steps):
        raise SystemExit(PENDING)
    raise SystemExit(REJECTED if steps else 0)


@vocabulary.command()
@click.argument("path", type=click.Path(path_type=Path, exists=True), metavar="FILE|DIR")
@of_a_registry
@click.option("--exit-code", is_flag=True, help="Exit 1 when they differ.")
def diff(path: Path, server: str, token_file: Path | None, as_json: bool, exit_code: bool) -> None:
    """What differs between files and registry."""
    from registry.cli import vocabulary_plan

    placed = _read(path)

    def compare(live: "Live") -> "tuple[list[Step], list[str]]":
        steps = vocabulary_plan.compare(placed, live)
        said = {one.entry.name for one in placed}
        return steps, [entry for entry, tag in live.tags.items() if entry not in said and tag.state != "archived"]

    steps, more = _asking(server, token_file, compare)
    if as_json:
        print_json({"steps": [step.told for step in steps], "only_in_registry": more})
    else:
        _tell(steps)
        click.echo("".join(f"only in the registry: {name}\n" for name in more), nl=False)
    raise SystemExit(1 if exit_code and (steps or more) else 0)


@vocabulary.command()
@of_a_registry
def export(server: str, token_file: Path | None, as_json: bool) -> None:
    """Write the task types in use as one file."""
    from enforcer import vocabulary as files

    entries, behind = _asking(server, token_file, lambda live: (live.entries(), live.behind))
    for name, version in sorted(behind.items()):
        click.echo(
            f"`{name}` is made from `{version}` still; imported, it is proposed anew from what followed", err=True
        )
    if as_json:
        print_json([entry.model_dump(mode="json", exclude_none=True) for entry in files.in_order(entries)])
    else:
        click.echo(files.written(entries).encode(), nl=False)  # bytes: the same on every system


def _proposed(path: Path, reason: str, server: str, token_file: Path | None) -> "list[Step]":
    from registry.cli import vocabulary_plan

    _refuse_bad_reason(reason)
    placed = _read(path)

    def propose(live: "Live") -> "list[Step]":
        steps = vocabulary_plan.compare(placed, live)
        vocabulary_plan.check(steps, live, reason)
        vocabulary_plan.open_all(steps, live, reason)
        return steps

    found: list[Step] = _asking(server, token_file, propose)
    return found


def _refuse_bad_reason(reason: str) -> None:
    from pydantic import TypeAdapter, ValidationError

    from enforcer import wire

    try:
        TypeAdapter(wire.Reason).validate_python(reason)
    except ValidationError as error:
        raise click.UsageError(f"--reason: {error.errors()[0]['msg'].lower()}") from None


def _read(path: Path) -> "list[Placed]":
    from enforcer import vocabulary as files
    from enforcer.policy.documents import text_of

    found = sorted(path.glob("*.yaml")) if path.is_dir() else [path]
    if not found:
        stop(f"`{path}` holds no *.yaml")

    def read() -> "list[Placed]":
        return files.read({str(file): text_of(file, str(file), most=files.MAX_BYTES) for file in found})

    placed: list[Placed] = _in_words(read)
    return placed


def _asking(server: str, token_file: Path | None, act: "Callable[[Live], Any]") -> Any:
    import os

    from registry.cli.remote import Remote
    from registry.cli.vocabulary_plan import Live

    def ask() -> Any:
        with Remote(server.rstrip("/"), os.environ.get("SWIFT_SUBMIT_TOKEN"), token_file) as remote:
            return act(Live(remote))

    return _in_words(ask)


def _in_words(act: Callable[[], Any]) -> Any:
    """Faults of the files are listed; whatever else went wrong is said as everywhere."""
    from enforcer.policy.rules import PolicyInvalid

    def faults_apart() -> Any:
        try:
            return act()
        except PolicyInvalid as error:
            return error

    found = in_words(faults_apart)
    if isinstance(found, PolicyInvalid):
        _refuse(found)
    return found


def _refuse(invalid: "PolicyInvalid") -> NoReturn:
    if click.get_current_context().params["as_json"]:
        print_json({"faults": invalid.faults})
        raise SystemExit(1)
    for fault in invalid.faults[:MOST_FAULTS]:
        click.echo(str(fault), err=True)
    if (more := len(invalid.faults) - MOST_FAULTS) > 0:
        click.echo(f"and {more} more", err=True)
    click.echo("Error: nothing was proposed; mend these first", err=True)
    raise SystemExit(1)


def _show(steps: "list[Step]", as_json: bool) -> None:
    if as_json:
        print_json({"steps": [step.told for step in steps]})
        return
    _tell(steps)
    if held := sorted({step.after for step in steps if step.state == "held back" and step.after}):
        names = ", ".join(f"`{name}`" for name in held)
        click.echo(f"once {names} is approved, run this again for what is held back")


def _tell(steps: "list[Step]") -> None:
    for step in steps:
        what = f"{step.told['alias']} of {step.change.tag}" if step.told["alias"] else step.change.tag
        beside = step.proposal or (f"after {step.after}" if step.after else "")
        click.echo(f"{step.state:<10}  {step.change.kind:<11}  {what}  {beside}".rstrip())
        for line in step.changes:
            click.echo(f"              {line}")
    if not steps:
        click.echo("nothing to do: the registry says all of this")
