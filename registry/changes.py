"""What kinds of changes have in common: what a proposal keeps of one, and what it is about."""

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from sqlmodel import Session, col, select

from enforcer.policy import trees
from enforcer.policy.rules import ANY_TAG
from enforcer.profile_changes import ChangeClass
from registry import db, tags
from registry.access import Matter
from registry.tables import Run, Tag

RUNS_OF_LATE = timedelta(days=90)


@dataclass(frozen=True)
class Draft:
    """`change` and `result` are bound by the digest that reviewers agree to; `files` are bound by their own digests in
    `change`. Of approvals, so many are needed `at_least`, and so many `more` than for other proposals. Where nobody
    says what the change means for those who train (`change_class`), it is the heaviest. `base` is what it was made
    from, for a change that must not be laid over another; `affected_units` run what it changes."""

    subject: str
    change: dict[str, Any]
    result: dict[str, Any] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    approvals_at_least: int = 1
    approvals_more: int = 0
    change_class: ChangeClass = ChangeClass.BREAKING
    tag_kind: str | None = None
    root: bool = False
    base: dict[str, Any] | None = None
    affected_units: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.subject.rpartition(":")[2]


def about_tag(session: Session, name: str | None) -> Matter:
    """An unknown tag is no matter for the policy: the noun's own rules name it in their refusal."""
    known = name and session.get(Tag, tags.canonical(session, name))
    return Matter(tag=known.name if known else ANY_TAG)


def base_of(session: Session, tag: str) -> dict[str, Any] | None:
    """The version of a task type that is in force, with its mode, which a change of it is made from; None where there
    is none yet."""
    known = session.get(Tag, tag)
    if known is None:
        return None
    digest = tags.version(session, tag).profile_digest
    return {"tag": tag, "version": known.version, "digest": digest, "compatibility": known.compatibility}


def units_that_run(session: Session, tag: str) -> tuple[str, ...]:
    """The business units with runs of a task type, or of one below it, in the last 90 days."""
    parents = dict(session.exec(select(Tag.name, Tag.parent)).all())
    above = trees.above(trees.of_tags(parents))
    concerned = [name for name in parents if tag in above[name]]
    since = f"run-{db.uuid7_floor(db.utc_now() - RUNS_OF_LATE)}"
    query = select(Run.business_unit).where(col(Run.task_type).in_(concerned), col(Run.id) >= since)
    return tuple(sorted(session.exec(query.distinct())))
