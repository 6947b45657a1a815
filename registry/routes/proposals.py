"""`/v1/proposals`: changes to the vocabulary, and the reviews that decide them."""

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel, ConfigDict, Field

from enforcer import wire
from enforcer.policy.snapshot import ANY_TAG
from registry import db, proposals
from registry.access import Matter, May, Permit, SignedIn
from registry.db import DbSession, ReadSession
from registry.paging import Filter, Page
from registry.tables import Proposal, Tag

router = APIRouter(prefix="/v1/proposals", tags=["proposals"])


def _change_in_body(request: Request, asked: wire.ProposalRequest) -> Matter:
    """A new tag is judged as its parent; at the root the rules for all tags decide."""
    change = asked.change
    request.state.attempt.facts["detail"] = {"tag": change.tag, "change": change.kind}
    return _known(request, (change.parent or ANY_TAG) if isinstance(change, wire.NewTag) else change.tag)


def _proposal_in_path(request: Request, proposal_id: str) -> Matter:
    with db.reading(request.app.state.books.engine) as session:
        proposal = proposals.get(session, proposal_id)
    request.state.attempt.facts.update(proposal_id=proposal.id, detail={"tag": proposal.tag})
    return _known(request, proposal.tag if proposal.kind == "new-version" else proposal.change["parent"] or ANY_TAG)


def _known(request: Request, tag: str) -> Matter:
    """An unknown tag is no matter for the policy: the noun's own rules name it in their refusal."""
    with db.reading(request.app.state.books.engine) as session:
        return Matter(tag=tag if session.get(Tag, tag) else ANY_TAG)


@router.post("", status_code=201, operation_id="openProposal")
def open_proposal(
    asked: wire.ProposalRequest,
    author: Annotated[Permit, Depends(May("propose", about=_change_in_body))],
    request: Request,
    session: DbSession,
) -> wire.Proposal:
    """Open a proposal. It takes effect when enough others have approved it."""
    needed = request.app.state.books.settings.approvals_needed
    proposal = proposals.open_(session, asked, author, approvals_needed=needed)
    return proposals.as_wire(session, proposal)


class ProposalQuery(BaseModel):
    model_config = ConfigDict(extra="forbid")

    state: Literal["open", "applied", "rejected", "withdrawn"] | None = None
    page_size: int = Field(default=50, ge=1, le=500)
    page_token: str | None = Field(default=None, max_length=300)


@router.get("", operation_id="listProposals")
def list_proposals(
    query: Annotated[ProposalQuery, Query()], _caller: SignedIn, session: ReadSession
) -> wire.ProposalPage:
    """Proposals, newest first."""
    wanted = Filter(state=query.state)
    found, token = Page(query.page_size, query.page_token, wanted).newest_first(session, Proposal)
    return wire.ProposalPage(items=[proposals.as_wire(session, row) for row in found], next_page_token=token)


@router.get("/{proposal_id}", operation_id="getProposal")
def get_proposal(proposal_id: str, _caller: SignedIn, session: ReadSession) -> wire.Proposal:
    """One proposal with its reviews."""
    return proposals.as_wire(session, proposals.get(session, proposal_id))


@router.post("/{proposal_id}/reviews", status_code=201, operation_id="reviewProposal")
def review_proposal(
    proposal_id: str,
    verdict: wire.Review,
    reviewer: Annotated[Permit, Depends(May("approve", about=_proposal_in_path))],
    session: DbSession,
) -> wire.Proposal:
    """Approve or reject an open proposal. The last approval needed makes the version take effect at once."""
    proposal = proposals.review(session, proposals.get(session, proposal_id), verdict, reviewer)
    return proposals.as_wire(session, proposal)


@router.post("/{proposal_id}:withdraw", operation_id="withdrawProposal")
def withdraw_proposal(
    proposal_id: str,
    author: Annotated[Permit, Depends(May("propose", about=_proposal_in_path))],
    session: DbSession,
) -> wire.Proposal:
    """Take back one's own open proposal."""
    proposal: Proposal = proposals.withdraw(session, proposals.get(session, proposal_id), author.actor)
    return proposals.as_wire(session, proposal)
