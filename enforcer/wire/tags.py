"""Task types, their versions, and what may be said of a name."""

from datetime import datetime

from enforcer.profiles import Kind, Profile
from enforcer.runspec import Digest
from enforcer.wire.base import Answer, Name, Request
from enforcer.wire.tag_life import Deprecation, TagState


class Tag(Answer):
    """A task type and its current version. One that was deprecated says so in `deprecation`, whatever became of it."""

    name: str
    kind: Kind
    parent: str | None
    aliases: list[str]
    description: str
    state: TagState
    version: int
    profile_digest: Digest
    deprecation: Deprecation | None


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
