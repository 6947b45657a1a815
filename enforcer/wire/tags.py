"""Task types, their versions, and what may be said of a name."""

from datetime import datetime
from typing import Any, Literal

from enforcer.compatibility import Compatibility
from enforcer.profile_changes import ChangeClass
from enforcer.profiles import Kind, Profile, ProfileOverrides
from enforcer.runspec import Digest
from enforcer.wire.base import Answer, Name, Request


class Tag(Answer):
    """A task type and its current version."""

    name: str
    kind: Kind
    parent: str | None
    aliases: list[str]
    description: str
    state: str
    version: int
    compatibility: Compatibility
    profile_digest: Digest


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


class NameCheckRequest(Request):
    name: Name


class NameMatch(Answer):
    rule: str
    evidence: str
    tag: str | None


class NameCheck(Answer):
    name: str
    ruling: str
    matches: list[NameMatch]
    suggestion: str | None
