"""`/v1/proposals`: changes of the vocabulary and the policy, exceptions, and the reviews that decide them."""

from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query, Request, Response
from sqlmodel import Session

from enforcer import wire
from enforcer.policy.rules import ROOT_UNIT
from enforcer.policy.snapshot import Snapshot
from enforcer.problems import ApprovalLost
from registry import access, approvals, delegations, etags, glass, impact, policy_changes, proposal_view, proposals
from registry.access import THE_HOUSE, Caller, Matter, May, Permit, SignedIn
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


def _proposal_to_review(
    request: Request, books: TheBooks, proposal_id: str, verdict: wire.Review, caller: Caller
) -> Matter:
    """As above; in whose name, where the reviewer is a delegate."""
    matter = _proposal_to("REVIEW")(request, books, proposal_id)
    if verdict.on_behalf_of is None:
        return matter
    request.state.attempt.facts["detail"]["on_behalf_of"] = verdict.on_behalf_of
    with books.reading() as session:
        gate, action = books.gate(session), matter.action or "approve"
        return replace(matter, hand=delegations.hand_of(session, caller, verdict.on_behalf_of, gate, action, matter))


def _proposal_to_read(request: Request, books: TheBooks, proposal_id: str) -> Matter:
    with books.reading() as session:
        proposal = proposals.get(session, proposal_id)
    request.state.attempt.facts.update(proposal_id=proposal.id)
    return replace(THE_HOUSE, owner=proposal.author)


def _named(change: wire.Change) -> dict[str, str]:
    match change:
        case wire.PolicyFiles():
            return {}
        case wire.NewException():
            return {"exception": change.id}
        case wire.ReservedName():
            return {"name": change.name}
        case wire.NewAlias():
            return {"tag": change.tag, "alias": change.alias}
        case _:
            return {"tag": change.tag}


@router.post("", status_code=201, operation_id="openProposal", response_model=wire.Proposal)
def open_proposal(
    request: Request,
    asked: wire.ProposalRequest,
    author: Annotated[Permit, Depends(May("propose", about=_change_in_body))],
    books: TheBooks,
    made: OneChange,
) -> Response:
    """Open a proposal, or keep it as a draft. It takes effect when enough others have approved it; in an incident at
    once, for those who may `break-glass`, and until it is undone or ratified.

    The next revision of the policy is tried first: it is linted, its own tests are run, and the decisions of the last
    days are made again by it. What comes out is part of what is agreed to.
    """
    change = asked.change
    breaker = _may_break_glass(request, books, author, asked) if asked.break_glass else None
    checks = policy_changes.check(books, change) if isinstance(change, wire.PolicyFiles) else None
    with made.writing() as session:
        voters = approvals.electorate(books, session)
        proposal = proposals.open_(session, asked, author, voters, checks=checks, breaker=breaker)
        return made.answer(session, _seen_by(session, proposal, author.actor, voters.gate), tagged=True)


def _may_break_glass(request: Request, books: Books, author: Permit, asked: wire.ProposalRequest) -> Permit:
    """Proposing takes one right, and not waiting for others another one."""
    matter = _change_in_body(request, books, asked)
    request.state.attempt.action = "break-glass"
    return access.permit(request, books, author.actor, "break-glass", matter)


class ProposalQuery(ListQuery):
    state: wire.ProposalState | None = None
    awaiting_me: bool = False


@router.get("", operation_id="listProposals", openapi_extra=proposals.LISTING.published)
def list_proposals(query: Annotated[ProposalQuery, Query()], caller: SignedIn, books: TheBooks) -> wire.ProposalPage:
    """Proposals, newest first. `awaiting_me`: those open ones that the caller may approve, also by a delegation, and
    has not reviewed; a page may hold fewer of them than `page_size`, or none, and another follow."""
    state = "open" if query.awaiting_me else query.state
    page = Page(query, Filter(state=state), proposals.LISTING)
    with books.reading() as session:
        found, token = page.rows(session, Proposal)
        gate = books.gate(session)
        waiting = [row for row in found if not query.awaiting_me or proposal_view.awaits(session, row, caller, gate)]
        items = [_seen_by(session, row, caller, gate) for row in waiting]
        return wire.ProposalPage(items=items, next_page_token=token)


