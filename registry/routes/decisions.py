"""`/access/v1`: the gate as a service (OpenID AuthZEN Authorization API 1.0), for one's own rights and, with the right
to `evaluate`, for gateways that guard something. And `/v1/decisions`: why somebody was allowed or refused."""

import re
from typing import Annotated

from fastapi import APIRouter, Header, Request, Response

from enforcer import wire
from enforcer.problems import Malformed
from registry import access, evaluations
from registry.access import Public, SignedIn
from registry.books import Books, TheBooks
from registry.identity import Actor

router = APIRouter(tags=["decisions"])
RequestId = Annotated[str | None, Header(alias="X-Request-ID", max_length=200, description="comes back as it is")]
_PLAIN = re.compile(r"[\x21-\x7e]{1,200}")


@router.get("/.well-known/authzen-configuration", operation_id="decisionPoint", dependencies=[Public])
async def decision_point(books: TheBooks) -> wire.DecisionPoint:
    """Where decisions are asked for (AuthZEN section 9)."""
    base = books.settings.issuer
    return wire.DecisionPoint(
        policy_decision_point=base,
        access_evaluation_endpoint=f"{base}/access/v1/evaluation",
        access_evaluations_endpoint=f"{base}/access/v1/evaluations",
    )


@router.post("/access/v1/evaluation", operation_id="evaluate")
def evaluate(
    asked: wire.EvaluationRequest,
    request: Request,
    response: Response,
    caller: SignedIn,
    books: TheBooks,
    request_id: RequestId = None,
) -> wire.Evaluation:
    """May the subject do this? To ask for oneself changes nothing and is not an attempt; what is answered to a gateway
    is on record."""
    _echo(response, request_id)
    return evaluations.answer(books, caller, [_permitted(request, books, caller, asked)], suggest=True)[0]


@router.post("/access/v1/evaluations", operation_id="evaluateMany")
def evaluate_many(
    asked: wire.EvaluationsRequest,
    request: Request,
    response: Response,
    caller: SignedIn,
    books: TheBooks,
    request_id: RequestId = None,
) -> wire.Evaluations | wire.Evaluation:
    """Many questions at once, answered in their order; with none in `evaluations`, the one around them is answered."""
    _echo(response, request_id)
    questions = evaluations.questions(asked)
    for question in questions:
        _permitted(request, books, caller, question)
    answers = evaluations.answer(books, caller, questions, asked.options.evaluations_semantic)
    return wire.Evaluations(evaluations=answers) if asked.evaluations else answers[0]


@router.get("/v1/decisions/{event_id}", operation_id="getDecision")
def get_decision(event_id: str, caller: SignedIn, books: TheBooks) -> wire.PastDecision:
    """Why the policy allowed or refused something, and what it would say now: for whom it concerned, and for auditors
    of its business unit, whose reading is an event."""
    return evaluations.past(books, caller, event_id)


def _permitted(request: Request, books: Books, caller: Actor, asked: wire.EvaluationRequest) -> wire.EvaluationRequest:
    """Oneself is free to ask; for others it takes the right to `evaluate`, in the unit that is asked about."""
    subject = evaluations.other_subject(caller, asked)
    if subject is not None:
        access.attempt(request, "evaluate", caller, detail={"asked_for": subject.id})
        access.permit(request, books, caller, "evaluate", access.Matter(unit=evaluations.unit_of(subject, asked)))
    return asked


def _echo(response: Response, request_id: str | None) -> None:
    if request_id is not None:
        if not _PLAIN.fullmatch(request_id):
            raise Malformed("`X-Request-ID`: at most 200 printable ASCII characters, without spaces")
        response.headers["X-Request-ID"] = request_id
