"""`swift-submit delegations`: who reviews proposals in whose name, and until when."""

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import click

from trainer.cli.flags import Group
from trainer.cli.session import current

if TYPE_CHECKING:
    from enforcer import wire

ACTIONS = ("approve", "policy-approve")


@click.group(cls=Group)
def delegations() -> None:
    """Who reviews in whose name: list, make, revoke."""


@delegations.command("list")
@click.option("--from", "delegator", metavar="WHO", help="Only those by which WHO (`user:li`) lends their voice.")
@click.option("--to", metavar="WHO", help="Only those that WHO holds.")
def list_(delegator: str | None, to: str | None) -> None:
    """Delegations, newest first, those that ended included."""
    from trainer.cli.output import table

    session = current()
    with session.registry() as registry:
        found = list(registry.delegations(delegator=delegator, to=to))
    rows = [(d.id, d.delegator, d.to, ",".join(d.actions), d.tag or "any", d.unit or "any", _end(d)) for d in found]
    session.output.result(
        [one.model_dump(mode="json") for one in found],
        table(("delegation", "from", "to", "may", "tag", "unit", "until"), rows),
        brief=[one.id for one in found],
    )


@delegations.command()
@click.argument("to")
@click.option("--days", type=click.FloatRange(0, 30, min_open=True), required=True, help="For so long, 30 at most.")
@click.option("--reason", metavar="TEXT", required=True, help="Why; kept for ever.")
@click.option("--action", type=click.Choice(ACTIONS), multiple=True, help="What they may do for you (approve).")
@click.option("--group", metavar="GROUP", multiple=True, help="By this group of yours only.")
@click.option("--tag", metavar="TAG", help="Only for this task type, and those below it.")
@click.option("--bu", "unit", metavar="UNIT", help="Only for this business unit, and those below it.")
def make(
    to: str,
    days: float,
    reason: str,
    action: tuple[str, ...],
    group: tuple[str, ...],
    tag: str | None,
    unit: str | None,
) -> None:
    """Let TO (`user:li`) review in your name. It counts as your own review, and only once."""
    from pydantic import ValidationError

    from enforcer import wire

    scope = {"actions": action or ("approve",), "groups": group or None, "tag": tag, "unit": unit}
    until = datetime.now(UTC) + timedelta(days=days)
    try:
        asked = wire.DelegationRequest.model_validate({"to": to, "scope": scope, "not_after": until, "reason": reason})
    except ValidationError as error:
        first = error.errors()[0]
        raise click.UsageError(f"{first['loc'][-1]}: {first['msg'].lower()}") from None
    session = current()
    with session.registry() as registry:
        made = registry.delegate(asked)
    lines = [
        f"{made.id}  {made.to} reviews in your name until {made.not_after:%Y-%m-%d %H:%M} UTC",
        f"  they: swift-submit requests approve ID --for {made.delegator}",
        f"  you:  swift-submit delegations revoke {made.id} --reason TEXT",
    ]
    session.output.result(made.model_dump(mode="json"), lines, brief=[made.id])


@delegations.command()
@click.argument("id")
@click.option("--reason", metavar="TEXT", required=True, help="Why; kept for ever.")
def revoke(id: str, reason: str) -> None:
    """End a delegation at once. What was approved by it and has not taken effect counts no longer."""
    from pydantic import ValidationError

    from enforcer import wire

    try:
        asked = wire.DelegationEnd(reason=reason)
    except ValidationError as error:
        raise click.UsageError(f"--reason: {error.errors()[0]['msg'].lower()}") from None
    session = current()
    with session.registry() as registry:
        ended = registry.revoke_delegation(id, asked)
    session.output.result(ended.model_dump(mode="json"), [f"{ended.id}  {_end(ended)}"], brief=[ended.id])


def _end(delegation: "wire.Delegation") -> str:
    if delegation.ended_at is not None:
        return f"{delegation.ended_because} {delegation.ended_at:%Y-%m-%d %H:%M}"
    return f"{delegation.not_after:%Y-%m-%d %H:%M}"
