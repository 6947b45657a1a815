"""Proposals of a task type's end: deprecation, restoration, archival.

Whoever may `deprecate` a task type proposes; whoever may `approve` agrees. What a deprecation gives over to another
replacement is part of what is agreed to.
"""

from collections.abc import Mapping
from typing import Any

from sqlmodel import Session

from enforcer import wire
from enforcer.policy.rules import Directory
from enforcer.problems import StaleReview
from enforcer.profile_changes import ChangeClass
from registry import db, tag_life, tags
from registry.access import Matter, Permit
from registry.changes import Draft, about_tag, units_that_run
from registry.identity import Actor
from registry.tables import Proposal, Tag

PROPOSE, REVIEW = "deprecate", "approve"


def matter(session: Session, change: Mapping[str, Any]) -> Matter:
    return about_tag(session, change["tag"])


def draft(session: Session, request: wire.ProposalRequest, _checks: object, /) -> Draft:
    """Raises UnknownTaskType, WrongLifeState, SunsetInvalid, ReplacementInvalid, StillReplaces."""
    change = request.change
    if isinstance(change, wire.NewDeprecation):
        return _draft_deprecation(session, change)
    assert isinstance(change, wire.Restoration | wire.Archival)
    tag = tags.find(session, change.tag)
    if isinstance(change, wire.Restoration):
        tag_life.refuse_restoration(tag)
    else:
        tag_life.refuse_archival(tag)
    # Nobody's run breaks by a restoration. An archival is for ever.
    weight = ChangeClass.COMPATIBLE if isinstance(change, wire.Restoration) else ChangeClass.BREAKING
    return _of(session, tag, {"kind": change.kind, "tag": tag.name}, weight)


def asked(_session: Session, proposal: Proposal, /) -> dict[str, Any]:
    """What it replaces itself was found out."""
    return {name: value for name, value in proposal.change.items() if name != "repointed"}


def refuse_reviewer(_directory: Directory, _proposal: Proposal, _reviewer: Actor, /) -> None:
    """Whoever may approve, may approve any."""


def apply(session: Session, proposal: Proposal, permit: Permit, _approvers: list[str], /) -> None:
    """Its life takes the step.

    Raises:
        StaleReview: its sunset has passed meanwhile, or others ended in favour of it.
        WrongLifeState, ReplacementInvalid: the vocabulary moved, and it cannot be done any more.
    """
    tag = session.get_one(Tag, proposal.change["tag"])
    facts = {"proposal_id": proposal.id, **permit.provenance}
    if proposal.kind == "restoration":
        tag_life.restore(session, tag, permit.actor, **facts)
    elif proposal.kind == "archival":
        tag_life.archive(session, tag, permit.actor, **facts)
    else:
        terms = wire.DeprecationTerms.model_validate(proposal.change)
        _refuse_moved(session, proposal, terms)
        replacement = session.get_one(Tag, terms.replaced_by) if terms.replaced_by else None
        tag_life.deprecate(session, tag, terms.sunset_at, replacement, proposal.reason, permit.actor, **facts)


def _draft_deprecation(session: Session, change: wire.NewDeprecation) -> Draft:
    tag = tags.find(session, change.tag)
    replacement = tags.find(session, change.replaced_by) if change.replaced_by else None
    sunset_at = change.sunset_at.replace(microsecond=0)  # as the headers tell it
    tag_life.refuse_terms(session, tag, sunset_at, replacement)
    terms = wire.DeprecationTerms(
        kind=change.kind,
        tag=tag.name,
        sunset_at=sunset_at,
        replaced_by=replacement.name if replacement else None,
        repointed=tag_life.replaced_by(session, tag.name),
    )
    return _of(session, tag, terms.model_dump(mode="json"), ChangeClass.BREAKING)


def _of(session: Session, tag: Tag, change: dict[str, Any], weight: ChangeClass) -> Draft:
    """Without a base: a version that takes effect meanwhile changes nothing of the end."""
    units = units_that_run(session, tag.name)
    return Draft(f"tag:{tag.name}", change, change_class=weight, tag_kind=tag.kind, affected_units=units)


def _refuse_moved(session: Session, proposal: Proposal, terms: wire.DeprecationTerms) -> None:
    if terms.sunset_at <= db.utc_now():
        raise StaleReview(
            f"`{terms.tag}` was to end at {terms.sunset_at:%Y-%m-%dT%H:%M:%SZ}, which has passed; propose it again"
        )
    if tag_life.replaced_by(session, terms.tag) != terms.repointed:
        raise StaleReview(
            f"other task types have ended in favour of `{terms.tag}`, or do so no more, since `{proposal.id}` was "
            "opened; propose it again"
        )
