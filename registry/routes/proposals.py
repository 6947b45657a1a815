"""`/v1/proposals`: changes of the vocabulary and the policy, exceptions, and the reviews that decide them."""

from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query, Request, Response
from sqlmodel import Session

from enforcer import wire
from enforcer.policy.rules import ROOT_UNIT
from registry import access, etags, policy_changes, proposals
from registry.access import THE_HOUSE, Matter, May, Permit, SignedIn
from registry.books import Books, TheBooks
from registry.etags import IfNoneMatch, MustMatch
from registry.idempotency import OneChange
from registry.identity import Actor
from registry.paging import Filter, ListQuery, Page
from registry.tables import Proposal

router = APIRouter(prefix="/v1/proposals", tags=["proposals"])


def _change_in_body(request: Request, books: TheBooks, asked: wire.ProposalRequest) -> Matter:
    change = asked.change
    request.state.attempt.facts["detail"] = {"change": change.kind, **_named(change)}
    kind = proposals.KINDS[change.kind]
    with books.reading() as session:
        return replace(kind.matter(session, change.model_dump(mode="json")), action=kind.PROPOSE)


def _proposal_to(what: Literal["PROPOSE", "REVIEW"]) -> Callable[..., Matter]:
    """The proposal in the path, and the action that this takes for its kind."""

    def proposal_in_path(request: Request, books: TheBooks, proposal_id: str) -> Matter:
        with books.reading() as session:
            proposal = proposals.get(session, proposal_id)
            kind = proposals.KINDS[proposal.kind]
            noted = {"proposal_id": proposal.id, "detail": {"subject": proposal.subject}}
            request.state.attempt.facts.update(noted)
            return replace(kind.matter(session, proposal.change), action=getattr(kind, what))

    return proposal_in_path


def _proposal_to_read(request: Request, books: TheBooks, proposal_id: str) -> Matter:
    with books.reading() as session:
        proposal = proposals.get(session, proposal_id)
    request.state.attempt.facts.update(proposal_id=proposal.id)
    return replace(THE_HOUSE, owner=proposal.author)


def _named(change: wire.NewTag | wire.NewVersion | wire.PolicyFiles | wire.NewException) -> dict[str, str]:
    if isinstance(change, wire.PolicyFiles):
        return {}
    return {"exception": change.id} if isinstance(change, wire.NewException) else {"tag": change.tag}


@router.post("", status_code=201, operation_id="openProposal", response_model=wire.Proposal)
def open_proposal(
    asked: wire.ProposalRequest,
    author: Annotated[Permit, Depends(May("propose", about=_change_in_body))],
    books: TheBooks,
    to_do: OneChange,
) -> Response:
    """Open a proposal. It takes effect when enough others have approved it.

    The next revision of the policy is tried first: it is linted, its own tests are run, and the decisions of the last
    days are made again by it. What comes out is part of what is agreed to.
    """
    change = asked.change
    checks = policy_changes.check(books, change) if isinstance(change, wire.PolicyFiles) else None
    with to_do.writing() as session:
        proposal = proposals.open_(
            session, asked, author, approvals_needed=books.settings.approvals_needed, checks=checks
        )
        return to_do.answer(session, proposals.as_wire(session, proposal), tagged=True)


class ProposalQuery(ListQuery):
    state: Literal["open", "applied", "rejected", "withdrawn"] | None = None


@router.get("", operation_id="listProposals", openapi_extra=proposals.LISTING.published)
def list_proposals(query: Annotated[ProposalQuery, Query()], caller: SignedIn, books: TheBooks) -> wire.ProposalPage:
    """Proposals, newest first."""
    page = Page(query, Filter(state=query.state), proposals.LISTING)
    with books.reading() as session:
        found, token = page.rows(session, Proposal)
        items = [_as_seen(session, row, caller, books) for row in found]
        return wire.ProposalPage(items=items, next_page_token=token)


@router.get("/{proposal_id}", operation_id="getProposal", response_model=wire.Proposal)
def get_proposal(proposal_id: str, caller: SignedIn, books: TheBooks, if_none_match: IfNoneMatch = None) -> Response:
    """One proposal with its reviews."""
    with books.reading() as session:
        return etags.answer(_as_seen(session, proposals.get(session, proposal_id), caller, books), if_none_match)


def _as_seen(session: Session, proposal: Proposal, caller: Actor, books: Books) -> wire.Proposal:
    whole = proposal.author == caller.id or access.reads_policy(books.gate(session), caller, ROOT_UNIT)
    return proposals.as_wire(session, proposal, whole=whole)


@router.get(
    "/{proposal_id}/files",
    operation_id="getProposalFiles",
    dependencies=[Depends(May("policy-read", about=_proposal_to_read))],
)
def get_proposal_files(proposal_id: str, books: TheBooks) -> wire.ProposalFiles:
    """The files of a proposed policy; none for other proposals. For those who read the policy, and the author."""
    with books.reading() as session:
        proposal = proposals.get(session, proposal_id)
        return wire.ProposalFiles(files=policy_changes.files(session, proposal))


@router.post("/{proposal_id}/reviews", status_code=201, operation_id="reviewProposal", response_model=wire.Proposal)
def review_proposal(
    proposal_id: str,
    verdict: wire.Review,
    reviewer: Annotated[Permit, Depends(May("approve", about=_proposal_to("REVIEW")))],
    change: OneChange,
) -> Response:
    """Approve or reject an open proposal. The last approval needed makes it take effect at once."""
    with change.writing() as session:
        proposal = proposals.review(session, proposals.get(session, proposal_id, for_change=True), verdict, reviewer)
        return change.answer(session, proposals.as_wire(session, proposal))


@router.post("/{proposal_id}:withdraw", operation_id="withdrawProposal", response_model=wire.Proposal)
def withdraw_proposal(
    proposal_id: str,
    author: Annotated[Permit, Depends(May("propose", about=_proposal_to("PROPOSE")))],
    change: OneChange,
    seen: MustMatch,
) -> Response:
    """Take back one's own open proposal."""
    with change.writing() as session:
        proposal = proposals.withdraw(session, proposals.get(session, proposal_id, for_change=True), author, seen)
        return change.answer(session, proposals.as_wire(session, proposal), tagged=True)
