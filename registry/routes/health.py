"""What anybody may ask: is it up, is it ready, which keys sign."""

from typing import Any

from fastapi import APIRouter, Response
from sqlalchemy import text

from enforcer.problems import Unavailable
from registry.access import Public
from registry.books import TheBooks

router = APIRouter(tags=["health"], dependencies=[Public])
CACHE_S = 600


@router.get("/healthz", operation_id="healthz")
def healthz() -> dict[str, str]:
    """The process answers."""
    return {"status": "ok"}


@router.get("/readyz", operation_id="readyz")
def readyz(books: TheBooks) -> dict[str, str]:
    """The database answers, and a policy is live."""
    try:
        with books.reading() as session:
            session.connection().execute(text("select 1 from alembic_version"))
    except Exception as error:
        raise Unavailable("the database does not answer; see the service's log") from error
    return {"status": "ready", "policy_revision": books.policy.revision}


@router.get("/.well-known/jwks.json", operation_id="ticketKeys")
def ticket_keys(books: TheBooks, response: Response) -> dict[str, Any]:
    """The public keys of run tickets (RFC 7517)."""
    response.headers["Cache-Control"] = f"public, max-age={CACHE_S}"
    return {"keys": [books.ticket_key.public_jwk()]}


@router.get("/tlog/jwks.json", operation_id="logKeys")
def log_keys(books: TheBooks, response: Response) -> dict[str, Any]:
    """The public keys of log checkpoints. Apart from those of tickets: a key has one purpose."""
    response.headers["Cache-Control"] = f"public, max-age={CACHE_S}"
    return {"keys": [books.log_key.public_jwk()]}
