"""Proposals: every governed change is one, is agreed to by others, and takes effect at once when it is.

    draft -> open -> approved -> applied      exits: rejected, withdrawn, expired, superseded

What has ended never changes again. Reviews bind the digest of what was seen: the change, the result it leads to, what
it is made from, the reason, when it begins, and the round; an edit voids them. How many agree, of whom, is asked by the
terms that were frozen when it was opened (`approvals.py`); who may review is asked at the review, and of everybody
again when it takes effect.
What differs between kinds of changes stands in a module for each (`KINDS`); the life of a proposal is the same for all.
"""

from collections.abc import Mapping
from typing import Any, Protocol, get_args

from sqlmodel import Session, col, select

from enforcer import wire
from enforcer.policy.rules import Directory
from enforcer.policy.snapshot import Snapshot
from enforcer.problems import (
    AlreadyDecided,
    AlreadyReviewed,
    ApprovalLost,
    ContributorApproval,
    Invalid,
    NotPermitted,
    ProposalExpired,
    SelfApproval,
    StaleBase,
    StaleReview,
    UnknownProposal,
)
from enforcer.runspec import canonical_bytes, digest
from registry import (
    approvals,
    audit,
    db,
    exception_changes,
    glass,
    name_changes,
    people,
    policy_changes,
    tag_changes,
    tag_life_changes,
)
from registry.access import Matter, Permit
from registry.approvals import Asked, Electorate
from registry.changes import Draft, base_of
from registry.filters import Field, Listing
from registry.identity import Actor
from registry.tables import Contributor, LostApproval, Proposal, ProposedFile, Review

PENDING = ("draft", "open", "approved")


class Kind(Protocol):
    """What a kind of change decides for itself; modules are of this type."""

    PROPOSE: str  # the action of the policy that proposing takes
    REVIEW: str

    def matter(self, session: Session, change: Mapping[str, Any]) -> Matter:
        """What the change is about, for the policy."""

    def draft(self, session: Session, request: wire.ProposalRequest, checks: wire.PolicyChecks | None, /) -> Draft:
        """What the change leads to. Raises a Problem when it could never be applied."""

    def asked(self, session: Session, proposal: Proposal, /) -> dict[str, Any]:
        """The change as it was asked for, from what is kept of it."""

    def refuse_reviewer(self, directory: Directory, proposal: Proposal, reviewer: Actor, /) -> None:
        """Raises NotPermitted for those who may not approve this one, whatever they may else."""

    def apply(self, session: Session, proposal: Proposal, permit: Permit, approvers: list[str], /) -> None:
        """Let it take effect, now. Raises a Problem when that is not what was agreed to any more."""


KINDS: Mapping[str, Kind] = {
    "new-tag": tag_changes,
    "new-version": tag_changes,
    "deprecation": tag_life_changes,
    "restoration": tag_life_changes,
    "archival": tag_life_changes,
    "alias": name_changes,
    "reserved-name": name_changes,
    "policy": policy_changes,
    "exception": exception_changes,
}
LISTING = Listing(
    key=Proposal.id,
    descending=True,
    fields={
        "kind": Field(Proposal.kind, "word", tuple(KINDS)),
        "subject": Field(Proposal.subject, sort=Proposal.subject),
        "state": Field(Proposal.state, "word", get_args(wire.ProposalState), sort=Proposal.state),
        "author": Field(Proposal.author),
        "reason": Field(Proposal.reason),
        "digest": Field(Proposal.digest),
        "opened_at": Field(Proposal.opened_at, "moment", sort=Proposal.id),
        "decided_at": Field(Proposal.decided_at, "moment"),
    },
)


# --- what its author does ---------------------------------------------------------------------------------------------


