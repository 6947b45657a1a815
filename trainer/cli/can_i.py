"""`swift-submit can-i` and `why`: close to a bare round trip, so nothing here imports pydantic."""

import json
import sys
from typing import Any
from urllib.parse import quote

import click

from trainer.cli.flags import Command
from trainer.cli.session import current
from trainer.exits import DENIED, FINE

REASONS = {
    "unit-holds-others": "it is for one business unit, and this one holds others; name one with --unit",
    "target-holds-others": "it is for one place, and this one holds others; name one with --target",
    "no-matching-rule": "no rule allows it",
    "not-in-scope": "your credential is not for this action",
    "task-type-sunset": "its sunset has come",
    "task-type-archived": "it is archived",
}


@click.command(cls=Command)
@click.argument("action")
@click.argument("tag")
@click.option("--unit", "--bu", "unit", metavar="UNIT", help="For this business unit (your own).")
@click.option("--target", default="local", metavar="PLACE", show_default=True, help="Run there.")
@click.option("--gpus", type=click.IntRange(0, 4096), default=0, metavar="N", help="With so many GPUs (0).")
@click.option("--model", metavar="NAME", help="On this base model.")
@click.option("--change-ticket", metavar="ID", help="Under this change ticket.")
@click.option("--explain", is_flag=True, help="Say which rules fit, which decided, and whom to ask.")
def can_i(action: str, tag: str, explain: bool, **context: Any) -> None:
    """Ask the policy whether you may do something.

    ACTION is submit, cancel, propose, approve, ...; TAG a task type, or `any` for all. Exits 0 for yes and 3 for no.
    """
    session = current()
    said = {"business_unit": context.pop("unit"), **context}
    asked = {
        "resource": {"type": "task-type", "id": tag},
        "action": {"name": action},
        "context": {name: value for name, value in said.items() if value is not None},
    }
    with session.link() as link:
        answer = json.loads(link.ask("POST", "/access/v1/evaluation", asked, again=True))
    told = _explained(answer["context"]) if explain else _warned(answer["context"])
    session.output.result(answer, [_yes(answer["decision"]), *told])
    sys.exit(FINE if answer["decision"] is True else DENIED)


@click.command(cls=Command)
@click.argument("decision")
def why(decision: str) -> None:
    """Why the policy allowed or refused something, and what it would say now.

    DECISION is the id that a refusal shows, or `decision_id` of a ticket. Yours, or of a unit whose log you may read.
    """
    session = current()
    with session.link() as link:
        found = json.loads(link.ask("GET", f"/v1/decisions/{quote(decision, safe='')}", again=True))
    now = found["now"]
    lines = [
        f"{_yes(found['allowed'])}  {_question(found)}  at {found['at'][:19]}Z",
        *_explained(found["then"]),
        *([f"now: {_yes(now['decision'])}", *_explained(now["context"])] if now else []),
    ]
    session.output.result(found, lines, brief=[_yes(found["allowed"])])


def _yes(allowed: bool) -> str:
    return "yes" if allowed else "no"


def _question(found: dict[str, Any]) -> str:
    what = f"{found['action']} {found['task_type'] or ''}".strip()
    facts = [f"{found['gpus']} GPUs" if found["gpus"] else "", found["model"] or "", found["change_ticket"] or ""]
    return f"{found['actor']}: {what} for {found['business_unit']} on {found['target']}" + "".join(
        f", {fact}" for fact in facts if fact
    )


def _explained(said: dict[str, Any]) -> list[str]:
    decided = f"rule {said['rule']}" if said["rule"] else REASONS.get(said["reason"], said["reason"])
    others = [match for match in said["matched"] if match["id"] != said["rule"]]
    return [
        f"  why   {decided} · policy {said['policy_revision']}",
        *(f"  fits  {match['id']}  {match['effect']}{_standing(match)}" for match in others),
        *_warned(said),
        *(f"  near  {near['rule']}  (for {', '.join(near['who'])})  fails on {'; '.join(near['failed'])}"
          for near in said["nearest"]),
        *([f"  ask   {', '.join(said['ask'])}, who answer for the rules on this"] if said["ask"] else []),
    ]  # fmt: skip


def _warned(said: dict[str, Any]) -> list[str]:
    return [f"  warn  {warning}" for warning in said["warnings"]]


def _standing(match: dict[str, Any]) -> str:
    """Why a rule that fits did not count as others do."""
    if match["lifted_by"]:
        return f", lifted by {match['lifted_by']}"
    return "" if match["level"] == "enforce" else f", at level {match['level']}"
