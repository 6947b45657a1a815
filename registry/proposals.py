"""Proposals: every change to the vocabulary is one, is agreed to by others, and takes effect at once when it is.

`open -> applied`, with the exits `rejected` and `withdrawn`; a decided proposal never changes again. Reviews bind the
digest of what was seen: the change and the whole profile it leads to.
"""

from typing import Any

from sqlmodel import Session, col, select

from enforcer import wire
from enforcer.problems import (
    AlreadyDecided,
    AlreadyProposed,
    AlreadyReviewed,
    NotPermitted,
    SelfApproval,
    StaleReview,
    UnknownProposal,
)
from enforcer.profiles import Kind, Profile
from enforcer.runspec import canonical_bytes, digest
from registry import audit, db, tags
from registry.access import Permit
from registry.identity import Actor
from registry.tables import Proposal, Review


def open_(session: Session, request: wire.ProposalRequest, permit: Permit, *, approvals_needed: int) -> Proposal:
    """Open a proposal for others to review.

    Raises:
        NameInvalid, NameIsVariant, ProfileInvalid, UnknownTaskType: it could never be applied.
        AlreadyProposed: somebody else's proposal for this tag is open.
    """
    db.queue_for(session, "vocabulary")
    change = request.change
    profile = _resolve(session, change)
    name = tags.find(session, change.tag).name if isinstance(change, wire.NewVersion) else change.tag
    rival = session.exec(select(Proposal).where(Proposal.tag == name, Proposal.state == "open")).first()
    if rival is not None:
        raise AlreadyProposed(f"`{name}` has an open proposal, `{rival.id}`; review or withdraw that one first")
    content = {"change": change.model_dump(mode="json"), "profile": profile.model_dump(mode="json")}
    proposal = Proposal(
        id=f"prp-{db.uuid7()}",
        kind=change.kind,
        tag=name,
        change=content["change"],
        profile=content["profile"],
        digest=digest(canonical_bytes(content)),
        reason=request.reason,
        author=permit.actor.id,
        state="open",
        approvals_needed=approvals_needed,
        opened_at=db.utc_now(),
    )
    session.add(proposal)
    _record(session, "proposal.opened", permit.actor, proposal, reason=request.reason, **permit.provenance)
    return proposal


def review(session: Session, proposal: Proposal, verdict: wire.Review, permit: Permit) -> Proposal:
    """Count one review, and apply or reject the proposal when that decides it.

    Raises:
        AlreadyDecided: somebody decided it first.
        SelfApproval: the reviewer wrote it.
        AlreadyReviewed: the reviewer has reviewed it before.
        StaleReview: the content is not what the reviewer saw.
    """
    db.queue_for(session, "vocabulary")
    reviewer = permit.actor
    _refuse_decided(proposal)
    if proposal.author == reviewer.id:
        raise SelfApproval(f"`{reviewer.id}` wrote this proposal; somebody else has to review it")
    if session.get(Review, (proposal.id, reviewer.id)) is not None:
        raise AlreadyReviewed(f"`{reviewer.id}` has reviewed `{proposal.id}` already")
    if verdict.digest != proposal.digest:
        raise StaleReview(f"the review is for `{verdict.digest}`, the proposal is `{proposal.digest}`; read it again")
    session.add(Review(proposal_id=proposal.id, reviewer=reviewer.id, at=db.utc_now(), **verdict.model_dump()))
    session.flush()
    event = "proposal.approved" if verdict.verdict == "approve" else "proposal.rejected"
    _record(session, event, reviewer, proposal, reason=verdict.reason, **permit.provenance)
    if verdict.verdict == "reject":
        return _decide(session, proposal, "rejected")
    if len(reviews(session, proposal)) >= proposal.approvals_needed:
        _apply(session, proposal, reviewer, permit)
    return proposal


