"""Who may call a route: declared in its signature, checked before its session opens, refused on the record.

    May("approve", about=...)   the policy decides; `about` says on what
    SignedIn                    anybody with a valid token
    TicketHolder                the run ticket and a proof by the run's own key
    TicketBearer                the run ticket alone, for what was signed by the run's own key before
    LeaseHolder                 the token that redemption gave
    ProofReader                 anybody with a valid token, or the run that an event is about
    Public                      health, public keys, heads and hashes of the log, where to sign in, the trade of a job's
                                own token, what refusals mean: nothing else

Whoever is known is counted against a budget (`rates.py`), and asks with query parameters that the route declares. Each
leaves `access` on the dependency, so that a test can prove that no route goes without.
"""

import hashlib
import hmac
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, NoReturn

from fastapi import Depends, Request
from fastapi.security import HTTPBearer
from sqlmodel import col, select

from enforcer import proofs, tickets, tlog
from enforcer.keys import KeySet
from enforcer.policy.conditions import Context, Point
from enforcer.policy.decision import Decision, Request as Question
from enforcer.policy.quotas import Quota
from enforcer.policy.rules import ANY_TAG, ROOT_UNIT
from enforcer.policy.snapshot import Snapshot
from enforcer.problems import RateLimited, TicketInvalid, Unauthenticated
from registry import db, explaining, limits
from registry.books import Books, TheBooks
from registry.identity import Actor, Attempt as Attempt, identify
from registry.rates import Budget
from registry.tables import Event, Run


@dataclass(frozen=True)
class Matter:
    """What an action is about. Whatever is left at its default is not narrowed down."""

    tag: str = ANY_TAG
    unit: str | None = None
    target: str = "any"
    gpus: int = 0
    model: str | None = None
    change_ticket: str | None = None
    owner: str | None = None  # who may do it whatever the rules say
    action: str | None = None  # instead of the route's, where it depends on what the route is asked about
    hand: Actor | None = None  # the caller, as they act in somebody else's name


THE_HOUSE = Matter(unit=ROOT_UNIT)  # what concerns all units: a right for one of them does not suffice


@dataclass(frozen=True)
class Permit:
    """A permission the policy gave: to whom, for what, by which decision."""

    actor: Actor
    unit: str
    decision: Decision
    warnings: list[str] = field(default_factory=list)
    quotas: tuple[Quota, ...] = ()
    past_sunset: str | None = None  # the exception by which a task type is run whose end has come

    @property
    def provenance(self) -> dict[str, Any]:
        """What an event needs to say why this was allowed."""
        return {"decision": self.decision}


OWNER = "owner"  # in the place of a rule: what people may do with what is their own
Caller = Annotated[Actor, Depends(identify)]


def attempt(request: Request, action: str, actor: Actor, **facts: Any) -> Attempt:
    """Note what is being tried, before anything can refuse it."""
    noted = Attempt(action, actor, facts)
    request.state.attempt = noted
    return noted


def admit(request: Request, actor: Actor, budget: Budget | None = None, *, counted: str | None = None) -> None:
    """Let in a caller whose credential held: count the request, by `counted` where that is not the actor.

    Raises:
        RateLimited: the budget is used up; on record at most once a minute.
        Malformed: a query parameter that the route does not take.
    """
    request.state.admitted = True
    budget = budget or ("reads" if request.method in limits.ASKING else "writes")
    try:
        request.app.state.books.rates.take(counted or actor.id, budget)
    except RateLimited as refusal:
        refuse_rate(request, actor, refusal)
    limits.only_declared_parameters(request)


def refuse_rate(request: Request, actor: Actor, refusal: RateLimited) -> NoReturn:
    """Note it as an attempt of its own kind, unless the same was noted moments ago: refusals must not fill the log.

    Raises:
        RateLimited: always.
    """
    request.state.attempt = None
    if refusal.unsaid is not None:
        attempt(request, "rate-limit", actor, detail={"budget": refusal.facts["budget"], "unrecorded": refusal.unsaid})
    raise refusal


async def nothing_in_particular() -> Matter:
    return Matter()


async def the_house() -> Matter:
    return THE_HOUSE


def May(  # noqa: N802
    action: str, about: Callable[..., Any] = nothing_in_particular, *, budget: Budget | None = None
) -> Callable[..., Permit]:
    """A dependency that yields a `Permit`, or refuses and has the refusal recorded."""

    async def tried(request: Request, actor: Caller) -> Actor:
        attempt(request, action, actor)
        admit(request, actor, budget)
        return actor

    def permitted(
        request: Request,
        books: TheBooks,
        actor: Annotated[Actor, Depends(tried)],
        matter: Annotated[Matter, Depends(about)],
    ) -> Permit:
        if matter.action is not None:
            request.state.attempt.action = matter.action
        return permit(request, books, actor, matter.action or action, matter)

    permitted.access = f"may {action}"  # type: ignore[attr-defined]
    return permitted


