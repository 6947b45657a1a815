"""`/v1/tags`: the vocabulary, readable for everybody signed in."""

from typing import Annotated

from fastapi import APIRouter, Header, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from enforcer import names, wire
from enforcer.profiles import Kind
from registry import bindings, tags
from registry.access import SignedIn
from registry.books import TheBooks
from registry.paging import Filter, Page
from registry.tables import Tag, TagVersion

router = APIRouter(prefix="/v1/tags", tags=["tags"])


class TagQuery(BaseModel):
    model_config = ConfigDict(extra="forbid")

    kind: Kind | None = None
    parent: wire.Name | None = None
    page_size: int = Field(default=100, ge=1, le=500)
    page_token: str | None = Field(default=None, max_length=300)


class ResolveQuery(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: wire.Name
    framework: wire.Name
    framework_version: wire.FrameworkVersion


@router.get("", operation_id="listTags")
def list_tags(query: Annotated[TagQuery, Query()], _caller: SignedIn, books: TheBooks) -> wire.TagPage:
    """The vocabulary by name."""
    page = Page(query.page_size, query.page_token, Filter(kind=query.kind, parent=query.parent))
    with books.reading() as session:
        found, token = page.by_name(session, Tag)
        return wire.TagPage(items=[tags.as_wire(session, tag) for tag in found], next_page_token=token)


@router.get("/{name}", operation_id="getTag")
def get_tag(
    name: str,
    response: Response,
    _caller: SignedIn,
    books: TheBooks,
    if_none_match: Annotated[str | None, Header()] = None,
) -> wire.TagDetail:
    """A task type with the profile of its current version. An alias answers with the tag it stands for."""
    with books.reading() as session:
        detail = tags.as_detail(session, tags.find(session, name))
    response.headers["ETag"] = etag = f'"{detail.profile_digest}"'
    if if_none_match == etag:
        response.status_code = 304
    return detail


@router.get("/{name}/versions", operation_id="listTagVersions")
def list_versions(name: str, _caller: SignedIn, books: TheBooks) -> wire.TagVersionPage:
    """Every version, oldest first."""
    with books.reading() as session:
        return wire.TagVersionPage(items=[_as_wire(version) for version in tags.versions(session, name)])


@router.get("/{name}/versions/{version}", operation_id="getTagVersion")
def get_version(name: str, version: wire.VersionNumber, _caller: SignedIn, books: TheBooks) -> wire.TagVersion:
    """One immutable version."""
    with books.reading() as session:
        return _as_wire(tags.version(session, name, version))


@router.get(":resolve", operation_id="resolveTag")
def resolve(query: Annotated[ResolveQuery, Query()], _caller: SignedIn, books: TheBooks) -> wire.ResolvedTag:
    """How a version of another framework spells this task type: its command, and what to call it with."""
    with books.reading() as session:
        return bindings.resolve(session, query.name, query.framework, query.framework_version)


@router.post(":check-name", operation_id="checkTagName")
def check_name(asked: wire.NameCheckRequest, _caller: SignedIn, books: TheBooks) -> wire.NameCheck:
    """May a new task type be called so? Says which rule speaks against it, and what to use instead."""
    with books.reading() as session:
        return wire.NameCheck.model_validate(names.check_name(asked.name, tags.vocabulary(session)))


def _as_wire(version: TagVersion) -> wire.TagVersion:
    return wire.TagVersion.model_validate(version.model_dump())
