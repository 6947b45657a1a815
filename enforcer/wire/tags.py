"""Task types, their versions, and what may be said of a name."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, StringConstraints

from enforcer.bindings import Literal as FrameworkLiteral, version_of
from enforcer.compatibility import Compatibility
from enforcer.profile_changes import ChangeClass
from enforcer.profiles import Kind, Profile, ProfileOverrides
from enforcer.runspec import Digest
from enforcer.wire.base import Answer, Name, Reason, Request
from enforcer.wire.tag_life import Deprecation, TagState

FrameworkVersion = Annotated[str, StringConstraints(min_length=1, max_length=60), AfterValidator(version_of)]


class Tag(Answer):
    """A task type and its current version. One that was deprecated says so in `deprecation`, whatever became of it."""

    name: str
    kind: Kind
    parent: str | None
    aliases: list[str]
    description: str
    state: TagState
    version: int
    compatibility: Compatibility
    profile_digest: Digest
    deprecation: Deprecation | None


class FieldChange(Answer):
    """One field of a profile by its path. `loses`: configurations that were accepted are refused. `widens`: the task
    type allows what it did not."""

    path: str
    before: Any
    after: Any
    change_class: ChangeClass
    sentence: str
    loses: bool
    widens: bool


class VersionDiff(Answer):
    """What changed from one version to another, and the class of it all: its heaviest change's."""

    tag: str
    from_version: int
    to_version: int
    change_class: ChangeClass
    changes: list[FieldChange]


class Incompatibility(Answer):
    """Where a run configuration gets lost: `backward`, one that is valid under the earlier `version` and not under the
    next; `forward`, the reverse."""

    direction: Literal["backward", "forward"]
    version: int
    path: str
    sentence: str


class CompatibilityCheckRequest(Request):
    """A next version, as a proposal would have it: whole at the root, `overrides` below."""

    profile: Profile | None = None
    overrides: ProfileOverrides | None = None
    compatibility: Compatibility | None = None


class CompatibilityCheck(Answer):
    """What a proposal of this version would meet. `version` is the one in force; `changes` are listed where
    `verbose=true` asked for them."""

    tag: str
    version: int
    mode: Compatibility
    compatible: bool
    change_class: ChangeClass
    incompatibilities: list[Incompatibility]
    changes: list[FieldChange] | None


class TagVersion(Answer):
    """One immutable version with its whole profile, inherited parts included."""

    tag: str
    version: int
    profile_digest: Digest
    profile: Profile
    created_at: datetime
    proposal_id: str | None


class TagDetail(Tag):
    profile: Profile


class TagPage(Answer):
    items: list[Tag]
    next_page_token: str | None


class TagVersionPage(Answer):
    items: list[TagVersion]


class ResolvedTag(Answer):
    """A task type as one version of a framework spells it: call `command` with `args`, and with nothing of `forbids`.

    `versions` is the range that the binding speaks for, `name` what was asked for, `config` the class of the arguments.
    """

    name: str
    tag: str
    version: int
    state: str
    profile_digest: Digest
    framework: str
    framework_version: str
    versions: str
    command: str
    config: str | None
    args: dict[str, FrameworkLiteral]
    forbids: dict[str, list[FrameworkLiteral]]


class DistinctFrom(Request):
    """Why a name that comes near this task type means another thing. It answers the rules `extends` and `typo` only."""

    tag: Name
    because: Reason


Distinctions = Annotated[list[DistinctFrom], Field(default_factory=list, max_length=5)]


class NameCheckRequest(Request):
    """A name as it might be proposed, with what its proposal would declare."""

    name: Name
    parent: Name | None = None
    distinct_from: Distinctions


class NameMatch(Answer):
    """One rule that spoke up, because of `tag` where there is one (`enforcer.names` lists the rules)."""

    rule: str
    evidence: str
    tag: str | None


class NameCheck(Answer):
    """`ok`, with what the declarations answered among `matches`; `justify` where `parent` or `distinct_from` could
    answer; `block`. `suggestion` is a task type that exists, or a name that may be proposed."""

    name: str
    verdict: Literal["ok", "justify", "block"]
    matches: list[NameMatch]
    suggestion: str | None
