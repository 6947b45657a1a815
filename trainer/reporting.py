"""The end of a run: `metrics.json`, the model card, the report to the registry, and the spool for when it is away.

Scores are the trainer's, verdicts the registry's. Until the registry has judged, `metrics.json` says `"gates": null`.
"""

import json
import time
from pathlib import Path
from typing import Any

from enforcer import gates, wire
from enforcer.gates import Judgement, Score
from enforcer.problems import NotConfigured, NotFound, Problem, Unavailable
from enforcer.runspec import RunSpec
from enforcer.tickets import unverified_claims
from trainer import card, inputs
from trainer.client import Registry
from trainer.job import Outcome
from trainer.layout import RunFolder, write_private
from trainer.settings import Settings, read_secret

PAUSES_S = (0.0, 1.0, 3.0)  # a registry that is being restarted is back in seconds
MAX_OUTPUTS = 300  # what a report may list (`wire.Report.outputs`)


def describe(outcome: Outcome, folder: RunFolder) -> wire.Report:
    """What the registry is told of a run that trained, to its end or until it was stopped."""
    place = folder.model if outcome.stopped is None else folder.checkpoints
    outputs = inputs.file_digests(place) if place.is_dir() else {}
    if len(outputs) > MAX_OUTPUTS:  # one line then, for the folder as a whole
        outputs = {"": inputs.folder_digest(place)}
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
    document = {
        "task_type": spec.task_type,
        "version": spec.version,
        "run_id": spec.run_id,
        "run_spec_digest": unverified_claims(folder.ticket.read_text("ascii").strip())["run_spec_digest"],
        **report.model_dump(mode="json", exclude={"outputs"}),
        "gates": None,
        "verdict": None,
        "details": details,
    }
    _write_json(folder.metrics, document)


def send(registry: Registry, folder: RunFolder, report: wire.Report, lease: wire.Lease) -> wire.Run | None:
    """Report, and note the registry's verdict; None when it is away and the report waits on disk.

    Raises:
        Problem: the registry is there and refuses.
    """
    _write_json(folder.report, report.model_dump(mode="json"))
    # Spooled first and cleared after: a crash in between sends twice, which changes nothing, and never not at all.
    _spool(folder, registry.settings, lease)
    for pause in PAUSES_S:
        time.sleep(pause)
        try:
            run = registry.report(lease.run_id, lease.lease_token, report)
        except Unavailable:
            continue
        except Problem:
            folder.report_pending.unlink()
            raise
        folder.report_pending.unlink()
        note_verdict(folder, run)
        return run
    return None


def send_spooled(folder: RunFolder, timeout_s: float) -> wire.Run:
    """Send a report that waits in a run folder.

    Raises:
        NotFound: nothing waits there.
        Problem: the registry is still away, or refuses.
    """
    if not folder.report_pending.exists():
        raise NotFound(f"no report waits in `{folder.root}`: it was sent, or this is not the folder of a run")
    try:
        pending = json.loads(read_secret(folder.report_pending))
        settings = Settings(server=pending["server"], issuer=pending["issuer"], timeout_s=timeout_s)
        run_id, lease_token = str(pending["run_id"]), str(pending["lease_token"])
        report = wire.Report.model_validate_json(folder.report.read_bytes())
    except (OSError, ValueError, KeyError) as error:
        raise NotConfigured(f"the report in `{folder.root}` cannot be read: {error}") from error
    with Registry(settings) as registry:
        run = registry.report(run_id, lease_token, report)
    folder.report_pending.unlink()
    note_verdict(folder, run)
    return run


def note_verdict(folder: RunFolder, run: wire.Run) -> None:
    """Write what the registry judged beside the scores, and into the card."""
    if folder.metrics.exists():
        metrics = json.loads(folder.metrics.read_bytes())
        metrics["gates"] = [judgement.model_dump(mode="json") for judgement in run.gates]
        metrics["verdict"] = run.verdict
        _write_json(folder.metrics, metrics)
    if folder.card.exists():
        spec = RunSpec.model_validate_json(folder.run_spec.read_bytes())
        write_card(folder, spec, run.scores, run.gates)


def write_card(
    folder: RunFolder, spec: RunSpec, scores: dict[str, Score], judged: list[Judgement] | None = None
) -> None:
    """The model card; before the registry has answered, with the gates as we see them."""
    files: dict[str, str] = {}
    for dataset in spec.inputs.datasets:
        role = dataset.role if dataset.role not in files else f"{dataset.role}-{len(files) + 1}"
        files[role] = dataset.digest.removeprefix("sha256:")
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
        judgements=judged or [gates.judge(gate, scores.get(gate.metric)) for gate in spec.profile.gates],
    )


def _public_name(model: str) -> str:
    """A hub name as it is; of a path only its last part: cards travel, and this machine's folders stay private."""
    return Path(model).name if model.startswith(("/", ".", "~")) or Path(model).is_dir() else model


def _spool(folder: RunFolder, settings: Settings, lease: wire.Lease) -> None:
    """`report.pending` holds the lease token, so it is ours alone."""
    pending = {
        "server": settings.server,
        "issuer": settings.issuer,
        "run_id": lease.run_id,
        "lease_token": lease.lease_token,
    }
    folder.report_pending.unlink(missing_ok=True)
    write_private(folder.report_pending, json.dumps(pending).encode())


def _write_json(path: Path, document: dict[str, Any]) -> None:
    """Whole or not at all."""
    part = path.with_name(f".{path.name}.part")
    part.write_text(json.dumps(document, ensure_ascii=False, indent=1, default=str) + "\n", "utf-8")
    part.replace(path)