def permit(request: Request, books: Books, actor: Actor, action: str, matter: Matter) -> Permit:
    """What the policy permits of an attempt that was noted.

    Raises:
        NotPermitted: nothing.
    """
    with books.reading() as session:
        gate = books.gate(session)
    decision = decide(gate, actor, action, matter)
    if matter.hand is not None and matter.hand.acts_for is not None and not is_denied(decision):
        actor = matter.hand
        decision = decide(gate, matter.hand.acts_for, action, matter)
    asked, noted = decision.request, request.state.attempt.facts
    noted["task_type"] = None if matter.tag == ANY_TAG else matter.tag
    if asked.unit in gate.policy.directory.units:
        noted["business_unit"] = asked.unit
    else:  # a unit that does not exist has no auditor: the attempt belongs to the caller's own
        noted["detail"] = {**noted.get("detail", {}), "asked_for_unit": asked.unit}
    if matter.owner == actor.id and actor.in_scope(action):
        return Permit(actor, asked.unit, replace(decision, allowed=True, reason="allow", rule=OWNER))
    books.shadow.compare(decision, actor.business_unit)
    if not decision.allowed:
        noted["decision"] = decision
        raise explaining.refusal(gate, decision, actor, whole=reads_policy(gate, actor, asked.unit))
    return granted(gate, actor, decision)


def is_denied(decision: Decision) -> bool:
    """By a rule or by the credential, as against not being allowed by any rule."""
    return not decision.allowed and decision.reason != "no-matching-rule"


def granted(gate: Snapshot, actor: Actor, decision: Decision) -> Permit:
    """What a decision that allows is worth."""
    asked = decision.request
    quotas = gate.quotas_for(asked.unit, asked.tag) if asked.action == "submit" else ()
    return Permit(actor, asked.unit, decision, explaining.warnings(gate, decision), quotas)


def still_permitted(gate: Snapshot, permit: Permit) -> Permit:
    """The permit by this gate: as it is by the revision that gave it, or decided again.

    Raises:
        NotPermitted: the policy was changed meanwhile, and denies it now.
    """
    if gate.revision == permit.decision.revision or permit.decision.rule == OWNER:
        return permit
    asked = permit.decision.request
    own_units = gate.units_below(permit.actor.business_unit)
    decision = gate.decide(replace(asked, context=replace(asked.context, own_units=own_units)))
    if not decision.allowed:
        whole = reads_policy(gate, permit.actor, permit.unit)
        raise explaining.refusal(gate, decision, permit.actor, whole=whole)
    return granted(gate, permit.actor, decision)


def decide(gate: Snapshot, actor: Actor, action: str, matter: Matter, point: Point = "api") -> Decision:
    """What the policy allows to the actor, cut down to what the credential is for."""
    unit = matter.unit or actor.business_unit
    context = Context(
        now=db.utc_now(),
        gpus=matter.gpus,
        model=matter.model,
        unit=unit,
        own_units=gate.units_below(actor.business_unit),
        change_ticket=matter.change_ticket,
        point=point,
    )
    decision = gate.decide(Question(actor.principals, action, context, matter.tag, unit, matter.target))
    if decision.allowed and not actor.in_scope(action):
        return replace(decision, allowed=False, reason="not-in-scope", rule=None)
    return decision


def reads_policy(gate: Snapshot, actor: Actor, unit: str) -> bool:
    """Whether rules that came near may be shown: they tell what the policy is."""
    return decide(gate, actor, "policy-read", Matter(unit=unit)).allowed


async def signed_in(request: Request, actor: Caller) -> Actor:
    admit(request, actor)
    return actor


signed_in.access = "signed in"  # type: ignore[attr-defined]
SignedIn = Annotated[Actor, Depends(signed_in)]


@dataclass(frozen=True)
class HeldTicket:
    """A ticket of ours, presented together with a proof by the key that it names."""

    claims: tickets.Claims
    proof_id: str


@dataclass(frozen=True)
class BorneTicket:
    """A ticket of ours, presented by whoever has it."""

    claims: tickets.Claims
    token: str


def ticket_holder(request: Request, books: TheBooks, jti: str) -> HeldTicket:
    """`Authorization: DPoP <ticket>` with a `DPoP` proof over this request (RFC 9449).

    Raises:
        TicketInvalid: not our ticket, another ticket than the path names, or no proof by its key.
    """
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme != "DPoP" or not token:
        raise Unauthenticated("the run ticket is needed: send `Authorization: DPoP <ticket>` with a `DPoP` proof")
    claims = _claims_of(request, books, jti, token, books.ticket_keys)
    url = f"{books.settings.issuer}{request.url.path}"
    proven = proofs.check(request.headers.get("dpop", ""), method=request.method, url=url, ticket=token)
    if not hmac.compare_digest(proven.thumbprint, claims.cnf.jkt):
        raise TicketInvalid("the proof is by another key than the ticket names (`cnf.jkt`)", step=13)
    admit(request, request.state.attempt.actor, counted=claims.txn)
    return HeldTicket(claims, proven.proof_id)


