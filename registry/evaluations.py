"""Questions to the gate over the API: for oneself, for others by a gateway, and about what was decided."""

from collections.abc import Sequence
from dataclasses import replace

from sqlmodel import Session

from enforcer import wire
from enforcer.policy.conditions import Point
from enforcer.policy.decision import Decision, Match
from enforcer.policy.rules import ANY_TAG, PolicyInvalid
from enforcer.policy.snapshot import Snapshot
from enforcer.problems import Malformed, UnknownDecision, UnknownPolicy
from registry import access, audit, db, deprecations, explaining, revisions, tags
from registry.access import Matter
from registry.books import Books
from registry.identity import Actor
from registry.tables import Event, Tag

Outlook = tuple[str | None, str | None]  # `deprecations.outlook`
NOTHING_AHEAD: Outlook = (None, None)
STOPS_AT = {"execute_all": None, "deny_on_first_deny": False, "permit_on_first_permit": True}


def questions(asked: wire.EvaluationsRequest) -> list[wire.EvaluationRequest]:
    """Each question whole, with what it leaves out from around it (AuthZEN section 7.1.1).

    Raises:
        Malformed: one has no resource or action anywhere.
    """
    found = []
    for at, item in enumerate(asked.evaluations or [wire.EvaluationItem()]):
        resource, action = item.resource or asked.resource, item.action or asked.action
        if resource is None or action is None:
            raise Malformed(f"`/evaluations/{at}` has no `{'resource' if resource is None else 'action'}`")
        context = item.context or asked.context or wire.EvaluationContext()
        subject = item.subject or asked.subject
        found.append(wire.EvaluationRequest(subject=subject, resource=resource, action=action, context=context))
    return found


def other_subject(caller: Actor, asked: wire.EvaluationRequest) -> Actor | None:
    """Whom it is asked for, where that is not the caller. Who says something about themselves is not believed."""
    subject = asked.subject
    if subject is None or subject.principal == caller.id:
        return None
    unit = subject.properties.business_unit or asked.context.business_unit
    if unit is None:
        raise Malformed("say in `subject.properties.business_unit` or `context.business_unit` whose unit it is about")
    return Actor(subject.principal, tuple(subject.properties.groups), unit, via={"asked_by": caller.id})


def unit_of(subject: Actor, asked: wire.EvaluationRequest) -> str:
    return asked.context.business_unit or subject.business_unit


def answer(
    books: Books,
    caller: Actor,
    asked: Sequence[wire.EvaluationRequest],
    semantic: str = "execute_all",
    *,
    suggest: bool = False,
) -> list[wire.Evaluation]:
    """The answers, as far as the semantic goes on; those for others are on record when they are given. Whoever may
    submit a task type whose end has come is answered no all the same, since they would be refused.

    Raises:
        UnknownTaskType: where `suggest`, and the caller asks for themselves: there may be a spelling that they meant.
    """
    with books.reading() as session:
        gate = books.gate(session)
        names = [_tag(session, one.resource.id, suggest=suggest and one.subject is None) for one in asked]
        known = {name: found for name in names if (found := session.get(Tag, name)) is not None}
        session.expunge_all()
    decided: list[tuple[Actor | None, Decision, Outlook]] = []
    for one, tag in zip(asked, names, strict=True):
        other = other_subject(caller, one)
        decision = _decide(gate, other or caller, one, tag, point="admission" if other else "cli")
        runs = decision.allowed and one.action.name == "submit" and tag in known
        outlook = deprecations.outlook(known[tag], gate, decision, db.utc_now()) if runs else NOTHING_AHEAD
        decided.append((other, decision, outlook))
        if other is not None:
            books.shadow.compare(decision, other.business_unit)
        if (decision.allowed and outlook[0] is None) is STOPS_AT[semantic]:
            break
    ids: list[str | None] = [None] * len(decided)
    if any(other for other, *_ in decided):
        with books.writing() as session:
            ids = [_record(session, gate, *one) if one[0] else None for one in decided]
    return [
        _answer(gate, caller, decision, id_, outlook) for (_, decision, outlook), id_ in zip(decided, ids, strict=True)
    ]