def withdraw(session: Session, proposal: Proposal, permit: Permit) -> Proposal:
    """Take back one's own proposal.

    Raises:
        AlreadyDecided: it is closed.
        NotPermitted: it is somebody else's.
    """
    _refuse_decided(proposal)
    if proposal.author != permit.actor.id:
        raise NotPermitted(f"only its author, `{proposal.author}`, withdraws a proposal", reason_code="not-the-author")
    _record(session, "proposal.withdrawn", permit.actor, proposal, **permit.provenance)
    return _decide(session, proposal, "withdrawn")


def get(session: Session, proposal_id: str, *, for_change: bool = False) -> Proposal:
    """Raises `UnknownProposal`. For a change the row is locked, where the database has row locks."""
    found = session.get(Proposal, proposal_id, with_for_update=for_change)
    if found is None:
        raise UnknownProposal(f"`{proposal_id[:100]}` is not a proposal")
    return found


def reviews(session: Session, proposal: Proposal) -> list[Review]:
    return list(session.exec(select(Review).where(Review.proposal_id == proposal.id).order_by(col(Review.at))))


def as_wire(session: Session, proposal: Proposal) -> wire.Proposal:
    given = [wire.ReviewGiven.model_validate(row) for row in reviews(session, proposal)]
    return wire.Proposal.model_validate({**proposal.model_dump(), "reviews": given})


def _resolve(session: Session, change: wire.NewTag | wire.NewVersion) -> Profile:
    if isinstance(change, wire.NewTag):
        tags.refuse_bad_name(session, change.tag, change.aliases)
        parent = tags.find_active(session, change.parent).name if change.parent else None
    else:
        parent = tags.find(session, change.tag).parent
    return tags.resolve_profile(session, parent, change.profile, change.overrides)


def _apply(session: Session, proposal: Proposal, last: Actor, permit: Permit) -> None:
    """The change takes effect. Name and profile are checked again: the vocabulary may have moved meanwhile.

    Raises:
        NameIsVariant: another proposal has taken the name.
        StaleReview: the parent changed, so that the agreed profile is no longer what it narrows to.
    """
    change = wire.ProposalRequest.model_validate({"change": proposal.change, "reason": proposal.reason}).change
    facts: dict[str, Any] = {"proposal_id": proposal.id, **permit.provenance}
    if isinstance(change, wire.NewTag):
        tags.refuse_bad_name(session, change.tag, change.aliases)
        parent = tags.find_active(session, change.parent).name if change.parent else None
        kind, description, aliases = change.tag_kind, change.description, change.aliases
    else:
        tag = tags.find(session, change.tag)
        parent, kind, description, aliases = tag.parent, Kind(tag.kind), tag.description, []
    if tags.resolve_profile(session, parent, change.profile, change.overrides).digest() != _agreed(proposal).digest():
        raise StaleReview(
            f"`{parent}` changed since `{proposal.id}` was opened, so what was agreed to is not what would apply; "
            "withdraw it and propose it again"
        )
    proposal.version = tags.activate(
        session,
        name=proposal.tag,
        kind=kind,
        parent=parent,
        description=description,
        aliases=aliases,
        profile=_agreed(proposal),
        by=last,
        event="tag.activated",
        **facts,
    )
    _decide(session, proposal, "applied")


def _agreed(proposal: Proposal) -> Profile:
    return Profile.model_validate(proposal.profile)


def _decide(session: Session, proposal: Proposal, state: str) -> Proposal:
    proposal.state, proposal.decided_at = state, db.utc_now()
    session.add(proposal)
    session.flush()
    return proposal


def _refuse_decided(proposal: Proposal) -> None:
    if proposal.state != "open":
        raise AlreadyDecided(f"`{proposal.id}` is {proposal.state}; open a new proposal")


def _record(session: Session, kind: str, actor: Actor, proposal: Proposal, **facts: Any) -> None:
    detail = {"digest": proposal.digest, "change": proposal.kind}
    audit.record(session, kind, actor, task_type=proposal.tag, proposal_id=proposal.id, detail=detail, **facts)
