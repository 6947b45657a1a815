"""`/v1/tags`: the vocabulary, readable for everybody signed in."""

from typing import Annotated

from fastapi import APIRouter, Header, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from enforcer import names, wire
from enforcer.profiles import Kind
from registry import tags
from registry.access import SignedIn
from registry.db import ReadSession
from registry.paging import Filter, Page
from registry.tables import Tag, TagVersion

router = APIRouter(prefix="/v1/tags", tags=["tags"])


class TagQuery(BaseModel):
    model_config = ConfigDict(extra="forbid")

    kind: Kind | None = None
    parent: wire.Name | None = None
    page_size: int = Field(default=100, ge=1, le=500)
    page_token: str | None = Field(default=None, max_length=300)


@router.get("", operation_id="listTags")
def list_tags(query: Annotated[TagQuery, Query()], _caller: SignedIn, session: ReadSession) -> wire.TagPage:
    """The vocabulary by name."""
    wanted = Filter(kind=query.kind, parent=query.parent)
    found, token = Page(query.page_size, query.page_token, wanted).by_name(session, Tag)
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
