"""Execute a permitted run, in the process that will train.

The order is the guarantee: nothing heavy loads and nothing is redeemed before the files on disk are known to be those
that were signed. Numbers continue `enforcer.tickets.verify`.
"""

import contextlib
import logging
import os
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from enforcer import wire
from enforcer.problems import LogInconsistent, Problem, TicketInvalid, TrainingFailed
from enforcer.runspec import RunSpec
from enforcer.tickets import VerifiedTicket
from trainer import preflight, recipes
from trainer.client import Registry
from trainer.inputs import folders, rows
from trainer.job import Job, Outcome, Recipe
from trainer.preflight import Sources
from trainer.run import checkpoints, evidence, handover, reporting
from trainer.run.lease import Heartbeats, Say, Tell, Watch, say_on_stderr, stopped_by_signals
from trainer.run.permit import Permit

log = logging.getLogger(__name__)
Held = Callable[[wire.Lease], None]


@dataclass(frozen=True)
class Done:
    """A run that came to an end of its own. `run` is None while its report waits, and when the registry `refused` it:
    whatever was trained is here all the same."""

    job: Job
    outcome: Outcome
    run: wire.Run | None
    refused: Problem | None = None


def execute(
    permit: Permit,
    *,
    in_memory: Sources | None = None,
    tell: Tell | None = None,
    say: Say = say_on_stderr,
    on_lease: Held | None = None,
) -> Done:
    """Verify, redeem, train, report. `in_memory` are rows that never were files.

    Raises:
        TicketInvalid: the permit, or what it is about to be used for, is not what was signed.
        TicketUsed, TicketExpired: it cannot be redeemed.
        TrainingFailed: the recipe broke; the run is reported failed.
        Problem: the recipe refused the data or the arguments; the run is reported failed.
        KeyboardInterrupt: a second Ctrl-C, or one that came before training; the run is reported interrupted.
    """
    # 1-12. The signed bytes, offline; and 15, proof of their issuance, where it is required.
    ticket = permit.verify()
    spec = ticket.spec
    # 16. The inputs, before the ticket is spent on them. The rows that are hashed here are those that are trained on;
    #     the model's folder is read once more by the recipe, so whoever can write to it now could still swap it.
    sources = _sources(permit, in_memory)
    _check_inputs(permit, spec, sources)
    train_rows, eval_rows = preflight.rows_of(
        sources, spec.profile, spec.inputs.columns, spec.arguments, spec.inputs.eval_fraction
    )
    watch = Watch(spec.limits.max_runtime_s, tell)
    job = Job(spec.task_type, spec.run_id, spec.arguments, permit.model, train_rows, eval_rows, permit.folder, watch)
    with Registry(permit.settings) as registry:
        # 13-14. Possession of the key, and the one redemption. Its id lives here and nowhere else.
        lease = registry.redeem(ticket.token, ticket.claims.jti, permit.key, str(uuid.uuid4()))
        handover.delete(permit)
        try:
            checkpoints.witness(registry, lease.checkpoint)
        except LogInconsistent as refusal:  # said loudly at submission; a run that holds a lease is not lost over it
            say(refusal.detail)
        if on_lease is not None:
            on_lease(lease)
        with stopped_by_signals(watch, say), kept_to_gpus(spec.gpus):
            started = datetime.now(UTC)
            outcome = _train(job, spec, registry, lease, watch)
            return _close(job, permit, ticket, registry, lease, outcome, started)


def _train(job: Job, spec: RunSpec, registry: Registry, lease: wire.Lease, watch: Watch) -> Outcome:
    try:
        with Heartbeats(registry, lease, watch):
            recipe: Recipe = recipes.load(spec.profile.recipe)
            return recipe.train(job)
    except KeyboardInterrupt:
        when = "while its model was evaluated" if watch.trained else "before a checkpoint was saved"
        _close_without_model(job, registry, lease, watch, "interrupted", f"interrupted {when}")
        raise
    except Problem as problem:  # what the recipe found wrong with the data or the arguments keeps its own name
        _close_without_model(job, registry, lease, watch, "failed", problem.detail)
        raise
    except (Exception, SystemExit) as error:
        what = f"`{type(error).__name__}`: {error}"
        log.exception("training stopped")
        _close_without_model(job, registry, lease, watch, "failed", what)
        raise TrainingFailed(f"training stopped with {what}"[:2_000], run_id=job.run_id) from error


def _close(
    job: Job,
    permit: Permit,
    ticket: VerifiedTicket,
    registry: Registry,
    lease: wire.Lease,
    outcome: Outcome,
    started: datetime,
) -> Done:
    report = reporting.describe(outcome, job.folder)
    reporting.write_metrics(job.folder, ticket.spec, report, outcome.details)
    if outcome.stopped is None:
        reporting.write_card(job.folder, ticket.spec, outcome.scores)
    report = evidence.sign(permit, ticket, report, started)
    try:
        return Done(job, outcome, reporting.send(registry, job.folder, report, lease))
    except Problem as refusal:
        return Done(job, outcome, None, refused=refusal)


def _close_without_model(job: Job, registry: Registry, lease: wire.Lease, watch: Watch, state: Any, why: str) -> None:
    report = wire.Report(state=state, steps=watch.step, error=why[:2_000])
    try:
        reporting.send(registry, job.folder, report, lease)
    except Problem as refusal:  # the news is how the run ended, not that the registry knew better
        log.error("the report of this end was refused: `%s`: %s", refusal.code, refusal.detail)


def _sources(permit: Permit, in_memory: Sources | None) -> Sources:
    """Read again: files from disk, and rows in memory through their digest."""

    def side(files: tuple[str, ...], held: Any) -> list[rows.Source]:
        if held is not None and not files:
            return [rows.hold(source.rows, source.name) for source in held]
        return [rows.read(file) for file in files]

    return Sources(
        side(permit.train_files, in_memory and in_memory.train), side(permit.eval_files, in_memory and in_memory.eval)
    )


def _check_inputs(permit: Permit, spec: RunSpec, sources: Sources) -> None:
    found = [(dataset.role, dataset.digest) for dataset in sources.listed()]
    signed = [(dataset.role, dataset.digest) for dataset in spec.inputs.datasets]
    if len(found) != len(signed):
        raise TicketInvalid(
            f"the ticket is refused: it speaks of {len(signed)} datasets, here are {len(found)}", step=16
        )
    for has, was, dataset in zip(found, signed, spec.inputs.datasets, strict=True):
        if has != was:
            raise TicketInvalid(
                f"the ticket is refused: dataset `{dataset.name}` changed since it was issued; ask for a new ticket",
                step=16,
            )
    if folders.folder_digest(permit.model) != spec.inputs.model.digest:
        raise TicketInvalid(
            f"the ticket is refused: model `{spec.inputs.model.name}` changed since it was issued; "
            "ask for a new ticket",
            step=16,
        )


@contextlib.contextmanager
def kept_to_gpus(permitted: int) -> Iterator[None]:
    """Show CUDA only as many devices as the ticket permits. It looks when it is first used, which is after this."""
    before = os.environ.get("CUDA_VISIBLE_DEVICES")
    visible = [str(device) for device in range(permitted)] if before is None else before.split(",")
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join([device for device in visible if device][:permitted])
    try:
        yield
    finally:
        if before is None:
            del os.environ["CUDA_VISIBLE_DEVICES"]
        else:
            os.environ["CUDA_VISIBLE_DEVICES"] = before
