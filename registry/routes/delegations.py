"""`/v1/delegations`: who reviews in whose name, and until when."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import Field

from enforcer import wire
from registry import delegations
from registry.access import THE_HOUSE, Matter, May, Permit, SignedIn
from registry.books import TheBooks
from registry.changes import about_tag
from registry.filters import Listing
from registry.idempotency import OneChange
from registry.paging import Filter, Page, PageQuery
from registry.tables import Delegation

router = APIRouter(prefix="/v1/delegations", tags=["proposals"])
NEWEST_FIRST = Listing(key=Delegation.id, descending=True)


def _delegation_in_body(request: Request, books: TheBooks, asked: wire.DelegationRequest) -> Matter:
    request.state.attempt.facts["detail"] = {"to": asked.to, "actions": asked.scope.actions}
    with books.reading() as session:
        return Matter(tag=about_tag(session, asked.scope.tag).tag, unit=asked.scope.unit)


def _delegation_in_path(request: Request, books: TheBooks, delegation_id: str) -> Matter:
    """One's own, whatever the rules say; or anybody's, by those who can shut them out."""
    request.state.attempt.facts["detail"] = {"delegation": delegation_id[:100]}
    with books.reading() as session:
        row = delegations.get(session, delegation_id)
    return Matter(unit=THE_HOUSE.unit, owner=row.delegator)


@router.post("", status_code=201, operation_id="makeDelegation", response_model=wire.Delegation)
def make_delegation(
    asked: wire.DelegationRequest,
    delegator: Annotated[Permit, Depends(May("delegate", about=_delegation_in_body))],
    books: TheBooks,
    change: OneChange,
) -> Response:
    """Let somebody review proposals in one's name until an end. It counts as one's own review, for one's own unit and
    groups, and only once."""
    with change.writing() as session:
        made = delegations.make(session, asked, delegator, books.gate(session))
        return change.answer(session, delegations.as_wire(made))


class DelegationQuery(PageQuery):
    delegator: str | None = Field(default=None, max_length=200)
    to: str | None = Field(default=None, max_length=200)


@router.get("", operation_id="listDelegations")
def list_delegations(
    query: Annotated[DelegationQuery, Query()], _caller: SignedIn, books: TheBooks
) -> wire.DelegationPage:
    """Delegations, newest first, those that ended included."""
    page = Page(query, Filter(delegator=query.delegator, delegate=query.to), NEWEST_FIRST)
    with books.reading() as session:
        found, token = page.rows(session, Delegation)
        return wire.DelegationPage(items=[delegations.as_wire(row) for row in found], next_page_token=token)


@router.post("/{delegation_id}:revoke", operation_id="revokeDelegation", response_model=wire.Delegation)
def revoke_delegation(
    delegation_id: str,
    asked: wire.DelegationEnd,
    permit: Annotated[Permit, Depends(May("deactivate", about=_delegation_in_path))],
    change: OneChange,
) -> Response:
    """End a delegation at once: one's own, or anybody's for whoever can shut them out. What was approved by it and has
    not taken effect counts no longer."""
    with change.writing() as session:
        return change.answer(
            session, delegations.as_wire(delegations.revoke(session, delegation_id, permit, asked.reason))
        )
