"""`/v1/runs`: follow them, cancel them; and what a run itself says."""

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query, Request, Response

from enforcer import wire
from enforcer.gates import Verdict
from registry import etags, manifests, runs, tags
from registry.access import LeaseHolder, Matter, May, Permit
from registry.books import TheBooks
from registry.etags import IfNoneMatch, MayMatch
from registry.idempotency import OneChange
from registry.paging import Filter, ListQuery, Page
from registry.tables import Run

router = APIRouter(prefix="/v1/runs", tags=["runs"])


class RunQuery(ListQuery):
    business_unit: wire.Name | None = None
    task_type: wire.Name | None = None
    actor: wire.Name | None = None
    state: Literal["permitted", "running", "lost", "finished", "failed", "interrupted"] | None = None
    verdict: Verdict | None = None


def _unit_in_query(query: Annotated[RunQuery, Query()]) -> Matter:
    return Matter(unit=query.business_unit)


def _run_in_path(request: Request, books: TheBooks, run_id: str) -> Matter:
    with books.reading() as session:
        run = runs.as_wire(runs.get(session, run_id))
    request.state.attempt.facts.update(run_id=run.id)
    return Matter(tag=run.task_type, unit=run.business_unit, target=run.target)


@router.get("", operation_id="listRuns", openapi_extra=runs.LISTING.published)
def list_runs(
    query: Annotated[RunQuery, Query()],
    reader: Annotated[Permit, Depends(May("run-read", about=_unit_in_query))],
    books: TheBooks,
) -> wire.RunPage:
    """Runs of one business unit, newest first; the caller's own unit unless another is named. `all` is every unit."""
    unit = None if reader.unit == "all" else reader.unit
    asked = query.model_dump(exclude={*ListQuery.model_fields, "business_unit"}, exclude_none=True)
    with books.reading() as session:
        if "task_type" in asked:
            asked["task_type"] = tags.canonical(session, asked["task_type"])
        page = Page(query, Filter(**asked, business_unit=unit), runs.LISTING)
        found, token = page.rows(session, Run)
        return wire.RunPage(items=[runs.as_wire(run) for run in found], next_page_token=token)


@router.get("/{run_id}", operation_id="getRun", response_model=wire.Run)
def get_run(
    run_id: str,
    _reader: Annotated[Permit, Depends(May("run-read", about=_run_in_path))],
    books: TheBooks,
    if_none_match: IfNoneMatch = None,
) -> Response:
    """One run with its scores and the judgement of its gates."""
    with books.reading() as session:
        return etags.answer(runs.as_wire(runs.get(session, run_id)), if_none_match)


@router.post("/{run_id}:cancel", operation_id="cancelRun", response_model=wire.Run)
def cancel_run(
    run_id: str,
    canceller: Annotated[Permit, Depends(May("cancel", about=_run_in_path))],
    change: OneChange,
    seen: MayMatch,
) -> Response:
    """Ask a run to save a checkpoint and stop."""
    with change.writing() as session:
        run = runs.cancel(session, run_id, canceller, seen)
        return change.answer(session, runs.as_wire(run), tagged=True)


@router.post("/{run_id}:force", operation_id="forceRun", response_model=wire.Run)
def force_run(
    run_id: str,
    use: wire.ForcedUse,
    user: Annotated[Permit, Depends(May("run-read", about=_run_in_path))],
    change: OneChange,
) -> Response:
    """Put on record that somebody uses a model that was not accepted, and why. Nothing about the run changes."""
    with change.writing() as session:
        run = runs.note_force(session, run_id, use, user)
        return change.answer(session, runs.as_wire(run), tagged=True)


@router.post("/{run_id}/heartbeats", operation_id="sendHeartbeat")
def send_heartbeat(beat: wire.Heartbeat, lease: LeaseHolder, books: TheBooks) -> wire.HeartbeatAnswer:
    """A running run renews its lease and learns whether to go on."""
    with books.writing() as session:
        return runs.heartbeat(session, lease.run_id, beat, books)


@router.post("/{run_id}/report", operation_id="reportRun")
def report_run(told: wire.Report, lease: LeaseHolder, books: TheBooks) -> wire.ReportedRun:
    """The end of a run: its scores are evidence, the verdict in the answer is the registry's."""
    with books.writing() as session:
        return runs.report(session, lease.run_id, told, books)


@router.get("/{run_id}/manifest", operation_id="getManifest", response_model=wire.RunManifest)
def get_manifest(
    run_id: str,
    _reader: Annotated[Permit, Depends(May("run-read", about=_run_in_path))],
    books: TheBooks,
    if_none_match: IfNoneMatch = None,
) -> Response:
    """What the run signed at its end, and our countersignature, byte for byte."""
    with books.reading() as session:
        return etags.answer(manifests.get(session, run_id), if_none_match)
