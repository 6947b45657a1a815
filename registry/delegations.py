"""Delegations: somebody reviews in somebody else's name, for a time.

- The delegate lends a hand, and the voice is the delegator's: their right, their groups, their unit, counted once.
- One level deep: what the delegator could decide alone is asked of the policy, and it knows of no delegation.
- It ends by the clock, when it is revoked, and when the delegator loses the right or either of the two is shut out.
  Whether it stands is found out at each use (`why_over`); that it ended is written down once, for good.
- What the policy denies to the delegate it denies to their hand as well.
"""

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

from sqlmodel import Session, col, select

from enforcer import wire
from enforcer.policy import trees
from enforcer.policy.snapshot import Snapshot
from enforcer.problems import DelegationOver, Invalid, NoDelegation, NotPermitted, UnknownDelegation
from registry import access, audit, db, people, tags
from registry.access import Matter, Permit
from registry.books import Books
from registry.identity import SERVICE, Actor, is_principal
from registry.tables import Delegation

MAX_LIFE = timedelta(days=30)


def make(session: Session, asked: wire.DelegationRequest, permit: Permit, gate: Snapshot) -> Delegation:
    """Let somebody review in one's name.

    Raises:
        Invalid: to nobody who could, to oneself, for too long, or with groups that the caller is not of.
        NotPermitted: the caller may not review that themselves.
        UnknownTaskType
    """
    row = Delegation(
        id=f"dlg-{db.uuid7()}",
        delegator=permit.actor.id,
        delegate=asked.to,
        actions=sorted(set(asked.scope.actions)),
        groups=sorted(set(asked.scope.groups or permit.actor.groups)),
        tag=tags.find(session, asked.scope.tag).name if asked.scope.tag else None,
        unit=asked.scope.unit,
        reason=asked.reason,
        made_at=db.utc_now(),
        not_after=asked.not_after,
    )
    _refuse_unfit(row, permit.actor, gate)
    session.add(row)
    session.flush()
    _record(session, "delegation.made", row, permit.actor, reason=asked.reason, **permit.provenance)
    return row


def revoke(session: Session, delegation_id: str, permit: Permit, reason: str) -> Delegation:
    """Raises UnknownDelegation; DelegationOver: it has ended."""
    row = get(session, delegation_id, for_change=True)
    if row.ended_because is not None or row.not_after <= db.utc_now():
        raise DelegationOver(f"`{row.id}` has ended ({row.ended_because or 'expired'})")
    _end(session, row, "revoked", permit.actor, reason=reason, **permit.provenance)
    return row


def get(session: Session, delegation_id: str, *, for_change: bool = False) -> Delegation:
    if for_change:
        db.queue_for(session, "delegations")
    found = session.get(Delegation, delegation_id, with_for_update=for_change)
    if found is None:
        raise UnknownDelegation(f"`{delegation_id[:100]}` is not a delegation; `GET /v1/delegations` lists them")
    return found


def as_wire(row: Delegation) -> wire.Delegation:
    return wire.Delegation.model_validate({**row.model_dump(), "to": row.delegate})


# --- using one --------------------------------------------------------------------------------------------------------


def hand_of(session: Session, hand: Actor, delegator: str, gate: Snapshot, action: str, matter: Matter) -> Actor:
    """The caller, acting in the delegator's name.

    Raises:
        NoDelegation: the caller holds none of theirs that stands and covers this.
    """
    query = select(Delegation).where(Delegation.delegator == delegator, Delegation.delegate == hand.id)
    reasons: list[str] = []
    for row in session.exec(query.order_by(col(Delegation.id).desc())):
        voice = voice_of(session, row, gate, action, matter)
        if isinstance(voice, Actor):
            return _acting(hand, voice, row)
        reasons.append(f"`{row.id}` {voice}")
    why = f": {'; '.join(reasons[:3])}" if reasons else ""
    raise NoDelegation(
        f"`{hand.id}` does not review this in the name of `{delegator[:100]}`{why}; `{delegator[:100]}` can delegate "
        "it (`POST /v1/delegations`), or review it"
    )


def hands_of(session: Session, hand: Actor, gate: Snapshot, action: str, matter: Matter) -> Iterator[Actor]:
    """The caller in each of the names in which they may do this now."""
    lent = select(Delegation).where(Delegation.delegate == hand.id, col(Delegation.ended_at).is_(None))
    for row in session.exec(lent.order_by(col(Delegation.id))):
        voice = voice_of(session, row, gate, action, matter)
        if isinstance(voice, Actor):
            yield _acting(hand, voice, row)


def _acting(hand: Actor, voice: Actor, row: Delegation) -> Actor:
    """Within what the credential is for, as everything that it does."""
    told = {"on_behalf_of": row.delegator, "delegation": row.id}
    return replace(hand, acts_for=replace(voice, scopes=hand.scopes), via={**hand.via, **told})


