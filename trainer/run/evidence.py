"""The proofs that a run leaves: the manifest it signs, the registry's receipt for it, the log's proofs of both ends.

What was signed is not touched again: the registry's verdict comes into files of its own.
"""

import json
import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from enforcer import chain, manifest, runspec, tickets, wire
from enforcer.manifest import MAX_BYTES, Resource
from enforcer.problems import ManifestInvalid, Problem
from enforcer.tickets import VerifiedTicket
from trainer import environment
from trainer.client import Registry
from trainer.inputs import folders
from trainer.layout import RunFolder, write_private
from trainer.run.permit import Permit

log = logging.getLogger(__name__)

MAX_REPORT_BYTES = 60_000  # the registry takes 64 KiB


def sign(permit: Permit, ticket: VerifiedTicket, report: wire.Report, started: datetime) -> wire.Report:
    """The report with the run's manifest in it, which is also written into the run folder.

    More outputs than there is room for stand there as one folder. A run that was interrupted before it left anything
    has no manifest. One that trained to its end and cannot sign for what it left has failed: nobody could prove whose
    work it is, and the registry takes no such end for `finished`.
    """
    if report.state == "failed" or (report.state == "interrupted" and not report.outputs):
        return report
    try:
        signed = _signed(permit, ticket, report, started)
        if not _fits(signed) and len(report.outputs) > 1:
            signed = _signed(permit, ticket, as_one(report), started)
        if not _fits(signed):
            raise ManifestInvalid("it would not fit into a report")
    except Exception as error:  # whatever it is, the registry has to hear how the run ended
        log.exception("this run has no manifest")
        if report.state == "interrupted":
            return report
        why = f"it trained to its end, and its manifest could not be made: {error}"
        return report.model_copy(update={"state": "failed", "error": why[:2_000]})
    assert signed.manifest is not None
    _write(permit.folder.manifest, signed.manifest.encode("ascii"))
    return signed


def as_one(report: wire.Report) -> wire.Report:
    """The outputs of a report as the one folder that they lie in."""
    (place,) = {name.partition("/")[0] for name in report.outputs}
    inside = {name.partition("/")[2]: digest for name, digest in report.outputs.items()}
    return report.model_copy(update={"outputs": {place: runspec.folder_digest(inside)}})


def keep(registry: Registry, folder: RunFolder, receipt: str | None, token: str | None = None) -> None:
    """Keep the registry's receipt, and the log's proofs as far as they can be had now. `token` is the run's lease."""
    if receipt is None:
        return
    _write(folder.receipt, receipt.encode("ascii"))
    try:
        fetch_proofs(registry, folder, token)
    except (Problem, OSError) as error:  # the log can prove it later just as well
        log.warning("the log's proofs are not here yet: %s", error)


def complete(registry: Registry, folder: RunFolder) -> None:
    """Fetch what a run folder lacks of its proofs, as whoever is signed in.

    Raises:
        Problem: the registry is away, does not know the run, or may not show it.
    """
    if not folder.receipt.exists():
        run_id = str(tickets.unverified_claims(folder.ticket.read_text("ascii").strip()).get("txn"))
        _write(folder.receipt, registry.manifest(run_id).receipt.encode("ascii"))
    fetch_proofs(registry, folder, None)


def fetch_proofs(registry: Registry, folder: RunFolder, token: str | None) -> None:
    """Put a `.tlog-proof` (C2SP) of the ticket's issue and of the manifest into the run folder. Those there stay."""
    claims = tickets.unverified_claims(folder.ticket.read_text("ascii").strip())
    events = {folder.issued_proof: str(claims.get("decision_id"))}
    if folder.receipt.exists() and (event := manifest.unverified_event(folder.receipt.read_bytes())) is not None:
        events[folder.manifest_proof] = event
    for path, event in events.items():
        if not path.exists():
            proof = registry.proof(event, lease_token=token)
            path.parent.mkdir(mode=0o700, exist_ok=True)
            _write(path, proof.encode())


def bundle(folder: RunFolder) -> chain.Bundle:
    """What a run folder brings to be verified.

    Raises:
        ManifestInvalid: it lacks a ticket, a specification or a manifest.
    """
    for path in (folder.ticket, folder.run_spec, folder.manifest):
        if not path.is_file():
            raise ManifestInvalid(f"`{folder.root}` has no `{path.name}`: there is no chain without it")
    proofs = {chain.ISSUED: folder.issued_proof, chain.MANIFEST: folder.manifest_proof}
    try:
        return chain.Bundle(
            ticket=folder.ticket.read_text("ascii").strip(),
            run_spec=folder.run_spec.read_bytes(),
            manifest=folder.manifest.read_bytes(),
            receipt=folder.receipt.read_bytes() if folder.receipt.exists() else None,
            proofs={kind: path.read_text("utf-8") for kind, path in proofs.items() if path.exists()},
            files=lambda: _files(folder),
        )
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestInvalid(f"`{folder.root}` cannot be read: {error}") from error


def _signed(permit: Permit, ticket: VerifiedTicket, report: wire.Report, started: datetime) -> wire.Report:
    assert report.state != "failed", "a failed run leaves nothing to sign for"
    described = manifest.describe(
        ticket,
        key=permit.key,
        environment=environment.look(ticket.spec.gpus),
        builder_version=environment.our_version(),
        state=report.state,
        outputs=report.outputs,
        folders=[name for name in report.outputs if "/" not in name],
        byproducts=_byproducts(permit.folder),
        metrics=report.scores,
        started=started,
        finished=datetime.now(UTC),
    )
    return report.model_copy(update={"manifest": manifest.sign(described, permit.key).decode("ascii")})


def _byproducts(folder: RunFolder) -> list[Resource]:
    found = [
        Resource(name=path.name, digest={"sha256": runspec.hex_of(folders.file_digest(path))})
        for path in (folder.metrics, folder.card)
        if path.is_file()
    ]
    if folder.tensorboard.is_dir():
        digest = folders.folder_digest(folder.tensorboard)
        found.append(Resource(name=folder.tensorboard.name, digest={"dirHash": runspec.hex_of(digest)}))
    return found


def _files(folder: RunFolder) -> Mapping[str, str]:
    found: dict[str, str] = {}
    try:
        for place in (folder.model, folder.checkpoints, folder.tensorboard):
            if place.is_dir():
                inside = folders.file_digests(place)
                found |= {f"{place.name}/{name}": digest for name, digest in inside.items()}
        for path in (folder.metrics, folder.card):
            if path.is_file():
                found[path.name] = folders.file_digest(path)
    except OSError as error:
        raise ManifestInvalid(f"`{folder.root}` cannot be read: {error}", step=7) from error
    return found


def _fits(report: wire.Report) -> bool:
    size = len(json.dumps(report.model_dump(mode="json"), ensure_ascii=False).encode())
    return size <= MAX_REPORT_BYTES and len(report.manifest or "") <= MAX_BYTES


def _write(path: Path, content: bytes) -> None:
    """A full disk costs the file, never the report."""
    try:
        path.unlink(missing_ok=True)
        write_private(path, content)
    except OSError as error:
        log.error("`%s` was not written: %s", path, error)
