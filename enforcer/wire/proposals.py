"""Proposals: every governed change, and the reviews that decide it."""

from datetime import datetime, timedelta
from typing import Annotated, Any, Literal

from pydantic import Field

from enforcer.compatibility import Compatibility
from enforcer.profiles import Kind, Profile, ProfileOverrides
from enforcer.runspec import Digest
from enforcer.wire.base import Answer, FileText, Line, Moment, Name, PolicyFileName, Reason, Request
from enforcer.wire.decisions import PrincipalId
from enforcer.wire.exceptions import NewException
from enforcer.wire.policies import PolicyReplay
from enforcer.wire.tag_life import Archival, DeprecationTerms, NewDeprecation, Restoration
from enforcer.wire.tags import Distinctions, NameMatch


class NewTag(Request):
    """A task type that shall exist. With a parent it inherits the parent's profile and says only what is narrower. A
    name that extends another task type's (`dpo-chinese`) has that as parent, or says in `distinct_from` why not."""

    kind: Literal["new-tag"]
    tag: Name
    tag_kind: Kind
    parent: Name | None = None
    description: Line
    aliases: list[Name] = Field(default_factory=list, max_length=20)
    distinct_from: Distinctions
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


class NewAlias(Request):
    """Another spelling of a task type that exists. It resolves to it for ever."""

    kind: Literal["alias"]
    tag: Name
    alias: Name
    distinct_from: Distinctions


class ReservedName(Request):
    """A word that no task type may be called, from now on (`until` then, if that is given) or no longer (`release`).
    The proposal's reason is what those are told who ask for it."""

    kind: Literal["reserved-name"]
    name: Name
    action: Literal["reserve", "release"] = "reserve"
    until: Moment | None = None


class PolicyFiles(Request):
    """The next policy revision, whole: `model.conf`, `directory.yaml`, `rules/*.yaml`, `quotas.yaml`, `approvals.yaml`,
    and the cases in `tests/*.yaml` that it has to decide as written. Exceptions are no part of it: they have proposals
    of their own."""

    kind: Literal["policy"]
    files: dict[PolicyFileName, FileText] = Field(min_length=1, max_length=200)


Change = Annotated[
    NewTag
    | NewVersion
    | NewAlias
    | ReservedName
    | PolicyFiles
    | NewException
    | NewDeprecation
    | Restoration
    | Archival,
    Field(discriminator="kind"),
]


class PolicyDigests(Answer):
    """A proposed policy revision: its files by digest. `GET /v1/proposals/{id}/files` has their content."""

    kind: Literal["policy"]
    files: dict[str, Digest]


ProposedChange = Annotated[
    NewTag
    | NewVersion
    | NewAlias
    | ReservedName
    | PolicyDigests
    | NewException
    | DeprecationTerms
    | Restoration
    | Archival,
    Field(discriminator="kind"),
]


ProposalState = Literal["draft", "open", "approved", "applied", "rejected", "withdrawn", "expired", "superseded"]


class BreakGlass(Request):
    """Why a change takes effect before others agree: the incident, by the name it has where incidents are kept."""

    incident: Line
    reason: Reason


Provisional = Literal["in-effect", "ratified", "reverted", "not-reverted"]


class ProposalRequest(Request):
    """A `draft` is for nobody to review until it is submitted. Agreed to, the change waits for `not_before`. `base` is
    the digest of the version that the change was made from: where another is in force, it is refused. With
    `break_glass` it takes effect at once, and is undone after 72 hours unless others have agreed to it."""

    change: Change
    reason: Reason
    draft: bool = False
    not_before: Moment | None = None
    base: Digest | None = None
    break_glass: BreakGlass | None = None


class Ratification(Request):
    """An approval of what is in effect provisionally, of exactly the content with this digest."""

    digest: Digest
    reason: Reason
    on_behalf_of: PrincipalId | None = None


