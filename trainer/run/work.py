"""Execute a permitted run, in the process that will train.

The order is the guarantee: nothing heavy loads and nothing is redeemed before the files on disk are known to be those
that were signed. Numbers continue `enforcer.tickets.verify`:

13  this process holds the key that the ticket names
15  the log proves that the ticket was issued, where that is required (`Permit.verify`)
16  the inputs are those that were signed; before 14, so that no ticket is spent on data that changed
14  the one redemption: by the registry, or offline by the replay cache of this place

Any step that fails ends the run with exit code 8 and, where a registry can be reached, one event. Nothing is a warning.
"""

import contextlib
import importlib
import logging
import os
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from enforcer import wire
from enforcer.problems import LogInconsistent, Problem, TicketInvalid, TicketUsed, TrainingFailed
from enforcer.runspec import RunSpec
from enforcer.tickets import VerifiedTicket, unverified_claims
from trainer import backends, preflight
from trainer.client import Registry
from trainer.inputs import folders, rows
from trainer.inputs.cleaning import Cleaned
from trainer.job import Job, Outcome
from trainer.preflight import Sources
from trainer.run import checkpoints, evidence, handover, offline, ranks, reporting
from trainer.run.lease import Heartbeats, Say, Tell, Watch, say_on_stderr, stopped_by_signals
from trainer.run.permit import Permit
from trainer.run.reporting import FOR_EVER, Held
from trainer.run.resources import Resources

log = logging.getLogger(__name__)
HearLease = Callable[[wire.Lease], None]
_KINDS = {"train": "dataset", "eval": "dataset", "file": "file"}
TELL_WITHIN_S = 5.0  # a refusal does not wait long to be heard


@dataclass(frozen=True)
class Done:
    """A run that came to an end of its own. `run` is None while its report waits, and when the registry `refused` it.
    It is refused here where it could not sign for what it left. Whatever was trained is here all the same."""

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
    on_lease: HearLease | None = None,
) -> Done:
    """Verify, redeem, train, report. `in_memory` are rows that never were files.

    Raises:
        TicketInvalid: the permit, or what it is about to be used for, is not what was signed.
        TicketUsed, TicketExpired, TicketRevoked: it cannot be redeemed.
        TrainingFailed: the recipe broke; the run is reported failed.
        Problem: the recipe refused the data or the arguments; the run is reported failed.
        KeyboardInterrupt: a second Ctrl-C, or one that came before training; the run is reported interrupted.
    """
    with _refusals_told(permit):
        # 1-12. The signed bytes, offline; and 15, proof of their issuance, where it is required.
        ticket = permit.verify()
        spec = ticket.spec
        # 13. Possession of the key. Online, the registry asks for a fresh proof as well.
        _check_possession(permit, ticket)
        # 16. The inputs, before the ticket is spent on them. The rows that are hashed here are those that are trained
        #     on; the model's folder is read once more by the recipe, so who can write to it now could still swap it.
        held_rows = sources(permit, in_memory)
        check_inputs(permit, spec, held_rows)
    inputs = spec.inputs
    rows = preflight.rows_of(
        held_rows, spec.profile, inputs.columns, spec.arguments, inputs.eval_fraction, inputs.allow_row_loss
    )
    watch = Watch(spec.limits.max_runtime_s, tell, rows=len(rows.train))
    job = job_of(permit, spec, rows, watch)
    ranks.refuse_alone(spec.arguments.get("nproc", 1))
    backends.refuse(spec.task_type, spec.profile, spec.arguments, permit.model, permit.checkpoint)
    # Whoever judges the answers must be there before the ticket is spent on hours of training.
    judge = _judge(spec, permit)
    with Registry(permit.settings) as registry:
        # 14. The one redemption.
        held = _redeem(permit, ticket, registry)
        handover.delete(permit)
        ranks.share(permit)
        if isinstance(held, wire.Lease):
            try:
                checkpoints.witness(registry, held.checkpoint)
            except LogInconsistent as refusal:  # said loudly at submission; no run is lost over it
                say(refusal.detail)
            if on_lease is not None:
                on_lease(held)
        with stopped_by_signals(watch, say), kept_to_gpus(spec.gpus):
            started = datetime.now(UTC)
            outcome = _train(job, spec, registry, held, watch, judge)
            outcome = replace(outcome, details={**outcome.details, "data": rows.counts()})
            return _close(job, permit, ticket, registry, held, outcome, started)


