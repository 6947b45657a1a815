"""Task types, their versions, and what may be said of a name."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field

from enforcer.profiles import Kind, Profile
from enforcer.runspec import Digest
from enforcer.wire.base import Answer, Name, Reason, Request
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
