"""Run tickets: resolve what would run, sign a permit for exactly that, and let it be used once."""

import re
import secrets
from collections.abc import Mapping
from contextlib import suppress
from datetime import timedelta
from typing import Any

import orjson
from sqlalchemy import update
from sqlmodel import Session, col, delete, select
from starlette.concurrency import run_in_threadpool

from enforcer import gates, tickets, tlog, wire
from enforcer.policy.rules import Directory
from enforcer.policy.snapshot import Snapshot
from enforcer.problems import (
    ArgumentInvalid,
    IdempotencyConflict,
    Malformed,
    OfflineNotPermitted,
    RunClosed,
    TaskTypeNotActive,
    TicketExpired,
    TicketInvalid,
    TicketNeverIssued,
    TicketRevoked,
    TicketUsed,
    Unavailable,
    UnknownTicket,
)
from enforcer.runspec import canonical_bytes_around, digest, flat_canonical_bytes
from enforcer.tickets import LEEWAY_S
from registry import access, audit, db, deprecations, quotas, tags
from registry.access import HeldTicket, Permit, lease_hash
from registry.books import Books
from registry.identity import Actor
from registry.tables import IdempotentAnswer, Run, Stamp, Ticket, UsedProof
from registry.writer import Draft, Stale

IDEMPOTENCY_LIFE = timedelta(hours=24)
ATTEMPTS = 10  # to draft under a stamp that still stands when it is written
_ONE_PLACE = re.compile(r"urn:swift:exec:(local:)?[A-Za-z0-9][A-Za-z0-9._-]{0,150}")


def plan(session: Session, request: wire.TicketRequest, permit: Permit, gate: Snapshot) -> wire.TicketPlan:
    """What `issue` would grant. Nothing is written."""
    task = tags.in_force(session, request.task_type)
    permit = deprecations.weighed(task, gate, permit, db.utc_now())
    spec = _resolve(request, request.model_dump(mode="json"), task, permit, run_id="run-planned")
    canonical_bytes_around(task.canonical, spec)
    return wire.TicketPlan(
        task_type=task.tag,
        version=task.version,
        policy_rule=_rule(permit),
        pool=task.profile.pool,
        limits=task.profile.limits,
        arguments=spec["arguments"],
        gates=[_gate_in_words(gate) for gate in task.profile.gates if gate.concerns(spec["arguments"])],
        warnings=permit.warnings,
    )


async def issue(books: Books, request: wire.TicketRequest, permit: Permit, *, idempotency_key: str) -> bytes:
    """Sign a ticket for the resolved run, and write ticket, run and event with it. Returns the JSON of the grant.

    Raises:
        ArgumentInvalid, SpecificationInvalid: the run cannot be resolved.
        NotPermitted, OfflineNotPermitted: by the policy that is live when it is drafted.
        TaskTypeSunset: its end has come, and no exception is for that.
        IdempotencyConflict: this key came with another request before.
        Unavailable: task types or tokens change faster than a ticket is written.
    """
    for _ in range(ATTEMPTS):
        with suppress(Stale):
            answered = await run_in_threadpool(_answered, books, request, permit, idempotency_key)
            if answered is not None:
                return answered
            drafted = await run_in_threadpool(_draft_now, books, request, permit, idempotency_key)
            if await books.writer.write(drafted):
                books.counts.issued(permit.decision.request.tag, permit.unit)
                return drafted.answer
    raise Unavailable("task types or the policy are being changed just now; nothing was issued. Try again")


def _draft_now(books: Books, request: wire.TicketRequest, permit: Permit, key: str) -> Draft:
    with books.reading() as session:
        stamp = session.exec(select(Stamp.value)).one()
        gate = books.gate(session)
        task = tags.in_force(session, request.task_type)
        head = books.head(session)
    refuse_offline_elsewhere(request, gate.policy.directory)
    permit = access.still_permitted(gate, permit)  # the policy may be another since the route was entered
    permit = deprecations.weighed(task, gate, permit, db.utc_now())
    return draft(books, request, permit, task, stamp=stamp, idempotency_key=key, head=head)