def open_(
    session: Session,
    request: wire.ProposalRequest,
    permit: Permit,
    voters: Electorate,
    *,
    checks: wire.PolicyChecks | None = None,
    breaker: Permit | None = None,
) -> Proposal:
    """Open a proposal for others to review, or keep it as a draft. `checks` is what `policy_changes.check` found, for a
    change of the policy. `breaker` is the permit to let it take effect before they agree, where that is asked for.

    Raises:
        Problem: it could never be applied.
        BreakGlassRefused: it could not be undone, or what it rests on may be undone yet.
        StaleBase: it was made from what is not in force now.
        ApprovalUnsatisfiable: there are too few people who could approve it.
    """
    db.queue_for(session, "vocabulary")
    made = KINDS[request.change.kind].draft(session, request, checks)
    _refuse_other_base(request.base, made)
    glass.refuse_beside(session, made.subject, made.change)
    if request.break_glass is not None:
        glass.refuse_unfit(session, request, made, KINDS[request.change.kind])
    proposal = Proposal(
        id=f"prp-{db.uuid7()}",
        kind=request.change.kind,
        author=permit.actor.id,
        state="draft",
        opened_at=db.utc_now(),
        **_content(request, made),
    )
    session.add(proposal)
    session.flush()
    _keep_files(session, proposal, made)
    if request.draft:
        record(session, "proposal.drafted", permit.actor, proposal, reason=request.reason, **permit.provenance)
        return proposal
    _open(session, proposal, made, permit, voters)
    if request.break_glass is not None:
        assert breaker is not None  # the route asked the policy
        glass.take_effect(session, proposal, KINDS[proposal.kind], request.break_glass, breaker)
    return proposal


def edit(
    session: Session,
    proposal: Proposal,
    asked: wire.ProposalEdit,
    permit: Permit,
    voters: Electorate,
    *,
    checks: wire.PolicyChecks | None = None,
) -> Proposal:
    """Make a draft or an open proposal anew, from what is in force now. No approval outlives it, and whoever edits has
    had a part in it.

    Raises:
        AlreadyDecided: it is neither draft nor open.
        ProposalExpired: its time is over.
        Invalid: it would be about something else.
        StaleBase: it is a policy that was made from one that is not live any more, and brings no other files.
        Problem: it could never be applied; ApprovalUnsatisfiable, as `open_`.
    """
    db.queue_for(session, "vocabulary")
    _refuse_unless(proposal, "draft", "open")
    if proposal.provisional is not None:
        raise AlreadyDecided(f"`{proposal.id}` is in effect provisionally; withdraw it, or propose what comes after it")
    _refuse_late(proposal)
    if proposal.kind == "policy" and asked.change is None:
        _refuse_moved(session, proposal)  # its files are the whole of it, and would undo what came meanwhile
    request = edited(session, proposal, asked)
    made = KINDS[proposal.kind].draft(session, request, checks)
    if (made.subject, request.change.kind) != (proposal.subject, proposal.kind):
        raise Invalid(f"`{proposal.id}` is about `{proposal.subject}` ({proposal.kind}); propose another change anew")
    glass.refuse_beside(session, made.subject, made.change)
    proposal.sqlmodel_update(_content(request, made, proposal.round + 1))
    _keep_files(session, proposal, made)
    if permit.actor.id not in (proposal.author, *approvals.contributors(session, proposal)):
        session.add(Contributor(proposal_id=proposal.id, who=permit.actor.id))
    session.add(proposal)
    session.flush()
    record(session, "proposal.edited", permit.actor, proposal, reason=request.reason, **permit.provenance)
    if proposal.state == "open":
        _freeze(session, proposal, made, voters)
    return proposal


