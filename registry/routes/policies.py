"""`/v1/policies`: which policy decides, which ones did, and what another would have done."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Response

from enforcer import wire
from enforcer.problems import Malformed
from registry import etags, policies, policy_changes, policy_trials, replay
from registry.access import May, the_house
from registry.books import TheBooks
from registry.etags import IfNoneMatch
from registry.filters import Listing
from registry.paging import Filter, Page, PageQuery
from registry.tables import PolicyPublication

router = APIRouter(prefix="/v1", tags=["policy"])
READER = Depends(May("policy-read", about=the_house))
AUTHOR = Depends(May("policy-write", about=the_house, budget="exports"))


NEWEST_FIRST = Listing(key=PolicyPublication.version, descending=True)


@router.get("/policies", operation_id="listPolicies", dependencies=[READER])
def list_policies(query: Annotated[PageQuery, Query()], books: TheBooks) -> wire.PolicyHistory:
    """Which revisions went live, newest first: by whom, from which source, in place of which."""
    page = Page(query, Filter(), NEWEST_FIRST)
    with books.reading() as session:
        found, token = page.rows(session, PolicyPublication)
        items = [wire.PolicyPublication.model_validate(row) for row in found]
        return wire.PolicyHistory(live=policies.live_revision(session), items=items, next_page_token=token)


@router.get("/policies:shadow", operation_id="getPolicyShadow", dependencies=[READER])
def get_shadow(books: TheBooks) -> wire.PolicyShadow:
    """What a candidate decided otherwise than the live policy since it is watched, counted to a few seconds ago."""
    with books.reading() as session:
        return policies.shadowed(session)


@router.get("/policies/{revision}", operation_id="getPolicy", dependencies=[READER], response_model=wire.PolicyDocument)
def get_policy(revision: str, books: TheBooks, if_none_match: IfNoneMatch = None) -> Response:
    """All that a revision says. `live` is the one that decides."""
    with books.reading() as session:
        live = policies.live_revision(session)
        document = policies.document(policies.load(session, live if revision == "live" else revision), live)
    return etags.answer(document, if_none_match)


@router.post("/policies:validate", operation_id="validatePolicy", dependencies=[AUTHOR])
def validate_policy(asked: wire.PolicyToValidate, books: TheBooks) -> wire.PolicyValidation:
    """Read, lint and test policy files. Nothing is kept; whatever is wrong with them is the answer, not a refusal."""
    with books.reading() as session:
        tags = books.gate(session).tag_parents
    return policy_trials.validate(asked.files, tags)


@router.post("/policies:replay", operation_id="replayPolicy", dependencies=[AUTHOR])
def replay_policy(asked: wire.PolicyToReplay, books: TheBooks) -> wire.PolicyReplay:
    """Make the decisions of the last days again by a revision that is kept, or by files, and compare them with what was
    decided then. The live exceptions go on under files."""
    if (asked.files is None) == (asked.revision is None):
        raise Malformed("give either `files` or `revision`")
    with books.reading() as session:
        live = policies.live(session)
        kept = policies.load(session, asked.revision) if asked.revision else None
    candidate = kept or policy_changes.as_it_would_be(asked.files or {}, live)
    return replay.run(books, candidate, days=asked.days or books.settings.replay_days)
