"""What kinds of changes have in common: what a proposal keeps of one, and what it is about."""

from dataclasses import dataclass, field
from typing import Any

from sqlmodel import Session

from enforcer.policy.rules import ANY_TAG
from enforcer.profile_changes import ChangeClass
from registry import tags
from registry.access import Matter
from registry.tables import Tag


@dataclass(frozen=True)
class Draft:
    """`change` and `result` are bound by the digest that reviewers agree to; `files` are bound by their own digests in
    `change`. Of approvals, so many are needed `at_least`, and so many `more` than for other proposals. Where nobody
    says what the change means for those who train (`change_class`), it is the heaviest."""

    subject: str
    change: dict[str, Any]
    result: dict[str, Any] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    approvals_at_least: int = 1
    approvals_more: int = 0
    change_class: ChangeClass = ChangeClass.BREAKING

    @property
    def name(self) -> str:
        return self.subject.rpartition(":")[2]


def about_tag(session: Session, name: str | None) -> Matter:
    """An unknown tag is no matter for the policy: the noun's own rules name it in their refusal."""
    known = name and session.get(Tag, tags.canonical(session, name))
    return Matter(tag=known.name if known else ANY_TAG)