def submit(
    session: Session,
    proposal: Proposal,
    permit: Permit,
    voters: Electorate,
    *,
    checks: wire.PolicyChecks | None = None,
) -> Proposal:
    """Open one's own draft for others to review.

    Raises:
        AlreadyDecided: it is no draft.
        NotPermitted: it is somebody else's.
        StaleBase: what it was made from is not in force any more.
        Problem, ApprovalUnsatisfiable: as `open_`.
    """
    db.queue_for(session, "vocabulary")
    _refuse_unless(proposal, "draft")
    _refuse_others(proposal, permit, "submits")
    request = edited(session, proposal, wire.ProposalEdit())
    made = KINDS[proposal.kind].draft(session, request, checks)
    glass.refuse_beside(session, made.subject, made.change)
    if _another(made.base, proposal.base):
        raise StaleBase(
            f"`{proposal.subject}` changed since `{proposal.id}` was drafted; edit it, so that it is made from what is "
            "in force now",
            base=made.base,
        )
    proposal.sqlmodel_update(_content(request, made, proposal.round))
    return _open(session, proposal, made, permit, voters)


def withdraw(session: Session, proposal: Proposal, permit: Permit) -> Proposal:
    """Take back one's own proposal.

    Raises:
        AlreadyDecided: it is closed.
        NotPermitted: it is somebody else's.
    """
    _refuse_unless(proposal, *PENDING)
    _refuse_others(proposal, permit, "withdraws")
    return turn(session, proposal, "withdrawn", permit.actor, **permit.provenance)


# --- what others do ---------------------------------------------------------------------------------------------------


def review(session: Session, proposal: Proposal, verdict: wire.Review, permit: Permit, voters: Electorate) -> Proposal:
    """Count one review, and apply or reject the proposal when that decides it.

    Raises:
        AlreadyDecided: somebody decided it first.
        ProposalExpired: nobody did in time.
        SelfApproval, ContributorApproval: the reviewer wrote it, or a part of it.
        BeneficiaryApproval: the reviewer gains by it.
        NotPermitted: none of the groups that are asked is the reviewer's.
        AlreadyReviewed: the reviewer has reviewed it before.
        StaleReview: the content is not what the reviewer saw.
        ApprovalLost: somebody who approved may not any more; `drop_lost` puts that on record.
    """
    db.queue_for(session, "vocabulary")
    _refuse_unless(proposal, *(("open",) if verdict.verdict == "approve" else ("open", "approved")))
    _refuse_late(proposal)
    _refuse_reviewer(session, proposal, permit.actor, voters.gate)
    if verdict.digest != proposal.digest:
        raise StaleReview(f"the review is for `{verdict.digest}`, the proposal is `{proposal.digest}`; read it again")
    if verdict.verdict == "approve":
        refuse_lost(session, proposal, voters.gate)
    given = Review(
        proposal_id=proposal.id,
        round=proposal.round,
        reviewer=permit.actor.id,
        delegation_id=permit.actor.via["delegation"] if permit.actor.acts_for else None,
        business_unit=(permit.actor.acts_for or permit.actor).business_unit,
        at=db.utc_now(),
        **verdict.model_dump(),
    )
    session.add(given)
    session.flush()
    facts = {"reason": verdict.reason, "more": {"verdict": verdict.verdict}, **permit.provenance}
    record(session, "proposal.reviewed", permit.actor, proposal, **facts)
    if verdict.verdict == "reject":
        return turn(session, proposal, "rejected", permit.actor)
    return _settle(session, proposal, permit, voters.gate)


def refuse_lost(session: Session, proposal: Proposal, gate: Snapshot) -> None:
    """Raises ApprovalLost, when one of the approvals counts no longer."""
    _, gone = approvals.count(session, proposal, gate, asked_of(session, proposal, gate))
    if gone:
        who = "; ".join(f"`{name}` {why}" for name, why in gone.items())
        raise ApprovalLost(
            f"approvals of `{proposal.id}` count no longer: {who}. It stays open without them; read who is "
            "missing now, and review it again",
            lost=sorted(gone),
        )


def drop_lost(session: Session, proposal: Proposal, gate: Snapshot, by: Actor) -> None:
    """Put on record which approvals count no longer, once each."""
    if proposal.state not in ("open", "approved"):
        return
    db.queue_for(session, "vocabulary")
    _, gone = approvals.count(session, proposal, gate, asked_of(session, proposal, gate))
    for who, why in gone.items():
        row = LostApproval(proposal_id=proposal.id, round=proposal.round, reviewer=who, reason=why, at=db.utc_now())
        session.add(row)
        session.flush()
        record(session, "proposal.approval-lost", by, proposal, reason=why, more={"reviewer": who})


