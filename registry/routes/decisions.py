"""`/access/v1/evaluation`: the gate as a service (OpenID AuthZEN 1.0), for the caller's own rights."""

from dataclasses import asdict

from fastapi import APIRouter, Request

from enforcer import wire
from enforcer.policy.snapshot import ANY_TAG
from registry import access, tags
from registry.access import SignedIn
from registry.db import ReadSession

router = APIRouter(prefix="/access/v1", tags=["decisions"])


@router.post("/evaluation", operation_id="evaluate")
def evaluate(
    asked: wire.EvaluationRequest, caller: SignedIn, request: Request, session: ReadSession
) -> wire.Evaluation:
    """May the caller do this? Asking changes nothing and is not an attempt."""
    books = request.app.state.books
    context = asked.context
    matter = access.Matter(
        tag=ANY_TAG if asked.resource.id == ANY_TAG else tags.find(session, asked.resource.id).name,
        unit=context.business_unit,
        target=context.target,
        gpus=context.gpus,
        model=context.model,
    )
    decision = access.decide(books.gate(session), caller, asked.action.name, matter)
    return wire.Evaluation(
        decision=decision.allowed,
        context=wire.EvaluationReason(
            reason=decision.reason,
            rule=decision.rule,
            policy_revision=decision.revision,
            nearest=[wire.NearRule(**asdict(miss)) for miss in decision.nearest],
        ),
    )
