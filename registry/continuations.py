"""A run that continues another: the books know the one that stopped, and what it said it left.

1  there is such a run, by the same person for the same unit
2  it started, and did not finish
3  everything that decides what training computes is as it was (`enforcer.continuing`)
4  the checkpoint is the one that it reported, where it could still report
"""

from collections.abc import Mapping

from sqlmodel import Session, select

from enforcer import continuing, wire
from enforcer.problems import NotContinued, UnknownRun
from enforcer.runspec import Continued, RunSpec, folder_digest
from registry import tags
from registry.access import Permit
from registry.tables import Event, Run, Ticket

CONTINUABLE = ("running", "lost", "failed", "interrupted")  # one that lost its power is `running` until it is missed


def check(session: Session, request: wire.TicketRequest, task: tags.InForce, permit: Permit) -> None:
    """See that the run which the request says it continues is the same one, only further.

    Raises:
        UnknownRun: by anybody else, for any other unit, or by nobody.
        NotContinued
    """
    asked = request.inputs.continues
    if asked is None:
        return
    # 1. Whose it is.
    run = session.get(Run, asked.run_id)
    if run is None or (run.actor, run.business_unit) != (permit.actor.id, permit.unit):
        raise UnknownRun(f"`{asked.run_id}` is not one of your runs for `{permit.unit}`, so nothing continues it")
    # 2. Where it stands.
    if run.started_at is None or run.state not in CONTINUABLE:  # a permit that lapsed is `interrupted` as well
        why = "it has not started, as far as the books know" if run.started_at is None else f"it is {run.state}"
        raise NotContinued(f"run `{run.id}` cannot be continued: {why}", run_id=run.id)
    # 3. What it computes.
    ticket = session.get_one(Ticket, run.jti)
    continuing.check(
        RunSpec.read(ticket.run_spec, expected_digest=run.run_spec_digest),
        task_type=task.tag,
        profile=task.profile,
        arguments=task.profile.resolve(request.arguments),
        inputs=request.inputs,
        gpus=request.gpus,
    )
    # 4. From where.
    left = _outputs(session, run)
    if left and not _is_among(asked, left):
        raise NotContinued(
            f"run `{run.id}` reported no checkpoint of step {asked.step} with the digest `{asked.digest}`: this one "
            "was changed, or is of another run",
            run_id=run.id,
        )


def _outputs(session: Session, run: Run) -> Mapping[str, str]:
    ended = select(Event).where(Event.run_id == run.id, Event.kind == f"run.{run.state}", Event.outcome == "done")
    event = session.exec(ended).first()
    left: Mapping[str, str] = (event.detail or {}).get("outputs", {}) if event is not None else {}
    return left


def _is_among(asked: Continued, outputs: Mapping[str, str]) -> bool:
    """Outputs are listed by file. Where there were too many, the place is as a whole, under one digest of all that it
    holds: a request brings the digest of one checkpoint alone, so nothing can be compared, and any is taken."""
    place = f"checkpoints/checkpoint-{asked.step}/"
    inside = {path.removeprefix(place): digest for path, digest in outputs.items() if path.startswith(place)}
    return "checkpoints" in outputs or folder_digest(inside) == asked.digest