def asked_of(session: Session, proposal: Proposal, gate: Snapshot) -> Asked:
    """The right to review this proposal."""
    kind, directory = KINDS[proposal.kind], gate.policy.directory
    matter = kind.matter(session, proposal.change)

    def refuse(who: Actor) -> None:
        kind.refuse_reviewer(directory, proposal, who)

    return Asked(kind.REVIEW, matter, refuse, approvals.excluded(session, proposal, approvals.terms(proposal)))


# --- how it takes effect ----------------------------------------------------------------------------------------------


def apply(session: Session, proposal: Proposal, gate: Snapshot, permit: Permit | None = None) -> Proposal:
    """Let an approved proposal take effect: by `permit`, or else by the last of those who approved. Rivals that were
    made from what it replaces are over.

    Raises:
        ApprovalLost: the approvals that count do not suffice any more.
        BreakGlassRefused: it waits for the end of what is in effect provisionally.
        Problem: what was agreed to is not what would apply.
    """
    given, _ = approvals.count(session, proposal, gate, asked_of(session, proposal, gate))
    if missing := approvals.terms(proposal).missing(one.voter for one in given):
        raise ApprovalLost(f"the approvals that count do not suffice: {approvals.sentence(missing)}")
    permit = permit or given[-1].permit
    if proposal.provisional == glass.IN_EFFECT:
        proposal.provisional = glass.RATIFIED
        turn(session, proposal, "applied", permit.actor, told="ratified", version=proposal.version)
    else:
        glass.refuse_beside(session, proposal.subject, proposal.change)
        _refuse_moved(session, proposal)
        KINDS[proposal.kind].apply(session, proposal, permit, [who for one in given for who in one.people])
        turn(session, proposal, "applied", permit.actor, version=proposal.version)
    _supersede_rivals(session, proposal, permit.actor)
    return proposal


def turn(
    session: Session, proposal: Proposal, state: str, by: Actor, told: str | None = None, **facts: Any
) -> Proposal:
    """Into another state, with the one event that tells of it. Whatever ended, and was in effect, is undone before;
    what was made from it is over with it.

    Raises:
        StaleBase: it was not undone, so that people cannot end it. The clock can.
    """
    undone = proposal.provisional == glass.IN_EFFECT and state not in PENDING
    if undone:
        glass.undo(session, proposal, KINDS[proposal.kind], by, or_alarm=state == "expired")
    proposal.state = state
    proposal.decided_at = None if state in PENDING else db.utc_now()
    session.add(proposal)
    session.flush()
    record(session, f"proposal.{told or state}", by, proposal, **facts)
    if undone:
        _supersede_rivals(session, proposal, by)
    return proposal


def _settle(session: Session, proposal: Proposal, permit: Permit, gate: Snapshot) -> Proposal:
    """After an approval: it takes effect, where that was the last one needed and nothing has to be waited for."""
    given, _ = approvals.count(session, proposal, gate, asked_of(session, proposal, gate))
    if approvals.terms(proposal).missing(one.voter for one in given):
        return proposal
    turn(session, proposal, "approved", permit.actor)
    if proposal.not_before is not None and proposal.not_before > db.utc_now():
        return proposal
    return apply(session, proposal, gate, permit)


def _open(session: Session, proposal: Proposal, made: Draft, permit: Permit, voters: Electorate) -> Proposal:
    proposal.opened_at = db.utc_now()
    _freeze(session, proposal, made, voters)
    proposal.state = "open"
    session.add(proposal)
    session.flush()
    record(session, "proposal.opened", permit.actor, proposal, reason=proposal.reason, **permit.provenance)
    return proposal


