"""The life of a task type: `active -> deprecated -> sunset -> archived`, and from `deprecated` back to `active`.

- Every step but one is a proposal that others agreed to (`tag_life_changes.py`). `deprecated -> sunset` is the clock's:
  it holds from `sunset_at` on, for whoever asks (`state_at`); the service writes it down when it gets there.
- What replaces a task type is active, and stays so for as long as it is needed: when it ends itself, whatever it
  replaced is given over to its own replacement in the same step. So a replacement is one step away, never in a ring.
- Nothing is deleted. Archived is for ever.

The database holds all of this but the clock (triggers, migration 0001).
"""

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, and_, or_
from sqlmodel import Session, col, select

from enforcer import wire
from enforcer.problems import ReplacementInvalid, StaleBase, StillReplaces, SunsetInvalid, WrongLifeState
from registry import audit, db
from registry.identity import SERVICE, Actor
from registry.tables import Tag

LONGEST_NOTICE = timedelta(days=3650)


def state_at(tag: Tag, now: datetime) -> wire.TagState:
    """Which state a task type is in, whether or not the books say so yet."""
    if tag.state == "deprecated" and tag.sunset_at is not None and tag.sunset_at <= now:
        return "sunset"
    state: wire.TagState = tag.state  # type: ignore[assignment]  # held by a CHECK
    return state


def in_state(state: wire.TagState, now: datetime) -> ColumnElement[bool]:
    """The same, as a condition on rows."""
    stands = col(Tag.state) == state
    if state == "deprecated":
        return and_(stands, col(Tag.sunset_at) > now)
    return or_(stands, _due(now)) if state == "sunset" else stands


def deprecation_of(tag: Tag) -> wire.Deprecation | None:
    if tag.deprecated_at is None or tag.sunset_at is None or tag.deprecation_reason is None:
        return None
    return wire.Deprecation(
        since=tag.deprecated_at, sunset_at=tag.sunset_at, replaced_by=tag.replaced_by, reason=tag.deprecation_reason
    )


def refuse_terms(session: Session, tag: Tag, sunset_at: datetime, replacement: Tag | None) -> None:
    """Rule on the terms of an end.

    Raises:
        WrongLifeState: its sunset has passed already.
        SunsetInvalid: not in the future, or farther than anybody plans.
        ReplacementInvalid: itself, or nothing that stays.
        StillReplaces: others point to it, and nothing would take its place.
    """
    now = db.utc_now()
    _refuse_other_than(tag, now, "deprecated", "active", "deprecated")
    if not now < sunset_at < now + LONGEST_NOTICE:
        raise SunsetInvalid(
            f"`sunset_at`: {audit.moment(sunset_at)} is not in the next ten years; say when `{tag.name}` takes no new "
            "runs any more"
        )
    if replacement is not None and (replacement.name == tag.name or replacement.state != "active"):
        why = "it is what ends" if replacement.name == tag.name else f"it is {state_at(replacement, now)}"
        raise ReplacementInvalid(f"`{replacement.name}` cannot replace `{tag.name}`: {why}; name one that is active")
    if replacement is None and (others := replaced_by(session, tag.name)):
        raise StillReplaces(
            f"`{tag.name}` is what {', '.join(f'`{one}`' for one in others)} ended in favour of; name a `replaced_by` "
            "that takes these over",
            replaces=others,
        )


def replaced_by(session: Session, name: str) -> list[str]:
    """Those that ended in favour of it, archived ones left out: their record is closed."""
    over = col(Tag.state).in_(("deprecated", "sunset"))
    return list(session.exec(select(Tag.name).where(Tag.replaced_by == name, over).order_by(col(Tag.name))))


def deprecate(
    session: Session, tag: Tag, sunset_at: datetime, replacement: Tag | None, reason: str, by: Actor, **facts: Any
) -> None:
    """Let it end on these terms. Raises as `refuse_terms`."""
    refuse_terms(session, tag, sunset_at, replacement)
    name = replacement.name if replacement else None
    for other in replaced_by(session, tag.name):  # first, since nothing may point to what ends
        _repoint(session, session.get_one(Tag, other), tag.name, name, by, facts)
    tag.state, tag.deprecated_at = "deprecated", tag.deprecated_at or db.utc_now()
    tag.sunset_at, tag.replaced_by, tag.deprecation_reason = sunset_at, name, reason
    terms = {"sunset_at": audit.moment(sunset_at), "replaced_by": name}
    _record(session, "tag.deprecated", tag, by, reason=reason, detail=terms, **facts)


