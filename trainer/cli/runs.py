"""`swift-submit runs`."""

import itertools
import sys
from pathlib import Path

import click

from trainer.cli.flags import Group, matching
from trainer.cli.session import current
from trainer.exits import FINE, GATE_MISSED, INTERRUPTED


@click.group(cls=Group)
def runs() -> None:
    """Runs: list, show, follow one, send a report that waits."""


@runs.command("list")
@click.option("-t", "--task-type", metavar="TAG", help="Only this task type.")
@click.option("--bu", "business_unit", metavar="UNIT", help="Of this business unit (your own).")
@click.option(
    "--state",
    type=click.Choice(["permitted", "running", "lost", "finished", "failed", "interrupted"]),
    help="Only these.",
)
@click.option(
    "--verdict", type=click.Choice(["pass", "fail", "inconclusive", "waived"]), help="Only with this verdict."
)
@matching
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True, help="At most so many.")
def list_(
    task_type: str | None,
    business_unit: str | None,
    state: str | None,
    verdict: str | None,
    filter_: str | None,
    limit: int,
) -> None:
    """Runs, newest first."""
    from trainer.cli.output import table

    session = current()
    wanted = {"task_type": task_type, "business_unit": business_unit, "state": state, "verdict": verdict}
    wanted["filter"] = filter_
    with session.registry() as registry:
        found = list(itertools.islice(registry.runs(**wanted), limit))
    rows = [
        (run.id, f"{run.task_type}@{run.version}", run.business_unit, run.actor, run.state,
         f"{run.step}/{run.total_steps}", run.verdict, f"{run.created_at:%Y-%m-%d %H:%M}")
        for run in found
    ]  # fmt: skip
    session.output.result(
        [run.model_dump(mode="json") for run in found],
        table(("run", "task type", "unit", "who", "state", "step", "gates", "asked for"), rows),
        brief=[run.id for run in found],
    )


@runs.command()
@click.argument("id")
def show(id: str) -> None:
    """One run: state, scores, gates."""
    from trainer.cli.output import table
    from trainer.cli.run import run_lines

    session = current()
    with session.registry() as registry:
        run = registry.run(id)
    facts = [
        ("who", f"{run.actor} for {run.business_unit}, by rule `{run.policy_rule}`"),
        ("where", f"{run.target}, pool {run.pool}"),
        ("step", f"{run.step}/{run.total_steps}"),
        ("specification", run.run_spec_digest),
        ("asked for", f"{run.created_at:%Y-%m-%d %H:%M:%S}"),
    ]
    lines = [*run_lines(run), *(f"  {line}" for line in table(("", ""), facts)[1:])]
    session.output.result(run.model_dump(mode="json"), lines, brief=[run.state])


@runs.command()
@click.argument("id", metavar="RUN_ID")
@click.option(
    "--interval",
    type=click.FloatRange(1, 3600),
    default=10,
    show_default=True,
    metavar="S",
    help="Seconds between questions.",
)
def watch(id: str, interval: float) -> None:
    """Follow a run from anywhere, until it ends.

    Exits as `run` would have: 0, 11 for a gate that was missed, 10 for a run that failed, 130 for one that was stopped.
    A run that is lost, because nothing has been heard of it for too long, exits with 9. Ctrl-C leaves the run alone.
    """
    from trainer.cli.watch import follow

    session = current()
    try:
        with session.registry() as registry:
            code = follow(session.output, registry, id, interval)
    except KeyboardInterrupt:
        again = f"swift-submit runs watch {id}"
        session.output.warn(f"no longer watching; run `{id}` goes on without you, and `{again}` follows it again")
        code = INTERRUPTED
    sys.exit(code)


@runs.command()
@click.argument("run_dir", type=click.Path(file_okay=False, exists=True))
def report(run_dir: str) -> None:
    """Send the report that waits in RUN_DIR because the registry was away when the run ended."""
    from trainer.cli.run import run_lines
    from trainer.layout import RunFolder
    from trainer.run import reporting

    session = current()
    run = reporting.send_spooled(RunFolder(Path(run_dir).absolute()), session.settings)
    session.output.result(run.model_dump(mode="json"), run_lines(run), brief=[run.id])
    sys.exit(GATE_MISSED if run.verdict == "fail" else FINE)