def voice_of(session: Session, row: Delegation, gate: Snapshot, action: str, matter: Matter) -> Actor | str:
    """The delegator as far as this delegation lends their voice in a matter now; or why it does not."""
    if (over := why_over(session, row, gate)) is not None:
        return f"has ended ({over})"
    delegator = people.now(session, row.delegator)
    assert delegator is not None  # or it would be over
    if not _covers(row, delegator, gate, action, matter):
        return "does not cover this"
    lent = _lent(row, delegator, gate)
    # Of the whole delegator, too: with fewer groups, fewer denials would fit.
    may = all(access.decide(gate, who, action, matter).allowed for who in (delegator, lent))
    return lent if may else "rests on a right that the delegator does not have here"


def why_over(session: Session, row: Delegation, gate: Snapshot) -> str | None:
    """Why a delegation does not stand any more, if so, by the clock and the credentials of now."""
    if row.ended_because is not None:
        return row.ended_because
    if row.not_after <= db.utc_now():
        return "expired"
    delegator = people.now(session, row.delegator)
    if delegator is None or people.is_shut_out(session, row.delegate):
        return "right-lost"
    lent = _lent(row, delegator, gate)
    return None if lent.groups and any(_may(gate, delegator, row, action) for action in row.actions) else "right-lost"


def tend(books: Books) -> int:
    """Write down which delegations have ended; returns how many."""
    with books.reading() as session:  # nearly always none
        gate, rows = (
            books.gate(session),
            list(session.exec(select(Delegation).where(col(Delegation.ended_at).is_(None)))),
        )
        over = [row.id for row in rows if why_over(session, row, gate)]
    for delegation_id in over:
        with books.writing() as session:
            row = get(session, delegation_id, for_change=True)
            because = why_over(session, row, books.gate(session))
            if row.ended_because is None and because is not None:
                _end(session, row, because, SERVICE)
    return len(over)


# --- the rules --------------------------------------------------------------------------------------------------------


def _refuse_unfit(row: Delegation, delegator: Actor, gate: Snapshot) -> None:
    if row.delegate == row.delegator:
        raise Invalid("nobody needs a delegation to themselves; name somebody else in `to`")
    if not is_principal(row.delegate) or row.delegate.startswith(("ci:", "workload:")):
        raise Invalid(f"`{row.delegate[:100]}` is no person who could review; `to` looks like `user:li`")
    if not timedelta(0) < row.not_after - row.made_at <= MAX_LIFE:
        raise Invalid(f"`not_after` is from now on, and at most {MAX_LIFE.days} days from now")
    if foreign := sorted(set(row.groups) - _groups(delegator, gate)):
        raise Invalid(f"`{delegator.id}` is not of group `{foreign[0]}`, and lends only what is theirs")
    for action in row.actions:
        if not _may(gate, delegator, row, action):
            raise NotPermitted(
                f"`{delegator.id}` may not `{action}` there; nobody delegates what they may not do, or do in somebody "
                "else's name only",
                reason_code="not-theirs-to-delegate",
            )


def _may(gate: Snapshot, who: Actor, row: Delegation, action: str) -> bool:
    matter = Matter(unit=row.unit) if row.tag is None else Matter(tag=row.tag, unit=row.unit)
    return access.decide(gate, who, action, matter).allowed


def _covers(row: Delegation, delegator: Actor, gate: Snapshot, action: str, matter: Matter) -> bool:
    unit = matter.unit or delegator.business_unit
    return (
        action in row.actions
        and (row.tag is None or row.tag in gate.tags.get(matter.tag, frozenset()))
        and (row.unit is None or unit in gate.units_below(row.unit))
    )


def _lent(row: Delegation, delegator: Actor, gate: Snapshot) -> Actor:
    return replace(delegator, groups=tuple(sorted(_groups(delegator, gate).intersection(row.groups))))


def _groups(who: Actor, gate: Snapshot) -> frozenset[str]:
    """Their groups and all wider ones."""
    wider = trees.climb([f"group:{group}" for group in who.groups], gate.groups)
    return frozenset(name.removeprefix("group:") for name in wider)


def _end(session: Session, row: Delegation, because: str, by: Actor, **facts: Any) -> None:
    row.ended_at, row.ended_because = db.utc_now(), because
    session.add(row)
    session.flush()
    _record(session, "delegation.ended", row, by, because=because, **facts)


def _record(session: Session, kind: str, row: Delegation, by: Actor, because: str | None = None, **facts: Any) -> None:
    told = {"delegation": row.id, "delegator": row.delegator, "to": row.delegate, "actions": row.actions}
    detail = {**told, "tag": row.tag, "unit": row.unit, "not_after": audit.moment(row.not_after)}
    audit.record(session, kind, by, detail=detail | ({"because": because} if because else {}), **facts)
