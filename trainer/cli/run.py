"""`swift-submit run`."""

import sys
from typing import TYPE_CHECKING, Any

import click

from trainer.cli import asking
from trainer.cli.flags import Command
from trainer.cli.session import Session, current
from trainer.exits import FINE, GATE_MISSED, INTERRUPTED, UNREACHABLE

if TYPE_CHECKING:
    from enforcer import wire
    from trainer.cli.output import Output
    from trainer.launch.local import Ended
    from trainer.layout import RunFolder
    from trainer.run.permit import Permit


@click.command(cls=Command)
@asking.run_flags
@click.option("--permit-only", is_flag=True, help="Leave the permit in the run folder; `swift-submit work` starts it.")
def run(config: str | None, changes: tuple[str, ...], permit_only: bool, **flags: Any) -> None:
    """Ask for a ticket, train, evaluate, report.

    CONFIG is a .yaml, .json or .toml file with training arguments; flags win over it. Nothing is asked for before data,
    model and output folder have been looked at; nothing heavy loads before the ticket is verified.

    Where the run cannot ask the registry: `--redeem offline --permit-only` here, `swift-submit work RUN_DIR` there
    within the ticket's life, `swift-submit runs report RUN_DIR` here. The policy has to allow it for the target.

    A run that stopped leaves a checkpoint: `--resume RUN_DIR` continues it, with nothing else to say, in a run of its
    own. Its model, data and arguments have to be what they were.
    """
    from trainer import telemetry

    session = current()
    args = asking.arguments(config, changes, flags)
    with telemetry.span("swift-submit run", **{"cicd.pipeline.name": args.tag}):
        permit = _permit(session, args)
        folder = permit.folder
        session.output.event("permitted", run_id=folder.root.name, run_dir=str(folder.root))
        if permit_only:
            sys.exit(_leave(session, permit))
        with telemetry.span("launch", target=args.target):
            ended = launch(session, permit)
    sys.exit(tell(session, ended, folder))


def _permit(session: Session, args: Any) -> "Permit":
    from trainer import contract, telemetry
    from trainer.http import skew_in_words
    from trainer.run import permit

    output = session.output
    with telemetry.span("permit"), session.registry() as registry:
        found, checked = contract.look(registry, args)
        output.talk(asking.in_words(args, checked.facts))
        for finding in checked.findings:
            output.warn(finding)
        if (skew := skew_in_words(registry.skew_s)) is not None:
            output.warn(skew)
        output.event("preflight", **checked.facts, findings=checked.findings)
        given = permit.obtain(registry, args, found, checked)
    for warning in given.warnings:
        output.warn(warning)
    claims = given.verify().claims
    if output.verbose:
        output.talk(f"ticket {claims.jti} for {claims.aud}; specification {claims.run_spec_digest}")
    output.talk(
        f"permitted by rule `{claims.policy_rule}` for `{claims.business_unit}`; run folder {given.folder.root}"
    )
    return given


def _leave(session: Session, permit: "Permit") -> int:
    from datetime import UTC, datetime

    from trainer.run import handover

    claims, folder = permit.verify().claims, permit.folder
    file = handover.write(permit).file
    until = datetime.fromtimestamp(claims.exp, UTC)
    document = {
        "run_id": folder.root.name,
        "run_dir": str(folder.root),
        "permit": str(file),
        "audience": claims.aud,
        "redeem": claims.redeem,
        "expires_at": until.isoformat(),
    }
    lines = [f"{folder.root.name}  permitted for {claims.aud} until {until:%H:%M:%S UTC}", str(folder.root)]
    session.output.result(document, lines, brief=[str(folder.root)])
    session.output.talk(f"start it with `swift-submit work {folder.root}`; whoever can read {file} can do so")
    return FINE


def launch(session: Session, permit: "Permit") -> "Ended":
    from trainer.cli.progress import Progress
    from trainer.launch import local

    with Progress(session.output) as progress:
        return local.launch(permit, progress.show)


def tell(session: Session, ended: "Ended", folder: "RunFolder") -> int:
    """The result in the form that was asked for; returns the exit code."""
    from trainer import resume

    output, run = session.output, ended.run
    document = {
        "run_id": folder.root.name,
        "run_dir": str(folder.root),
        "stopped": ended.stopped,
        "report": "sent" if run else "waiting" if folder.report_pending.exists() else "none",
        "run": run.model_dump(mode="json") if run else None,
    }
    output.result(document, _lines(ended, folder), brief=[str(folder.root)])
    if folder.report_pending.exists():
        send = f"swift-submit runs report {folder.root}"
        output.warn(f"the registry could not take the report now, so it waits; send it with `{send}`")
    if ended.stopped is not None:
        kept = resume.in_words(folder)
        output.warn(f"stopped ({ended.stopped})" + (f"; {kept}" if kept else ""))
        return INTERRUPTED
    if run is None:
        return UNREACHABLE
    if (compared := _memory(folder)) is not None:
        output.talk(compared)
    return judged(output, run)


def judged(output: "Output", run: "wire.Run") -> int:
    """What the verdict on a finished run means; returns the exit code."""
    if run.verdict == "fail":
        output.warn("an acceptance gate was missed: this model cannot be promoted")
        return GATE_MISSED
    if run.verdict == "inconclusive":
        output.warn("a gate is inconclusive: evaluate on more samples before promotion")
    return FINE


def _memory(folder: "RunFolder") -> str | None:
    """The peak that was measured beside what was reckoned; None where either is not known."""
    import json

    try:
        reckoned = json.loads(folder.preflight.read_text("utf-8"))["memory"]["estimate_bytes"]
        measured = json.loads(folder.metrics.read_text("utf-8"))["peak_memory_bytes"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return f"peak memory {measured / 1e9:.1f} GB measured; {reckoned / 1e9:.1f} GB were reckoned"


def _lines(ended: "Ended", folder: "RunFolder") -> list[str]:
    if ended.run is None:
        return [
            f"{folder.root.name}  {'interrupted' if ended.stopped else 'finished, not reported yet'}",
            str(folder.root),
        ]
    return [*run_lines(ended.run), str(folder.root)]


def run_lines(run: "wire.Run") -> list[str]:
    """One run for people: state, scores with intervals, gates."""
    from trainer.cli.output import table

    verdict = f", gates: {run.verdict}" if run.verdict else ""
    scores = [
        (name, f"{s.value:.4f}", "" if s.low is None else f"[{s.low:.4f}, {s.high:.4f}]", f"n={s.n}")
        for name, s in run.scores.items()
    ]
    judged = [(f"{j.gate.metric} {j.gate.op} {j.gate.value:g}", str(j.verdict), j.reason) for j in run.gates]
    on = [f"  continue it with `swift-submit run --resume` and its folder, `.../{run.id}`"]
    return [
        f"{run.id}  {run.task_type}@{run.version}  {run.state}{verdict}",
        *(on if run.state in ("interrupted", "lost") else []),
        *(f"  {line}" for line in (table(("score", "value", "interval", ""), scores) if scores else [])),
        *(f"  {line}" for line in (table(("gate", "verdict", "because"), judged) if judged else [])),
    ]
