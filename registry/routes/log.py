"""`/tlog` (C2SP tlog-tiles) and proofs: what lets somebody who does not trust us check the record.

Heads, tiles and consistency proofs are for anybody. They hold signatures and hashes of entries that nobody can guess
(an event's id alone has 74 random bits), and a log whose head only insiders see is witnessed by insiders only. Entries
name units and rules, so bundles of them are for auditors of all units. The proof of one event goes to whoever is signed
in and knows the event's id, which was told to nobody but those it concerns, and to the run that the event is about.
"""

import base64
import re
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query, Response
from fastapi.responses import PlainTextResponse

from enforcer import tiles, wire
from enforcer.notes import LogInvalid
from enforcer.problems import LogInconsistent, Malformed, NotFound
from registry import log
from registry.access import Matter, May, ProofReader, Public
from registry.books import TheBooks

router = APIRouter(tags=["log"])
MAX_WAIT_S = 10
OCTETS = "application/octet-stream"
FOR_GOOD = {"Cache-Control": "public, max-age=31536000, immutable"}
Size = Annotated[int, Query(ge=0, lt=2**53)]
_BINARY = {"schema": {"type": "string", "format": "binary"}}
_BYTES: dict[int | str, dict[str, Any]] = {200: {"content": {OCTETS: _BINARY}, "description": "as C2SP has it"}}


async def _all_units() -> Matter:
    return Matter(unit="all")


@router.get("/tlog/checkpoint", operation_id="getCheckpoint", dependencies=[Public], response_class=PlainTextResponse)
def get_checkpoint(books: TheBooks) -> PlainTextResponse:
    """The newest signed head of the log, as a C2SP checkpoint. Keep it: the log must always continue it."""
    with books.reading() as session:
        return PlainTextResponse(books.head(session), headers={"Cache-Control": "no-store"})


@router.get("/tlog/consistency", operation_id="getConsistency", dependencies=[Public])
def get_consistency(
    books: TheBooks, old: Annotated[Size, Query(alias="from")], size: Annotated[Size, Query(alias="to")]
) -> wire.ConsistencyProof:
    """That the log of `to` entries begins with the one of `from`, for whoever does not want to read tiles."""
    if not 0 < old <= size:
        raise Malformed("`from` must be at least 1 and at most `to`: the empty log proves nothing about any other")
    with books.reading() as session:
        proof = log.consistency(session, old, size)
    return wire.ConsistencyProof(old=old, size=size, proof=[base64.b64encode(node).decode() for node in proof])


@router.get("/tlog/tile/entries/{path:path}", operation_id="getEntries", response_class=Response, responses=_BYTES)
def get_entries(path: str, _auditor: Annotated[object, Depends(May("audit-read", about=_all_units))],
                books: TheBooks) -> Response:  # fmt: skip
    """A bundle of log entries: events without what is personal, each after its length in two bytes.

    Reading is no event: a monitor that follows the log would follow its own reading for ever.
    """
    index, width = _tile(path)
    with books.reading() as session:
        head = log.newest(session)
        start = index * tiles.WIDTH
        if head is None or head.size < start + width:
            raise NotFound(f"the log has no bundle `{path[:80]}` yet")
        try:
            content = tiles.bundle(log.entries(session, start, start + width))
        except LogInvalid as error:
            raise LogInconsistent(f"the log cannot show this: {error}") from error
    return Response(content, media_type=OCTETS, headers=FOR_GOOD)


@router.get("/tlog/tile/{level}/{path:path}", operation_id="getTile", dependencies=[Public], response_class=Response,
            responses=_BYTES)  # fmt: skip
def get_tile(level: str, path: str, books: TheBooks) -> Response:
    """Up to 256 hashes of one level of the tree."""
    index, width = _tile(path)
    if not re.fullmatch(r"0|[1-9][0-9]?", level, re.ASCII) or int(level) > 63:
        raise NotFound(f"there is no level `{level[:20]}`")
    with books.reading() as session:
        head = log.newest(session)
        there = head is not None and (head.size >> (tiles.HEIGHT * int(level))) >= index * tiles.WIDTH + width
        content = log.tile(session, int(level), index, width) if there else None
    if content is None:
        raise NotFound(f"the log has no tile `{level}/{path[:80]}` yet")
    return Response(content, media_type=OCTETS, headers=FOR_GOOD)


@router.get("/v1/audit/{event_id}/proof", operation_id="getProof", response_class=PlainTextResponse)
def get_proof(
    event_id: str, _reader: ProofReader, books: TheBooks, prefer: Annotated[str | None, Header(max_length=200)] = None
) -> PlainTextResponse:
    """A C2SP `.tlog-proof` that an event is in the log. `Prefer: wait=2` has it sequenced first, within 2 seconds."""
    wait = re.search(r"(?:^|[,;\s])wait=(\d{1,3})(?:$|[,;\s])", prefer or "", re.ASCII)
    if wait is not None:
        with books.reading() as session:
            pending = log.waits(session, event_id)
        if pending:
            log.integrate(books, within_s=min(int(wait[1]), MAX_WAIT_S))
    with books.reading() as session:
        return PlainTextResponse(log.prove(session, event_id).write(), headers={"Cache-Control": "no-store"})


def _tile(path: str) -> tuple[int, int]:
    try:
        return tiles.tile_number(path)
    except LogInvalid as error:
        raise NotFound(str(error)) from error