def job_of(permit: Permit, spec: RunSpec, rows: Cleaned, watch: Watch) -> Job:
    return Job(
        spec.task_type, spec.run_id, spec.arguments, permit.model, rows.train, rows.eval, permit.folder, watch,
        spec.profile.loss_mask, permit.checkpoint, permit.save_steps, permit.teacher,
    )  # fmt: skip


def _check_possession(permit: Permit, ticket: VerifiedTicket) -> None:
    if permit.key.thumbprint != ticket.claims.cnf.jkt:
        raise TicketInvalid("the ticket is refused: the key at hand is not the one that it names", step=13)


def _redeem(permit: Permit, ticket: VerifiedTicket, registry: Registry) -> Held:
    """Online, the redemption's id lives in this process and nowhere else; a refusal is on record where it was made."""
    if ticket.claims.redeem == "online":
        return registry.redeem(ticket.token, ticket.claims.jti, permit.key, str(uuid.uuid4()))
    with _refusals_told(permit):
        redeemed = offline.redeem(ticket, permit.key, permit.folder, permit.settings)
    _announce(permit, ticket, redeemed)
    return redeemed


def _announce(permit: Permit, ticket: VerifiedTicket, redeemed: offline.Redeemed) -> None:
    """Offline means that nobody has to answer. A registry that does answer hears of the redemption at once, and what it
    refuses (a second use, a revoked ticket) does not start."""
    settings = replace(permit.settings, timeout_s=min(TELL_WITHIN_S, permit.settings.timeout_s))
    try:
        with Registry(settings) as registry:
            registry.upload(ticket.token, redeemed.jti, wire.Upload(record=redeemed.record))
    except FOR_EVER:
        raise
    except Problem as away:
        log.info("the redemption is told later: %s", away.detail)


@contextlib.contextmanager
def _refusals_told(permit: Permit) -> Iterator[None]:
    """What is refused here goes on record at the registry, if it answers and knows the ticket."""
    try:
        yield
    except (TicketInvalid, TicketUsed) as refusal:
        if "step" not in refusal.facts:  # there is no ticket to speak of
            raise
        settings = replace(permit.settings, timeout_s=min(TELL_WITHIN_S, permit.settings.timeout_s))
        with contextlib.suppress(Problem, OSError, UnicodeDecodeError), Registry(settings) as registry:
            token = permit.folder.ticket.read_text("ascii").strip()
            jti = str(unverified_claims(token).get("jti"))
            registry.refuse(token, jti, permit.key, int(refusal.facts["step"]), refusal.detail)
        raise


def _judge(spec: RunSpec, permit: Permit) -> Any:
    if not spec.arguments.get("judge_model"):
        return None
    judging = importlib.import_module("trainer.judging.session")  # by name: numpy stands behind it
    return judging.judge_of_run(spec.arguments, allow_http=permit.settings.allow_http)


def _judged(job: Job, outcome: Outcome, judge: Any) -> Outcome:
    if judge is None or outcome.stopped is not None:
        return outcome
    scores, summary = importlib.import_module("trainer.judging.session").in_run(job, judge)
    return replace(outcome, scores={**outcome.scores, **scores}, details={**outcome.details, "judged": summary})


