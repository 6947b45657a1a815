"""The record: what happened, what was refused, who asked, and the proof that none of it was changed.

An event is written in the same transaction as its effect; a refusal in one of its own, since raising rolls the
request's back. Its place in the Merkle log is given later, by one sequencer at a time: identity values are taken before
commit, so their order is not the order of anything.
"""

import secrets
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import rfc8785
from sqlalchemy import Engine, func
from sqlmodel import Session, col, delete, select

from enforcer import tlog, wire
from enforcer.keys import Signer
from enforcer.problems import Problem
from enforcer.runspec import digest
from registry import db
from registry.identity import Actor
from registry.keyring import Step
from registry.tables import Event, LogEntry, PendingEntry

COLUMNS = tuple(wire.Event.model_fields)


def describe(kind: str, actor: Actor, *, outcome: str = "done", **facts: Any) -> dict[str, Any]:
    """The columns of one event, with its salted hash. `facts` are columns, too; the unit is the actor's unless another
    is named."""
    salt, at = secrets.token_hex(16), db.utc_now()
    event: dict[str, Any] = dict.fromkeys(COLUMNS) | {
        "id": db.uuid7(at),  # one moment: `paging.Filter` bounds a time by the id
        "at": at,
        "kind": kind,
        "outcome": outcome,
        "actor": actor.id,
        "groups": list(actor.groups),
        "groups_digest": digest(rfc8785.dumps(sorted(actor.groups))),
        "business_unit": actor.business_unit,
        "detail": {},
        "salt": salt,
        **facts,
    }
    return {**event, "personal_hash": tlog.personal_hash(salt, event)}


def leaf_of(event: dict[str, Any]) -> bytes:
    """The leaf hash of an event that is not yet a row."""
    return tlog.leaf_hash(tlog.entry({**event, "at": moment(event["at"])}))


def record(session: Session, kind: str, actor: Actor, *, outcome: str = "done", **facts: Any) -> Event:
    """Write one event, and that its place in the log is open."""
    columns = describe(kind, actor, outcome=outcome, **facts)
    event = Event(**columns)
    session.add(event)
    session.flush()
    session.add(PendingEntry(event_id=event.id, leaf_hash=leaf_of(columns)))
    return event


def record_refusal(engine: Engine, action: str, actor: Actor, problem: Problem, **facts: Any) -> str:
    """Write a refusal in a transaction of its own; returns the event's id."""
    facts["detail"] = {"problem": problem.code, **facts.get("detail", {})}
    for name in ("rule", "policy_revision"):
        if name in problem.facts:
            facts[name] = problem.facts[name]
    with db.writing(engine) as session:
        # What could not be stored must not keep the refusal from being stored.
        reason = problem.detail[:1_000].replace("\x00", "").encode("utf-8", "replace").decode()
        return record(session, f"{action}.refused", actor, outcome="refused", reason=reason, **facts).id


def record_keys(engine: Engine, actor: Actor, steps: Sequence[Step]) -> None:
    """Write what happened to the service's keys. It goes on record before it takes effect (`registry.keyring`)."""
    with db.writing(engine) as session:
        for step in steps:
            record(session, f"key.{step.kind}", actor, detail=step.detail)


# --- the log ----------------------------------------------------------------------------------------------------------


def sequence(session: Session) -> None:
    """Give every committed event its place in the log. One sequencer at a time; the transaction must be a writing one.

    What is pending is a set and not a position: an event that commits later is found by the next call.
    """
    db.queue_for(session, "sequencer")
    query = select(PendingEntry).join(Event).order_by(col(Event.at), col(Event.id))
    pending = session.exec(query).all()
    index = session.exec(select(func.count()).select_from(LogEntry)).one()
    for entry in pending:
        session.add(LogEntry(index=index, event_id=entry.event_id, leaf_hash=entry.leaf_hash))
        index += 1
    session.flush()
    for start in range(0, len(pending), 500):
        ids = [entry.event_id for entry in pending[start : start + 500]]
        session.exec(delete(PendingEntry).where(col(PendingEntry.event_id).in_(ids)))


def is_pending(session: Session) -> bool:
    return session.exec(select(PendingEntry.event_id).limit(1)).first() is not None


def checkpoint(session: Session, origin: str, key: Signer) -> tuple[tlog.Tree, wire.Checkpoint]:
    """The tree over everything sequenced, and its signed head."""
    tree = tlog.Tree(session.exec(select(LogEntry.leaf_hash).order_by(col(LogEntry.index))))
    return tree, wire.Checkpoint(size=len(tree), note=tlog.sign_checkpoint(origin, len(tree), tree.root, key))


def document(row: Mapping[Any, Any]) -> dict[str, Any]:
    """A row of `event` as it stands on the wire, without the detour over models: exports read millions."""
    return {**{name: row[name] for name in COLUMNS}, "at": moment(row["at"])}


def as_document(event: Event) -> dict[str, Any]:
    """The event exactly as it stands on the wire; `tlog.entry` makes its log entry of this."""
    return wire.Event.model_validate(event).model_dump(mode="json")


def moment(at: datetime) -> str:
    """As pydantic writes a UTC time, so that the leaf hashed now is the leaf of the row read later."""
    return at.isoformat().replace("+00:00", "Z")
