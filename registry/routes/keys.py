"""Public keys, apart by purpose: a verifier of tickets never learns a key that signs something else. And which tickets
were taken back."""

import json
from typing import Any

from fastapi import APIRouter, Response

from enforcer import wire
from registry import etags, revocations
from registry.access import Public
from registry.books import Books, TheBooks
from registry.etags import IfNoneMatch
from registry.key_life import Purpose

CACHE_S, CACHE_REVOKED_S = 600, 60

router = APIRouter(tags=["keys"], dependencies=[Public])


@router.get("/.well-known/jwks.json", operation_id="ticketKeys", response_model=dict[str, Any])
async def ticket_keys(books: TheBooks, if_none_match: IfNoneMatch = None) -> Response:
    """The public keys of run tickets (RFC 7517): those that sign, will sign, or signed what is still valid."""
    return _published(if_none_match, books, "ticket")


@router.get("/tlog/jwks.json", operation_id="logKeys", response_model=dict[str, Any])
async def log_keys(books: TheBooks, if_none_match: IfNoneMatch = None) -> Response:
    """The public keys of log checkpoints."""
    return _published(if_none_match, books, "log")


@router.get("/.well-known/token-jwks.json", operation_id="tokenKeys", response_model=dict[str, Any])
async def token_keys(books: TheBooks, if_none_match: IfNoneMatch = None) -> Response:
    """The public keys of access tokens that the registry gives out in exchange for others."""
    return _published(if_none_match, books, "token")


@router.get("/.well-known/attestation-jwks.json", operation_id="attestationKeys", response_model=dict[str, Any])
async def attestation_keys(books: TheBooks, if_none_match: IfNoneMatch = None) -> Response:
    """The public keys of countersignatures under run manifests, and of the manifests that exports end with."""
    return _published(if_none_match, books, "attestation")


@router.get("/.well-known/retired-keys", operation_id="retiredKeys", response_model=dict[str, Any])
async def retired_keys(books: TheBooks, if_none_match: IfNoneMatch = None) -> Response:
    """Keys of all purposes that are over, for ever, to verify what they signed while they were good.

    Each says from when (`activated_at`) to when (`retired_at`) it was published for signing. One with `compromised_at`
    proves nothing by itself: only what the log holds from before that time is worth anything."""
    return _cached(if_none_match, books.ring.retired())


@router.get("/.well-known/revoked.json", operation_id="revokedTickets")
def revoked_tickets(books: TheBooks, response: Response) -> wire.RevokedList:
    """Tickets that were taken back and have not expired, signed by the ticket key, for verifiers that cannot ask."""
    response.headers["Cache-Control"] = f"public, max-age={CACHE_REVOKED_S}"
    with books.reading() as session:
        return wire.RevokedList(revoked=revocations.signed_list(session, books))


def _published(known: str | None, books: Books, purpose: Purpose) -> Response:
    return _cached(known, books.ring.jwks(purpose))


def _cached(known: str | None, document: dict[str, Any]) -> Response:
    body = json.dumps(document, separators=(",", ":")).encode()
    return etags.answer(body, known, headers={"Cache-Control": f"public, max-age={CACHE_S}"})