def _freeze(session: Session, proposal: Proposal, made: Draft, voters: Electorate) -> None:
    """Keep what is asked of this change now, whatever `approvals.yaml` says later, and begin its time."""
    terms = approvals.terms_of(made, voters.gate)
    proposal.terms, proposal.terms_digest = terms.model_dump(mode="json"), terms.digest()
    proposal.approvals_needed = terms.approvals
    approvals.refuse_unsatisfiable(session, terms, asked_of(session, proposal, voters.gate), voters)
    begin_time(proposal)
    session.add(proposal)
    session.flush()


def begin_time(proposal: Proposal) -> None:
    """From now on people are waited for, as long as its terms say."""
    terms, now = approvals.terms(proposal), db.utc_now()
    proposal.remind_at = now + terms.remind_after if terms.remind_after else None
    proposal.escalate_at = now + terms.escalate_after if terms.escalate_after else None
    proposal.expires_at = now + terms.expires_after


def _supersede_rivals(session: Session, ended: Proposal, by: Actor) -> None:
    """What was made from the version that is replaced and, where that was agreed to, the others of the same kind on the
    same subject. What is in effect itself is not made from what it replaced: it ends by people or by the clock."""
    rivals = select(Proposal).where(
        Proposal.subject == ended.subject,
        Proposal.id != ended.id,
        col(Proposal.state).in_(("open", "approved")),
        col(Proposal.provisional).is_(None),
    )
    for rival in session.exec(rivals.order_by(col(Proposal.id))).all():
        if _has_moved(session, rival) or (ended.state == "applied" and rival.kind == ended.kind):
            turn(session, rival, "superseded", by, more={"by": ended.id})


# --- reading ----------------------------------------------------------------------------------------------------------


def get(session: Session, proposal_id: str, *, for_change: bool = False) -> Proposal:
    """Raises `UnknownProposal`. For a change the row is locked, where the database has row locks; the queue comes
    first, since whoever applies one holds it and locks its rivals."""
    if for_change:
        db.queue_for(session, "vocabulary")
    found = session.get(Proposal, proposal_id, with_for_update=for_change)
    if found is None:
        raise UnknownProposal(f"`{proposal_id[:100]}` is not a proposal")
    return found


def edited(session: Session, proposal: Proposal, asked: wire.ProposalEdit) -> wire.ProposalRequest:
    """The request that the proposal would be after this edit."""
    change: Any = asked.change or KINDS[proposal.kind].asked(session, proposal)
    not_before = asked.not_before if "not_before" in asked.model_fields_set else proposal.not_before
    return wire.ProposalRequest.model_validate(
        {"change": change, "reason": asked.reason or proposal.reason, "not_before": not_before}
    )


# --- what is refused --------------------------------------------------------------------------------------------------


def _refuse_unless(proposal: Proposal, *states: str) -> None:
    if proposal.state not in states:
        advice = "withdraw it, or wait" if proposal.state in PENDING else "open a new proposal"
        raise AlreadyDecided(f"`{proposal.id}` is {proposal.state}; {advice}")


def _refuse_others(proposal: Proposal, permit: Permit, what: str) -> None:
    if proposal.author != permit.actor.id:
        raise NotPermitted(f"only its author, `{proposal.author}`, {what} a proposal", reason_code="not-the-author")


def _refuse_late(proposal: Proposal) -> None:
    """By the clock: that it is written down a minute later changes nothing."""
    if proposal.state == "open" and proposal.expires_at is not None and proposal.expires_at <= db.utc_now():
        raise ProposalExpired(
            f"`{proposal.id}` was open until {proposal.expires_at:%Y-%m-%d %H:%M} UTC; propose it again"
        )


