"""`/v1/audit`: who did what, for whom, under which rule. The proof of it is in `routes/log.py`."""

from datetime import UTC, datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query
from fastapi.responses import StreamingResponse
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field
from sqlmodel import Session

from enforcer import wire
from registry import audit, log, tags
from registry.access import Matter, May, Permit
from registry.books import Books, TheBooks
from registry.paging import Filter, Page
from registry.tables import Event

router = APIRouter(tags=["audit"])
# Bounds that every database can compare after moving the time to UTC.
Moment = Annotated[AwareDatetime, Field(ge=datetime(1970, 1, 1, tzinfo=UTC), le=datetime(9000, 1, 1, tzinfo=UTC))]
MEDIA_TYPES = {"csv": "text/csv; charset=utf-8", "ndjson": "application/x-ndjson"}


class EventQuery(BaseModel):
    """Exact matches. An unknown parameter is refused: a misspelt filter must not widen the answer."""

    model_config = ConfigDict(extra="forbid")

    business_unit: wire.Name | None = None
    task_type: wire.Name | None = None
    actor: wire.Name | None = None
    kind: wire.Name | None = None
    outcome: Literal["done", "refused"] | None = None
    run_id: wire.Name | None = None
    since: Moment | None = None
    until: Moment | None = None


class EventPageQuery(EventQuery):
    page_size: int = Field(default=100, ge=1, le=1_000)
    page_token: str | None = Field(default=None, max_length=300)


class ExportQuery(EventQuery):
    format: Literal["csv", "ndjson"]


def _unit_on_page(query: Annotated[EventPageQuery, Query()]) -> Matter:
    return Matter(unit=query.business_unit)


def _unit_in_export(query: Annotated[ExportQuery, Query()]) -> Matter:
    return Matter(unit=query.business_unit)


@router.get("/v1/audit", operation_id="listEvents")
def list_events(
    query: Annotated[EventPageQuery, Query()],
    auditor: Annotated[Permit, Depends(May("audit-read", about=_unit_on_page))],
    books: TheBooks,
) -> wire.EventPage:
    """Events of one business unit, newest first; the auditor's own unless another is named. Reading is an event too."""
    wanted = _filter(books, query, auditor)
    page = Page(query.page_size, query.page_token, wanted)
    with books.writing() as session:
        found, token = page.newest_first(session, Event)
        _record_reading(session, "audit.read", auditor, wanted, len(found))
        return wire.EventPage(items=[wire.Event.model_validate(event) for event in found], next_page_token=token)


@router.get("/v1/audit:export", operation_id="exportEvents", response_class=StreamingResponse)
def export_events(
    query: Annotated[ExportQuery, Query()],
    auditor: Annotated[Permit, Depends(May("audit-read", about=_unit_in_export, budget="exports"))],
    books: TheBooks,
) -> StreamingResponse:
    """All matching events, oldest first. `ndjson` carries a signed checkpoint and a proof for each event."""
    wanted = _filter(books, query, auditor)
    log.integrate(books)
    with books.reading() as session:
        if query.format == "ndjson":
            lines = list(audit.export_ndjson(session, wanted, books))
        else:
            lines = list(audit.export_csv(session, wanted))
    with books.writing() as session:
        _record_reading(session, "audit.exported", auditor, wanted, len(lines) - 1)
    headers = {"Content-Disposition": f'attachment; filename="audit.{query.format}"'}
    return StreamingResponse(iter(lines), media_type=MEDIA_TYPES[query.format], headers=headers)


def _filter(books: Books, query: EventQuery, auditor: Permit) -> Filter:
    """The unit is the one the policy was asked about, in SQL: nothing of another unit is ever read."""
    asked = query.model_dump(exclude={"page_size", "page_token", "format", "business_unit"}, exclude_none=True)
    if "task_type" in asked:
        with books.reading() as session:
            asked["task_type"] = tags.canonical(session, asked["task_type"])
    return Filter(**asked, business_unit=None if auditor.unit == "all" else auditor.unit)


def _record_reading(session: Session, kind: str, auditor: Permit, wanted: Filter, count: int) -> None:
    asked = {name: str(value) for name, value in wanted.wanted.items()}
    audit.record(
        session,
        kind,
        auditor.actor,
        business_unit=auditor.unit,
        detail={"filter": asked, "events": count},
        **auditor.provenance,
    )
