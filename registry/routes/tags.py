"""`/v1/tags`: the vocabulary, readable for everybody signed in."""

import base64
from typing import Annotated

from fastapi import APIRouter, Header, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from enforcer import names, wire
from enforcer.problems import Malformed
from enforcer.profiles import Kind
from registry import tags
from registry.access import SignedIn
from registry.db import ReadSession
from registry.tables import TagVersion

router = APIRouter(prefix="/v1/tags", tags=["tags"])


class TagQuery(BaseModel):
    model_config = ConfigDict(extra="forbid")

    kind: Kind | None = None
    parent: wire.Name | None = None
    page_size: int = Field(default=100, ge=1, le=500)
    page_token: str | None = Field(default=None, max_length=200)


@router.get("", operation_id="listTags")
def list_tags(query: Annotated[TagQuery, Query()], _caller: SignedIn, session: ReadSession) -> wire.TagPage:
    """The vocabulary by name."""
    found, last = tags.page(
        session, kind=query.kind, parent=query.parent, after=_name_after(query.page_token), size=query.page_size
    )
    token = last and base64.urlsafe_b64encode(last.encode()).decode()
    return wire.TagPage(items=[tags.as_wire(session, tag) for tag in found], next_page_token=token)


@router.get("/{name}", operation_id="getTag")
def get_tag(
    name: str,
    response: Response,
    _caller: SignedIn,
    session: ReadSession,
    if_none_match: Annotated[str | None, Header()] = None,
) -> wire.TagDetail:
    """A task type with the profile of its current version. An alias answers with the tag it stands for."""
    detail = tags.as_detail(session, tags.find(session, name))
    response.headers["ETag"] = etag = f'"{detail.profile_digest}"'
    if if_none_match == etag:
        response.status_code = 304
    return detail


@router.get("/{name}/versions", operation_id="listTagVersions")
def list_versions(name: str, _caller: SignedIn, session: ReadSession) -> wire.TagVersionPage:
    """Every version, oldest first."""
    return wire.TagVersionPage(items=[_as_wire(version) for version in tags.versions(session, name)])


@router.get("/{name}/versions/{version}", operation_id="getTagVersion")
def get_version(name: str, version: int, _caller: SignedIn, session: ReadSession) -> wire.TagVersion:
    """One immutable version."""
    return _as_wire(tags.version(session, name, version))


@router.post(":check-name", operation_id="checkTagName")
def check_name(asked: wire.NameCheckRequest, _caller: SignedIn, session: ReadSession) -> wire.NameCheck:
    """May a new task type be called so? Says which rule speaks against it, and what to use instead."""
    return wire.NameCheck.model_validate(names.check_name(asked.name, tags.vocabulary(session)))


def _as_wire(version: TagVersion) -> wire.TagVersion:
    return wire.TagVersion.model_validate(version.model_dump())


def _name_after(token: str | None) -> str | None:
    if token is None:
        return None
    try:
        return base64.urlsafe_b64decode(token).decode()
    except ValueError:
        raise Malformed("`page_token` is not one of ours; start again without it") from None
