"""`/v1/proposals`: changes to the vocabulary, and the reviews that decide them."""

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel, ConfigDict, Field

from enforcer import wire
from enforcer.policy.rules import ANY_TAG
from registry import proposals, tags
from registry.access import Matter, May, Permit, SignedIn
from registry.books import Books, TheBooks
from registry.paging import Filter, Page
from registry.tables import Proposal, Tag

router = APIRouter(prefix="/v1/proposals", tags=["proposals"])


def _change_in_body(request: Request, books: TheBooks, asked: wire.ProposalRequest) -> Matter:
    """A new tag is judged as its parent; at the root the rules for all tags decide."""
    change = asked.change
    request.state.attempt.facts["detail"] = {"tag": change.tag, "change": change.kind}
    return _known(books, (change.parent or ANY_TAG) if isinstance(change, wire.NewTag) else change.tag)


def _proposal_in_path(request: Request, books: TheBooks, proposal_id: str) -> Matter:
    with books.reading() as session:
        proposal = proposals.as_wire(session, proposals.get(session, proposal_id))
    request.state.attempt.facts.update(proposal_id=proposal.id, detail={"tag": proposal.change.tag})
    change = proposal.change
    return _known(books, (change.parent or ANY_TAG) if isinstance(change, wire.NewTag) else change.tag)


def _known(books: Books, tag: str) -> Matter:
    """An unknown tag is no matter for the policy: the noun's own rules name it in their refusal."""
    with books.reading() as session:
        name = tags.canonical(session, tag)
        return Matter(tag=name if session.get(Tag, name) else ANY_TAG)


@router.post("", status_code=201, operation_id="openProposal")
def open_proposal(
    asked: wire.ProposalRequest,
    author: Annotated[Permit, Depends(May("propose", about=_change_in_body))],
    books: TheBooks,
) -> wire.Proposal:
    """Open a proposal. It takes effect when enough others have approved it."""
    needed = books.settings.approvals_needed
    with books.writing() as session:
        return proposals.as_wire(session, proposals.open_(session, asked, author, approvals_needed=needed))


class ProposalQuery(BaseModel):
    model_config = ConfigDict(extra="forbid")

    state: Literal["open", "applied", "rejected", "withdrawn"] | None = None
    page_size: int = Field(default=50, ge=1, le=500)
    page_token: str | None = Field(default=None, max_length=300)


@router.get("", operation_id="listProposals")
def list_proposals(query: Annotated[ProposalQuery, Query()], _caller: SignedIn, books: TheBooks) -> wire.ProposalPage:
    """Proposals, newest first."""
    page = Page(query.page_size, query.page_token, Filter(state=query.state))
    with books.reading() as session:
        found, token = page.newest_first(session, Proposal)
        return wire.ProposalPage(items=[proposals.as_wire(session, row) for row in found], next_page_token=token)


@router.get("/{proposal_id}", operation_id="getProposal")
def get_proposal(proposal_id: str, _caller: SignedIn, books: TheBooks) -> wire.Proposal:
    """One proposal with its reviews."""
    with books.reading() as session:
        return proposals.as_wire(session, proposals.get(session, proposal_id))


@router.post("/{proposal_id}/reviews", status_code=201, operation_id="reviewProposal")
def review_proposal(
    proposal_id: str,
    verdict: wire.Review,
    reviewer: Annotated[Permit, Depends(May("approve", about=_proposal_in_path))],
    books: TheBooks,
) -> wire.Proposal:
    """Approve or reject an open proposal. The last approval needed makes the version take effect at once."""
    with books.writing() as session:
        proposal = proposals.review(session, proposals.get(session, proposal_id, for_change=True), verdict, reviewer)
        return proposals.as_wire(session, proposal)


@router.post("/{proposal_id}:withdraw", operation_id="withdrawProposal")
def withdraw_proposal(
    proposal_id: str,
    author: Annotated[Permit, Depends(May("propose", about=_proposal_in_path))],
    books: TheBooks,
) -> wire.Proposal:
    """Take back one's own open proposal."""
    with books.writing() as session:
        proposal = proposals.withdraw(session, proposals.get(session, proposal_id, for_change=True), author)
        return proposals.as_wire(session, proposal)
