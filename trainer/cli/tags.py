"""`swift-submit tags`."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from trainer.cli.flags import Group, matching
from trainer.cli.session import current
from trainer.exits import FINE, INVALID, STALE

if TYPE_CHECKING:
    from enforcer import wire
    from enforcer.profiles import Parameter, Profile


@click.group(cls=Group)
def tags() -> None:
    """Task types: list, show, compare, who uses one, propose."""


@tags.command("list")
@click.option("--state", type=click.Choice(["active", "deprecated", "sunset", "archived"]), help="Only these.")
@matching
def list_(state: str | None, filter_: str | None) -> None:
    """Every task type with its current version, and how it ends where it does."""
    from trainer.cli.output import table

    session = current()
    with session.registry() as registry:
        found = list(registry.tags(state=state, filter=filter_))
    rows = [(f"{tag.name}@{tag.version}", tag.kind, tag.parent, _state(tag), tag.description) for tag in found]
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
    head = f"{found.name}@{found.version}  {found.state}  {found.description}{aliases}"
    lines = [head, *_end(found), *_profile(found.profile)]
    session.output.result(found.model_dump(mode="json"), lines, brief=[f"{found.name}@{found.version}"])


@tags.command()
@click.argument("tag")
@click.option("--from", "before", type=click.IntRange(min=1), metavar="M", help="Left out, the version before.")
@click.option("--to", "after", type=click.IntRange(min=1), metavar="N", help="Left out, the version in force.")
def diff(tag: str, before: int | None, after: int | None) -> None:
    """What changed between two versions, field by field, the gravest first."""
    session = current()
    name, _, number = tag.partition("@")
    with session.registry() as registry:
        to = after or (int(number) if number.isdigit() else registry.tag(name).version)
        found = registry.version_diff(name, to, before)
    head = f"{found.tag}  {found.from_version} -> {found.to_version}  {found.change_class}"
    lines = [head, *changes(found.changes)] if found.changes else [f"{head}: nothing changed"]
    session.output.result(found.model_dump(mode="json"), lines, brief=[found.change_class])


@tags.command()
@click.argument("tag")
@click.option("--bu", "business_unit", metavar="UNIT", help="Of this business unit (your own); `all` for every one.")
def usage(tag: str, business_unit: str | None) -> None:
    """Who trains under a task type: runs by version and consumer, of 30 and 90 days."""
    session = current()
    with session.registry() as registry:
        found = registry.tag_usage(tag, business_unit)
    seen = f"last seen {found.last_seen:%Y-%m-%d}" if found.last_seen else "not seen for a year"
    unnamed = [f"  and {found.consumers_unnamed} more"] if found.consumers_unnamed else []
    lines = [
        f"{found.tag} in {found.business_unit}: {found.last_30_days} runs in 30 days, "
        f"{found.last_90_days} in 90; {seen}",
        *(f"  version {one.version}: {one.last_90_days} in 90 days" for one in found.by_version),
        *_consumers(found.consumers),
        *unnamed,
    ]
    brief = [f"{one.business_unit} {one.actor} {one.standing}" for one in found.consumers]
    session.output.result(found.model_dump(mode="json"), lines, brief=brief)


@tags.command()
@click.argument("tag")
def readiness(tag: str) -> None:
    """Whether a task type can be deprecated without surprising anybody. Exits 0 when it can, else 8."""
    session = current()
    with session.registry() as registry:
        found = registry.readiness(tag)
    lines = [
        f"{found.tag}: {'safe' if found.safe_to_deprecate else 'not safe'} to deprecate",
        *(f"  {reason}" for reason in found.reasons),
        f"  consumers: {found.active_consumers} active, {found.stale} stale, {found.dead} dead",
        *_consumers(found.consumers),
    ]
    session.output.result(found.model_dump(mode="json"), lines, brief=["safe" if found.safe_to_deprecate else "unsafe"])
    sys.exit(FINE if found.safe_to_deprecate else STALE)


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


def _state(tag: "wire.Tag") -> str:
    ends = tag.deprecation
    return tag.state if ends is None or ends.replaced_by is None else f"{tag.state}, use {ends.replaced_by}"


def _end(tag: "wire.Tag") -> list[str]:
    ends = tag.deprecation
    if ends is None:
        return []
    return [
        f"  deprecated since {ends.since:%Y-%m-%d}: {ends.reason}",
        f"  sunset {ends.sunset_at:%Y-%m-%dT%H:%M:%SZ}; "
        + (f"use `{ends.replaced_by}`" if ends.replaced_by else "nothing replaces it"),
    ]


def _consumers(consumers: "list[wire.Consumer]") -> list[str]:
    from trainer.cli.output import table

    rows = [(one.business_unit, one.actor, one.standing, one.last_30_days, one.last_90_days,
             f"{one.last_seen:%Y-%m-%d}") for one in consumers]  # fmt: skip
    return table(("unit", "who", "is", "30 days", "90 days", "last seen"), rows) if rows else []


def changes(found: "list[wire.FieldChange]") -> list[str]:
    """One line each, the gravest first."""
    from enforcer.profile_changes import WEIGHT

    gravest = sorted(found, key=lambda change: -WEIGHT[change.change_class])
    return [f"  {change.change_class:<10}  {change.sentence}" for change in gravest]


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