def draft(
    books: Books,
    request: wire.TicketRequest,
    permit: Permit,
    task: tags.InForce,
    *,
    stamp: int,
    idempotency_key: str,
    head: str,
) -> Draft:
    """The signed ticket with everything that has to be written before anybody may see it.

    `task`, and what the permit rests on, were read under the stamp; `head` is the log's newest checkpoint. Raises as
    `issue`. What is made here of checked parts goes through no model again: that would be a tenth of a ticket.
    """
    run_id, jti, now = f"run-{db.uuid7()}", db.uuid7(), db.utc_now()
    deprecations.refuse_ended(task, permit, now)  # also of what was remembered: no clock moves the stamp
    ends, issued_at = now + timedelta(seconds=books.settings.ticket_ttl_s), int(now.timestamp())
    asked, limits, rule = request.model_dump(mode="json"), task.profile.limits, _rule(permit)
    run_spec = canonical_bytes_around(task.canonical, _resolve(request, asked, task, permit, run_id=run_id))
    run_spec_digest = digest(run_spec)
    event = audit.describe(
        "ticket.issued",
        permit.actor,
        business_unit=permit.unit,
        task_type=task.tag,
        version=task.version,
        run_id=run_id,
        ticket_id=jti,
        **permit.provenance,
        detail={
            "run_spec_digest": run_spec_digest,
            "jkt": request.jkt,
            "redeem": request.redeem,
            **({"past_sunset": permit.past_sunset} if permit.past_sunset else {}),
        },
    )
    token = tickets.sign_claims(
        {
            "iss": books.settings.issuer,
            "sub": permit.actor.id,
            "aud": request.audience,
            "iat": issued_at,
            "nbf": issued_at,
            "exp": issued_at + books.settings.ticket_ttl_s,
            "jti": jti,
            "cnf": {"jkt": request.jkt},
            "txn": run_id,
            "client_id": request.client_id,
            "authorization_details": [
                {
                    "type": "training_run",
                    "pool": task.profile.pool,
                    "gpus": request.gpus,
                    "max_runtime_s": limits.max_runtime_s,
                    "actions": ["train"],
                }
            ],
            "ver": 1,
            "task_type": task.tag,
            "task_version": task.version,
            "business_unit": permit.unit,
            "run_spec_digest": run_spec_digest,
            "policy_digest": permit.decision.revision,
            "policy_rule": rule,
            "decision_id": event["id"],
            "redeem": request.redeem,
        },
        books.ticket_key,
    )
    event["digest"] = digest(token.encode())
    ticket_row = {
        "jti": jti,
        "run_id": run_id,
        "jkt": request.jkt,
        "state": "issued",
        "run_spec": run_spec,
        "issued_at": now,
        "expires_at": ends,
        "redeem": request.redeem,
    }
    run_row = {
        "id": run_id,
        "jti": jti,
        "task_type": task.tag,
        "version": task.version,
        "business_unit": permit.unit,
        "actor": permit.actor.id,
        "state": "permitted",
        "target": request.target,
        "pool": task.profile.pool,
        "policy_rule": rule,
        "run_spec_digest": run_spec_digest,
        "created_at": now,
        "step": 0,
        "total_steps": 0,
        "logs": {},
        "scores": {},
        "gates": [],
    }
    answer_row = {
        "actor": permit.actor.id,
        "key": idempotency_key,
        "request_digest": _request_digest(asked),
        "jti": jti,
        "ticket": token,
        "checkpoint": head,
        "warnings": permit.warnings,
        "created_at": now,
    }
    pending_row = {"event_id": event["id"], "leaf_hash": audit.leaf_of(event)}
    rows = ticket_row, run_row, event, pending_row, answer_row
    wanted = quotas.reservations(
        permit.quotas,
        run_id=run_id,
        gpus=request.gpus,
        max_runtime_s=limits.max_runtime_s,
        expires_at=ends,
        offline=request.redeem == "offline",
    )
    return Draft(stamp, rows, _grant(ticket_row, run_row, answer_row), wanted)


def _grant(ticket: Mapping[str, Any], run: Mapping[str, Any], answer: Mapping[str, Any]) -> bytes:
    """`wire.TicketGrant` as JSON, from the three rows: a retry is answered with the same bytes."""
    return orjson.dumps(
        {
            "ticket": answer["ticket"],
            "jti": ticket["jti"],
            "run_id": ticket["run_id"],
            "run_spec": ticket["run_spec"].decode(),
            "run_spec_digest": run["run_spec_digest"],
            "expires_at": audit.moment(ticket["expires_at"]),
            "policy_rule": run["policy_rule"],
            "warnings": answer["warnings"],
            "checkpoint": answer["checkpoint"],
        }
    )


