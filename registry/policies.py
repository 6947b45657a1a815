"""Which policy decides: revisions published by compare-and-swap on the head, each with its event in one transaction.

- What was never checked never goes live: a policy is compiled over the task types of today before it is published.
- Whoever publishes says which version of the head they saw; if another is there, theirs was made from what is gone.
- A publication moves the stamp (migration 0001), so no ticket drafted under the old policy is written after it.
"""

from collections.abc import Mapping
from typing import Any, Literal

from sqlalchemy import Engine, update
from sqlmodel import Session, col, select

from enforcer import wire
from enforcer.policy.decision import Decision
from enforcer.policy.reference import Answer
from enforcer.policy.revision import Policy, said
from enforcer.policy.rules import PolicyInvalid
from enforcer.policy.snapshot import Snapshot
from enforcer.problems import PolicyMoved, PolicyUnchanged
from registry import audit, db, shadow
from registry.identity import Actor
from registry.revisions import head, keep, live, live_revision, load
from registry.tables import Event, PolicyHead, PolicyPublication, Tag

__all__ = ["Source", "head", "keep", "live", "live_revision", "load", "publish", "said", "seen"]

SYSTEM = Actor("system:policy", (), "all")
Source = Literal["folder", "proposal", "override", "revocation"]


def publish(
    session: Session,
    policy: Policy,
    *,
    source: Source,
    author: str,
    approver: str | None,
    seen: int,
    proposal_id: str | None = None,
    folder: Policy | None = None,
    by: Actor | None = None,
    detail: Mapping[str, Any] | None = None,
) -> PolicyPublication:
    """Make this policy the one that decides, from the end of the caller's transaction on.

    `seen` is the version of the head that it was made from, 0 for the first. `folder` is what the folder said, for a
    source of that name. `by` is on record as the one who did it; left out, the author. `detail` goes
    into the event besides.

    Raises:
        PolicyInvalid: it does not compile.
        PolicyMoved: somebody published meanwhile.
        PolicyUnchanged: this revision is live. (A folder may come to say what is live already; that is entered.)
    """
    db.queue_for(session, "policy")  # before the stamp is locked, which tickets wait for
    _compile(session, policy)
    before = session.get(PolicyHead, "live", populate_existing=True)
    if before is not None and before.revision == policy.revision and folder is None:
        raise PolicyUnchanged(f"revision `{policy.revision[:19]}` is live already")
    parent = before.revision if before else None
    keep(session, policy)
    if folder is not None:
        keep(session, folder)
    _swap(session, policy.revision, seen, before)
    published = PolicyPublication(
        version=seen + 1,
        revision=policy.revision,
        parent=parent,
        source=source,
        folder=folder.revision if folder else None,
        author=author,
        approver=approver,
        proposal_id=proposal_id,
        at=db.utc_now(),
    )
    session.add(published)
    told = {
        **(detail or {}),
        "source": source,
        "version": published.version,
        "parent": parent,
        "author": author,
        **({"approver": approver} if approver else {}),
        "rules": len(policy.rules),
        "exceptions": len(policy.exceptions),
        "quotas": len(policy.quotas),
    }
    who = by or Actor(author, (), "all")
    audit.record(
        session, "policy.published", who, policy_revision=policy.revision, proposal_id=proposal_id, detail=told
    )
    return published


def _compile(session: Session, policy: Policy) -> None:
    try:
        Snapshot(policy, dict(session.exec(select(Tag.name, Tag.parent)).all()))
    except PolicyInvalid:
        raise
    except Exception as error:  # whatever the engine says of a model that it does not understand
        raise PolicyInvalid(f"the policy does not compile: {error}") from error


def seen(session: Session) -> int:
    """The version of the head, for whoever is about to make another policy from it; 0 before the first."""
    return session.exec(select(PolicyHead.version).where(PolicyHead.role == "live")).first() or 0


def record_unusable(engine: Engine, revision: str, reason: str) -> None:
    """Put on record, once for a revision, that it is live and cannot be used."""
    _record_once(engine, "policy.unusable", revision, reason)


def record_difference(engine: Engine, decision: Decision, reference: Answer) -> None:
    """Put on record, once for a revision, that the gate and stock Casbin do not agree; the log has every case."""
    asked = decision.request
    detail = {
        "asked": {"action": asked.action, "tag": asked.tag, "unit": asked.unit, "target": asked.target},
        "gate": {"allowed": decision.allowed, "rule": decision.rule, "reason": decision.reason},
        "reference": reference._asdict(),
    }
    _record_once(engine, "policy.differs", decision.revision, "stock Casbin decides otherwise", detail=detail)


def _record_once(engine: Engine, kind: str, revision: str, reason: str, **facts: Any) -> None:
    with db.writing(engine) as session:
        same = select(Event.id).where(Event.kind == kind, Event.policy_revision == revision)
        if session.exec(same.limit(1)).first() is None:
            audit.record(session, kind, SYSTEM, outcome="refused", reason=reason, policy_revision=revision, **facts)


def document(policy: Policy, live: str) -> wire.PolicyDocument:
    """All that a revision says; `live` is the one that decides."""
    return wire.PolicyDocument(
        revision=policy.revision,
        live=policy.revision == live,
        model=policy.model,
        directory=policy.directory.model_dump(mode="json"),
        rules=[{"owner": policy.owners[rule.id], **said(rule)} for rule in policy.rules],
        exceptions=[said(exception) for exception in policy.exceptions],
        quotas=[said(quota) for quota in policy.quotas],
        approvals=[said(rule) for rule in policy.approvals.rules],
    )


def watch(session: Session, candidate: Policy | None, by: Actor) -> None:
    """Put a candidate beside the live policy, or none, and put that on record. Raises PolicyInvalid."""
    if candidate is not None:
        _compile(session, candidate)
    shadow.watch(session, candidate)
    revision = candidate.revision if candidate else None
    audit.record(session, "policy.shadowed", by, policy_revision=revision)


def shadowed(session: Session) -> wire.PolicyShadow:
    """What was counted of the candidate that is watched."""
    candidate, counts = shadow.counted(session)
    parts = [wire.ShadowPart.model_validate(row) for row in counts]
    return wire.PolicyShadow(candidate=candidate, decisions=sum(part.count for part in parts), parts=parts)


def _swap(session: Session, revision: str, seen: int, before: PolicyHead | None) -> None:
    moved = PolicyMoved(
        f"the policy was changed meanwhile (its head is at version {before.version if before else 0}, this was made "
        f"from {seen}); look at the change and make yours from it"
    )
    if before is None:
        if seen != 0:
            raise moved
        session.add(PolicyHead(role="live", revision=revision, version=1))
        session.flush()
        return
    swapped = session.connection().execute(
        update(PolicyHead)
        .where(col(PolicyHead.role) == "live", col(PolicyHead.version) == seen)
        .values(revision=revision, version=seen + 1)
    )
    if swapped.rowcount != 1:
        raise moved
    session.refresh(before)
