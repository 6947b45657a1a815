"""Run tickets: resolve what would run, sign a permit for exactly that, and let it be used once."""

import secrets
from datetime import timedelta

from sqlalchemy import update
from sqlmodel import Session, col, delete

from enforcer import gates, tickets, wire
from enforcer.problems import (
    ArgumentInvalid,
    IdempotencyConflict,
    Malformed,
    TaskTypeNotActive,
    TicketExpired,
    TicketInvalid,
    TicketUsed,
    UnknownTicket,
)
from enforcer.profiles import Profile
from enforcer.runspec import RunSpec, canonical_bytes, digest
from enforcer.tickets import LEEWAY_S
from registry import audit, db, tags
from registry.access import HeldTicket, Permit, lease_hash
from registry.books import Books
from registry.identity import Actor
from registry.tables import IdempotentAnswer, Run, Ticket, UsedProof

IDEMPOTENCY_LIFE = timedelta(hours=24)


def plan(session: Session, request: wire.TicketRequest, permit: Permit) -> wire.TicketPlan:
    """What `issue` would grant. Nothing is written."""
    spec = _resolve(session, request, permit, run_id="run-planned")
    canonical_bytes(spec)
    return wire.TicketPlan(
        task_type=spec.task_type,
        version=spec.version,
        policy_rule=_rule(permit),
        pool=spec.profile.pool,
        limits=spec.limits,
        arguments=spec.arguments,
        gates=[_gate_in_words(gate) for gate in spec.profile.gates],
    )


def issue(
    session: Session, request: wire.TicketRequest, permit: Permit, books: Books, *, idempotency_key: str
) -> wire.TicketGrant:
    """Sign a ticket for the resolved run, and write ticket, run and event with it.

    Raises:
        ArgumentInvalid, SpecificationInvalid: the run cannot be resolved.
        IdempotencyConflict: this key came with another request before.
    """
    request_digest = digest(canonical_bytes(request.model_dump(mode="json")))
    # A retry that overtakes its own first request waits for its answer instead of racing it.
    db.queue_for(session, f"idempotency {permit.actor.id} {idempotency_key}")
    if known := _answered(session, permit.actor, idempotency_key, request_digest):
        return known
    run_id, jti, now = f"run-{db.uuid7()}", db.uuid7(), db.utc_now()
    spec = _resolve(session, request, permit, run_id=run_id)
    run_spec = canonical_bytes(spec)
    expires = now + timedelta(seconds=books.settings.ticket_ttl_s)
    event_id = db.uuid7()
    claims = tickets.Claims(
        iss=books.settings.issuer,
        sub=permit.actor.id,
        aud=request.audience,
        iat=int(now.timestamp()),
        nbf=int(now.timestamp()),
        exp=int(now.timestamp()) + books.settings.ticket_ttl_s,
        jti=jti,
        cnf=tickets.Confirmation(jkt=request.jkt),
        txn=run_id,
        client_id=request.client_id,
        authorization_details=[
            tickets.TrainingRun(
                type="training_run",
                pool=spec.profile.pool,
                gpus=spec.gpus,
                max_runtime_s=spec.limits.max_runtime_s,
                actions=["train"],
            )
        ],
        ver=1,
        task_type=spec.task_type,
        task_version=spec.version,
        business_unit=permit.unit,
        run_spec_digest=digest(run_spec),
        policy_digest=permit.decision.revision,
        policy_rule=_rule(permit),
        decision_id=event_id,
        redeem="online",
    )
    token = tickets.sign(claims, books.ticket_key)
    audit.record(
        session,
        "ticket.issued",
        permit.actor,
        id=event_id,
        business_unit=permit.unit,
        task_type=spec.task_type,
        version=spec.version,
        run_id=run_id,
        ticket_id=jti,
        digest=digest(token.encode()),
        **permit.provenance,
        detail={"run_spec_digest": digest(run_spec), "target": spec.target, "gpus": spec.gpus, "jkt": request.jkt},
    )
    grant = wire.TicketGrant(
        ticket=token,
        jti=jti,
        run_id=run_id,
        run_spec=run_spec.decode(),
        run_spec_digest=digest(run_spec),
        expires_at=expires,
        policy_rule=_rule(permit),
        checkpoint=books.head(session),
    )
    session.add(
        Ticket(
            jti=jti,
            run_id=run_id,
            jkt=request.jkt,
            state="issued",
            run_spec=run_spec,
            issued_at=now,
            expires_at=expires,
        )
    )
    session.add(
        Run(
            id=run_id,
            jti=jti,
            task_type=spec.task_type,
            version=spec.version,
            business_unit=permit.unit,
            actor=permit.actor.id,
            state="permitted",
            target=spec.target,
            pool=spec.profile.pool,
            policy_rule=_rule(permit),
            run_spec_digest=digest(run_spec),
            created_at=now,
            logs={},
            scores={},
            gates=[],
        )
    )
    session.add(
        IdempotentAnswer(
            actor=permit.actor.id,
            key=idempotency_key,
            request_digest=request_digest,
            answer=grant.model_dump(mode="json"),
            created_at=now,
        )
    )
    return grant


