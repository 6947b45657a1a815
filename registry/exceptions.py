"""Exceptions from the policy and overrides of its rules: granted, revoked, and told of when they end.

What decides is the policy revision, so each grant and each revocation publishes one. `known_exception` keeps the books:
which there ever were, and what was said of their end. Whether one counts at a moment is `PolicyException.live`.
"""

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from pydantic import ValidationError
from sqlmodel import Session, col, func, select

from enforcer import wire
from enforcer.policy.exceptions import PolicyException
from enforcer.policy.revision import Policy
from enforcer.policy.rules import ANY_TAG, Directory, PolicyInvalid, Rule
from enforcer.problems import (
    BeneficiaryApproval,
    ExceptionExists,
    ExceptionOver,
    NotOverridable,
    PolicyRefused,
    UnknownException,
    UnknownRule,
)
from registry import audit, db, policies, tags
from registry.access import Permit
from registry.etags import ANY, Seen
from registry.filters import Field, Listing
from registry.identity import Actor
from registry.tables import KnownException
from registry.unneeded import Use

OPEN = ("live", "expiring")
LISTING = Listing(
    key=KnownException.name,
    fields={
        "id": Field(KnownException.name, sort=KnownException.name),
        "state": Field(KnownException.state, "word", (*OPEN, "ended", "revoked"), sort=KnownException.state),
        "until": Field(KnownException.until, "moment", sort=KnownException.until),
        "proposal_id": Field(KnownException.proposal_id),
    },
)


def override(session: Session, asked: wire.OverrideRequest, permit: Permit) -> KnownException:
    """Set a soft-mandatory deny aside for somebody else, for a day at most, at once.

    Raises:
        UnknownRule, NotOverridable: there is no such rule, or none that may be overridden.
        BeneficiaryApproval: the caller gains by it.
        PolicyRefused: its end is past or too far, or it names what does not exist.
    """
    db.queue_for(session, "policy")
    live = policies.live(session)
    _refuse_hard(live, asked.rule)
    refuse_beneficiary(live.directory, asked.who, permit.actor)
    now = db.utc_now()
    terms = {
        "id": f"override-{db.uuid7()}",
        "kind": "override",
        "lifts": asked.rule,
        "tag": tags.find(session, asked.tag).name if asked.tag != ANY_TAG else ANY_TAG,
        **asked.model_dump(mode="json", exclude={"rule", "tag"}),
    }
    exception = granted(terms, now, [permit.actor.id])
    policy = _publish(session, with_exceptions(live, [*live.exceptions, exception]), "override", permit)
    row = _enter(session, exception)
    _record_grant(session, "override.granted", row, permit, policy)
    return row


def grant(
    session: Session, exception: PolicyException, permit: Permit, *, author: str, proposal_id: str
) -> KnownException:
    """Let an exception that was agreed to take effect.

    Raises:
        ExceptionExists, PolicyRefused
    """
    db.queue_for(session, "policy")
    refuse_known(session, exception.id)
    live = policies.live(session)
    policy = with_exceptions(live, [*live.exceptions, exception])
    _publish(session, policy, "proposal", permit, author=author, proposal_id=proposal_id)
    row = _enter(session, exception, proposal_id)
    _record_grant(session, "exception.granted", row, permit, policy)
    return row


def revoke(
    session: Session, name: str, permit: Permit, reason: str, *, from_folder: bool, seen: Seen = ANY
) -> KnownException:
    """Take an exception back before its end, at once. `from_folder`: the policy is that of a folder.

    Raises:
        UnknownException
        ExceptionOver: it has ended, or was revoked before.
        PolicyRefused: it stands in the folder, where it has to be taken out.
        Stale: it is not as the caller saw it.
    """
    db.queue_for(session, "policy")
    known = get(session, name, for_change=True)
    seen.refuse_stale(as_wire(known, db.utc_now()))
    exception = of(known)
    if known.state not in OPEN or not exception.live(db.utc_now()):
        raise ExceptionOver(f"`{name}` is over: it was {'revoked' if known.state == 'revoked' else 'for a time'}")
    if from_folder and known.proposal_id is None and exception.kind == "exception":
        raise PolicyRefused(f"`{name}` stands in `exceptions.yaml` of the policy folder; take it out there")
    live = policies.live(session)
    policy = with_exceptions(live, [one for one in live.exceptions if one.id != name])
    _publish(session, policy, "revocation", permit)
    detail = {"revision": policy.revision}
    _turn(session, known, "revoked", permit.actor, reason=reason, detail=detail, **permit.provenance)
    return known


def get(session: Session, name: str, *, for_change: bool = False) -> KnownException:
    """Raises UnknownException."""
    known = session.get(KnownException, name, with_for_update=for_change)
    if known is None:
        raise UnknownException(f"`{name[:100]}` is not an exception; `GET /v1/exceptions` lists them")
    return known


def granted(terms: dict[str, Any], at: datetime, by: list[str]) -> PolicyException:
    """Terms as asked for, as an exception from now on. Raises PolicyRefused."""
    try:
        return PolicyException.model_validate({**terms, "granted_at": at, "approved_by": by})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise PolicyRefused(f"{where}: {first['msg']}" if where else first["msg"]) from None


def with_exceptions(policy: Policy, exceptions: Iterable[PolicyException]) -> Policy:
    """The revision with these instead. Raises PolicyRefused."""
    try:
        return policy.with_exceptions(exceptions)
    except PolicyInvalid as error:
        raise PolicyRefused(str(error)) from None


def refuse_known(session: Session, name: str) -> None:
    """An id is given once, so that an event means one exception for ever. Raises ExceptionExists."""
    if session.get(KnownException, name) is not None:
        raise ExceptionExists(f"`{name}` is the id of an exception that was granted before; choose another")


