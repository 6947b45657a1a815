"""Proposals: every governed change, and the reviews that decide it."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field

from enforcer.compatibility import Compatibility
from enforcer.profiles import Kind, Profile, ProfileOverrides
from enforcer.runspec import Digest
from enforcer.wire.base import Answer, FileText, Line, Name, PolicyFileName, Reason, Request
from enforcer.wire.exceptions import NewException
from enforcer.wire.policies import PolicyReplay


class NewTag(Request):
    """A task type that shall exist. With a parent it inherits the parent's profile and says only what is narrower."""

    kind: Literal["new-tag"]
    tag: Name
    tag_kind: Kind
    parent: Name | None = None
    description: Line
    aliases: list[Name] = Field(default_factory=list, max_length=20)
    profile: Profile | None = None
    overrides: ProfileOverrides | None = None
    compatibility: Compatibility | None = None


class NewVersion(Request):
    """The next version of a task type that exists. A `compatibility` replaces the task type's mode, and is what this
    version has to keep."""

    kind: Literal["new-version"]
    tag: Name
    profile: Profile | None = None
    overrides: ProfileOverrides | None = None
    compatibility: Compatibility | None = None


class PolicyFiles(Request):
    """The next policy revision, whole: `model.conf`, `directory.yaml`, `rules/*.yaml`, `quotas.yaml`, and the cases in
    `tests/*.yaml` that it has to decide as written. Exceptions are no part of it: they have proposals of their own."""

    kind: Literal["policy"]
    files: dict[PolicyFileName, FileText] = Field(min_length=1, max_length=200)


Change = Annotated[NewTag | NewVersion | PolicyFiles | NewException, Field(discriminator="kind")]


class PolicyDigests(Answer):
    """A proposed policy revision: its files by digest. `GET /v1/proposals/{id}/files` has their content."""

    kind: Literal["policy"]
    files: dict[str, Digest]


ProposedChange = Annotated[NewTag | NewVersion | PolicyDigests | NewException, Field(discriminator="kind")]


class ProposalRequest(Request):
    change: Change
    reason: Reason


class Review(Request):
    """A verdict on exactly the content with this digest; if the proposal changed since, the review is refused."""

    verdict: Literal["approve", "reject"]
    digest: Digest
    reason: Reason


class PolicyChecks(Answer):
    """What the registry found out about a proposed revision. `base` is the live one then, exceptions left aside:
    once it moved, this has to be proposed again. `deny_to_allow` in the replay needs one approval more."""

    base: Digest
    revision: Digest
    rules_added: list[str]
    rules_changed: list[str]
    rules_removed: list[str]
    tests: int
    warnings: list[str]
    replay: PolicyReplay


class ReviewGiven(Answer):
    reviewer: str
    verdict: str
    reason: str
    at: datetime


class Proposal(Answer):
    """`subject` is what it changes: `tag:<name>`, `policy` or `exception:<id>`. `checks` is what the registry found out
    about a policy revision when it was proposed; the digest binds it, too. Applied, a change of the vocabulary has a
    `version` and one of the policy a `policy_revision`."""

    id: str
    state: str
    subject: str
    change: ProposedChange
    checks: PolicyChecks | None
    digest: Digest
    reason: str
    author: str
    opened_at: datetime
    decided_at: datetime | None
    approvals_needed: int
    reviews: list[ReviewGiven]
    version: int | None
    policy_revision: Digest | None


class ProposalFiles(Answer):
    """The files of a proposed policy revision, by name."""

    files: dict[str, str]


class ProposalPage(Answer):
    items: list[Proposal]
    next_page_token: str | None
