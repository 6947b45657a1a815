"""`/access/v1/evaluation`: the gate as a service (OpenID AuthZEN 1.0), for the caller's own rights."""

from fastapi import APIRouter

from enforcer import wire
from enforcer.policy.rules import ANY_TAG
from registry import access, tags
from registry.access import SignedIn
from registry.books import TheBooks

router = APIRouter(prefix="/access/v1", tags=["decisions"])


@router.post("/evaluation", operation_id="evaluate")
def evaluate(asked: wire.EvaluationRequest, caller: SignedIn, books: TheBooks) -> wire.Evaluation:
    """May the caller do this? Asking changes nothing and is not an attempt."""
    context, name = asked.context, asked.resource.id
    with books.reading() as session:
        tag = ANY_TAG if name == ANY_TAG else tags.find(session, name).name
        gate = books.gate(session)
    matter = access.Matter(tag, context.business_unit, context.target, context.gpus, context.model)
    decision = access.decide(gate, caller, asked.action.name, matter)
    return wire.Evaluation(
        decision=decision.allowed,
        context=wire.EvaluationReason(
            reason=decision.reason,
            rule=decision.rule,
            policy_revision=decision.revision,
            nearest=[
                wire.NearRule(rule=miss.rule, who=", ".join(miss.who), failed="; ".join(miss.failed))
                for miss in (() if decision.rule else gate.nearest(decision.request))
            ],
        ),
    )