class ProposalEdit(Request):
    """What is left out stays as it is. Every edit, also an empty one, makes the proposal anew from what is in force
    now, and no approval outlives it. `change` keeps its kind and what it is about."""

    change: Change | None = None
    reason: Reason | None = None
    not_before: Moment | None = None


class Review(Request):
    """A verdict on exactly the content with this digest; if the proposal changed since, the review is refused. With
    `on_behalf_of` it is that person's, whose delegation the reviewer holds, and counts as theirs."""

    verdict: Literal["approve", "reject"]
    digest: Digest
    reason: Reason
    on_behalf_of: PrincipalId | None = None


class PolicyChecks(Answer):
    """What the registry found out about a proposed revision. `base` is the live one then, exceptions left aside:
    once it moved, this has to be proposed again. `deny_to_allow` in the replay needs one approval more, and so does
    `approvals_weakened`: by its `approvals.yaml` fewer people would agree, of fewer units, or others."""

    base: Digest
    revision: Digest
    rules_added: list[str]
    rules_changed: list[str]
    rules_removed: list[str]
    approvals_weakened: list[str]
    tests: int
    warnings: list[str]
    replay: PolicyReplay


class ReviewGiven(Answer):
    """Whether it `counts`: one of an earlier `round`, or by somebody who may approve no longer, does not."""

    reviewer: str
    on_behalf_of: str | None
    business_unit: str
    verdict: str
    reason: str
    at: datetime
    round: int
    counts: bool


class ApprovalNeeded(Answer):
    """So many of this group (of all who may review, where there is none), for this unit, where there is one."""

    name: str
    group: str | None
    unit: str | None
    approve: int


class ApprovalTerms(Answer):
    """What was asked when the proposal was opened, by which rule of which revision of the policy."""

    rule: str
    policy_revision: Digest
    change_class: str
    approvals: int
    needed: list[ApprovalNeeded]
    distinct_units: int
    exclude: list[str]
    remind_after: timedelta | None
    escalate_after: timedelta | None
    escalate_to: str | None
    expires_after: timedelta


class ApprovalMissing(Answer):
    """Of `need` approvals there are `have`."""

    name: str
    group: str | None
    unit: str | None
    have: int
    need: int


class Proposal(Answer):
    """`subject` is what it changes: `tag:<name>`, `alias:<name>`, `reserved-name:<name>`, `policy` or `exception:<id>`.
    `checks` is what the registry found out about a policy revision when it was proposed, and `name_matches` are the
    task types that a new name comes near, with what the author said to it; the digest binds both, and the `base` that
    the change is made from. Each edit begins a `round`. `terms` (none of a draft) and `missing` say who has to agree,
    and who of them has not. Applied, a change of the vocabulary has a `version` and one of the policy a
    `policy_revision`. What took effect before others agreed, for an `incident`, is `provisional`: `in-effect`, until it
    is `ratified` or `reverted`, or (an alarm) `not-reverted`, because what it changed was changed again meanwhile."""

    id: str
    state: ProposalState
    subject: str
    change: ProposedChange
    checks: PolicyChecks | None
    base: dict[str, Any] | None
    name_matches: list[NameMatch]
    digest: Digest
    reason: str
    author: str
    contributors: list[str]
    round: int
    opened_at: datetime
    not_before: datetime | None
    expires_at: datetime | None
    decided_at: datetime | None
    terms: ApprovalTerms | None
    terms_digest: Digest | None
    approvals_needed: int
    missing: list[ApprovalMissing]
    incident: str | None
    incident_reason: str | None
    provisional: Provisional | None
    provisional_until: datetime | None
    reviews: list[ReviewGiven]
    version: int | None
    policy_revision: Digest | None


class ProposalFiles(Answer):
    """The files of a proposed policy revision, by name."""

    files: dict[str, str]


class ProposalPage(Answer):
    items: list[Proposal]
    next_page_token: str | None
