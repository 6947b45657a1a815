"""`/v1/exceptions`: exceptions from the policy and overrides of its rules. Exceptions begin as proposals."""

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import Field
from sqlmodel import Session

from enforcer import wire
from registry import db, etags, exception_changes, exceptions, unneeded
from registry.access import THE_HOUSE, Matter, May, Permit, the_house
from registry.books import Books, TheBooks
from registry.changes import about_tag
from registry.etags import IfNoneMatch, MayMatch
from registry.idempotency import OneChange
from registry.paging import Filter, ListQuery, Page
from registry.tables import KnownException

router = APIRouter(tags=["policy"])


def _override_in_body(request: Request, books: TheBooks, asked: wire.OverrideRequest) -> Matter:
    request.state.attempt.facts["detail"] = {"overrides": asked.rule, "who": asked.who}
    with books.reading() as session:
        tag = about_tag(session, asked.tag).tag
    return Matter(tag, asked.unit, asked.target)


def _exception_in_path(request: Request, books: TheBooks, exception_id: str) -> Matter:
    request.state.attempt.facts["detail"] = {"exception": exception_id[:100]}
    with books.reading() as session:
        known = session.get(KnownException, exception_id)
        return exception_changes.matter(session, known.terms) if known else THE_HOUSE


@router.post(
    "/v1/policies:override", status_code=201, operation_id="overrideRule", response_model=wire.GrantedException
)
def override_rule(
    asked: wire.OverrideRequest,
    permit: Annotated[Permit, Depends(May("override", about=_override_in_body))],
    change: OneChange,
) -> Response:
    """Set a rule that is `overridable` aside for somebody else, at once and for a day at most."""
    with change.writing() as session:
        granted = exceptions.override(session, asked, permit)
        return change.answer(session, exceptions.as_wire(granted, db.utc_now()), tagged=True)


class ExceptionQuery(ListQuery):
    state: Literal["live", "expiring", "ended", "revoked"] | None = None
    unneeded: bool = Field(default=False, description="only live ones that no decision since their grant needed")


@router.get(
    "/v1/exceptions",
    operation_id="listExceptions",
    dependencies=[Depends(May("policy-read", about=the_house))],
    openapi_extra=exceptions.LISTING.published,
)
def list_exceptions(query: Annotated[ExceptionQuery, Query()], books: TheBooks) -> wire.ExceptionPage:
    """Exceptions and overrides by id, those that ended included, and how many there are.

    With `unneeded=true` the decisions that live ones had a part in are made again without them; a page has those of its
    exceptions that are not needed, so it may be shorter than another.
    """
    page = Page(query, Filter(state=query.state), exceptions.LISTING)
    with books.reading() as session:
        found, token = page.rows(session, KnownException)
        items = _unneeded(books, session, found) if query.unneeded else _as_they_are(found)
        counts = wire.ExceptionCounts(**exceptions.counts(session))
        return wire.ExceptionPage(items=items, next_page_token=token, counts=counts)


def _as_they_are(found: list[KnownException]) -> list[wire.GrantedException]:
    now = db.utc_now()
    return [exceptions.as_wire(row, now) for row in found]


def _unneeded(books: Books, session: Session, found: list[KnownException]) -> list[wire.GrantedException]:
    gate, now = books.gate(session), db.utc_now()
    standing = {one.id: one for one in gate.policy.exceptions if one.live(now)}
    uses = [(row, unneeded.use_of(session, gate, standing[row.name])) for row in found if row.name in standing]
    return [exceptions.as_wire(row, now, use) for row, use in uses if not use.changed]


@router.get(
    "/v1/exceptions/{exception_id}",
    operation_id="getException",
    response_model=wire.GrantedException,
    dependencies=[Depends(May("policy-read", about=the_house))],
)
def get_exception(exception_id: str, books: TheBooks, if_none_match: IfNoneMatch = None) -> Response:
    """One exception or override, also one that is over."""
    with books.reading() as session:
        return etags.answer(exceptions.as_wire(exceptions.get(session, exception_id), db.utc_now()), if_none_match)


@router.post(
    "/v1/exceptions/{exception_id}:revoke", operation_id="revokeException", response_model=wire.GrantedException
)
def revoke_exception(
    exception_id: str,
    asked: wire.ExceptionRevocation,
    permit: Annotated[Permit, Depends(May("policy-approve", about=_exception_in_path))],
    books: TheBooks,
    change: OneChange,
    seen: MayMatch,
) -> Response:
    """Take an exception or override back before its end, at once."""
    from_folder = books.settings.policy_source == "folder"
    with change.writing() as session:
        known = exceptions.revoke(session, exception_id, permit, asked.reason, from_folder=from_folder, seen=seen)
        return change.answer(session, exceptions.as_wire(known, db.utc_now()), tagged=True)
