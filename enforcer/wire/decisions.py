"""Questions to the gate, as in OpenID AuthZEN Authorization API 1.0."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from enforcer.runspec import Digest
from enforcer.wire.base import Answer, Line, Name, Request

PrincipalId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9@._/:|+=~-]{0,199}$")]


class SubjectProperties(Request):
    """What a gateway has verified about somebody: nothing of it is looked up."""

    groups: list[Name] = Field(default_factory=list, max_length=200)
    business_unit: Name | None = None


class EvaluationSubject(Request):
    type: Literal["user", "service", "ci", "workload"]
    id: PrincipalId
    properties: SubjectProperties = Field(default_factory=SubjectProperties)

    @property
    def principal(self) -> str:
        return self.id if self.id.startswith(f"{self.type}:") else f"{self.type}:{self.id}"


class EvaluationResource(Request):
    type: Literal["task-type"]
    id: Name


class EvaluationAction(Request):
    name: Name


class EvaluationContext(Request):
    business_unit: Name | None = None
    target: Name = "local"
    gpus: int = Field(default=0, ge=0, le=4096)
    model: Line | None = None
    change_ticket: Line | None = None


class EvaluationRequest(Request):
    """May the subject do this? Without a subject, or with oneself, it is the caller; to ask for others, for whom one
    guards a gate, is a right of its own (`evaluate`)."""

    subject: EvaluationSubject | None = None
    resource: EvaluationResource
    action: EvaluationAction
    context: EvaluationContext = Field(default_factory=EvaluationContext)


class EvaluationItem(Request):
    """One of many questions; what it leaves out is that of the request around it."""

    subject: EvaluationSubject | None = None
    resource: EvaluationResource | None = None
    action: EvaluationAction | None = None
    context: EvaluationContext | None = None


class EvaluationOptions(Request):
    evaluations_semantic: Literal["execute_all", "deny_on_first_deny", "permit_on_first_permit"] = "execute_all"


class EvaluationsRequest(EvaluationItem):
    """Many questions at once (section 7): the members beside `evaluations` are what each of them leaves out."""

    evaluations: list[EvaluationItem] = Field(default_factory=list, max_length=100)
    options: EvaluationOptions = Field(default_factory=EvaluationOptions)


class RuleMatch(Answer):
    """A rule that fits. It counts unless its level is `shadow`, or `warn` for a deny, or an exception lifts it."""

    id: str
    effect: str
    level: str
    lifted_by: str | None


class NearRule(Answer):
    """An allow rule that fits but for these clauses; `owner` is the group that answers for it."""

    rule: str
    who: list[str]
    owner: str
    failed: list[str]


class DecisionReason(Answer):
    """Why. `nearest` is shown to those who may read the policy; `ask` are groups that can change it."""

    reason: str
    rule: str | None
    matched: list[RuleMatch]
    warnings: list[str]
    policy_revision: Digest
    nearest: list[NearRule]
    ask: list[str]


class EvaluationReason(DecisionReason):
    """`decision_id` is that of the event, where the question was asked for somebody else."""

    decision_id: str | None


class Evaluation(Answer):
    decision: bool
    context: EvaluationReason


class Evaluations(Answer):
    evaluations: list[Evaluation]


class DecisionPoint(Answer):
    """AuthZEN metadata (section 9)."""

    policy_decision_point: str
    access_evaluation_endpoint: str
    access_evaluations_endpoint: str


class PastDecision(Answer):
    """A decision that is on record: what was asked, what was answered and why, and what the answer would be now.

    `now` is null where the question was erased, or the policy of then is not ours any more.
    """

    id: str
    at: datetime
    actor: str
    action: str
    task_type: str | None
    business_unit: str
    target: str
    gpus: int
    model: str | None
    change_ticket: str | None
    point: str
    allowed: bool
    then: DecisionReason
    now: Evaluation | None