def redeem(session: Session, held: HeldTicket, redemption: wire.Redemption, books: Books) -> wire.Lease:
    """Turn a ticket into a lease, once.

    The same process may ask again after a lost answer and gets a fresh lease token; any other redemption is a second
    use. The state changes in one statement, so of many racing redemptions one wins.

    Raises:
        UnknownTicket: it is not in the books, or not as it is here.
        TicketInvalid: the proof was used before.
        TicketExpired, TicketUsed.
    """
    claims, now = held.claims, db.utc_now()
    ticket, run = session.get(Ticket, claims.jti), session.get(Run, claims.txn)
    written = ticket and run and (ticket.run_id, ticket.jkt, run.run_spec_digest, run.actor)
    if ticket is None or run is None or written != (claims.txn, claims.cnf.jkt, claims.run_spec_digest, claims.sub):
        # Signed with our key, yet not what we wrote down: somebody else has the key.
        raise UnknownTicket(f"ticket `{claims.jti}` is not in the books as it is here")
    _refuse_replay(session, held.proof_id)
    won = session.connection().execute(
        update(Ticket)
        .where(col(Ticket.jti) == claims.jti, col(Ticket.state) == "issued", col(Ticket.expires_at) > now)
        .values(state="redeemed", redeemed_at=now, redemption_id=redemption.redemption_id)
    )
    session.refresh(ticket)
    session.refresh(run, with_for_update=True)
    again = ticket.redemption_id == redemption.redemption_id and run.state == "running"
    if won.rowcount == 0 and not again:
        if ticket.state == "issued":
            raise TicketExpired(f"ticket `{claims.jti}` expired at {ticket.expires_at:%H:%M:%SZ}; ask for a new one")
        raise TicketUsed(
            f"ticket `{claims.jti}` is {ticket.state} since {ticket.redeemed_at or ticket.issued_at:%Y-%m-%dT%H:%M:%SZ}"
            "; it starts one run and no second. Ask for a new one"
        )
    token = secrets.token_urlsafe(32)
    run.lease_sha256 = lease_hash(token)
    run.lease_expires_at = now + timedelta(seconds=books.settings.lease_ttl_s)
    if won.rowcount:
        run.state, run.started_at = "running", now
        audit.record(
            session,
            "ticket.redeemed",
            Actor(run.actor, (), run.business_unit),
            task_type=run.task_type,
            version=run.version,
            run_id=run.id,
            ticket_id=claims.jti,
            rule=run.policy_rule,
            policy_revision=claims.policy_digest,
            detail={"audience": claims.aud},
        )
    session.add(run)
    return wire.Lease(
        run_id=run.id,
        lease_token=token,
        expires_at=run.lease_expires_at,
        heartbeat_s=max(1, books.settings.lease_ttl_s // 3),
        checkpoint=books.head(session),
    )


def _refuse_replay(session: Session, proof_id: str) -> None:
    """A captured redemption must not be sent again: its answer would take the lease from the run that has it."""
    stale = db.utc_now() - timedelta(seconds=3 * LEEWAY_S)
    session.exec(delete(UsedProof).where(col(UsedProof.used_at) < stale))
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


def _resolve(session: Session, request: wire.TicketRequest, permit: Permit, *, run_id: str) -> RunSpec:
    """Fill in from the profile whatever the trainer left open."""
    tag = tags.find_active(session, request.task_type)
    if request.version not in (None, tag.version):
        raise TaskTypeNotActive(
            f"`{tag.name}@{request.version}` is not the version that is in force, `{tag.name}@{tag.version}` is; "
            "older ones stay readable and take no new runs"
        )
    version = tags.version(session, tag.name)
    profile = Profile.model_validate(version.profile)
    if request.gpus > profile.limits.max_gpus:
        raise ArgumentInvalid(
            f"`gpus`: {request.gpus} is above the {profile.limits.max_gpus} that `{tag.name}` allows", pointer="/gpus"
        )
    spec = {
        "v": 1,
        "run_id": run_id,
        "task_type": tag.name,
        "version": version.version,
        "profile_digest": version.profile_digest,
        "profile": profile,
        "arguments": profile.resolve(request.arguments),
        "inputs": request.inputs,
        "business_unit": permit.unit,
        "target": request.target,
        "gpus": request.gpus,
        "limits": profile.limits,
    }
    unknown = sorted(set(request.inputs.columns) - set(profile.columns))
    if unknown:
        raise Malformed(f"`columns` maps {', '.join(unknown)}, but `{tag.name}` has {', '.join(profile.columns)}")
    return RunSpec.model_validate(spec)


def _answered(session: Session, actor: Actor, key: str, request_digest: str) -> wire.TicketGrant | None:
    session.exec(delete(IdempotentAnswer).where(col(IdempotentAnswer.created_at) < db.utc_now() - IDEMPOTENCY_LIFE))
    row = session.get(IdempotentAnswer, (actor.id, key))
    if row is None:
        return None
    if row.request_digest != request_digest:
        raise IdempotencyConflict(f"Idempotency-Key `{key[:80]}` came with another request before; make a new key")
    return wire.TicketGrant.model_validate(row.answer)


def _rule(permit: Permit) -> str:
    assert permit.decision.rule is not None, "an allow names its rule"
    return permit.decision.rule


def _gate_in_words(gate: gates.Gate) -> str:
    sure = f" with {gate.confidence:.0%} confidence" if gate.confidence else ""
    return f"{gate.metric} {gate.op} {gate.value:g}{sure} on at least {gate.min_n} samples"
