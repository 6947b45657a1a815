"""Run manifests: checked against what the books say of the run, kept byte for byte, and countersigned.

A report proves only that somebody held the lease. A manifest is signed by the run's own key, so it says who reports;
the countersignature says that we saw it, when, and how we judged.
"""

from typing import NoReturn

from sqlmodel import Session, select

from enforcer import manifest, wire
from enforcer.chain import ISSUED, MANIFEST
from enforcer.problems import ManifestInvalid, UnknownManifest
from enforcer.runspec import RunSpec, digest
from registry import audit, db
from registry.books import Books
from registry.identity import Actor
from registry.tables import Event, Run, RunManifest


def take(session: Session, run: Run, spec: RunSpec, told: wire.Report, books: Books, *, jkt: str) -> None:
    """Check and keep the manifest of a report that has just been judged.

    Raises:
        ManifestInvalid: signed by another key than the ticket's, of another run, or at odds with the report.
    """
    assert told.manifest is not None, "the caller looked"
    envelope = told.manifest.encode("ascii")
    issued = session.exec(select(Event).where(Event.run_id == run.id, Event.kind == ISSUED)).one()
    assert issued.digest is not None, "a ticket is issued with the event that bears its digest"
    assert issued.policy_revision is not None, "it was the policy that allowed it"
    found = manifest.open_manifest(envelope, jkt)
    found.check_agreement(spec, jti=run.jti, run_spec_digest=run.run_spec_digest, token_digest=issued.digest)
    pairs = (
        ("state", told.state, found.details.state),
        ("outputs", told.outputs, found.outputs),
        ("scores", told.scores, found.details.metrics),
    )
    for what, reported, signed in pairs:
        if reported != signed:
            _refuse(f"its {what} are not those of the report: `{str(signed)[:200]}`, not `{str(reported)[:200]}`")
    event = audit.record(
        session,
        MANIFEST,
        Actor(run.actor, (), run.business_unit),
        task_type=run.task_type,
        version=run.version,
        run_id=run.id,
        ticket_id=run.jti,
        rule=run.policy_rule,
        digest=digest(envelope),
        detail={"outputs": len(found.subject), "builder": found.details.builder.id},
    )
    receipt = manifest.countersign(
        envelope,
        found,
        issuer=books.settings.issuer,
        policy_digest=issued.policy_revision,
        verdict=run.verdict,
        event_id=event.id,
        at=db.utc_now(),
        key=books.attestation_key,
    )
    row = RunManifest(
        run_id=run.id,
        digest=digest(envelope),
        manifest=told.manifest,
        receipt=receipt.decode("ascii"),
        event_id=event.id,
    )
    session.add(row)


def get(session: Session, run_id: str) -> wire.RunManifest:
    """Raises `UnknownManifest`: the run has not ended, or it left nothing to sign for."""
    row = session.get(RunManifest, run_id)
    if row is None:
        raise UnknownManifest(f"run `{run_id[:100]}` has no manifest: it has not ended, or it left no outputs")
    issued = session.exec(select(Event.id).where(Event.run_id == run_id, Event.kind == ISSUED)).one()
    events = {ISSUED: issued, MANIFEST: row.event_id}
    return wire.RunManifest.model_validate({**row.model_dump(), "events": events})


def receipt_of(session: Session, run_id: str) -> str | None:
    row = session.get(RunManifest, run_id)
    return None if row is None else row.receipt


def _refuse(why: str) -> NoReturn:
    raise ManifestInvalid(f"the manifest is refused: {why}")
