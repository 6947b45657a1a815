"""Who is let in no longer (what SCIM calls deactivation), and who again. It takes effect with the next request."""

from typing import Any

from sqlmodel import Session, col, select

from enforcer import wire
from enforcer.problems import Invalid
from registry import audit, db
from registry.etags import ANY, Seen
from registry.identity import Actor, is_principal
from registry.tables import Principal


def get(session: Session, principal_id: str) -> wire.Principal:
    """Raises Invalid: no principal can be called so."""
    _check(principal_id)
    return on_the_wire(principal_id, session.get(Principal, principal_id))


def disable(
    session: Session, principal_id: str, by: Actor, reason: str, *, seen: Seen = ANY, **provenance: Any
) -> Principal:
    """Let none of this principal's credentials open anything. Somebody who is disabled already stays as they are.

    Raises:
        Invalid: no principal can be called so.
        Stale: they are not as the caller saw them.
    """
    _check(principal_id)
    db.queue_for(session, f"principal {principal_id}")
    row = session.get(Principal, principal_id)
    seen.refuse_stale(on_the_wire(principal_id, row))
    if row is None:
        row = Principal(id=principal_id, disabled_at=db.utc_now(), disabled_by=by.id, reason=reason)
        session.add(row)
        detail = {"principal": principal_id}
        audit.record(session, "principal.disabled", by, reason=reason, detail=detail, **provenance)
    return row


def enable(session: Session, principal_id: str, by: Actor, reason: str, *, seen: Seen = ANY, **provenance: Any) -> None:
    """Let them in again. What was disabled when, by whom and why stays on record.

    Raises:
        Invalid: no principal can be called so.
        Stale: they are not as the caller saw them.
    """
    _check(principal_id)
    db.queue_for(session, f"principal {principal_id}")
    row = session.get(Principal, principal_id)
    seen.refuse_stale(on_the_wire(principal_id, row))
    if row is not None:
        session.delete(row)
        detail = {"principal": principal_id}
        audit.record(session, "principal.enabled", by, reason=reason, detail=detail, **provenance)


def disabled(session: Session) -> list[Principal]:
    return list(session.exec(select(Principal).order_by(col(Principal.id))))


def on_the_wire(principal_id: str, row: Principal | None) -> wire.Principal:
    if row is None:
        return wire.Principal(id=principal_id, enabled=True, disabled_at=None, disabled_by=None, reason=None)
    return wire.Principal.model_validate({**row.model_dump(), "enabled": False})


def _check(principal_id: str) -> None:
    if not is_principal(principal_id):
        raise Invalid(
            f"`{principal_id[:64]}` is not the id of a principal; it looks like `user:li`, `user:<issuer>:<subject>`, "
            "`ci:<trust rule>`, as events name their actor"
        )