def ticket_bearer(request: Request, books: TheBooks, jti: str) -> BorneTicket:
    """`Authorization: Ticket <ticket>`: whose, and that it is ours. What comes with it has to prove the rest.

    Raises:
        TicketInvalid: not our ticket, or another ticket than the path names.
    """
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme != "Ticket" or not token:
        raise Unauthenticated("the run ticket is needed: send `Authorization: Ticket <ticket>`")
    # A record may come back when the key of its ticket is long retired; the books know the ticket, or they do not.
    claims = _claims_of(request, books, jti, token, books.ring.ever("ticket"))
    admit(request, request.state.attempt.actor, counted=claims.txn)
    return BorneTicket(claims, token)


ticket_bearer.access = "bears the ticket"  # type: ignore[attr-defined]
TicketBearer = Annotated[BorneTicket, Depends(ticket_bearer)]


def _claims_of(request: Request, books: Books, jti: str, token: str, keys: KeySet) -> tickets.Claims:
    """The claims of a ticket of ours that somebody presents; from here on, what they try is on record."""
    claims = tickets.recognise(token, keys, issuer=books.settings.issuer)
    with books.reading() as session:
        run = session.get(Run, claims.txn)
    # Of somebody who was erased the ticket still bears the name: no new event may take it from there.
    who = claims.sub if run is None or run.actor != tlog.ERASED["actor"] else run.actor
    attempt(
        request,
        request.url.path.rpartition(":")[2],
        Actor(who, (), claims.business_unit),
        task_type=claims.task_type,
        business_unit=claims.business_unit,
        version=claims.task_version,
        run_id=claims.txn,
        ticket_id=claims.jti,
        rule=claims.policy_rule,
    )
    if claims.jti != jti:
        raise TicketInvalid("the ticket is not the one that the path names", step=14)
    return claims


ticket_holder.access = "holds the ticket and its key"  # type: ignore[attr-defined]
TicketHolder = Annotated[HeldTicket, Depends(ticket_holder)]


@dataclass(frozen=True)
class HeldLease:
    run_id: str


_LEASE = HTTPBearer(auto_error=False, scheme_name="Lease", description="The lease token that redemption gave.")


def lease_holder(
    request: Request, books: TheBooks, run_id: str, _documented: Annotated[object, Depends(_LEASE)]
) -> HeldLease:
    """`Authorization: Bearer <lease token>` of exactly this run.

    Raises:
        Unauthenticated: no token, or not this run's.
    """
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise Unauthenticated("the lease token of this run is needed: send `Authorization: Bearer <lease token>`")
    with books.reading() as session:
        run = session.get(Run, run_id)
        stored = run.lease_sha256 if run else None
        if run is None or stored is None or not hmac.compare_digest(stored, lease_hash(token)):
            raise Unauthenticated("this lease token does not belong to this run")
        actor = Actor(run.actor, (), run.business_unit)
        facts = {
            "task_type": run.task_type,
            "business_unit": run.business_unit,
            "version": run.version,
            "run_id": run.id,
            "ticket_id": run.jti,
        }
    attempt(request, request.url.path.rpartition("/")[2], actor, **facts)
    admit(request, actor, counted=run_id)
    return HeldLease(run_id)


lease_holder.access = "holds the lease"  # type: ignore[attr-defined]
LeaseHolder = Annotated[HeldLease, Depends(lease_holder)]


def proof_reader(
    request: Request, books: TheBooks, event_id: str, _documented: Annotated[object, Depends(_LEASE)]
) -> None:
    """Anybody signed in, or the run that the event is about, by its lease token.

    Raises:
        Unauthenticated: neither.
    """
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and token:
        with books.reading() as session:
            query = select(Run).join(Event, col(Event.run_id) == Run.id).where(Event.id == event_id)
            run = session.exec(query).first()
            stored = run.lease_sha256 if run else None
            if run is not None and stored is not None and hmac.compare_digest(stored, lease_hash(token)):
                admit(request, Actor(run.actor, (), run.business_unit), counted=run.id)
                return
    admit(request, identify(request, _documented))


proof_reader.access = "signed in, or holds the run's lease"  # type: ignore[attr-defined]
ProofReader = Annotated[None, Depends(proof_reader)]


def lease_hash(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


async def public(request: Request) -> None:
    """Anybody, counted by address. Probes are not: a service that is busy must not seem dead."""
    if request.scope["path"] not in limits.PROBES:
        request.app.state.books.rates.take(limits.address(request.scope), "public")
    limits.only_declared_parameters(request)


public.access = "public"  # type: ignore[attr-defined]
Public = Depends(public)