def _refuse_reviewer(session: Session, proposal: Proposal, hand: Actor, gate: Snapshot) -> None:
    """Neither the one who reviews nor the one in whose name may have had a part in it, or a review already."""
    terms, reviewer, asked = approvals.terms(proposal), hand.acts_for or hand, asked_of(session, proposal, gate)
    for one in dict.fromkeys((hand, reviewer)):
        if proposal.author == one.id:
            raise SelfApproval(f"`{one.id}` wrote this proposal; somebody else has to review it")
        if one.id in asked.excluded:
            raise ContributorApproval(f"`{one.id}` edited this proposal; somebody else has to review it")
        for who in (one, people.now(session, one.id)):  # a token may show fewer groups than they have
            if who is not None:
                asked.refuse(who)
    if not terms.counts(approvals.voter(gate, reviewer)):
        groups = sorted({needed.group for needed in terms.needed if needed.group})
        raise NotPermitted(
            f"`{reviewer.id}` is of none of the groups that `{proposal.id}` asks: "
            f"{', '.join(f'`{group}`' for group in groups)}",
            reason_code="not-asked",
            ask=groups,
        )
    for given in of_this_round(session, proposal):
        if twice := {hand.id, reviewer.id} & {given.reviewer, given.on_behalf_of}:
            raise AlreadyReviewed(
                f"`{min(twice)}` has reviewed `{proposal.id}` already, as a delegate or by one; each counts once"
            )


def of_this_round(session: Session, proposal: Proposal) -> list[Review]:
    return [given for given in approvals.reviews(session, proposal) if given.round == proposal.round]


def _refuse_other_base(base: str | None, made: Draft) -> None:
    now = made.base["digest"] if made.base else None
    if base is not None and base != now:
        raise StaleBase(
            f"it was made from `{base}`, and `{now or 'nothing'}` is in force; make it from that one", base=made.base
        )


def _refuse_moved(session: Session, proposal: Proposal) -> None:
    if _has_moved(session, proposal):
        how = "edit it, with files made from what is live" if proposal.kind == "policy" else "edit it"
        raise StaleBase(
            f"another version is in force than `{proposal.id}` was made from; {how}, or propose it again",
            base=_base_now(session, proposal),
        )


def _has_moved(session: Session, proposal: Proposal) -> bool:
    return proposal.base is not None and _another(_base_now(session, proposal), proposal.base)


def _another(base: Mapping[str, Any] | None, other: Mapping[str, Any] | None) -> bool:
    """By what they say. What was in force before an incident comes back as a version with another number."""
    contents = [{name: fact for name, fact in (one or {}).items() if name != "version"} for one in (base, other)]
    return contents[0] != contents[1]


def _base_now(session: Session, proposal: Proposal) -> dict[str, Any] | None:
    """What it would be made from now, where it is made from anything."""
    if proposal.base is None:
        return None
    return policy_changes.base(session) if proposal.kind == "policy" else base_of(session, proposal.base["tag"])


# --- writing ----------------------------------------------------------------------------------------------------------


def _content(request: wire.ProposalRequest, made: Draft, round_: int = 1) -> dict[str, Any]:
    """What a proposal says, under one digest."""
    said = {"change": made.change, "result": made.result, "base": made.base, "reason": request.reason, "round": round_}
    begins = audit.moment(request.not_before) if request.not_before else None
    return {
        **said,
        "subject": made.subject,
        "digest": digest(canonical_bytes({**said, "not_before": begins})),
        "not_before": request.not_before,
        "approvals_needed": made.approvals_at_least,
    }


def _keep_files(session: Session, proposal: Proposal, made: Draft) -> None:
    session.add_all(
        ProposedFile(proposal_id=proposal.id, round=proposal.round, name=name, content=text)
        for name, text in made.files.items()
    )


def record(
    session: Session,
    kind: str,
    actor: Actor,
    proposal: Proposal,
    *,
    more: Mapping[str, Any] | None = None,
    **facts: Any,
) -> None:
    """The event of a proposal; `more` is detail."""
    subject, _, name = proposal.subject.partition(":")
    detail = {"digest": proposal.digest, "change": proposal.kind, **(more or {})}
    if subject == "tag":
        facts["task_type"] = name
    else:
        detail["subject"] = proposal.subject
    audit.record(session, kind, actor, proposal_id=proposal.id, detail=detail, **facts)
