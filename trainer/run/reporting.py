"""The end of a run: `metrics.json`, the model card, the report to the registry, and the spool for when it is away.

Scores are the trainer's and stand in `metrics.json`, verdicts the registry's and stand in `verdict.json`. A disk that
takes nothing more costs the files, never the report.
"""

import contextlib
import json
import logging
import math
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from enforcer import gates, runspec, wire
from enforcer.gates import Score
from enforcer.problems import (
    Conflict,
    InternalError,
    ManifestInvalid,
    NotConfigured,
    NotFound,
    Problem,
    Unauthenticated,
    Unavailable,
)
from enforcer.runspec import RunSpec
from enforcer.tickets import unverified_claims
from trainer import card
from trainer.client import Registry
from trainer.inputs import folders
from trainer.job import Outcome
from trainer.layout import RunFolder, write_private
from trainer.run import evidence
from trainer.run.offline import Redeemed
from trainer.settings import Settings, read_secret

log = logging.getLogger(__name__)

PAUSES_S = (0.0, 1.0, 3.0)  # a registry that is being restarted is back in seconds
FOR_EVER = (Conflict, NotFound, Unauthenticated, ManifestInvalid)  # refusals that no waiting mends
MAX_OUTPUTS = 300  # what a report may list (`wire.Report.outputs`)


def describe(outcome: Outcome, folder: RunFolder) -> wire.Report:
    """What the registry is told of a run that trained, to its end or until it was stopped."""
    place = folder.model if outcome.stopped is None else folder.checkpoints
    outputs = folders.file_digests(place) if place.is_dir() else {}
    if len(outputs) > MAX_OUTPUTS:  # one line then, for the folder as a whole
        outputs = {"": runspec.folder_digest(outputs)}
    return wire.Report(
        state="finished" if outcome.stopped is None else "interrupted",
        scores=outcome.scores,
        steps=outcome.steps,
        train_seconds=outcome.train_seconds,
        peak_memory_bytes=outcome.peak_memory_bytes,
        outputs={f"{place.name}/{name}".rstrip("/"): digest for name, digest in outputs.items()},
        error=None if outcome.stopped is None else f"stopped: {outcome.stopped}"[:2_000],
    )


def write_metrics(folder: RunFolder, spec: RunSpec, report: wire.Report, details: dict[str, Any]) -> None:
    with _as_far_as_the_disk_allows(folder.metrics):
        document = {
            "task_type": spec.task_type,
            "version": spec.version,
            "run_id": spec.run_id,
            "run_spec_digest": unverified_claims(folder.ticket.read_text("ascii").strip())["run_spec_digest"],
            **report.model_dump(mode="json", exclude={"outputs", "manifest"}),
            "details": details,
        }
        _write_json(folder.metrics, document)


Held = wire.Lease | Redeemed


def send(registry: Registry, folder: RunFolder, report: wire.Report, held: Held) -> wire.Run | None:
    """Report, and note the registry's verdict; None when the registry cannot take it now and it waits on disk.

    Raises:
        Conflict, NotFound, Unauthenticated: the registry will never take it.
        Problem: it cannot take it, and neither can the disk.
    """
    # Spooled first and cleared after: a crash in between sends twice, which changes nothing, and never not at all.
    pending = _pending(registry.settings, report, held)
    _spool(folder, report, pending)
    away: Problem | None = None
    for pause in PAUSES_S if isinstance(held, wire.Lease) else PAUSES_S[:1]:  # offline, nobody is expected to answer
        time.sleep(pause)
        try:
            return _tell(registry, folder, report, pending)
        except (Unavailable, InternalError) as fault:
            away = fault
    if away is not None and not folder.report_pending.exists():
        raise away
    return None


def send_spooled(folder: RunFolder, settings: Settings) -> wire.Run:
    """Send a report that waits in a run folder, to the registry that it is for. Of an offline run that left no report,
    the record of its redemption is sent.

    Raises:
        NotFound: nothing waits there.
        Problem: the registry is still away, or refuses.
    """
    waits = folder.report_pending.exists()
    if not waits and not folder.redemption.exists():
        raise NotFound(f"no report waits in `{folder.root}`: it was sent, or this is not the folder of a run")
    try:
        pending = json.loads(read_secret(folder.report_pending if waits else folder.redemption))
        settings = at(settings, pending["server"], pending["issuer"])
        report = wire.Report.model_validate_json(folder.report.read_bytes()) if waits else None
    except (OSError, ValueError, KeyError) as error:
        raise NotConfigured(f"the report in `{folder.root}` cannot be read: {error}") from error
    with Registry(settings) as registry:
        return _tell(registry, folder, report, pending)