def past(books: Books, caller: Actor, event_id: str) -> wire.PastDecision:
    """A decision on record, explained by the policy of then, and asked again of the policy of now.

    Raises:
        UnknownDecision: no such event, none that a decision led to, or somebody else's, which looks the same.
    """
    with books.reading() as session:
        event, gate = session.get(Event, event_id), books.gate(session)
        gate_then = _gate_of(session, event.policy_revision, gate) if event is not None else gate
    request = audit.request_of(event, gate) if event is not None else None
    if event is None or request is None or not _may_read(gate, caller, event):
        raise UnknownDecision(f"`{event_id[:100]}` is not a decision that you may read")
    asked = event.detail["asked"]
    matched = tuple(Match(*match) for match in asked["matched"])
    allowed, revision = asked["reason"] == "allow", str(event.policy_revision)
    then = Decision(request, allowed, asked["reason"], revision, event.rule, matched)
    whole = access.reads_policy(gate, caller, event.business_unit)
    again = gate.decide(replace(request, context=replace(request.context, now=db.utc_now())))
    if event.actor != caller.id:
        with books.writing() as session:
            detail = {"event": event.id}
            audit.record(session, "decision.read", caller, business_unit=event.business_unit, detail=detail)
    return wire.PastDecision(
        id=event.id,
        at=event.at,
        actor=event.actor,
        action=request.action,
        task_type=None if request.tag == ANY_TAG else request.tag,
        business_unit=request.unit,
        target=request.target,
        gpus=request.context.gpus,
        model=request.context.model,
        change_ticket=request.context.change_ticket,
        point=request.context.point,
        allowed=allowed,
        then=explaining.reason(gate_then, then, whole=whole),
        now=_answer(gate, caller, again),
    )


def _gate_of(session: Session, revision: str | None, now: Snapshot) -> Snapshot:
    """The policy of then, over the task types of now; the policy of now where that one cannot be read any more."""
    if revision in (None, now.revision):
        return now
    try:
        return Snapshot(revisions.load(session, str(revision), now.policy), now.tag_parents)
    except (UnknownPolicy, PolicyInvalid):
        return now


def _tag(session: Session, name: str, *, suggest: bool) -> str:
    if name == ANY_TAG:
        return name
    return tags.find(session, name).name if suggest else tags.canonical(session, name)


def _decide(gate: Snapshot, who: Actor, asked: wire.EvaluationRequest, tag: str, *, point: Point) -> Decision:
    context = asked.context
    matter = Matter(
        tag, context.business_unit, context.target, context.gpus, context.model, change_ticket=context.change_ticket
    )
    return access.decide(gate, who, asked.action.name, matter, point)


def _answer(
    gate: Snapshot,
    caller: Actor,
    decision: Decision,
    event_id: str | None = None,
    outlook: Outlook = NOTHING_AHEAD,
) -> wire.Evaluation:
    why = explaining.reason(gate, decision, whole=access.reads_policy(gate, caller, decision.request.unit))
    over, sentence = outlook
    said = why.model_dump() | ({"reason": over, "rule": None} if over else {})
    said["warnings"] += [sentence] if sentence else []
    return wire.Evaluation(
        decision=decision.allowed and over is None, context=wire.EvaluationReason(**said, decision_id=event_id)
    )


def _record(session: Session, gate: Snapshot, who: Actor | None, decision: Decision, outlook: Outlook) -> str:
    """The policy's decision as it was, so that a replay compares policies; and what was answered."""
    assert who is not None
    asked = decision.request  # its unit exists: the gateway was permitted to ask about it
    return audit.record(
        session,
        "evaluation.answered",
        who,
        outcome="done" if decision.allowed and outlook[0] is None else "refused",
        decision=decision,
        reason=outlook[1],
        business_unit=asked.unit,
        task_type=asked.tag if asked.tag in gate.tag_parents else None,
    ).id


def _may_read(gate: Snapshot, caller: Actor, event: Event) -> bool:
    own = event.actor == caller.id
    return own or access.decide(gate, caller, "audit-read", Matter(unit=event.business_unit)).allowed
