"""`swift-submit can-i`: close to a bare round trip, so nothing here imports pydantic."""

import json
import sys
from typing import Any

import click

from trainer.cli.flags import Command
from trainer.cli.session import current
from trainer.exits import DENIED, FINE

REASONS = {
    "unit-holds-others": "a run is for one business unit, and this one holds others; name one with --unit",
    "target-holds-others": "a run starts in one place, and this one holds others; name one with --target",
    "no-matching-rule": "no rule allows it",
}


@click.command(cls=Command)
@click.argument("action")
@click.argument("tag")
@click.option("--unit", "--bu", "unit", metavar="UNIT", help="For this business unit (your own).")
@click.option("--target", default="local", metavar="PLACE", show_default=True, help="Run there.")
@click.option("--gpus", type=click.IntRange(0, 4096), default=0, metavar="N", help="With so many GPUs (0).")
@click.option("--explain", is_flag=True, help="Say which rule decided, or came nearest.")
def can_i(action: str, tag: str, unit: str | None, target: str, gpus: int, explain: bool) -> None:
    """Ask the policy whether you may do something.

    ACTION is submit, cancel, propose, approve, ...; TAG a task type, or `any` for all. Exits 0 for yes and 3 for no.
    """
    session = current()
    context: dict[str, Any] = {"target": target, "gpus": gpus}
    if unit is not None:
        context["business_unit"] = unit
    asked = {"resource": {"type": "task-type", "id": tag}, "action": {"name": action}, "context": context}
    with session.link() as link:
        answer = json.loads(link.ask("POST", "/access/v1/evaluation", asked, again=True))
    allowed = answer["decision"] is True
    lines = ["yes" if allowed else "no", *(_explained(answer["context"]) if explain else [])]
    session.output.result(answer, lines)
    sys.exit(FINE if allowed else DENIED)


def _explained(why: dict[str, Any]) -> list[str]:
    decided = f"rule {why['rule']}" if why["rule"] else REASONS.get(why["reason"], why["reason"])
    nearest = [f"  near  {near['rule']}  (for {near['who']})  fails on {near['failed']}" for near in why["nearest"]]
    return [f"  why   {decided} · policy {why['policy_revision']}", *nearest]
