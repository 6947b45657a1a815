"""Break-glass: in an incident a change takes effect before others agree, and is undone unless they do in time.

- It takes effect when it is opened, and stays an open proposal: others review it as any other, by the same terms.
- Ratified by those, it stays. Rejected, withdrawn, superseded, or 72 hours old, it is undone with the same step.
- A number or a name that was given is not taken away: what was in force comes back as what follows (`revert`).
- What somebody changed meanwhile is not overwritten: then nothing is undone, and an alarm says so.
- Only what can be undone takes effect like this, and nothing that was undone does so again soon.
"""

import logging
from datetime import datetime, timedelta
from typing import Any

from sqlmodel import Session, col, select

from enforcer import wire
from enforcer.policy.rules import PolicyInvalid
from enforcer.problems import AlreadyDecided, BreakGlassRefused, Invalid, Problem
from registry import audit, db
from registry.access import Permit
from registry.changes import Draft
from registry.identity import Actor
from registry.tables import Proposal

log = logging.getLogger(__name__)
PROVISIONAL = timedelta(hours=72)
REMIND_AFTER, ESCALATE_AFTER = timedelta(hours=24), timedelta(hours=48)
NOT_AGAIN_FOR = timedelta(days=30)
IN_EFFECT, RATIFIED, REVERTED, NOT_REVERTED = "in-effect", "ratified", "reverted", "not-reverted"


def refuse_unfit(session: Session, request: wire.ProposalRequest, made: Draft, kind: Any) -> None:
    """Refuse what has to wait for others.

    Raises:
        Invalid: it would not take effect now anyway.
        BreakGlassRefused: it cannot be undone; or something of the same is in effect already, or was undone lately.
    """
    if request.draft or request.not_before is not None:
        raise Invalid("`break_glass` is for what takes effect now; leave out `draft` and `not_before`")
    what = request.change.kind
    if not hasattr(kind, "revert"):
        raise BreakGlassRefused(f"a change of kind `{what}` cannot be undone, so others agree before it takes effect")
    query = select(Proposal).where(Proposal.subject == made.subject, col(Proposal.provisional).is_not(None))
    for earlier in session.exec(query.order_by(col(Proposal.id))):
        if earlier.provisional == IN_EFFECT:
            raise BreakGlassRefused(
                f"`{earlier.id}` is in effect for `{made.subject}` provisionally; have that ratified or withdrawn first"
            )
        if earlier.state in ("expired", "rejected") and _since(earlier) < NOT_AGAIN_FOR:
            raise BreakGlassRefused(
                f"`{earlier.id}` took effect like this and was not agreed to; for {NOT_AGAIN_FOR.days} days others "
                f"agree to a change of `{made.subject}` before it takes effect"
            )


def refuse_other(proposal: Proposal) -> None:
    """Raises AlreadyDecided: nothing of it is in effect provisionally."""
    if proposal.provisional != IN_EFFECT:
        became = f"was {proposal.provisional}" if proposal.provisional else "waits for reviews"
        raise AlreadyDecided(f"`{proposal.id}` is not in effect provisionally, it {became}; there is nothing to ratify")


def take_effect(session: Session, proposal: Proposal, kind: Any, asked: wire.BreakGlass, permit: Permit) -> None:
    """Apply an open proposal before anybody agreed, until `provisional_until`. Raises what `apply` of its kind does."""
    now = db.utc_now()
    kind.apply(session, proposal, permit, [])
    proposal.incident, proposal.incident_reason = asked.incident, asked.reason
    proposal.provisional, proposal.provisional_until = IN_EFFECT, now + PROVISIONAL
    proposal.expires_at = proposal.provisional_until
    proposal.remind_at = now + REMIND_AFTER
    proposal.escalate_at = now + ESCALATE_AFTER if proposal.escalate_at else None
    session.add(proposal)
    session.flush()
    until = {"provisional_until": audit.moment(now + PROVISIONAL)}
    _record(
        session, "proposal.broke-glass", permit.actor, proposal, reason=asked.reason, more=until, **permit.provenance
    )


def undo(session: Session, proposal: Proposal, kind: Any, by: Actor) -> None:
    """Bring back what was in force before, where nobody changed it meanwhile."""
    try:
        with session.begin_nested():
            kind.revert(session, proposal, by)
    except (Problem, PolicyInvalid) as error:
        proposal.provisional = NOT_REVERTED
        log.critical("%s stays in effect although it was not agreed to: %s", proposal.id, error)
        _record(session, "proposal.not-reverted", by, proposal, outcome="refused", reason=str(error)[:1_000])
        return
    proposal.provisional = REVERTED
    _record(session, "proposal.reverted", by, proposal)


def _since(proposal: Proposal) -> timedelta:
    ended: datetime | None = proposal.decided_at
    return db.utc_now() - ended if ended else timedelta(0)


def _record(
    session: Session, kind: str, by: Actor, proposal: Proposal, more: dict[str, str] | None = None, **facts: Any
) -> None:
    detail = {"subject": proposal.subject, "incident": proposal.incident, **(more or {})}
    tag = proposal.subject.removeprefix("tag:") if proposal.subject.startswith("tag:") else None
    audit.record(session, kind, by, proposal_id=proposal.id, task_type=tag, detail=detail, **facts)
