"""`swift-submit tags`."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from trainer.cli.flags import Group, matching
from trainer.cli.session import current
from trainer.exits import FINE, INVALID

if TYPE_CHECKING:
    from enforcer.profiles import Parameter, Profile


@click.group(cls=Group)
def tags() -> None:
    """Task types: list, show, check a name, propose."""


@tags.command("list")
@matching
def list_(filter_: str | None) -> None:
    """Every task type with its current version."""
    from trainer.cli.output import table

    session = current()
    with session.registry() as registry:
        found = list(registry.tags(filter=filter_))
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


@tags.command("check-name")
@click.argument("name")
def check_name(name: str) -> None:
    """Whether a name may be proposed, and what to use instead. Exits 0 when it may, else 6."""
    session = current()
    with session.registry() as registry:
        check = registry.check_name(name)
    lines = [f"{check.name}: {check.ruling}", *(f"  {match.evidence}  (rule {match.rule})" for match in check.matches)]
    if check.suggestion:
        lines.append(f"  use `{check.suggestion}`")
    session.output.result(check.model_dump(mode="json"), lines, brief=[check.suggestion or check.ruling])
    sys.exit(FINE if check.ruling == "ok" else INVALID)


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