@router.get("/{proposal_id}", operation_id="getProposal", response_model=wire.Proposal)
def get_proposal(proposal_id: str, caller: SignedIn, books: TheBooks, if_none_match: IfNoneMatch = None) -> Response:
    """One proposal with its reviews."""
    with books.reading() as session:
        found = _seen_by(session, proposals.get(session, proposal_id), caller, books.gate(session))
    return etags.answer(found, if_none_match)


def _seen_by(session: Session, proposal: Proposal, caller: Actor, gate: Snapshot) -> wire.Proposal:
    whole = proposal.author == caller.id or access.reads_policy(gate, caller, ROOT_UNIT)
    return proposal_view.as_wire(session, proposal, gate, whole=whole)


@router.patch("/{proposal_id}", operation_id="editProposal", response_model=wire.Proposal)
def edit_proposal(
    request: Request,
    proposal_id: str,
    asked: wire.ProposalEdit,
    editor: Annotated[Permit, Depends(May("propose", about=_proposal_to("PROPOSE")))],
    books: TheBooks,
    change: OneChange,
    seen: MustMatch,
) -> Response:
    """Make a draft or an open proposal anew, from what is in force now. All approvals are void, and the editor, where
    it is not the author, has had a part in it and does not approve it."""
    if asked.change is not None:
        _permit_change(request, books, editor.actor, asked.change)
    checks = _checks_again(books, proposal_id, asked)
    with change.writing() as session:
        voters = approvals.electorate(books, session)
        proposal = proposals.get(session, proposal_id, for_change=True)
        seen.refuse_stale(_seen_by(session, proposal, editor.actor, voters.gate))
        proposals.edit(session, proposal, asked, editor, voters, checks=checks)
        return change.answer(session, _seen_by(session, proposal, editor.actor, voters.gate), tagged=True)


def _permit_change(request: Request, books: Books, editor: Actor, change: wire.Change) -> None:
    """The right to edit is the one to propose what it would be about, as well as what it was about. Raises
    NotPermitted."""
    kind = proposals.KINDS[change.kind]
    with books.reading() as session:
        matter = kind.matter(session, change.model_dump(mode="json"))
    access.permit(request, books, editor, kind.PROPOSE, matter)


@router.post("/{proposal_id}:submit", operation_id="submitProposal", response_model=wire.Proposal)
def submit_proposal(
    proposal_id: str,
    author: Annotated[Permit, Depends(May("propose", about=_proposal_to("PROPOSE")))],
    books: TheBooks,
    change: OneChange,
    seen: MustMatch,
) -> Response:
    """Open one's own draft for others to review."""
    checks = _checks_again(books, proposal_id, wire.ProposalEdit())
    with change.writing() as session:
        voters = approvals.electorate(books, session)
        proposal = proposals.get(session, proposal_id, for_change=True)
        seen.refuse_stale(_seen_by(session, proposal, author.actor, voters.gate))
        proposals.submit(session, proposal, author, voters, checks=checks)
        return change.answer(session, _seen_by(session, proposal, author.actor, voters.gate), tagged=True)


def _checks_again(books: Books, proposal_id: str, asked: wire.ProposalEdit) -> wire.PolicyChecks | None:
    """What the registry finds out about a policy as it would be then."""
    with books.reading() as session:
        proposal = proposals.get(session, proposal_id)
        if proposal.kind != "policy" or proposal.state not in ("draft", "open"):
            return None
        change = proposals.edited(session, proposal, asked).change
    return policy_changes.check(books, change) if isinstance(change, wire.PolicyFiles) else None


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


def _proposal_to_weigh(request: Request, books: TheBooks, proposal_id: str) -> Matter:
    """For those who may review it, and the author."""
    matter = _proposal_to("REVIEW")(request, books, proposal_id)
    with books.reading() as session:
        return replace(matter, owner=proposals.get(session, proposal_id).author)


