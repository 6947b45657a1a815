"""What anybody may ask: is it up, is it ready, is the database there."""

from fastapi import APIRouter
from sqlalchemy import text

from enforcer.problems import LogInconsistent, Unavailable
from registry.access import Public
from registry.books import TheBooks

router = APIRouter(tags=["health"], dependencies=[Public])


@router.get("/healthz", operation_id="healthz")
def healthz() -> dict[str, str]:
    """The process answers."""
    return {"status": "ok"}


@router.get("/readyz", operation_id="readyz")
def readyz(books: TheBooks) -> dict[str, str]:
    """The database answers, a policy is live, and the log continues what was signed."""
    try:
        with books.reading() as session:
            session.connection().execute(text("select 1 from alembic_version"))
    except Exception as error:
        raise Unavailable("the database does not answer; see the service's log") from error
    if books.log_alarm is not None:
        raise LogInconsistent(f"the log is in doubt: {books.log_alarm}")
    return {"status": "ready", "policy_revision": books.policy.revision}
