"""`tagwarden policy simulate`, `can`, `who-can`: questions to a policy that is not live, or not yet."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from registry.cli.policy_folder import Opened, of_a_folder, opened, print_json

if TYPE_CHECKING:
    from enforcer.policy.decision import Decision, NearMiss
    from enforcer.policy.rights import WhoCan

Command = TypeVar("Command", bound=Callable[..., Any])


def of_a_request(command: Command) -> Command:
    """The options that say a request; those of a case in tests/*.yaml have the same names."""
    for option in (
        click.option("--now", help="When it is asked, with a time zone.  [default: now]"),
        click.option("--point", type=click.Choice(["api", "cli", "trainer", "admission"]), help="Where it is asked."),
        click.option("--change-ticket", help="The change ticket that it names."),
        click.option("--model", help="The base model."),
        click.option("--gpus", type=click.IntRange(min=0), help="How many GPUs it asks for."),
        click.option("--target", help="Where the run would start."),
        click.option("--own-unit", help="The caller's own business unit.  [default: that of --unit]"),
        click.option("--unit", help="The business unit that it is for."),
        click.option("--as", "who", multiple=True, help="group:<name>, user:<id>, ...; repeat for more."),
        click.argument("tag", required=False),
        click.argument("action"),
    ):
        command = option(command)
    return command


@click.command()
@of_a_folder
@of_a_request
def simulate(action: str, tag: str | None, policies: Path | None, database: bool, as_json: bool, **said: Any) -> None:
    """Decide one request and explain it in full: may it ACTION the task type TAG?

    Example: tagwarden policy simulate submit dpo --as group:nlp --unit retail --target local --gpus 4
    """
    found = opened(policies, database)
    decision = _decided(found, {"do": action, "tag": tag, **said})
    if as_json:
        print_json(_told(found, decision))
    else:
        _explain(found, decision)


@click.command()
@of_a_folder
@of_a_request
def can(action: str, tag: str | None, policies: Path | None, database: bool, as_json: bool, **said: Any) -> None:
    """Decide one request: yes (exit 0) or no (exit 1), by which rule.

    May it ACTION the task type TAG?
    """
    decision = _decided(opened(policies, database), {"do": action, "tag": tag, **said})
    if as_json:
        print_json({"allowed": decision.allowed, "by": decision.rule or decision.reason})
    else:
        click.echo(f"{'yes' if decision.allowed else 'no'}, by {decision.rule or decision.reason}")
    raise SystemExit(0 if decision.allowed else 1)


@click.command("who-can")
@click.argument("action")
@click.argument("tag")
@click.option("--unit", help="For this business unit; left out, any.")
@click.option("--target", help="In this place; left out, any.")
@of_a_folder
def who_can(
    action: str, tag: str, unit: str | None, target: str | None, policies: Path | None, database: bool, as_json: bool
) -> None:
    """Who may ACTION the task type TAG, by which rules, under which conditions."""
    from enforcer.policy import rights

    found = opened(policies, database)
    _refuse_unknown(found, action=action, tag=tag, unit=unit, target=target)
    answer = rights.who_can(found.gate(), rights.Matter(action, tag, unit, target), found.now)
    if as_json:
        print_json(answer)
    else:
        _list(answer)


def _decided(found: Opened, said: dict[str, Any]) -> "Decision":
    from enforcer.policy.cases import Facts
    from enforcer.policy.documents import Document, Keys
    from enforcer.policy.rules import PolicyInvalid

    given = Keys(1)
    given.update((name, value) for name, value in said.items() if value not in (None, ()))
    given.setdefault("own_unit", given.get("unit"))
    given.lines = dict.fromkeys(given, 1)
    try:
        facts = Document("", given).as_(Facts)
    except PolicyInvalid as invalid:
        raise click.UsageError(invalid.faults[0].message) from invalid
    gate = found.gate()
    return gate.decide(facts.request(gate, found.now))


def _told(found: Opened, decision: "Decision") -> dict[str, Any]:
    sentence, nearest = _why(found, decision)
    return {
        "allowed": decision.allowed,
        "reason": decision.reason,
        "rule": decision.rule,
        "explanation": sentence,
        "matched": decision.matched,
        "warnings": decision.warnings,
        "would_be_allowed_with_shadow_rules": decision.shadowed,
        "nearest": nearest,
        "policy_revision": decision.revision,
    }


def _why(found: Opened, decision: "Decision") -> tuple[str, tuple["NearMiss", ...]]:
    from enforcer.policy import explain

    gate = found.gate()
    near = gate.nearest(decision.request) if decision.reason == "no-matching-rule" else ()
    return explain.sentence(gate, decision, near=near), near


def _explain(found: Opened, decision: "Decision") -> None:
    sentence, nearest = _why(found, decision)
    click.echo(f"{'allowed' if decision.allowed else 'denied'}: {sentence}")
    for match in decision.matched:
        place = found.written.places.get(match.id)
        lifted = f", lifted by `{match.lifted_by}`" if match.lifted_by else ""
        where = f"  {place.file}:{place.line}" if place else ""
        click.echo(f"  fits     {match.id}  ({match.effect}, {match.level}{lifted}){where}")
    for miss in nearest:
        click.echo(f"  nearest  {miss.rule}  (owner {miss.owner}) fails on {'; '.join(miss.failed)}")
    for rule in decision.warnings:
        click.echo(f"  warns    {rule}")
    if decision.shadowed is not None:
        click.echo(f"  shadow   with rules at `shadow` it would be {'allowed' if decision.shadowed else 'denied'}")
    click.echo(f"  policy   {decision.revision}")


def _list(answer: "WhoCan") -> None:
    for right in answer.rights:
        includes = f" (with {', '.join(right.includes)})" if right.includes else ""
        conditions = f": {', '.join(right.conditions)}" if right.conditions else ""
        but = f"; BUT `{right.denied_by}` denies it" if right.denied_by else ""
        click.echo(f"{right.who}{includes}{conditions}{but}  [{right.rule}]")
    if not answer.rights:
        click.echo("nobody")
    for denial in answer.denials:
        conditions = f": {', '.join(denial.conditions)}" if denial.conditions else ""
        click.echo(f"never {', '.join(denial.who)}{conditions}  [{denial.rule}]")


def _refuse_unknown(found: Opened, **names: str | None) -> None:
    from enforcer.policy.rules import ACTIONS, ANY_TAG, did_you_mean

    directory = found.written.policy.directory
    known = {"action": ACTIONS, "tag": {ANY_TAG, *found.tags}, "unit": directory.units, "target": directory.targets}
    for kind, name in names.items():
        if name is not None and name not in known[kind]:
            raise click.UsageError(f"there is no {kind} `{name}`{did_you_mean(name, known[kind])}")
