"""Whose approvals count, now: asked when somebody reviews, and again of everybody when a proposal takes effect."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from sqlmodel import Session, col, select

from enforcer.approvals import Change, Missing, Terms, Voter
from enforcer.policy import trees
from enforcer.policy.snapshot import Snapshot
from enforcer.problems import ApprovalUnsatisfiable, Problem
from registry import access, db, delegations, people
from registry.access import Matter, Permit
from registry.books import Books
from registry.changes import Draft
from registry.identity import Actor
from registry.tables import Contributor, Delegation, LostApproval, Proposal, Review


@dataclass(frozen=True)
class Electorate:
    """The gate by which people may review. `closed`: no other issuer is believed, so API tokens are all there is,
    and everybody who could review is known."""

    gate: Snapshot
    closed: bool


def electorate(books: Books, session: Session) -> Electorate:
    """Who decides until the end of this transaction. Whoever changes a proposal or the policy meanwhile waits for it:
    by a policy that was read before one waited, somebody would decide who may not any more."""
    db.queue_for(session, "vocabulary")
    db.queue_for(session, "policy")
    return Electorate(
        books.gate(session), closed=not (books.issuers.policy.issuers or books.issuers.policy.trust_rules)
    )


@dataclass(frozen=True)
class Asked:
    """The right to review one proposal: which action, on what, and who may not whatever their rights."""

    action: str
    matter: Matter
    refuse: Callable[[Actor], None]
    excluded: frozenset[str]


@dataclass(frozen=True)
class Given:
    """An approval that counts, and by which decision of the policy. In the name of a delegator, theirs is the voice."""

    voter: Voter
    permit: Permit

    @property
    def people(self) -> list[str]:
        """Whose voice it is, and whose hand."""
        return list(dict.fromkeys([self.voter.who, self.permit.actor.id]))


def terms_of(draft: Draft, gate: Snapshot) -> Terms:
    change = Change(
        kind=draft.change["kind"],
        change_class=draft.change_class,
        tag_kind=draft.tag_kind,
        root=draft.root,
        affected_units=draft.affected_units,
        at_least=draft.approvals_at_least,
        more=draft.approvals_more,
    )
    return gate.policy.approvals.terms(change, gate.revision)


def terms(proposal: Proposal) -> Terms:
    """Those that it was opened under."""
    return Terms.model_validate(proposal.terms)


def excluded(session: Session, proposal: Proposal, terms: Terms) -> frozenset[str]:
    others = contributors(session, proposal) if "contributors" in terms.exclude else []
    return frozenset([proposal.author, *others])


def contributors(session: Session, proposal: Proposal) -> list[str]:
    query = select(Contributor.who).where(Contributor.proposal_id == proposal.id)
    return list(session.exec(query.order_by(col(Contributor.who))))


def reviews(session: Session, proposal: Proposal) -> list[Review]:
    """All, oldest first; those of earlier rounds are history."""
    query = select(Review).where(Review.proposal_id == proposal.id)
    return list(session.exec(query.order_by(col(Review.at), col(Review.reviewer))))


def lost(session: Session, proposal: Proposal) -> dict[str, str]:
    """Those of this round that are on record as lost, and why."""
    query = select(LostApproval).where(LostApproval.proposal_id == proposal.id, LostApproval.round == proposal.round)
    return {row.reviewer: row.reason for row in session.exec(query)}


def approvals(session: Session, proposal: Proposal) -> list[Review]:
    """The approvals of this round that are not on record as lost."""
    gone = lost(session, proposal)
    return [
        review
        for review in reviews(session, proposal)
        if review.round == proposal.round and review.verdict == "approve" and review.reviewer not in gone
    ]


def count(session: Session, proposal: Proposal, gate: Snapshot, asked: Asked) -> tuple[list[Given], Mapping[str, str]]:
    """Those who approved and may still, and those who may not any more, and why."""
    given: list[Given] = []
    gone: dict[str, str] = {}
    for review in approvals(session, proposal):
        who = _who_now(session, review, gate, asked)
        if isinstance(who, str):
            gone[review.reviewer] = who
            continue
        permit = may_review(gate, asked, who)
        if permit is None:
            gone[review.reviewer] = "may not review this any more"
        elif not terms(proposal).counts(found := voter(gate, who.acts_for or who)):
            gone[review.reviewer] = "is not of the groups that were asked any more"
        elif any(not {who.id, found.who}.isdisjoint(other.people) for other in given):
            gone[review.reviewer] = "is counted once already, as a delegate or by one"
        else:
            given.append(Given(found, permit))
    return given, gone


def _who_now(session: Session, review: Review, gate: Snapshot, asked: Asked) -> Actor | str:
    """Who reviewed, as they are now, for the unit that it was then; or why they do not count."""
    who = people.now(session, review.reviewer)
    if review.delegation_id is None:
        return replace(who, business_unit=review.business_unit) if who else "shut out, or without any credential"
    delegation = session.get(Delegation, review.delegation_id)
    assert delegation is not None  # a foreign key
    voice = delegations.voice_of(session, delegation, gate, asked.action, asked.matter)
    whole = people.now(session, delegation.delegator)  # whose groups are not all lent
    if isinstance(voice, str) or whole is None:
        return f"reviewed in the name of `{delegation.delegator}`: `{delegation.id}` {voice}"
    if may_review(gate, asked, whole) is None:
        return f"reviewed in the name of `{delegation.delegator}`, who may not review this"
    hand = who or Actor(review.reviewer, (), review.business_unit)
    return replace(hand, acts_for=replace(voice, business_unit=review.business_unit))


def may_review(gate: Snapshot, asked: Asked, who: Actor) -> Permit | None:
    """By which decision, if they may: neither excluded, nor gaining by it, nor without the right. Who acts in somebody
    else's name uses their right, and both are excluded where one is."""
    whose = who.acts_for or who
    for one in (who, whose):
        if one.id in asked.excluded:
            return None
        try:
            asked.refuse(one)
        except Problem:
            return None
    if whose is not who and access.is_denied(access.decide(gate, who, asked.action, asked.matter)):
        return None
    decision = access.decide(gate, whose, asked.action, asked.matter)
    return access.granted(gate, who, decision) if decision.allowed else None


def voter(gate: Snapshot, who: Actor) -> Voter:
    wider = trees.climb([f"group:{group}" for group in who.groups], gate.groups)
    groups = frozenset(name.removeprefix("group:") for name in wider)
    return Voter(who.id, groups, who.business_unit, gate.units_below(who.business_unit))


def refuse_unsatisfiable(session: Session, terms: Terms, asked: Asked, voters: Electorate) -> None:
    """Refuse what could never be agreed to. Where an identity provider is believed, nobody here knows who is in its
    groups, so nothing is said.

    Raises:
        ApprovalUnsatisfiable: naming the groups and units that have too few.
    """
    if not voters.closed:
        return
    could = [voter(voters.gate, who) for who in people.with_tokens(session) if may_review(voters.gate, asked, who)]
    if missing := terms.missing(could):
        raise ApprovalUnsatisfiable(
            f"it could never be agreed to by rule `{terms.rule}` of `approvals.yaml`; of those who may review it and "
            f"had no part in it there are too few: {sentence(missing)}. Give tokens to people who may "
            "(`tagwarden token create`), or change the rule",
            missing=[asdict(one) for one in missing],
        )


def sentence(missing: Iterable[Missing]) -> str:
    return "; ".join(map(str, missing))


def facts(missing: Iterable[Missing]) -> list[dict[str, Any]]:
    return [asdict(one) for one in missing]