def redeem(session: Session, held: HeldTicket, redemption: wire.Redemption, books: Books) -> wire.Lease:
    """Turn a ticket into a lease, once.

    The same process may ask again after a lost answer and gets a fresh lease token; any other redemption is a second
    use. The state changes in one statement, so of many racing redemptions one wins.

    Raises:
        TicketNeverIssued: it is not in the books, or not as it is here.
        TicketInvalid: the proof was used before.
        TicketExpired, TicketRevoked, TicketUsed.
        RunClosed: asked again, and the run was told to stop meanwhile.
    """
    claims, now = held.claims, db.utc_now()
    ticket, run = find(session, claims)
    _refuse_replay(session, held.proof_id)
    if ticket.redeem != "online":
        raise TicketInvalid("this ticket is redeemed offline, where it is used; upload the run's record later", step=14)
    won = session.connection().execute(
        update(Ticket)
        .where(col(Ticket.jti) == claims.jti, col(Ticket.state) == "issued", col(Ticket.expires_at) > now)
        .values(state="redeemed", redeemed_at=now, redemption_id=redemption.redemption_id)
    )
    session.refresh(ticket)
    session.refresh(run, with_for_update=True)
    again = ticket.redemption_id == redemption.redemption_id and run.state == "running"
    if ticket.state == "revoked":
        raise TicketRevoked(f"ticket `{claims.jti}` was revoked at {ticket.revoked_at:%Y-%m-%dT%H:%M:%SZ}")
    if won.rowcount == 0 and not again:
        if ticket.state == "issued":
            raise TicketExpired(f"ticket `{claims.jti}` expired at {ticket.expires_at:%H:%M:%SZ}; ask for a new one")
        raise TicketUsed(
            f"ticket `{claims.jti}` is {ticket.state} since {ticket.redeemed_at or ticket.issued_at:%Y-%m-%dT%H:%M:%SZ}"
            "; it starts one run and no second. Ask for a new one"
        )
    if run.stop is not None:
        raise RunClosed(f"run `{run.id}` was told to stop ({run.stop}); it gets no new lease")
    token = secrets.token_urlsafe(32)
    run.lease_sha256 = lease_hash(token)
    run.lease_expires_at = now + timedelta(seconds=books.settings.lease_ttl_s)
    if won.rowcount:
        run.state, run.started_at = "running", now
        record_redeemed(session, run, claims)
    session.add(run)
    return wire.Lease(
        run_id=run.id,
        lease_token=token,
        expires_at=run.lease_expires_at,
        heartbeat_s=max(1, books.settings.lease_ttl_s // 3),
        checkpoint=books.head(session),
        lease_s=books.settings.lease_ttl_s,
        grace_s=books.settings.lease_grace_s,
        on_lease_loss=books.settings.on_lease_loss,
    )


def note_refusal(session: Session, held: HeldTicket, refusal: wire.TicketRefusal) -> str:
    """Write down that a worker refused to start a ticket; returns the event's id.

    Raises:
        TicketInvalid: the proof was used before.
        TicketNeverIssued
    """
    claims = held.claims
    _, run = find(session, claims)
    _refuse_replay(session, held.proof_id)
    return audit.record(
        session,
        "ticket.refused",
        Actor(run.actor, (), run.business_unit),
        outcome="refused",
        task_type=run.task_type,
        version=run.version,
        run_id=run.id,
        ticket_id=claims.jti,
        reason=refusal.reason,
        detail={"step": refusal.step, "audience": claims.aud},
    ).id


def find(session: Session, claims: tickets.Claims) -> tuple[Ticket, Run]:
    """Ticket and run of what was signed.

    Raises:
        TicketNeverIssued: signed with our key, yet not what we wrote down: somebody else has the key.
    """
    ticket, run = session.get(Ticket, claims.jti), session.get(Run, claims.txn)
    written = ticket and run and (ticket.run_id, ticket.jkt, run.run_spec_digest)
    signed = claims.txn, claims.cnf.jkt, claims.run_spec_digest
    # Of whom the run is, is not known any more where they were erased; nobody forged it for that.
    if ticket is None or run is None or written != signed or run.actor not in (claims.sub, tlog.ERASED["actor"]):
        raise TicketNeverIssued(f"ticket `{claims.jti}` is not in the books as it is here; who else has our key?")
    return ticket, run


def refuse_offline_elsewhere(request: wire.TicketRequest, directory: Directory) -> None:
    """Offline redemption is weaker (SECURITY.md), so it takes a place that the policy lists, and one audience.

    Raises:
        OfflineNotPermitted: the place has a route to the registry, as far as the policy knows.
        Malformed: an audience that names neither one host nor one cluster.
    """
    if request.redeem != "offline":
        return
    if request.target not in directory.offline:
        raise OfflineNotPermitted(
            f"runs on `{request.target}` redeem their tickets online; `offline` of policies/directory.yaml "
            f"{'lists ' + ', '.join(directory.offline) if directory.offline else 'lists no target'}",
            reason_code="offline-not-permitted",
        )
    if not _ONE_PLACE.fullmatch(request.audience):
        raise Malformed(f"`audience`: `{request.audience}` names neither one host nor one cluster")


def record_redeemed(session: Session, run: Run, claims: tickets.Claims, **detail: Any) -> None:
    """The event of a run's one redemption."""
    audit.record(
        session,
        "ticket.redeemed",
        Actor(run.actor, (), run.business_unit),
        task_type=run.task_type,
        version=run.version,
        run_id=run.id,
        ticket_id=run.jti,
        rule=run.policy_rule,
        policy_revision=claims.policy_digest,
        detail={"audience": claims.aud, **detail},
    )


def _refuse_replay(session: Session, proof_id: str) -> None:
    """A captured redemption must not be sent again: its answer would take the lease from the run that has it."""
    db.queue_for(session, f"proof {proof_id}")
    if session.get(UsedProof, proof_id) is not None:
        raise TicketInvalid("the proof of possession was used before; make a new one for each request", step=13)
    session.add(UsedProof(id=proof_id, used_at=db.utc_now()))
    session.flush()


def status(session: Session, jti: str, actor: Actor) -> wire.TicketStatus:
    """Where a ticket stands, for whoever asked for it.

    Raises:
        UnknownTicket: no such ticket, or somebody else's, which looks the same.
    """
    ticket, run = session.get(Ticket, jti), None
    if ticket is not None:
        run = session.get(Run, ticket.run_id)
    if ticket is None or run is None or run.actor != actor.id:
        raise UnknownTicket(f"`{jti[:100]}` is not one of your tickets")
    lapsed = ticket.state == "issued" and ticket.expires_at <= db.utc_now()
    return wire.TicketStatus.model_validate({**ticket.model_dump(), "state": "expired" if lapsed else ticket.state})


def _resolve(
    request: wire.TicketRequest, asked: dict[str, Any], task: tags.InForce, permit: Permit, *, run_id: str
) -> dict[str, Any]:
    """The run specification around its profile, which fills in whatever the trainer left open.

    `asked` is the request as JSON.
    """
    profile = task.profile
    if request.version not in (None, task.version):
        raise TaskTypeNotActive(
            f"`{task.tag}@{request.version}` is not the version that is in force, `{task.tag}@{task.version}` is; "
            "older ones stay readable and take no new runs"
        )
    if request.gpus > profile.limits.max_gpus:
        raise ArgumentInvalid(
            f"`gpus`: {request.gpus} is above the {profile.limits.max_gpus} that `{task.tag}` allows", pointer="/gpus"
        )
    arguments = profile.resolve(request.arguments)
    unknown = sorted(set(request.inputs.columns) - set(profile.columns))
    if unknown:
        raise Malformed(f"`columns` maps {', '.join(unknown)}, but `{task.tag}` has {', '.join(profile.columns)}")
    return {
        "v": 1,
        "run_id": run_id,
        "task_type": task.tag,
        "version": task.version,
        "profile_digest": task.profile_digest,
        "arguments": arguments,
        "inputs": asked["inputs"],
        "business_unit": permit.unit,
        "target": request.target,
        "gpus": request.gpus,
        "limits": profile.limits.model_dump(),
    }


def _request_digest(asked: dict[str, Any]) -> str:
    return digest(flat_canonical_bytes(asked))


def _answered(books: Books, request: wire.TicketRequest, permit: Permit, key: str) -> bytes | None:
    """What this key was answered before: a retry gets it even where the same request would be refused by now."""
    with books.reading() as session:
        row = session.get(IdempotentAnswer, (permit.actor.id, key))
        if row is None:
            return None
        if row.request_digest != _request_digest(request.model_dump(mode="json")):
            raise IdempotencyConflict(f"Idempotency-Key `{key}` came with another request before; make a new key")
        ticket = session.get_one(Ticket, row.jti)
        run = session.get_one(Run, ticket.run_id)
        return _grant(ticket.model_dump(), run.model_dump(), row.model_dump())


def sweep(session: Session) -> None:
    """Forget what is kept only for a while: answers to keys, and proofs of possession that are too old to be taken."""
    now = db.utc_now()
    session.exec(delete(IdempotentAnswer).where(col(IdempotentAnswer.created_at) < now - IDEMPOTENCY_LIFE))
    session.exec(delete(UsedProof).where(col(UsedProof.used_at) < now - timedelta(seconds=3 * LEEWAY_S)))


def _rule(permit: Permit) -> str:
    assert permit.decision.rule is not None, "an allow names its rule"
    return permit.decision.rule


def _gate_in_words(gate: gates.Gate) -> str:
    sure = f" with {gate.confidence:.0%} confidence" if gate.confidence else ""
    return f"{gate.metric} {gate.op} {gate.value:g}{sure} on at least {gate.min_n} samples"
