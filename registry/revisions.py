"""Policy revisions as rows: kept once, by the digest of what they say, and read back to exactly that.

Revisions share their rules (`policy_rule.rule_set`): one that only grants an exception copies none.
"""

from typing import Any

from sqlalchemy import insert
from sqlmodel import Session, col, select

from enforcer.approvals import Approvals
from enforcer.policy.exceptions import PolicyException
from enforcer.policy.quotas import Quota
from enforcer.policy.revision import Policy, said
from enforcer.policy.rules import Directory, PolicyInvalid, Rule
from enforcer.problems import Unavailable, UnknownPolicy
from registry import db
from registry.tables import PolicyHead, PolicyRevision, PolicyRule


def keep(session: Session, policy: Policy) -> PolicyRevision:
    """The rows of a revision, written where they are not there yet. Keeping one changes nothing of what is decided."""
    db.queue_for(session, "policy revisions")  # two who keep the same one would collide on its keys
    kept = session.get(PolicyRevision, policy.revision)
    if kept is None:
        rule_set = policy.rule_set
        if session.exec(select(PolicyRule.ordinal).where(PolicyRule.rule_set == rule_set).limit(1)).first() is None:
            session.connection().execute(insert(PolicyRule), _rows(policy, rule_set))
        kept = PolicyRevision(
            revision=policy.revision,
            model=policy.model,
            directory=said(policy.directory),
            rule_set=rule_set,
            exceptions=[said(exception) for exception in policy.exceptions],
            quotas=[said(quota) for quota in policy.quotas],
            approvals=said(policy.approvals),
            kept_at=db.utc_now(),
        )
        session.add(kept)
        session.flush()
    return kept


def load(session: Session, revision: str, known: Policy | None = None) -> Policy:
    """The revision as it was kept. Where it differs from one that is `known` by exceptions only, as most do from the
    one before them, its rules are not read again.

    Raises:
        UnknownPolicy: nothing is kept under this digest.
        PolicyInvalid: its rows do not say what its digest says: they were changed, or are read by another release.
    """
    kept = session.get(PolicyRevision, revision)
    if kept is None:
        raise UnknownPolicy(f"`{revision[:100]}` is no revision of the policy; `GET /v1/policies` lists them")
    try:
        policy = _from_known(kept, known) or _read(session, kept)
    except (PolicyInvalid, ValueError) as error:  # pydantic's is one
        raise PolicyInvalid(f"revision {revision} cannot be read back: {error}") from error
    if policy.revision != revision:
        raise PolicyInvalid(f"the rows of revision {revision} say {policy.revision}")
    return policy


def _from_known(kept: PolicyRevision, known: Policy | None) -> Policy | None:
    if known is None or (kept.rule_set, kept.model) != (known.rule_set, known.model):
        return None
    others = (said(known.directory), [said(quota) for quota in known.quotas], said(known.approvals))
    if (kept.directory, kept.quotas, kept.approvals) != others:
        return None
    return known.with_exceptions(PolicyException.model_validate(exception) for exception in kept.exceptions)


def _read(session: Session, kept: PolicyRevision) -> Policy:
    query = select(PolicyRule).where(PolicyRule.rule_set == kept.rule_set).order_by(col(PolicyRule.ordinal))
    rows = session.connection().execute(query).all()
    return Policy.of(
        kept.model,
        Directory.model_validate(kept.directory),
        [_rule(row) for row in rows],
        owners={row.rule_id: row.owner for row in rows},
        exceptions=[PolicyException.model_validate(exception) for exception in kept.exceptions],
        quotas=[Quota.model_validate(quota) for quota in kept.quotas],
        approvals=Approvals.model_validate(kept.approvals),
    )


def head(session: Session) -> PolicyHead:
    """The row that says which revision is live.

    Raises:
        Unavailable: none ever was; the service publishes one when it starts.
    """
    found = session.get(PolicyHead, "live")
    if found is None:
        raise Unavailable("no policy is live yet; `tagwarden serve` publishes the policy folder when it starts")
    return found


def live_revision(session: Session) -> str:
    """As the database has it now, whatever this session has read before. Raises as `head`."""
    found = session.exec(select(PolicyHead.revision).where(PolicyHead.role == "live")).first()
    return found or head(session).revision


def live(session: Session) -> Policy:
    """The policy that decides. Raises as `head` and `load`."""
    return load(session, live_revision(session))


def _rows(policy: Policy, rule_set: str) -> list[dict[str, Any]]:
    return [
        {
            "rule_set": rule_set,
            "ordinal": ordinal,
            "rule_id": rule.id,
            "owner": policy.owners[rule.id],
            "effect": rule.effect,
            "who": list(rule.who),
            "may": list(rule.may),
            "tag": list(rule.tag),
            "unit": list(rule.unit),
            "target": list(rule.target),
            "conditions": said(rule.when),
            "level": rule.level,
            "overridable": rule.overridable,
            "reason": rule.reason,
        }
        for ordinal, rule in enumerate(policy.rules)
    ]


def _rule(row: Any) -> Rule:
    return Rule(
        id=row.rule_id,
        effect=row.effect,
        who=row.who,
        may=row.may,
        tag=row.tag,
        unit=row.unit,
        target=row.target,
        when=row.conditions,
        level=row.level,
        overridable=row.overridable,
        reason=row.reason,
    )
