"""`/v1/tags/{name}/usage` and `/deprecation-readiness`: who trains under a task type, and whether it can end."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, ConfigDict

from enforcer import wire
from enforcer.policy.rules import ROOT_UNIT
from registry import access, tag_usage, tags
from registry.access import Matter, May, Permit, SignedIn
from registry.books import TheBooks

router = APIRouter(prefix="/v1/tags", tags=["tags"])


class UsageQuery(BaseModel):
    model_config = ConfigDict(extra="forbid")

    business_unit: wire.Name | None = None


def _runs_of_tag(books: TheBooks, name: str, query: Annotated[UsageQuery, Query()]) -> Matter:
    with books.reading() as session:
        tag = tags.find(session, name).name
    return Matter(tag=tag, unit=query.business_unit)


@router.get("/{name}/usage", operation_id="getTagUsage")
def get_usage(
    name: str,
    _query: Annotated[UsageQuery, Query()],
    reader: Annotated[Permit, Depends(May("run-read", about=_runs_of_tag))],
    books: TheBooks,
) -> wire.TagUsage:
    """Runs of one business unit by version and consumer; the caller's own unit unless another is named. `all` is every
    unit."""
    with books.reading() as session:
        return tag_usage.usage(session, tags.find(session, name), reader.unit)


@router.get("/{name}/deprecation-readiness", operation_id="getDeprecationReadiness")
def get_readiness(name: str, caller: SignedIn, books: TheBooks) -> wire.DeprecationReadiness:
    """Whether a task type can end without surprising anybody, and why not. The numbers are of all business units;
    consumers are named in units whose runs the caller may read, and to whoever may deprecate it."""
    with books.reading() as session:
        tag, gate = tags.find(session, name), books.gate(session)
        sees_all = access.decide(gate, caller, "deprecate", Matter(tag=tag.name, unit=ROOT_UNIT)).allowed

        def may_see(unit: str) -> bool:
            return sees_all or access.decide(gate, caller, "run-read", Matter(tag=tag.name, unit=unit)).allowed

        return tag_usage.readiness(session, tag, may_see)
