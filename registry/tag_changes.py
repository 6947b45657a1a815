"""Proposals of the vocabulary: a new task type, and the next version of one.

Result: the whole profile that the change leads to, inherited parts included.
"""

from collections.abc import Mapping
from typing import Any

from sqlmodel import Session

from enforcer import names, wire
from enforcer.compatibility import Compatibility
from enforcer.inheritance import refuse_cycle
from enforcer.policy.rules import Directory
from enforcer.problems import StaleBase, StaleReview
from enforcer.profile_changes import ChangeClass
from enforcer.profiles import Kind, Profile
from registry import spellings, tag_life, tag_versions, tags
from registry.access import Matter, Permit
from registry.changes import Draft, about_tag, base_of, units_that_run
from registry.identity import Actor
from registry.tables import Proposal, Tag

PROPOSE, REVIEW = "propose", "approve"
TagChange = wire.NewTag | wire.NewVersion


def matter(session: Session, change: Mapping[str, Any]) -> Matter:
    """A new tag is judged as its parent; at the root the rules for all tags decide."""
    return about_tag(session, change["tag"] if change["kind"] == "new-version" else change["parent"])


def draft(session: Session, request: wire.ProposalRequest, _checks: object, /) -> Draft:
    """Raises NameInvalid, NameIsVariant, NameNeedsReason, ProfileInvalid, CompatibilityBroken, ParentCycle,
    UnknownTaskType, TaskTypeNotActive."""
    change = request.change
    assert isinstance(change, TagChange)
    near = spellings.as_evidence(_refuse_bad_name(session, change) if isinstance(change, wire.NewTag) else [])
    profile = _resolve(session, change)
    said = change.model_dump(mode="json")
    if isinstance(change, wire.NewTag):
        said["parent"] = _parent(session, change)  # by its own name, under which others look for it
    result = {"profile": profile.model_dump(mode="json"), "name_matches": near}
    if isinstance(change, wire.NewVersion):
        tag = tags.find(session, change.tag)
        tag_versions.refuse_incompatible(session, tag, profile, change.compatibility)
        before = tag_versions.parsed(tags.version(session, tag.name)).profile
        return Draft(
            f"tag:{tag.name}",
            said,
            result,
            change_class=tag_versions.change_class(
                Compatibility(tag.compatibility), before, profile, change.compatibility
            ),
            tag_kind=tag.kind,
            base=base_of(session, tag.name),
            affected_units=units_that_run(session, tag.name),
        )
    root = change.parent is None
    # A child only narrows what it inherits, so nobody who trains today is concerned.
    change_class = ChangeClass.BREAKING if root else ChangeClass.COMPATIBLE
    return Draft(f"tag:{change.tag}", said, result, change_class=change_class, tag_kind=change.tag_kind, root=root)


def asked(_session: Session, proposal: Proposal, /) -> dict[str, Any]:
    return proposal.change


def refuse_reviewer(_directory: Directory, _proposal: Proposal, _reviewer: Actor, /) -> None:
    """Whoever may approve, may approve any."""


def apply(session: Session, proposal: Proposal, permit: Permit, _approvers: list[str], /) -> None:
    """The version takes effect. Name and profile are checked again: the vocabulary may have moved meanwhile.

    Raises:
        NameIsVariant: another proposal has taken the name.
        StaleReview: the parent changed, so that the agreed profile is no longer what it narrows to.
        CompatibilityBroken: the task type protects more by now.
    """
    change = wire.ProposalRequest.model_validate({"change": proposal.change, "reason": proposal.reason}).change
    assert isinstance(change, TagChange)
    if isinstance(change, wire.NewTag):
        _refuse_bad_name(session, change)
    agreed = Profile.model_validate(proposal.result["profile"])
    parent = _parent(session, change)
    if tags.resolve_profile(session, parent, change.profile, change.overrides).digest() != agreed.digest():
        raise StaleReview(
            f"`{parent}` changed since `{proposal.id}` was opened, so what was agreed to is not what would apply; "
            "withdraw it and propose it again"
        )
    if isinstance(change, wire.NewTag):
        kind, description, aliases = change.tag_kind, change.description, change.aliases
    else:
        tag = tags.find(session, change.tag)
        tag_versions.refuse_incompatible(session, tag, agreed, change.compatibility)
        kind, description, aliases = Kind(tag.kind), tag.description, []
    proposal.version = tags.activate(
        session,
        name=proposal.subject.removeprefix("tag:"),
        kind=kind,
        parent=parent,
        description=description,
        aliases=aliases,
        profile=agreed,
        compatibility=change.compatibility,
        by=permit.actor,
        event="tag.activated",
        proposal_id=proposal.id,
        **permit.provenance,
    )


def revert(session: Session, proposal: Proposal, by: Actor, /) -> None:
    """Profile and mode that were in force are so again, as the next version: a number never means another content
    later. A task type that is taken back is archived, so that its name never means anything else.

    Raises:
        StaleBase: another version came after it, or task types below it.
    """
    tag = session.get_one(Tag, proposal.subject.removeprefix("tag:"))
    if tag.version != proposal.version:
        raise StaleBase(f"version {tag.version} of `{tag.name}` came after the provisional {proposal.version}")
    if proposal.kind == "new-tag":
        tag_life.take_back(session, tag, by, proposal_id=proposal.id)
        return
    assert proposal.base is not None  # a next version was made from the one before
    tags.activate(
        session,
        name=tag.name,
        kind=Kind(tag.kind),
        parent=tag.parent,
        description=tag.description,
        aliases=[],
        profile=Profile.model_validate(tags.version(session, tag.name, proposal.base["version"]).profile),
        compatibility=Compatibility(proposal.base["compatibility"]),
        by=by,
        event="tag.reverted",
        proposal_id=proposal.id,
    )


def _refuse_bad_name(session: Session, change: wire.NewTag) -> list[names.Match]:
    """Before the parent and the profile are looked at: its refusal is the more helpful one."""
    return spellings.refuse_bad_name(
        session, change.tag, change.aliases, parent=change.parent, distinct_from=change.distinct_from
    )


def _resolve(session: Session, change: TagChange) -> Profile:
    return tags.resolve_profile(session, _parent(session, change), change.profile, change.overrides)


def _parent(session: Session, change: TagChange) -> str | None:
    if isinstance(change, wire.NewVersion):
        return tags.find_living(session, change.tag).parent
    refuse_cycle({change.tag: change.parent if change.parent not in change.aliases else change.tag})
    return tags.find_active(session, change.parent).name if change.parent else None
