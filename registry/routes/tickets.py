"""`/v1/tickets`: ask for a permit, redeem it once, take it back."""

from typing import Annotated

from fastapi import APIRouter, Depends, Header, Request, Response
from starlette.concurrency import run_in_threadpool

from enforcer import wire
from enforcer.problems import UnknownTaskType
from registry import deprecations, etags, offline, revocations, tag_life, tags, tickets
from registry.access import Matter, May, Permit, SignedIn, TicketBearer, TicketHolder
from registry.books import Books, TheBooks
from registry.etags import IfNoneMatch, MayMatch
from registry.idempotency import OneChange

router = APIRouter(prefix="/v1/tickets", tags=["tickets"])


def _run_in_body(request: Request, books: TheBooks, asked: wire.TicketRequest) -> Matter:
    facts = request.state.attempt.facts
    with books.reading() as session:
        try:
            tag = tags.find_runnable(session, asked.task_type)
        except UnknownTaskType:
            # What was asked for goes into the detail: only the vocabulary's own words stand in the column.
            facts["detail"] = {"asked_for": asked.task_type}
            raise
        name = tag.name
    return Matter(
        tag=name,
        unit=asked.business_unit,
        target=asked.target,
        gpus=asked.gpus,
        model=asked.inputs.model.name,
        change_ticket=asked.change_ticket,
    )


@router.post(
    "",
    status_code=201,
    operation_id="issueTicket",
    response_model=wire.TicketGrant | wire.TicketPlan,
    responses={
        200: {
            "model": wire.TicketPlan,
            "description": "validate_only: it would be granted like this",
            "headers": deprecations.HEADERS,
        },
        201: {"headers": deprecations.HEADERS},
    },
)
async def issue_ticket(
    asked: wire.TicketRequest,
    trainer: Annotated[Permit, Depends(May("submit", about=_run_in_body, budget="tickets"))],
    books: TheBooks,
    idempotency_key: Annotated[str, Header(min_length=8, max_length=80)],
    validate_only: bool = False,
) -> Response:
    """A signed permit for exactly this run: one tag and version, these inputs, this place, 15 minutes, once."""
    if validate_only:
        planned = await run_in_threadpool(_plan, books, asked, trainer)
        status, body = 200, planned.model_dump_json().encode()
    else:
        status, body = 201, await tickets.issue(books, asked, trainer, idempotency_key=idempotency_key)
    ends = await run_in_threadpool(_deprecation, books, asked.task_type)
    return Response(body, status, deprecations.headers(ends), media_type="application/json")


def _deprecation(books: Books, name: str) -> wire.Deprecation | None:
    with books.reading() as session:
        return tag_life.deprecation_of(tags.find(session, name))


def _plan(books: Books, asked: wire.TicketRequest, trainer: Permit) -> wire.TicketPlan:
    with books.reading() as session:
        gate = books.gate(session)
        tickets.refuse_offline_elsewhere(asked, gate.policy.directory)
        return tickets.plan(session, asked, trainer, gate)


@router.get("/{jti}", operation_id="getTicket", response_model=wire.TicketStatus)
def get_ticket(jti: str, caller: SignedIn, books: TheBooks, if_none_match: IfNoneMatch = None) -> Response:
    """Where one of the caller's own tickets stands."""
    with books.reading() as session:
        return etags.answer(tickets.status(session, jti, caller), if_none_match)


@router.post("/{jti}:redeem", operation_id="redeemTicket")
def redeem_ticket(redemption: wire.Redemption, holder: TicketHolder, books: TheBooks) -> wire.Lease:
    """Start the run: trade the ticket, with a proof by its key, for a lease."""
    with books.writing() as session:
        return tickets.redeem(session, holder, redemption, books)


def _ticket_in_path(request: Request, books: TheBooks, jti: str) -> Matter:
    request.state.attempt.action = "revoke"  # the policy knows it as `cancel`, the record by its own name
    with books.reading() as session:
        ticket, run = revocations.find(session, jti)
    request.state.attempt.facts.update(run_id=run.id, ticket_id=ticket.jti, version=run.version)
    return Matter(tag=run.task_type, unit=run.business_unit, target=run.target, owner=run.actor)


@router.post("/{jti}:revoke", operation_id="revokeTicket", response_model=wire.TicketStatus)
def revoke_ticket(
    jti: str,
    why: wire.Revocation,
    revoker: Annotated[Permit, Depends(May("cancel", about=_ticket_in_path))],
    change: OneChange,
    seen: MayMatch,
) -> Response:
    """Take a ticket back: one's own, or where one may cancel. A run that trains saves a checkpoint and stops."""
    with change.writing() as session:
        ticket = revocations.revoke(session, jti, revoker.actor, why.reason, seen=seen, **revoker.provenance)
        return change.answer(session, wire.TicketStatus.model_validate(ticket), tagged=True)


@router.post("/{jti}:refuse", operation_id="refuseTicket", response_model=wire.RefusalNoted)
def refuse_ticket(refusal: wire.TicketRefusal, holder: TicketHolder, change: OneChange) -> Response:
    """A worker did not start the run, because a step of its own check failed. The ticket stays as it is."""
    with change.writing() as session:
        noted = wire.RefusalNoted(decision_id=tickets.note_refusal(session, holder, refusal))
        return change.answer(session, noted)


@router.post("/{jti}:upload", operation_id="uploadOfflineRun")
def upload_offline_run(told: wire.Upload, borne: TicketBearer, books: TheBooks) -> wire.ReportedRun:
    """What a run left that redeemed its ticket offline: its record, and its report once it ended."""
    with books.writing() as session:
        return offline.upload(session, borne, told, books)