@router.get("/{proposal_id}/impact", operation_id="getProposalImpact")
def get_impact(
    proposal_id: str,
    _reader: Annotated[Permit, Depends(May("approve", about=_proposal_to_weigh))],
    books: TheBooks,
) -> wire.Impact:
    """What it would do, found out now: changes by class, names that come near, accepted runs that the proposed gates
    would not pass, runs in flight, business units of the last 90 days. For those who may review it, and the author."""
    with books.reading() as session:
        return impact.of(session, proposals.get(session, proposal_id))


@router.post("/{proposal_id}/reviews", status_code=201, operation_id="reviewProposal", response_model=wire.Proposal)
def review_proposal(
    proposal_id: str,
    verdict: wire.Review,
    reviewer: Annotated[Permit, Depends(May("approve", about=_proposal_to_review))],
    books: TheBooks,
    change: OneChange,
) -> Response:
    """Approve or reject an open proposal. The last approval needed makes it take effect at once."""
    if not change.validate_only:
        _drop_lost(books, proposal_id, verdict, reviewer)
    with change.writing() as session:
        voters = approvals.electorate(books, session)
        proposal = proposals.get(session, proposal_id, for_change=True)
        proposals.review(session, proposal, verdict, reviewer, voters)
        return change.answer(session, _seen_by(session, proposal, reviewer.actor, voters.gate), tagged=True)


def _ratification_of(
    request: Request, books: TheBooks, proposal_id: str, asked: wire.Ratification, caller: Caller
) -> Matter:
    return _proposal_to_review(request, books, proposal_id, _as_review(asked), caller)


@router.post("/{proposal_id}:ratify", operation_id="ratifyProposal", response_model=wire.Proposal)
def ratify_proposal(
    proposal_id: str,
    asked: wire.Ratification,
    reviewer: Annotated[Permit, Depends(May("approve", about=_ratification_of))],
    books: TheBooks,
    change: OneChange,
) -> Response:
    """Approve what is in effect provisionally. It stays, when as many have agreed to it as to any other proposal."""
    with books.reading() as session:
        glass.refuse_other(proposals.get(session, proposal_id))
    return review_proposal(proposal_id, _as_review(asked), reviewer, books, change)


def _as_review(asked: wire.Ratification) -> wire.Review:
    return wire.Review(verdict="approve", **asked.model_dump())


def _drop_lost(books: Books, proposal_id: str, verdict: wire.Review, reviewer: Permit) -> None:
    """Approvals that count no longer are put on record for good before the reviewer is told to look again: otherwise
    the refusal would take that back, and meet the next reviewer as well.

    Raises:
        ApprovalLost.
    """
    if verdict.verdict == "reject":
        return
    lost: ApprovalLost | None = None
    with books.writing() as session:
        gate = approvals.electorate(books, session).gate
        proposal = proposals.get(session, proposal_id, for_change=True)
        try:
            if proposal.state == "open":
                proposals.refuse_lost(session, proposal, gate)
        except ApprovalLost as problem:
            lost = problem
            proposals.drop_lost(session, proposal, gate, reviewer.actor)
    if lost is not None:
        raise lost


@router.post("/{proposal_id}:withdraw", operation_id="withdrawProposal", response_model=wire.Proposal)
def withdraw_proposal(
    proposal_id: str,
    author: Annotated[Permit, Depends(May("propose", about=_proposal_to("PROPOSE")))],
    books: TheBooks,
    change: OneChange,
    seen: MustMatch,
) -> Response:
    """Take back one's own proposal, before it takes effect."""
    with change.writing() as session:
        gate = approvals.electorate(books, session).gate
        proposal = proposals.get(session, proposal_id, for_change=True)
        seen.refuse_stale(_seen_by(session, proposal, author.actor, gate))
        proposals.withdraw(session, proposal, author)
        return change.answer(session, _seen_by(session, proposal, author.actor, gate), tagged=True)
