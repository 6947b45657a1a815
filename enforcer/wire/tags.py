"""Task types, their versions, and what may be said of a name."""

from datetime import datetime
from typing import Annotated

from pydantic import AfterValidator, StringConstraints

from enforcer.bindings import Literal, version_of
from enforcer.profiles import Kind, Profile
from enforcer.runspec import Digest
from enforcer.wire.base import Answer, Name, Request

FrameworkVersion = Annotated[str, StringConstraints(min_length=1, max_length=60), AfterValidator(version_of)]


class Tag(Answer):
    """A task type and its current version."""

    name: str
    kind: Kind
    parent: str | None
    aliases: list[str]
    description: str
    state: str
    version: int
    profile_digest: Digest


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
    args: dict[str, Literal]
    forbids: dict[str, list[Literal]]


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