def refuse_beneficiary(directory: Directory, who: Iterable[str], actor: Actor) -> None:
    """Raises BeneficiaryApproval when the actor, or a group of theirs, is meant."""
    if directory.covers(who, actor.principals):
        raise BeneficiaryApproval(
            f"`{actor.id}` is among {', '.join(f'`{one}`' for one in who)}; somebody who does not gain by it decides"
        )


def of(known: KnownException) -> PolicyException:
    return PolicyException.model_validate(known.terms)


# --- the end of an exception ------------------------------------------------------------------------------------------


def stage(known: KnownException, standing: PolicyException | None, now: datetime) -> str:
    """What there is to say of an exception now; `standing` is how it stands in the live policy."""
    if known.until <= now:
        return "ended"
    if standing is None:
        return "revoked"
    return "expiring" if standing.expiring(now) else "live"


def anything_to_tell(session: Session, policy: Policy, now: datetime) -> bool:
    known = {row.name: row for row in session.exec(select(KnownException))}
    standing = {exception.id: exception for exception in policy.exceptions}
    return any(_is_news(known.get(name), exception) for name, exception in standing.items()) or any(
        row.state in OPEN and stage(row, standing.get(row.name), now) != row.state for row in known.values()
    )


def tell(session: Session, policy: Policy, now: datetime, by: Actor) -> int:
    """Write the event of each exception whose end is a week away, or past, once; returns how many there were.

    What came with a policy folder is entered in the books here, and what went with it is told as revoked. The caller
    keeps others from changing the policy meanwhile.
    """
    standing = {exception.id: exception for exception in policy.exceptions}
    for exception in standing.values():
        known = session.get(KnownException, exception.id)
        if _is_news(known, exception):
            session.merge(_row(exception))
    session.flush()
    told = 0
    for row in session.exec(select(KnownException).where(col(KnownException.state).in_(OPEN))).all():
        now_is = stage(row, standing.get(row.name), now)
        if now_is != row.state:
            _turn(session, row, now_is, by, policy_revision=policy.revision)
            told += 1
    return told


def counts(session: Session) -> dict[str, int]:
    """How many there are in each state."""
    found = session.exec(select(KnownException.state, func.count()).group_by(KnownException.state))
    return dict.fromkeys(("live", "expiring", "ended", "revoked"), 0) | dict(found.all())


def as_wire(known: KnownException, now: datetime, use: Use | None = None) -> wire.GrantedException:
    exception = of(known)
    return wire.GrantedException.model_validate(
        {
            **exception.model_dump(mode="json"),
            "when": exception.when.model_dump(mode="json", exclude_defaults=True),
            "proposal_id": known.proposal_id,
            "state": known.state,
            "live": known.state != "revoked" and exception.live(now),
            "days_left": max((exception.until - now).days, 0),
            "use": use,
        }
    )


def _refuse_hard(policy: Policy, rule_id: str) -> None:
    rule: Rule | None = next((rule for rule in policy.rules if rule.id == rule_id), None)
    if rule is None:
        raise UnknownRule(f"`{rule_id[:100]}` is not a rule of the policy")
    if rule.effect != "deny" or not rule.overridable:
        raise NotOverridable(
            f"rule `{rule_id}` is {'an allow' if rule.effect == 'allow' else 'not `overridable`'}; propose an exception"
        )


def _publish(
    session: Session,
    policy: Policy,
    source: policies.Source,
    permit: Permit,
    *,
    author: str | None = None,
    proposal_id: str | None = None,
) -> Policy:
    """By the one who did it now: who agreed last to what another proposed, or who took it on themselves."""
    policies.publish(
        session,
        policy,
        source=source,
        author=author or permit.actor.id,
        approver=permit.actor.id if author else None,
        seen=policies.head(session).version,
        proposal_id=proposal_id,
        by=permit.actor,
    )
    return policy


def _record_grant(session: Session, kind: str, row: KnownException, permit: Permit, policy: Policy) -> None:
    detail = {"revision": policy.revision, "terms": row.terms}
    _record(session, kind, row, permit.actor, reason=row.terms["reason"], detail=detail, **permit.provenance)


def _enter(session: Session, exception: PolicyException, proposal_id: str | None = None) -> KnownException:
    row = _row(exception, proposal_id)
    session.add(row)
    session.flush()
    return row


def _row(exception: PolicyException, proposal_id: str | None = None) -> KnownException:
    terms = exception.model_dump(mode="json")
    return KnownException(name=exception.id, terms=terms, proposal_id=proposal_id, state="live", until=exception.until)


def _is_news(known: KnownException | None, exception: PolicyException) -> bool:
    """Whether it came with a policy folder, or has other terms there now."""
    return known is None or of(known) != exception


def _turn(session: Session, row: KnownException, state: str, by: Actor, **facts: Any) -> None:
    row.state = state
    session.add(row)
    _record(session, f"exception.{state}", row, by, **facts)


def _record(session: Session, kind: str, row: KnownException, by: Actor, **facts: Any) -> None:
    """The event belongs to the unit and the task type that the exception is for, where it is for one."""
    exception = of(row)
    unit = exception.unit[0] if len(exception.unit) == 1 else by.business_unit
    tag = exception.tag[0] if len(exception.tag) == 1 and exception.tag[0] != ANY_TAG else None
    detail = {"exception": row.name, "until": audit.moment(row.until), **facts.pop("detail", {})}
    audit.record(
        session, kind, by, business_unit=unit, task_type=tag, proposal_id=row.proposal_id, detail=detail, **facts
    )
