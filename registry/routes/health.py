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
    """The database answers, a policy is in use, and the log continues what was signed. `policy_alarm`: the policy that
    is live cannot be used here, so the last good one is."""
    try:
        with books.reading() as session:
            session.connection().execute(text("select 1 from alembic_version"))
            gate = books.gate(session)
    except Unavailable:
        raise
    except Exception as error:
        raise Unavailable("the database does not answer; see the service's log") from error
    if books.log_alarm is not None:
        raise LogInconsistent(f"the log is in doubt: {books.log_alarm}")
    alarm = {"policy_alarm": f"`{books.policy_alarm.revision}` cannot be used"} if books.policy_alarm else {}
    return {"status": "ready", "policy_revision": gate.revision, **alarm}
