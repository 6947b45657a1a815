"""Proposals as they are seen: with who agreed, who is missing, and whether one waits for the reader."""

from typing import Any

from sqlmodel import Session

from enforcer import wire
from enforcer.policy.snapshot import Snapshot
from registry import approvals, delegations, proposals
from registry.identity import Actor
from registry.tables import Proposal, Review


def awaits(session: Session, proposal: Proposal, who: Actor, gate: Snapshot) -> bool:
    """Whether this person's approval, or one that they may give in somebody's name, is one of those that an open
    proposal still waits for."""
    if proposal.state != "open":
        return False
    asked, terms = proposals.asked_of(session, proposal, gate), approvals.terms(proposal)
    given = {one for row in proposals.of_this_round(session, proposal) for one in (row.reviewer, row.on_behalf_of)}
    for hand in (who, *delegations.hands_of(session, who, gate, asked.action, asked.matter)):
        whose = hand.acts_for or hand
        free = not given & {hand.id, whose.id} and terms.counts(approvals.voter(gate, whose))
        if free and approvals.may_review(gate, asked, hand) is not None:
            return True
    return False


def as_wire(session: Session, proposal: Proposal, gate: Snapshot, *, whole: bool = True) -> wire.Proposal:
    """`checks` tell what the policy says and what was decided by it: they are for those who read the policy (`whole`),
    and the author."""
    counting = {given.reviewer for given in approvals.approvals(session, proposal)}
    missing: list[dict[str, Any]] = []
    if proposal.state in ("open", "approved"):
        given, _ = approvals.count(session, proposal, gate, proposals.asked_of(session, proposal, gate))
        counting = {one.permit.actor.id for one in given}  # whose hand it was
        missing = approvals.facts(approvals.terms(proposal).missing(one.voter for one in given))
    reviews = [_review_as_wire(proposal, row, counting) for row in approvals.reviews(session, proposal)]
    return wire.Proposal.model_validate(
        {
            **proposal.model_dump(),
            "contributors": approvals.contributors(session, proposal),
            "checks": proposal.result.get("checks") if whole else None,
            "name_matches": proposal.result.get("name_matches", []),
            "reviews": reviews,
            "missing": missing,
        }
    )


def _review_as_wire(proposal: Proposal, row: Review, counting: set[str]) -> wire.ReviewGiven:
    counts = row.round == proposal.round and (row.verdict == "reject" or row.reviewer in counting)
    return wire.ReviewGiven.model_validate({**row.model_dump(), "counts": counts})
