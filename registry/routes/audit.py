"""`/v1/audit`: who did what, for whom, under which rule. The proof of it is in `routes/log.py`."""

import json
from datetime import UTC, datetime
from itertools import chain
from typing import Annotated, ClassVar, Literal

from fastapi import APIRouter, Depends, Query, Response
from fastapi.responses import StreamingResponse
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field
from sqlmodel import Session

from enforcer import wire
from enforcer.exports import Format
from registry import audit, erasure, exports, tags
from registry.access import Matter, May, Permit
from registry.books import Books, TheBooks
from registry.idempotency import ToldOnce
from registry.paging import Filter, Page, PageQuery
from registry.tables import Event

router = APIRouter(tags=["audit"])
# Bounds that every database can compare after moving the time to UTC.
Moment = Annotated[AwareDatetime, Field(ge=datetime(1970, 1, 1, tzinfo=UTC), le=datetime(9000, 1, 1, tzinfo=UTC))]


class EventQuery(BaseModel):
    """Exact matches. An unknown parameter is refused: a misspelt filter must not widen the answer."""

    model_config = ConfigDict(extra="forbid")

    business_unit: wire.Name | None = None
    task_type: wire.Name | None = None
    actor: wire.Name | None = None
    kind: wire.Name | None = None
    outcome: Literal["done", "refused"] | None = None
    run_id: wire.Name | None = None
    ticket_id: wire.Name | None = None
    since: Moment | None = None
    until: Moment | None = None


class EventPageQuery(EventQuery, PageQuery):
    most: ClassVar[int] = 1_000

    page_size: int = Field(default=100, ge=1)


class ExportQuery(EventQuery):
    format: Format


def _unit_on_page(query: Annotated[EventPageQuery, Query()]) -> Matter:
    return Matter(unit=query.business_unit)


def _unit_in_export(query: Annotated[ExportQuery, Query()]) -> Matter:
    return Matter(unit=query.business_unit)


def _unit_of_erasure(asked: wire.ErasureRequest) -> Matter:
    return Matter(unit=asked.business_unit)


@router.get("/v1/audit", operation_id="listEvents", response_model=wire.EventPage)
def list_events(
    query: Annotated[EventPageQuery, Query()],
    auditor: Annotated[Permit, Depends(May("audit-read", about=_unit_on_page))],
    books: TheBooks,
) -> Response:
    """Events of one business unit, newest first; the auditor's own unless another is named. Reading is an event too."""
    wanted = filter_of(books, query, auditor.unit)
    page = Page(query, wanted, audit.LISTING)
    with books.reading() as session:
        found, token = page.documents(audit.document_in(books.engine.dialect.name), session, Event)
    with books.writing() as session:
        _record_reading(session, auditor, wanted, len(found))
    body = f'{{"items":[{",".join(found)}],"next_page_token":{json.dumps(token)}}}'
    return Response(body, media_type="application/json")


@router.get("/v1/audit:export", operation_id="exportEvents", response_class=StreamingResponse)
def export_events(
    query: Annotated[ExportQuery, Query()],
    auditor: Annotated[Permit, Depends(May("audit-read", about=_unit_in_export, budget="exports"))],
    books: TheBooks,
) -> StreamingResponse:
    """All matching events, oldest first, with a signed manifest as the last record. `ndjson` carries a checkpoint and
    the proofs of all events under it. An export without its last record broke off."""
    form, wanted = exports.FORMS[query.format], filter_of(books, query, auditor.unit)
    body = exports.stream(books, query.format, wanted, auditor.actor, auditor.unit, auditor.provenance)
    headers = {"Content-Disposition": f'attachment; filename="{form.file_name}"'}
    return StreamingResponse(chain([next(body)], body), media_type=form.media_type, headers=headers)


@router.post("/v1/audit:erase", operation_id="erasePerson", dependencies=[ToldOnce])
def erase_person(
    asked: wire.ErasureRequest,
    officer: Annotated[Permit, Depends(May("audit-erase", about=_unit_of_erasure))],
    books: TheBooks,
) -> wire.ErasureReceipt:
    """Erase a person from one business unit's record, the officer's own unless another is named; `all` is all of them.
    The log's proofs stay valid. A legal hold refuses it."""
    return erasure.erase(books.engine, asked, officer.actor, officer.unit, officer.provenance)


def filter_of(books: Books, query: EventQuery, unit: str) -> Filter:
    """The unit is the one the policy was asked about, in SQL: nothing of another unit is ever read."""
    asked = query.model_dump(exclude={"page_size", "page_token", "format", "business_unit"}, exclude_none=True)
    if "task_type" in asked:
        with books.reading() as session:
            asked["task_type"] = tags.canonical(session, asked["task_type"])
    return Filter(**asked, business_unit=None if unit == "all" else unit)


def _record_reading(session: Session, auditor: Permit, wanted: Filter, count: int) -> None:
    asked = {name: str(value) for name, value in wanted.wanted.items()}
    audit.record(
        session,
        "audit.read",
        auditor.actor,
        business_unit=auditor.unit,
        detail={"filter": asked, "events": count},
        **auditor.provenance,
    )
