"""Proposals about names: another spelling for a task type, and words that no task type may be called.

Neither changes what anybody trains. An alias is for ever; a reserved word can be released again.
"""

from collections.abc import Mapping
from typing import Any

from sqlmodel import Session

from enforcer import names, wire
from enforcer.policy.rules import ANY_TAG, Directory
from enforcer.problems import NameInvalid, NameIsVariant, NameNotReserved, StaleReview
from enforcer.profile_changes import ChangeClass
from registry import audit, db, spellings, tags
from registry.access import Matter, Permit
from registry.changes import Draft, about_tag
from registry.identity import Actor
from registry.tables import KnownName, Proposal

PROPOSE, REVIEW = "propose", "approve"
NameChange = wire.NewAlias | wire.ReservedName


def matter(session: Session, change: Mapping[str, Any]) -> Matter:
    """An alias is judged as its task type; for a word that belongs to none the rules for all tags decide."""
    return about_tag(session, change["tag"]) if change["kind"] == "alias" else Matter(tag=ANY_TAG)


def draft(session: Session, request: wire.ProposalRequest, _checks: object, /) -> Draft:
    """Raises NameInvalid, NameIsVariant, NameNeedsReason, NameNotReserved, UnknownTaskType,
    TaskTypeNotActive."""
    change = request.change
    assert isinstance(change, NameChange)
    if isinstance(change, wire.NewAlias):
        change = change.model_copy(update={"tag": tags.find_living(session, change.tag).name})
        near = spellings.refuse_bad_alias(session, change.alias, change.tag, change.distinct_from)
        result = {"name_matches": spellings.as_evidence(near)}
        return Draft(
            f"alias:{change.alias}", change.model_dump(mode="json"), result, change_class=ChangeClass.EDITORIAL
        )
    _refuse(session, change)
    class_ = ChangeClass.LOOSENING if _frees(session, change) else ChangeClass.TIGHTENING
    return Draft(f"reserved-name:{change.name}", change.model_dump(mode="json"), change_class=class_)


def asked(_session: Session, proposal: Proposal, /) -> dict[str, Any]:
    return proposal.change


def refuse_reviewer(_directory: Directory, _proposal: Proposal, _reviewer: Actor, /) -> None:
    """Whoever may approve, may approve any."""


def apply(session: Session, proposal: Proposal, permit: Permit, _approvers: list[str], /) -> None:
    """The word has its meaning, or none any more. Checked again: the vocabulary may have moved meanwhile.

    Raises:
        NameInvalid, NameIsVariant, NameNotReserved: the word has another meaning by now.
        TaskTypeNotActive: what it would spell has ended.
        StaleReview: the end of the reservation has passed.
    """
    change = wire.ProposalRequest.model_validate({"change": proposal.change, "reason": proposal.reason}).change
    assert isinstance(change, NameChange)
    facts = {"proposal_id": proposal.id, **permit.provenance}
    if isinstance(change, wire.NewAlias):
        tags.find_living(session, change.tag)
        spellings.refuse_bad_alias(session, change.alias, change.tag, change.distinct_from)
        spellings.add_alias(session, change.alias, change.tag)
        detail = change.model_dump(mode="json", include={"alias", "distinct_from"})
        audit.record(session, "tag.alias-added", permit.actor, task_type=change.tag, detail=detail, **facts)
        return
    if change.until is not None and change.until <= db.utc_now():
        raise StaleReview(f"`{proposal.id}` was for a time until {change.until:%Y-%m-%dT%H:%M:%SZ}, which has passed")
    _refuse(session, change)
    if change.action == "reserve":
        spellings.reserve(session, change.name, proposal.reason, change.until)
    else:
        spellings.release(session, change.name)
    detail = change.model_dump(mode="json", include={"name", "until"})
    kind = "tag.name-reserved" if change.action == "reserve" else "tag.name-released"
    audit.record(session, kind, permit.actor, reason=proposal.reason, detail=detail, **facts)


def _frees(session: Session, change: wire.ReservedName) -> bool:
    """Whether the word is free sooner than it would be otherwise."""
    if change.action == "release":
        return True
    known = session.get(KnownName, change.name)
    if known is None or change.until is None:
        return False
    return known.until is None or change.until < known.until


def _refuse(session: Session, change: wire.ReservedName) -> None:
    """A word with a meaning keeps it. One that is reserved is reserved for longer, or for another reason, like anew."""
    known = session.get(KnownName, change.name)
    if change.action == "release":
        if known is None or known.kind != "reserved":
            raise NameNotReserved(f"`{change.name[:100]}` is not a reserved word, so there is nothing to release")
        if change.until is not None:
            raise NameInvalid(f"`{change.name}` is released at once; `until` goes with `reserve`", pointer="/until")
        return
    if not names.is_canonical(change.name):
        kebab = names.to_kebab(change.name)
        advice = f"; reserve `{kebab}`" if names.is_canonical(kebab) else ""
        raise NameInvalid(f"`{change.name[:100]}` could not be a task type's name anyway{advice}", suggestion=kebab)
    if known is not None and known.tag is not None:
        meaning = "is a task type" if known.tag == change.name else f"is an alias of `{known.tag}`"
        raise NameIsVariant(f"`{change.name}` {meaning}; what a name means never changes", suggestion=known.tag)
    if change.until is not None and change.until <= db.utc_now():
        raise NameInvalid(f"`until` of `{change.name}` has passed; give a later moment, or none", pointer="/until")
