"""`/v1/tags`: the vocabulary, readable for everybody signed in."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from enforcer import wire
from enforcer.profiles import Kind
from registry import bindings, db, deprecations, etags, spellings, tag_life, tag_versions, tags
from registry.access import SignedIn
from registry.books import TheBooks
from registry.etags import IfNoneMatch
from registry.paging import Filter, ListQuery, Page
from registry.tables import TagVersion

router = APIRouter(prefix="/v1/tags", tags=["tags"])


class TagQuery(ListQuery):
    kind: Kind | None = None
    parent: wire.Name | None = None
    state: wire.TagState | None = None
    page_size: int = Field(default=100, ge=1)


class _Tags(Filter):
    """A sunset holds from its second on, also where the books do not say so yet."""

    def apply(self, query: Any, table: Any) -> Any:
        state = self.wanted.get("state")
        exact = Filter(**{name: value for name, value in self.wanted.items() if name != "state"})
        query = exact.apply(query, table)
        return query if state is None else query.where(tag_life.in_state(state, db.utc_now()))


class ResolveQuery(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: wire.Name
    framework: wire.Name
    framework_version: wire.FrameworkVersion


@router.get("", operation_id="listTags", openapi_extra=tags.LISTING.published)
def list_tags(query: Annotated[TagQuery, Query()], _caller: SignedIn, books: TheBooks) -> wire.TagPage:
    """The vocabulary, by name unless another order is asked for. What is proposed is no task type yet: `GET
    /v1/proposals?state=open` has it."""
    page = Page(query, _Tags(kind=query.kind, parent=query.parent, state=query.state), tags.LISTING)
    with books.reading() as session:
        items, token = tags.listed(session, page)
    return wire.TagPage(items=items, next_page_token=token)


@router.get(
    "/{name}",
    operation_id="getTag",
    response_model=wire.TagDetail,
    responses={200: {"headers": deprecations.HEADERS}},
)
def get_tag(name: str, _caller: SignedIn, books: TheBooks, if_none_match: IfNoneMatch = None) -> Response:
    """A task type with the profile of its current version. An alias answers with the tag it stands for."""
    with books.reading() as session:
        detail = tags.as_detail(session, tags.find(session, name))
    return etags.answer(detail, if_none_match, headers=deprecations.headers(detail.deprecation))


@router.get("/{name}/versions", operation_id="listTagVersions")
def list_versions(name: str, _caller: SignedIn, books: TheBooks) -> wire.TagVersionPage:
    """Every version, oldest first."""
    with books.reading() as session:
        return wire.TagVersionPage(items=[_as_wire(version) for version in tags.versions(session, name)])


@router.get("/{name}/versions/{version}", operation_id="getTagVersion", response_model=wire.TagVersion)
def get_version(
    name: str, version: wire.VersionNumber, _caller: SignedIn, books: TheBooks, if_none_match: IfNoneMatch = None
) -> Response:
    """One immutable version."""
    with books.reading() as session:
        return etags.answer(_as_wire(tags.version(session, name, version)), if_none_match)


@router.get("/{name}/versions/{version}/diff", operation_id="diffTagVersions")
def diff_versions(
    name: str,
    version: wire.VersionNumber,
    _caller: SignedIn,
    books: TheBooks,
    from_: Annotated[wire.VersionNumber | None, Query(alias="from")] = None,
) -> wire.VersionDiff:
    """What changed in this version: field by field, each with its class. `from` is the version before, unless given."""
    with books.reading() as session:
        return tag_versions.compare(session, tags.find(session, name), from_, version)


@router.post("/{name}/versions:check-compatibility", operation_id="checkCompatibility")
def check_compatibility(
    name: str,
    asked: wire.CompatibilityCheckRequest,
    _caller: SignedIn,
    books: TheBooks,
    verbose: bool = False,
) -> wire.CompatibilityCheck:
    """Would this next version keep the task type's compatibility mode? Nothing is written."""
    with books.reading() as session:
        tag = tags.find(session, name)
        profile = tags.resolve_profile(session, tag.parent, asked.profile, asked.overrides)
        found = tag_versions.check(session, tag, profile, asked.compatibility)
    return found if verbose else found.model_copy(update={"changes": None})


@router.get(":resolve", operation_id="resolveTag")
def resolve(query: Annotated[ResolveQuery, Query()], _caller: SignedIn, books: TheBooks) -> wire.ResolvedTag:
    """How a version of another framework spells this task type: its command, and what to call it with."""
    with books.reading() as session:
        return bindings.resolve(session, query.name, query.framework, query.framework_version)


@router.post(":check-name", operation_id="checkTagName")
def check_name(asked: wire.NameCheckRequest, _caller: SignedIn, books: TheBooks) -> wire.NameCheck:
    """May a new task type be called so? Says which rules speak up, because of which task types, and what to use
    instead. `parent` and `distinct_from` are what the proposal would declare, of task types that exist."""
    with books.reading() as session:
        for declared in filter(None, (asked.parent, *(one.tag for one in asked.distinct_from))):
            tags.find(session, declared)  # a misspelt one would answer for nothing, and nobody would know
        said = spellings.check(session, asked.name, parent=asked.parent, distinct_from=asked.distinct_from)
    return wire.NameCheck.model_validate(said)


def _as_wire(version: TagVersion) -> wire.TagVersion:
    return wire.TagVersion.model_validate(version.model_dump())
