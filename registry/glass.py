"""Break-glass: in an incident a change takes effect before others agree, and is undone unless they do in time.

- It takes effect when it is opened, and stays an open proposal: others review it as any other, by the same terms.
- Ratified by those, it stays. Rejected, withdrawn, or 72 hours old, it is undone with the same step.
- A number or a name that was given is not taken away: what was in force comes back as what follows (`revert`).
- What was changed meanwhile all the same is not overwritten: people cannot end it then, and when its time is over, an
  alarm says that it stays.
- Only what can be undone takes effect like this, and nothing that was not agreed to does so again soon.
- Nothing else is done meanwhile to the same task type, or directly below it: it would rest on what may be undone.
"""

import logging
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy.exc import DBAPIError, OperationalError
from sqlmodel import Session, col, select

from enforcer import wire
from enforcer.problems import AlreadyDecided, BreakGlassRefused, Invalid, Problem, StaleBase
from registry import audit, db, tags
from registry.access import Permit
from registry.changes import Draft
from registry.identity import Actor
from registry.tables import Proposal, Tag

log = logging.getLogger(__name__)
PROVISIONAL = timedelta(hours=72)
REMIND_AFTER, ESCALATE_AFTER = timedelta(hours=24), timedelta(hours=48)
NOT_AGAIN_FOR = timedelta(days=30)
IN_EFFECT, RATIFIED, REVERTED, NOT_REVERTED = "in-effect", "ratified", "reverted", "not-reverted"


def refuse_unfit(session: Session, request: wire.ProposalRequest, made: Draft, kind: Any) -> None:
    """Refuse what has to wait for others.

    Raises:
        Invalid: it would not take effect now anyway.
        BreakGlassRefused: it cannot be undone; or something of the same was not agreed to lately.
    """
    if request.draft or request.not_before is not None:
        raise Invalid("`break_glass` is for what takes effect now; leave out `draft` and `not_before`")
    what = request.change.kind
    if not hasattr(kind, "revert"):
        night = "; for one night there is `POST /v1/policies:override`" if what in ("policy", "exception") else ""
        raise BreakGlassRefused(
            f"a change of kind `{what}` cannot be undone, so others agree before it takes effect{night}"
        )
    query = select(Proposal).where(Proposal.subject == made.subject, col(Proposal.provisional).is_not(None))
    for earlier in session.exec(query.order_by(col(Proposal.id))):
        if earlier.provisional != RATIFIED and _since(earlier) < NOT_AGAIN_FOR:
            raise BreakGlassRefused(
                f"`{earlier.id}` took effect like this and was not agreed to; for {NOT_AGAIN_FOR.days} days others "
                f"agree to a change of `{made.subject}` before it takes effect"
            )


def refuse_beside(session: Session, subject: str, change: Mapping[str, Any]) -> None:
    """Raises BreakGlassRefused: what the change is about, or stands on directly, is in effect provisionally."""
    resting = [f"tag:{name}" for name in _rests_on(session, subject, change)]
    query = select(Proposal).where(col(Proposal.subject).in_(resting), Proposal.provisional == IN_EFFECT)
    earlier = session.exec(query.order_by(col(Proposal.id))).first()
    if earlier is not None:
        raise BreakGlassRefused(
            f"`{earlier.id}` is in effect for `{earlier.subject}` provisionally, and may be undone until "
            f"{earlier.provisional_until:%Y-%m-%d %H:%M} UTC; have it ratified or withdrawn first"
        )


def _rests_on(session: Session, subject: str, change: Mapping[str, Any]) -> set[str]:
    """Its task type, and those that this one is below, or ends in favour of. None for the policy, exceptions and
    reserved words."""
    named = [change.get(one) for one in ("tag", "parent", "replaced_by")]
    if not subject.startswith(("tag:", "alias:")):
        return set()
    found = {tags.canonical(session, name) for name in named if name}
    about = session.get(Tag, tags.canonical(session, change["tag"]))
    return found | ({about.parent} if about is not None and about.parent else set())


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


def undo(session: Session, proposal: Proposal, kind: Any, by: Actor, *, or_alarm: bool) -> None:
    """Bring back what was in force before, where nobody changed it meanwhile; otherwise raise an alarm, `or_alarm`.

    Raises:
        StaleBase: it cannot be undone.
    """
    try:
        with session.begin_nested():
            kind.revert(session, proposal, by)
    except OperationalError:  # the database could not, this time
        raise
    except (Problem, DBAPIError) as error:
        if not or_alarm:
            why = error.detail if isinstance(error, Problem) else "what it changed was changed again"
            raise StaleBase(f"`{proposal.id}` cannot be undone: {why}; have it ratified, or put that right") from error
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
