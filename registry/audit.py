"""The record: what happened, what was refused, who asked, and the proof that none of it was changed.

An event is written in the same transaction as its effect; a refusal in one of its own, since raising rolls the
request's back. Its place in the Merkle log is given later (`registry.log`): identity values are taken before commit, so
their order is not the order of anything.
"""

import secrets
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import Any

from sqlalchemy import JSON, ColumnElement, Engine, Text, cast, func, literal_column
from sqlmodel import Session

from enforcer import tlog, wire
from enforcer.policy.conditions import Context
from enforcer.policy.decision import Decision, Request
from enforcer.policy.snapshot import Snapshot
from enforcer.problems import Problem
from registry import db
from registry.filters import Listing
from registry.identity import Actor
from registry.key_life import Step
from registry.tables import Event, PendingEntry

COLUMNS = tuple(wire.Event.model_fields)
LISTING = Listing(key=Event.id, descending=True)  # it has filters of its own, with an index for each


def describe(
    kind: str, actor: Actor, *, outcome: str = "done", decision: Decision | None = None, **facts: Any
) -> dict[str, Any]:
    """The columns of one event, with its salted hash. `facts` are columns, too; the unit is the actor's unless another
    is named. Where a `decision` led to it, the whole question is kept, so that it can be explained and asked again."""
    if decision is not None:
        facts = {"rule": decision.rule, "policy_revision": decision.revision, **facts}
        facts["detail"] = {**facts.get("detail", {}), "asked": asked(decision, actor)}
    salt, at = secrets.token_hex(16), db.utc_now()
    event: dict[str, Any] = dict.fromkeys(COLUMNS) | {
        "id": db.uuid7(at),  # one moment: `paging.Filter` bounds a time by the id
        "at": at,
        "kind": kind,
        "outcome": outcome,
        "actor": actor.id,
        "groups": list(actor.groups),
        "groups_digest": actor.groups_digest,
        "business_unit": actor.business_unit,
        "detail": {},
        "salt": salt,
        **facts,
    }
    event["detail"] = {**actor.via, **event["detail"]}
    return {**event, "personal_hash": tlog.personal_hash(salt, event)}


def leaf_of(event: dict[str, Any]) -> bytes:
    """The leaf hash of an event that `describe` made and that is not yet a row."""
    return tlog.leaf_hash(tlog.entry_as_hashed({**event, "at": moment(event["at"])}))


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
        kind = problem.alarm or f"{action}.refused"
        return record(session, kind, actor, outcome="refused", reason=reason, **facts).id


def record_keys(engine: Engine, actor: Actor, steps: Sequence[Step]) -> None:
    """Write what happened to the service's keys. It goes on record before it takes effect (`registry.keyring`)."""
    with db.writing(engine) as session:
        for step in steps:
            record(session, f"key.{step.kind}", actor, detail=step.detail)


def asked(decision: Decision, actor: Actor) -> dict[str, Any]:
    """The whole question that an event's decision answers, beside who asked, and all that fitted. As part of the detail
    it is erased with the person."""
    request, context = decision.request, decision.request.context
    whose = actor.acts_for or actor
    return {
        **({"for": list(whose.principals)} if actor.acts_for else {}),
        "action": request.action,
        "tag": request.tag,
        "unit": request.unit,
        "target": request.target,
        "gpus": context.gpus,
        "model": context.model,
        "change_ticket": context.change_ticket,
        "point": context.point,
        "own_unit": whose.business_unit,
        "now": moment(context.now),
        "reason": decision.reason,
        "matched": [[match.id, match.effect, match.level, match.lifted_by] for match in decision.matched],
    }


def request_of(event: Event, gate: Snapshot) -> Request | None:
    """The question behind an event, to be asked of this gate; None where there was none, or it was erased. Which units
    are below the caller's own is for the gate to say, as it was then."""
    question = event.detail.get("asked")
    if not isinstance(question, dict):
        return None
    context = Context(
        now=datetime.fromisoformat(question["now"]),
        gpus=question["gpus"],
        model=question["model"],
        unit=question["unit"],
        own_units=gate.units_below(question["own_unit"]),
        change_ticket=question["change_ticket"],
        point=question["point"],
    )
    principals = question.get("for") or (event.actor, *(f"group:{group}" for group in event.groups))
    return Request(
        tuple(principals), question["action"], context, question["tag"], question["unit"], question["target"]
    )


def document(row: Mapping[Any, Any]) -> dict[str, Any]:
    """A row of `event` as it stands on the wire, without the detour over models: exports read millions."""
    return {**{name: row[name] for name in COLUMNS}, "at": moment(row["at"])}


@cache
def document_in(dialect: str) -> ColumnElement[str]:
    """`document`, written by the database as JSON text. A page is a hundred events of twenty columns: read into Python
    and written out again they cost four times as much."""
    sqlite, values = dialect == "sqlite", dict(Event.__table__.columns)  # type: ignore[attr-defined]
    if sqlite:  # as text, with a space for the T
        values |= {n: func.json(column) for n, column in values.items() if isinstance(column.type, JSON)}
        at = func.replace(cast(values["at"], Text), " ", "T").concat(literal_column("'Z'"))
    else:
        at = func.to_char(func.timezone("UTC", values["at"]), 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
    values["at"] = func.replace(at, ".000000Z", "Z")  # as `moment`
    pairs: list[ColumnElement[Any]] = []
    for name in COLUMNS:
        pairs += [literal_column(f"'{name}'"), values[name]]
    return cast((func.json_object if sqlite else func.json_build_object)(*pairs), Text)


def moment(at: datetime) -> str:
    """As pydantic writes a UTC time, so that the leaf hashed now is the leaf of the row read later."""
    return at.isoformat().replace("+00:00", "Z")
