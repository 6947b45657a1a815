"""`/v1/tickets`: ask for a permit, redeem it once."""

from typing import Annotated

from fastapi import APIRouter, Depends, Header, Request, Response

from enforcer import wire
from enforcer.problems import UnknownTaskType
from registry import db, tags, tickets
from registry.access import Matter, May, Permit, SignedIn, TicketHolder
from registry.db import DbSession, ReadSession

router = APIRouter(prefix="/v1/tickets", tags=["tickets"])


def _run_in_body(request: Request, asked: wire.TicketRequest) -> Matter:
    facts = request.state.attempt.facts
    if asked.business_unit:
        facts["business_unit"] = asked.business_unit
    with db.reading(request.app.state.books.engine) as session:
        try:
            tag = tags.find_active(session, asked.task_type)
        except UnknownTaskType:
            # What was asked for goes into the detail: only the vocabulary's own words stand in the column.
            facts["detail"] = {"asked_for": asked.task_type}
            raise
    return Matter(
        tag=tag.name, unit=asked.business_unit, target=asked.target, gpus=asked.gpus, model=asked.inputs.model.name
    )


@router.post(
    "",
    status_code=201,
    operation_id="issueTicket",
    response_model=wire.TicketGrant | wire.TicketPlan,
    responses={200: {"model": wire.TicketPlan, "description": "validate_only: it would be granted like this"}},
)
def issue_ticket(
    asked: wire.TicketRequest,
    trainer: Annotated[Permit, Depends(May("submit", about=_run_in_body))],
    request: Request,
    response: Response,
    session: DbSession,
    idempotency_key: Annotated[str, Header(min_length=8, max_length=80)],
    validate_only: bool = False,
) -> wire.TicketGrant | wire.TicketPlan:
    """A signed permit for exactly this run: one tag and version, these inputs, this place, 15 minutes, once."""
    if validate_only:
        response.status_code = 200
        return tickets.plan(session, asked, trainer)
    return tickets.issue(session, asked, trainer, request.app.state.books, idempotency_key=idempotency_key)


@router.get("/{jti}", operation_id="getTicket")
def get_ticket(jti: str, caller: SignedIn, session: ReadSession) -> wire.TicketStatus:
    """Where one of the caller's own tickets stands."""
    return tickets.status(session, jti, caller)


@router.post("/{jti}:redeem", operation_id="redeemTicket")
def redeem_ticket(
    redemption: wire.Redemption, holder: TicketHolder, request: Request, session: DbSession
) -> wire.Lease:
    """Start the run: trade the ticket, with a proof by its key, for a lease."""
    return tickets.redeem(session, holder, redemption, request.app.state.books)