def _train(job: Job, spec: RunSpec, registry: Registry, held: Held, watch: Watch, judge: Any) -> Outcome:
    beating: contextlib.AbstractContextManager[Any] = contextlib.nullcontext()
    if isinstance(held, wire.Lease):
        beating = Heartbeats(registry, held, watch, measure=Resources(job.folder.root).now)
    try:
        with beating:
            recipe = backends.load(spec.task_type, spec.profile, spec.arguments)
            return _judged(job, recipe.train(job), judge)
    except KeyboardInterrupt:
        when = "while its model was evaluated" if watch.trained else "before a checkpoint was saved"
        _close_without_model(job, registry, held, watch, "interrupted", f"interrupted {when}")
        raise
    except Problem as problem:  # what the recipe found wrong with the data or the arguments keeps its own name
        _close_without_model(job, registry, held, watch, "failed", problem.detail)
        raise
    except (Exception, SystemExit) as error:
        what = f"`{type(error).__name__}`: {error}"
        log.exception("training stopped")
        _close_without_model(job, registry, held, watch, "failed", what)
        raise TrainingFailed(f"training stopped with {what}"[:2_000], run_id=job.run_id) from error


def _close(
    job: Job,
    permit: Permit,
    ticket: VerifiedTicket,
    registry: Registry,
    held: Held,
    outcome: Outcome,
    started: datetime,
) -> Done:
    report = reporting.describe(outcome, job.folder)
    reporting.write_metrics(job.folder, ticket.spec, report, outcome.details)
    if outcome.stopped is None:
        reporting.write_card(job.folder, ticket.spec, outcome.scores, permit.model)
    report = evidence.sign(permit, ticket, report, started)
    unsigned = TrainingFailed(report.error or "", run_id=job.run_id) if report.state == "failed" else None
    try:
        return Done(job, outcome, reporting.send(registry, job.folder, report, held), refused=unsigned)
    except Problem as refusal:
        return Done(job, outcome, None, refused=refusal)


def _close_without_model(job: Job, registry: Registry, held: Held, watch: Watch, state: Any, why: str) -> None:
    report = wire.Report(state=state, steps=watch.step, error=why[:2_000])
    try:
        reporting.send(registry, job.folder, report, held)
    except Problem as refusal:  # the news is how the run ended, not that the registry knew better
        log.error("the report of this end was refused: `%s`: %s", refusal.code, refusal.detail)


def sources(permit: Permit, in_memory: Sources | None = None) -> Sources:
    """Read again: files from disk, and rows in memory through their digest."""

    def side(files: tuple[str, ...], held: Any) -> list[rows.Source]:
        if held is not None and not files:
            return [rows.hold(source.rows, source.name) for source in held]
        return [rows.read(file) for file in files]

    return Sources(
        side(permit.train_files, in_memory and in_memory.train), side(permit.eval_files, in_memory and in_memory.eval)
    )


def _check_datasets(spec: RunSpec, sources: Sources) -> None:
    """Raise `TicketInvalid` unless these are the rows, and the files that they point to, that were signed."""
    here = [*sources.listed(), *sources.files(spec.profile, spec.inputs.columns)]
    found = [(dataset.role, dataset.digest) for dataset in here]
    signed = [(dataset.role, dataset.digest) for dataset in spec.inputs.datasets]
    if len(found) != len(signed):
        raise TicketInvalid(
            f"the ticket is refused: it speaks of {len(signed)} datasets, here are {len(found)}", step=16
        )
    for has, was, dataset in zip(found, signed, spec.inputs.datasets, strict=True):
        if has != was:
            raise TicketInvalid(
                f"the ticket is refused: {_KINDS[dataset.role]} `{dataset.name}` changed since it was issued; "
                "ask for a new ticket",
                step=16,
            )


def check_inputs(permit: Permit, spec: RunSpec, sources: Sources) -> None:
    """Raise `TicketInvalid` unless rows, model, teacher and checkpoint are those that were signed."""
    _check_datasets(spec, sources)
    given, bound = (permit.model, permit.teacher, permit.checkpoint), spec.inputs
    for what, folder, of in zip(
        (f"model `{bound.model.name}`", f"teacher `{bound.teacher and bound.teacher.name}`", "the checkpoint"),
        given,
        (bound.model, bound.teacher, bound.continues),
        strict=True,
    ):
        if (folder and folders.folder_digest(folder)) != (of and of.digest):
            raise TicketInvalid(
                f"the ticket is refused: {what} changed since it was issued; ask for a new ticket", step=16
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
