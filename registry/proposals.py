"""Proposals: every governed change is one, is agreed to by others, and takes effect at once when it is.

`open -> applied`, with the exits `rejected` and `withdrawn`; a decided proposal never changes again. Reviews bind the
digest of what was seen: the change, and the result it leads to. What differs between changes of the vocabulary, of the
policy, and exceptions from it stands in a module for each (`KINDS`); the life of a proposal is the same for all.
"""

from collections.abc import Mapping
from typing import Any, Protocol

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
from enforcer.runspec import canonical_bytes, digest
from registry import audit, db, exception_changes, policy_changes, tag_changes
from registry.access import Matter, Permit
from registry.changes import Draft
from registry.etags import Seen
from registry.filters import Field, Listing
from registry.identity import Actor
from registry.tables import Proposal, ProposedFile, Review


class Kind(Protocol):
    """What a kind of change decides for itself; modules are of this type."""

    PROPOSE: str  # the action of the policy that proposing takes
    REVIEW: str

    def matter(self, session: Session, change: Mapping[str, Any]) -> Matter:
        """What the change is about, for the policy."""

    def draft(self, session: Session, request: wire.ProposalRequest, checks: wire.PolicyChecks | None, /) -> Draft:
        """What the change leads to. Raises a Problem when it could never be applied."""

    def refuse_reviewer(self, session: Session, proposal: Proposal, reviewer: Actor, /) -> None:
        """Raises NotPermitted for those who may not approve this one, whatever they may else."""

    def apply(self, session: Session, proposal: Proposal, permit: Permit, approvers: list[str], /) -> None:
        """Let it take effect, now. Raises a Problem when that is not what was agreed to any more."""


KINDS: Mapping[str, Kind] = {
    "new-tag": tag_changes,
    "new-version": tag_changes,
    "policy": policy_changes,
    "exception": exception_changes,
}
LISTING = Listing(
    key=Proposal.id,
    descending=True,
    fields={
        "kind": Field(Proposal.kind, "word", tuple(KINDS)),
        "subject": Field(Proposal.subject, sort=Proposal.subject),
        "state": Field(Proposal.state, "word", ("open", "applied", "rejected", "withdrawn"), sort=Proposal.state),
        "author": Field(Proposal.author),
        "reason": Field(Proposal.reason),
        "digest": Field(Proposal.digest),
        "opened_at": Field(Proposal.opened_at, "moment", sort=Proposal.id),  # an id is made of that moment
        "decided_at": Field(Proposal.decided_at, "moment"),
    },
)


def open_(
    session: Session,
    request: wire.ProposalRequest,
    permit: Permit,
    *,
    approvals_needed: int,
    checks: wire.PolicyChecks | None = None,
) -> Proposal:
    """Open a proposal for others to review. `checks` is what `policy_changes.check` found, for a change of the policy.

    Raises:
        Problem: it could never be applied.
        AlreadyProposed: somebody else's proposal for the same subject is open.
    """
    db.queue_for(session, "vocabulary")
    draft = KINDS[request.change.kind].draft(session, request, checks)
    rival = session.exec(select(Proposal).where(Proposal.subject == draft.subject, Proposal.state == "open")).first()
    if rival is not None:
        raise AlreadyProposed(f"`{draft.name}` has an open proposal, `{rival.id}`; review or withdraw that one first")
    proposal = Proposal(
        id=f"prp-{db.uuid7()}",
        kind=request.change.kind,
        subject=draft.subject,
        change=draft.change,
        result=draft.result,
        digest=digest(canonical_bytes({"change": draft.change, "result": draft.result})),
        reason=request.reason,
        author=permit.actor.id,
        state="open",
        approvals_needed=max(approvals_needed, draft.approvals_at_least) + draft.approvals_more,
        opened_at=db.utc_now(),
    )
    session.add(proposal)
    session.flush()
    session.add_all(ProposedFile(proposal_id=proposal.id, name=n, content=text) for n, text in draft.files.items())
    _record(session, "proposal.opened", permit.actor, proposal, reason=request.reason, **permit.provenance)
    return proposal


def review(session: Session, proposal: Proposal, verdict: wire.Review, permit: Permit) -> Proposal:
    """Count one review, and apply or reject the proposal when that decides it.

    Raises:
        AlreadyDecided: somebody decided it first.
        SelfApproval: the reviewer wrote it, or gains by it.
        AlreadyReviewed: the reviewer has reviewed it before.
        StaleReview: the content is not what the reviewer saw.
    """
    db.queue_for(session, "vocabulary")
    reviewer = permit.actor
    _refuse_decided(proposal)
    if proposal.author == reviewer.id:
        raise SelfApproval(f"`{reviewer.id}` wrote this proposal; somebody else has to review it")
    KINDS[proposal.kind].refuse_reviewer(session, proposal, reviewer)
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
    approvers = [given.reviewer for given in reviews(session, proposal)]
    if len(approvers) >= proposal.approvals_needed:
        KINDS[proposal.kind].apply(session, proposal, permit, approvers)
        _decide(session, proposal, "applied")
    return proposal


def withdraw(session: Session, proposal: Proposal, permit: Permit, seen: Seen) -> Proposal:
    """Take back one's own proposal.

    Raises:
        AlreadyDecided: it is closed.
        NotPermitted: it is somebody else's.
        Stale: it is not as the author saw it.
    """
    _refuse_decided(proposal)
    if proposal.author != permit.actor.id:
        raise NotPermitted(f"only its author, `{proposal.author}`, withdraws a proposal", reason_code="not-the-author")
    seen.refuse_stale(as_wire(session, proposal))
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


def as_wire(session: Session, proposal: Proposal, *, whole: bool = True) -> wire.Proposal:
    """`checks` tell what the policy says and what was decided by it: they are for those who read the policy (`whole`),
    and the author."""
    given = [wire.ReviewGiven.model_validate(row) for row in reviews(session, proposal)]
    checks = proposal.result.get("checks") if whole else None
    return wire.Proposal.model_validate({**proposal.model_dump(), "checks": checks, "reviews": given})


def _decide(session: Session, proposal: Proposal, state: str) -> Proposal:
    proposal.state, proposal.decided_at = state, db.utc_now()
    session.add(proposal)
    session.flush()
    return proposal


def _refuse_decided(proposal: Proposal) -> None:
    if proposal.state != "open":
        raise AlreadyDecided(f"`{proposal.id}` is {proposal.state}; open a new proposal")


def _record(session: Session, kind: str, actor: Actor, proposal: Proposal, **facts: Any) -> None:
    subject, _, name = proposal.subject.partition(":")
    detail = {"digest": proposal.digest, "change": proposal.kind}
    if subject == "tag":
        facts["task_type"] = name
    else:
        detail["subject"] = proposal.subject
    audit.record(session, kind, actor, proposal_id=proposal.id, detail=detail, **facts)