def refuse_restoration(tag: Tag) -> None:
    """Raises WrongLifeState."""
    _refuse_other_than(tag, db.utc_now(), "restored", "deprecated")


def restore(session: Session, tag: Tag, by: Actor, **facts: Any) -> None:
    """Let it go on. Raises WrongLifeState."""
    refuse_restoration(tag)
    tag.state = "active"
    tag.deprecated_at = tag.sunset_at = tag.replaced_by = tag.deprecation_reason = None
    _record(session, "tag.restored", tag, by, **facts)


def refuse_archival(tag: Tag) -> None:
    """Raises WrongLifeState."""
    _refuse_other_than(tag, db.utc_now(), "archived", "sunset")


def archive(session: Session, tag: Tag, by: Actor, **facts: Any) -> None:
    """Keep it for the record. Raises WrongLifeState."""
    refuse_archival(tag)
    if tag.state == "deprecated":  # the clock was faster than the service's next look
        _let_sunset_come(session, tag)
    tag.state = "archived"
    _record(session, "tag.archived", tag, by, **facts)


def take_back(session: Session, tag: Tag, by: Actor, **facts: Any) -> None:
    """Archive a task type that was never agreed to, at once: the steps of a life, and one event for all of them.

    Raises:
        StaleBase: others have come to stand on it.
    """
    stands = col(Tag.state) != "archived"
    below = session.exec(select(Tag.name).where(col(Tag.parent) == tag.name, stands)).all()
    if others := [*below, *replaced_by(session, tag.name)]:
        raise StaleBase(f"`{others[0]}` came to stand on `{tag.name}` meanwhile")
    tag.deprecated_at = tag.deprecated_at or db.utc_now()
    tag.sunset_at, tag.replaced_by, tag.deprecation_reason = db.utc_now(), None, "taken back: it was not agreed to"
    steps = ("deprecated", "sunset", "archived")
    for state in steps[steps.index(tag.state) + 1 :] if tag.state in steps else steps:  # what is ahead of it
        tag.state = state
        session.add(tag)
        session.flush()
    _record(session, "tag.taken-back", tag, by, **facts)


# --- the clock --------------------------------------------------------------------------------------------------------


def any_due(session: Session, now: datetime) -> bool:
    return session.exec(select(Tag.name).where(_due(now)).limit(1)).first() is not None


def let_sunsets_come(session: Session, now: datetime) -> list[str]:
    """Write down every sunset that has come, each with its event, once. The caller keeps other changes of the
    vocabulary out meanwhile, those of other processes too."""
    found = session.exec(select(Tag).where(_due(now)).order_by(col(Tag.name))).all()
    for tag in found:
        _let_sunset_come(session, tag)
    return [tag.name for tag in found]


def _due(now: datetime) -> ColumnElement[bool]:
    return and_(col(Tag.state) == "deprecated", col(Tag.sunset_at) <= now)


def _let_sunset_come(session: Session, tag: Tag) -> None:
    assert tag.sunset_at is not None, "the database holds the terms of what is deprecated"
    tag.state = "sunset"
    detail = {"sunset_at": audit.moment(tag.sunset_at), "replaced_by": tag.replaced_by}
    _record(session, "tag.sunset", tag, SERVICE, detail=detail)


def _repoint(session: Session, tag: Tag, before: str, after: str | None, by: Actor, facts: dict[str, Any]) -> None:
    tag.replaced_by = after
    _record(session, "tag.repointed", tag, by, detail={"from": before, "replaced_by": after}, **facts)


def _refuse_other_than(tag: Tag, now: datetime, what: str, *states: wire.TagState) -> None:
    if (state := state_at(tag, now)) not in states:
        raise WrongLifeState(f"`{tag.name}` is {state}; what is {what} is {' or '.join(states)} before", state=state)


def _record(session: Session, kind: str, tag: Tag, by: Actor, **facts: Any) -> None:
    session.add(tag)
    session.flush()
    audit.record(session, kind, by, task_type=tag.name, version=tag.version, **facts)