def at(settings: Settings, server: str, issuer: str) -> Settings:
    """Settings for the registry that a report is for. What signs a person in goes to none but the one that they chose:
    a run folder may name any server."""
    if server != settings.server:
        settings = replace(settings, token=None, session=None)
    return replace(settings, server=server, issuer=issuer)


def _tell(registry: Registry, folder: RunFolder, report: wire.Report | None, pending: dict[str, Any]) -> wire.Run:
    """One try. What was taken, or never will be, waits no longer."""
    try:
        run = _hand_in(registry, folder, report, pending)
    except (KeyError, ValueError) as error:
        raise NotConfigured(f"the report in `{folder.root}` cannot be read: {error}") from error
    except FOR_EVER:
        folder.report_pending.unlink(missing_ok=True)
        raise
    folder.report_pending.unlink(missing_ok=True)
    _note_verdict(folder, run)
    evidence.keep(registry, folder, run.receipt, pending.get("lease_token"))
    return run


def _hand_in(
    registry: Registry, folder: RunFolder, report: wire.Report | None, pending: dict[str, Any]
) -> wire.ReportedRun:
    if "record" not in pending:
        assert report is not None, "a lease is spooled with its report"
        return registry.report(str(pending["run_id"]), str(pending["lease_token"]), report)
    ticket = folder.ticket.read_text("ascii").strip()
    told = wire.Upload(record=pending["record"], report=report, report_proof=pending.get("report_proof"))
    return registry.upload(ticket, str(unverified_claims(ticket)["jti"]), told)


def _note_verdict(folder: RunFolder, run: wire.Run) -> None:
    with _as_far_as_the_disk_allows(folder.verdict):
        judged = [judgement.model_dump(mode="json") for judgement in run.gates]
        _write_json(folder.verdict, {"state": run.state, "verdict": run.verdict, "gates": judged})


def write_card(folder: RunFolder, spec: RunSpec, scores: dict[str, Score]) -> None:
    """The model card, with the gates as we see them."""
    files: dict[str, str] = {}
    for dataset in spec.inputs.datasets:
        role = dataset.role if dataset.role not in files else f"{dataset.role}-{len(files) + 1}"
        files[role] = dataset.digest.removeprefix("sha256:")
    with _as_far_as_the_disk_allows(folder.card):
        card.write_card(
            folder,
            task_type=spec.task_type,
            version=spec.version,
            recipe=spec.profile.recipe,
            base_model=_public_name(spec.inputs.model.name),
            run_id=spec.run_id,
            ticket_id=str(unverified_claims(folder.ticket.read_text("ascii").strip())["jti"]),
            arguments=spec.arguments,
            datasets=files,
            scores=scores,
            judgements=gates.judge_run(spec.profile.gates, spec.arguments, scores),
        )


def _public_name(model: str) -> str:
    """A hub name as it is; of a path only its last part: cards travel, and this machine's folders stay private."""
    return Path(model).name if model.startswith(("/", ".", "~")) or Path(model).is_dir() else model


def _pending(settings: Settings, report: wire.Report, held: Held) -> dict[str, Any]:
    """What it takes to report later: the lease, or, after an offline redemption, two statements by the run's key."""
    place = {"server": settings.server, "issuer": settings.issuer}
    if isinstance(held, Redeemed):
        return {**place, "record": held.record, "report_proof": held.prove(report)}
    return {**place, "run_id": held.run_id, "lease_token": held.lease_token}


def _spool(folder: RunFolder, report: wire.Report, pending: dict[str, Any]) -> None:
    """`report.pending` may hold the lease token, so it is ours alone."""
    with _as_far_as_the_disk_allows(folder.report_pending):
        folder.report_pending.unlink(missing_ok=True)
        _write_json(folder.report, report.model_dump(mode="json"))
        write_private(folder.report_pending, json.dumps(pending).encode())


@contextlib.contextmanager
def _as_far_as_the_disk_allows(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        log.error("`%s` was not written: %s", path, error)


def _write_json(path: Path, document: dict[str, Any]) -> None:
    """Whole or not at all."""
    part = path.with_name(f".{path.name}.part")
    text = json.dumps(_finite(document), ensure_ascii=False, indent=1, default=str, allow_nan=False)
    part.write_text(text + "\n", "utf-8")
    part.replace(path)


def _finite(value: Any) -> Any:
    """JSON (RFC 8259) has no NaN and no infinity: null stands in their place."""
    match value:
        case dict():
            return {name: _finite(item) for name, item in value.items()}
        case list() | tuple():
            return [_finite(item) for item in value]
        case float() if not math.isfinite(value):
            return None
    return value
