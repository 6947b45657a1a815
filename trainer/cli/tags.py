"""`swift-submit tags`."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from trainer.cli.flags import Group
from trainer.cli.session import current
from trainer.exits import FINE, INVALID

if TYPE_CHECKING:
    from enforcer import wire
    from enforcer.profiles import Parameter, Profile


@click.group(cls=Group)
def tags() -> None:
    """Task types: list, show, check a name, propose."""


@tags.command("list")
def list_() -> None:
    """Every task type with its current version."""
    from trainer.cli.output import table

    session = current()
    with session.registry() as registry:
        found = list(registry.tags())
    rows = [(f"{tag.name}@{tag.version}", tag.kind, tag.parent, tag.state, tag.description) for tag in found]
    session.output.result(
        [tag.model_dump(mode="json") for tag in found],
        table(("task type", "kind", "parent", "state", "what it is"), rows),
        brief=[tag.name for tag in found],
    )


@tags.command()
@click.argument("tag")
def show(tag: str) -> None:
    """One task type: columns, arguments with their bounds, gates, bindings."""
    session = current()
    with session.registry() as registry:
        found = registry.tag(tag.partition("@")[0])
    aliases = f"  also called {', '.join(found.aliases)}" if found.aliases else ""
    lines = [f"{found.name}@{found.version}  {found.state}  {found.description}{aliases}", *_profile(found.profile)]
    session.output.result(found.model_dump(mode="json"), lines, brief=[f"{found.name}@{found.version}"])


@tags.command()
@click.argument("name")
@click.option("--parent", metavar="TAG", help="The parent that its proposal would name.")
@click.option(
    "--distinct-from", nargs=2, multiple=True, metavar="TAG WHY", help="Why it is not TAG, though it is near."
)
def suggest(name: str, parent: str | None, distinct_from: tuple[tuple[str, str], ...]) -> None:
    """Whether a name may be proposed, and what to use instead. Exits 0 when it may, else 6."""
    session = current()
    asked = _asked(name, parent, distinct_from)
    with session.registry() as registry:
        check = registry.check_name(asked)
    lines = [
        f"{check.name}: {_VERDICTS[check.verdict]}",
        *(f"  {match.evidence}  (rule {match.rule})" for match in check.matches),
        *_what_next(check),
    ]
    session.output.result(check.model_dump(mode="json"), lines, brief=[check.suggestion or check.verdict])
    sys.exit(FINE if check.verdict == "ok" else INVALID)


def _asked(name: str, parent: str | None, distinct_from: tuple[tuple[str, str], ...]) -> "wire.NameCheckRequest":
    from pydantic import ValidationError

    from enforcer import wire

    distinctions = [{"tag": tag, "because": because} for tag, because in distinct_from]
    try:
        return wire.NameCheckRequest.model_validate({"name": name, "parent": parent, "distinct_from": distinctions})
    except ValidationError as error:
        first = error.errors()[0]
        flag = "NAME" if first["loc"][0] == "name" else f"--{first['loc'][0]}".replace("_", "-")
        raise click.UsageError(f"{flag}: {first['msg'].lower()}") from None


_VERDICTS = {"ok": "may be proposed", "justify": "may be proposed with a reason", "block": "may not be proposed"}


def _what_next(check: "wire.NameCheck") -> list[str]:
    use = [f"  use `{check.suggestion}`"] if check.suggestion else []
    if check.verdict == "justify":
        near = check.suggestion
        use = [f"  if it is a kind of `{near}`, propose it with `parent: {near}`; if it is another thing, with"]
        use += [f"  `distinct_from: [{{tag: {near}, because: ...}}]`; if it is the same, use `{near}`"]
    return use


@tags.command()
@click.argument("file", type=click.Path(dir_okay=False))
def propose(file: str) -> None:
    """Propose a new task type or version from FILE (`change` and `reason`, .yaml, .json or .toml)."""
    from trainer.cli.requests import propose_from

    propose_from(Path(file))


def _profile(profile: "Profile") -> list[str]:
    from trainer.cli.output import table

    gates = [f"{gate.metric} {gate.op} {gate.value:g}, n >= {gate.min_n}" for gate in profile.gates]
    facts = [
        ("recipe", profile.recipe),
        ("where", f"pool {profile.pool}, at most {profile.limits.max_gpus} GPUs and {profile.limits.max_runtime_s} s"),
        *(("gate", gate) for gate in gates),
        *((f"column {name}", f"{column.type}{'' if column.required else ', optional'}: {column.help}")
          for name, column in profile.columns.items()),
        *(("binding", f"{bound.framework} {bound.versions}: {bound.command} {bound.args or ''}")
          for bound in profile.bindings),
    ]  # fmt: skip
    arguments = [
        (name, parameter.type, _bounds(parameter), parameter.help) for name, parameter in profile.parameters.items()
    ]
    return [
        *table(("", ""), facts)[1:],
        "",
        *table(("argument", "type", "default and bounds", "what it is"), arguments),
    ]


def _bounds(parameter: "Parameter") -> str:
    if parameter.locked:
        return f"locked to {parameter.default}"
    parts = ["required" if parameter.required and parameter.default is None else f"{parameter.default}"]
    if parameter.minimum is not None or parameter.maximum is not None:
        low = "" if parameter.minimum is None else f"{parameter.minimum:.10g}"
        high = "" if parameter.maximum is None else f"{parameter.maximum:.10g}"
        parts.append(f"({low}..{high})")
    if parameter.choices:
        parts.append(f"({' | '.join(parameter.choices)})")
    return " ".join(parts)
