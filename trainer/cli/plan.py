"""`swift-submit plan`."""

import json
import sys
from typing import TYPE_CHECKING, Any

import click

from trainer.cli import asking
from trainer.cli.flags import Command
from trainer.cli.session import current
from trainer.exits import DENIED, FAILED, INVALID, PENDING

if TYPE_CHECKING:
    from enforcer import wire


@click.command(cls=Command)
@asking.run_flags
@click.option("--detailed-exitcode", is_flag=True, help="0 would run, 3 denied, 5 approval pending, 6 invalid.")
def plan(config: str | None, changes: tuple[str, ...], detailed_exitcode: bool, **flags: Any) -> None:
    """Say what `run` would do. Nothing is made.

    Exits 0 when the run would start and 1 when it would be refused; --detailed-exitcode tells refusals apart. What
    keeps a plan from being made at all (no registry, not signed in) has the exit code it always has.
    """
    from enforcer.problems import Problem
    from trainer import contract
    from trainer.cli import errors, flags as common
    from trainer.exits import exit_code
    from trainer.run import permit

    session = current()
    try:
        args = asking.arguments(config, changes, flags)
        with session.registry() as registry:
            found, checked = contract.look(registry, args)
            planned = permit.plan(registry, args, found, checked)
    except Problem as problem:
        code = exit_code(problem)
        if code not in (DENIED, PENDING, INVALID):
            raise
        code = code if detailed_exitcode else FAILED
        sys.exit(errors.show(problem, common.given(click.get_current_context()), code))
    for finding in (*planned.warnings, *checked.findings):
        session.output.warn(finding)
    document = {
        "would_run": True,
        "plan": planned.model_dump(mode="json"),
        "preflight": {**checked.facts, "findings": checked.findings},
    }
    session.output.result(document, [asking.in_words(args, checked.facts), *_lines(planned, checked.facts)])


def _lines(planned: "wire.TicketPlan", facts: dict[str, Any]) -> list[str]:
    from trainer.cli import seen
    from trainer.cli.output import table

    rows = [
        ("would run", f"{planned.task_type}@{planned.version}, by rule `{planned.policy_rule}`"),
        ("where", f"pool {planned.pool}, at most {planned.limits.max_gpus} GPUs and {planned.limits.max_runtime_s} s"),
        *seen.lines(facts),
        *(("gate", gate) for gate in planned.gates),
        *(
            ("argument", f"{name} = {json.dumps(value, ensure_ascii=False)}")
            for name, value in planned.arguments.items()
        ),
    ]
    return [*table(("", ""), rows)[1:], *seen.row(facts)]
