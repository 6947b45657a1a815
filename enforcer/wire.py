"""Bodies of the HTTP API, both directions. Requests are strict; answers have no default fields."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints

from enforcer.gates import Judgement, Score, Verdict
from enforcer.profiles import Kind, Limits, Profile, ProfileOverrides, Value
from enforcer.runspec import Digest, Inputs
from enforcer.tickets import Redeem

# No text holds a NUL: PostgreSQL cannot store one, and nobody means one.
_NO_NUL = r"^[^\x00]*$"
Reason = Annotated[str, StringConstraints(strip_whitespace=True, min_length=3, max_length=1_000, pattern=_NO_NUL)]
Line = Annotated[str, StringConstraints(min_length=1, max_length=300, pattern=_NO_NUL)]
Name = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=_NO_NUL)]
ArgumentName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}$")]
Names = Annotated[list[Name], Field(min_length=1, max_length=50)]
PolicyFileName = Annotated[
    str,
    StringConstraints(
        pattern=r"^(model\.conf|(directory|quotas)\.yaml|(rules|tests)/[a-z0-9][a-z0-9._-]{0,80}\.yaml)$"
    ),
]
FileText = Annotated[str, StringConstraints(max_length=1_048_576, pattern=_NO_NUL)]
VersionNumber = Annotated[int, Field(ge=1, lt=2**31)]
Note = Annotated[str, StringConstraints(max_length=65_536)]
Envelope = Annotated[str, StringConstraints(max_length=48 * 1024, pattern=r"^[\x20-\x7e]*$")]
Thumbprint = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{43}$")]


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class _Answer(BaseModel):
    model_config = ConfigDict(from_attributes=True)


# --- tags -------------------------------------------------------------------------------------------------------------


class Tag(_Answer):
    """A task type and its current version."""

    name: str
    kind: Kind
    parent: str | None
    aliases: list[str]
    description: str
    state: str
    version: int
    profile_digest: Digest


class TagVersion(_Answer):
    """One immutable version with its whole profile, inherited parts included."""

    tag: str
    version: int
    profile_digest: Digest
    profile: Profile
    created_at: datetime
    proposal_id: str | None


class TagDetail(Tag):
    profile: Profile


class TagPage(_Answer):
    items: list[Tag]
    next_page_token: str | None


class TagVersionPage(_Answer):
    items: list[TagVersion]


class NameCheckRequest(_Request):
    name: Name


class NameMatch(_Answer):
    rule: str
    evidence: str
    tag: str | None


class NameCheck(_Answer):
    name: str
    ruling: str
    matches: list[NameMatch]
    suggestion: str | None


# --- proposals --------------------------------------------------------------------------------------------------------


class NewTag(_Request):
    """A task type that shall exist. With a parent it inherits the parent's profile and says only what is narrower."""

    kind: Literal["new-tag"]
    tag: Name
    tag_kind: Kind
    parent: Name | None = None
    description: Line
    aliases: list[Name] = Field(default_factory=list, max_length=20)
    profile: Profile | None = None
    overrides: ProfileOverrides | None = None


class NewVersion(_Request):
    """The next version of a task type that exists."""

    kind: Literal["new-version"]
    tag: Name
    profile: Profile | None = None
    overrides: ProfileOverrides | None = None


class PolicyFiles(_Request):
    """The next policy revision, whole: `model.conf`, `directory.yaml`, `rules/*.yaml`, `quotas.yaml`, and the cases in
    `tests/*.yaml` that it has to decide as written. Exceptions are no part of it: they have proposals of their own."""

    kind: Literal["policy"]
    files: dict[PolicyFileName, FileText] = Field(min_length=1, max_length=200)


class NewException(_Request):
    """What somebody shall be let do until an end, 90 days away at most, although the policy does not let them.

    `lifts` names the one deny that is set aside; without it the exception allows, which no deny may stand against. The
    reason is the proposal's.
    """

    kind: Literal["exception"]
    id: Name
    who: Names
    may: Names
    tag: Names = Field(default=["any"])
    unit: Names = Field(default=["all"])
    target: Names = Field(default=["any"])
    when: dict[Name, Any] = Field(default_factory=dict, max_length=20)
    lifts: Name | None = None
    reference: Line | None = None
    until: AwareDatetime


Change = Annotated[NewTag | NewVersion | PolicyFiles | NewException, Field(discriminator="kind")]


class PolicyDigests(_Answer):
    """A proposed policy revision: its files by digest. `GET /v1/proposals/{id}/files` has their content."""

    kind: Literal["policy"]
    files: dict[str, Digest]


ProposedChange = Annotated[NewTag | NewVersion | PolicyDigests | NewException, Field(discriminator="kind")]


class ProposalRequest(_Request):
    change: Change
    reason: Reason


class Review(_Request):
    """A verdict on exactly the content with this digest; if the proposal changed since, the review is refused."""

    verdict: Literal["approve", "reject"]
    digest: Digest
    reason: Reason


class ReplayedPart(_Answer):
    """Of one business unit and task type: how many decisions would have come out otherwise."""

    unit: str
    tag: str
    allow_to_deny: int
    deny_to_allow: int
    errors: int


class ReplayedDecision(_Answer):
    """One decision that would have come out otherwise. `then` and `now` are the rule that decided, or the reason where
    none did. Who asked is told by the event, to those who may read it."""

    decision_id: str
    outcome: Literal["allow->deny", "deny->allow", "error"]
    action: str
    task_type: str
    business_unit: str
    target: str
    then: str
    now: str


class PolicyReplay(_Answer):
    """The decisions of the last `days`, made again by another revision, against what was decided then. `left_out`:
    those that were not recorded whole, or erased since. Not `complete`: there was time for those after `since` only."""

    revision: Digest
    days: int
    since: datetime
    complete: bool
    decisions: int
    same: int
    allow_to_deny: int
    deny_to_allow: int
    errors: int
    left_out: int
    took_s: float
    parts: list[ReplayedPart]
    examples: list[ReplayedDecision]


class PolicyPublication(_Answer):
    """A revision that went live. `folder` is what the policy folder said, which has no exceptions that were granted
    here."""

    version: int
    revision: Digest
    parent: Digest | None
    source: Literal["folder", "proposal", "override", "revocation"]
    folder: Digest | None
    author: str
    approver: str | None
    proposal_id: str | None
    at: datetime


class PolicyHistory(_Answer):
    live: Digest
    items: list[PolicyPublication]
    next_page_token: str | None


class PolicyDocument(_Answer):
    """All that a revision says, in the members of the policy files; what stands at its default is left out."""

    revision: Digest
    live: bool
    model: str
    directory: dict[str, Any]
    rules: list[dict[str, Any]]
    exceptions: list[dict[str, Any]]
    quotas: list[dict[str, Any]]


class PolicyToValidate(_Request):
    """Policy files, with the cases that they have to decide under `tests/`."""

    files: dict[PolicyFileName, FileText] = Field(min_length=1, max_length=200)


class PolicyFinding(_Answer):
    severity: Literal["error", "warning"]
    check: str
    message: str
    hint: str
    file: str | None
    line: int | None
    rule: str | None


class PolicyValidation(_Answer):
    """`valid`: nothing is wrong enough to refuse it. `revision` is null where it could not be read whole."""

    valid: bool
    revision: Digest | None
    tests: int
    tests_failed: int
    findings: list[PolicyFinding]


class PolicyToReplay(_Request):
    """Which policy, and how many days; left out, as many as a proposal's replay has."""

    files: dict[PolicyFileName, FileText] | None = Field(default=None, min_length=1, max_length=200)
    revision: Digest | None = None
    days: int | None = Field(default=None, ge=1, le=365)


class ShadowPart(_Answer):
    business_unit: str
    task_type: str
    outcome: Literal["same", "allow->deny", "deny->allow", "error"]
    count: int


class PolicyShadow(_Answer):
    """What a candidate would have answered, by unit, task type and outcome. Nobody was answered with it."""

    candidate: Digest | None
    decisions: int
    parts: list[ShadowPart]


class PolicyChecks(_Answer):
    """What the registry found out about a proposed revision. `base` is the live one then, exceptions left aside:
    once it moved, this has to be proposed again. `deny_to_allow` in the replay needs one approval more."""

    base: Digest
    revision: Digest
    rules_added: list[str]
    rules_changed: list[str]
    rules_removed: list[str]
    tests: int
    warnings: list[str]
    replay: PolicyReplay


class ReviewGiven(_Answer):
    reviewer: str
    verdict: str
    reason: str
    at: datetime


class Proposal(_Answer):
    """`subject` is what it changes: `tag:<name>`, `policy` or `exception:<id>`. `checks` is what the registry found out
    about a policy revision when it was proposed; the digest binds it, too. Applied, a change of the vocabulary has a
    `version` and one of the policy a `policy_revision`."""

    id: str
    state: str
    subject: str
    change: ProposedChange
    checks: PolicyChecks | None
    digest: Digest
    reason: str
    author: str
    opened_at: datetime
    decided_at: datetime | None
    approvals_needed: int
    reviews: list[ReviewGiven]
    version: int | None
    policy_revision: Digest | None


class ProposalFiles(_Answer):
    """The files of a proposed policy revision, by name."""

    files: dict[str, str]


class ProposalPage(_Answer):
    items: list[Proposal]
    next_page_token: str | None


# --- exceptions from the policy ---------------------------------------------------------------------------------------


class OverrideRequest(_Request):
    """Set one `overridable` deny aside for somebody else, at once, until an end at most a day away. One unit and one
    target, which hold no others: a denial of one of those would not be asked about."""

    rule: Name
    who: Names
    may: Names
    tag: Name
    unit: Name
    target: Name
    reference: Line | None = None
    reason: Reason
    until: AwareDatetime


class ExceptionRevocation(_Request):
    reason: Reason


class ExceptionUse(_Answer):
    """In how many decisions it had a part, and how many of them would be otherwise without it. None: not needed."""

    decisions: int
    changed: int


class GrantedException(_Answer):
    """An exception or override. `state` is what was last told of it (`live`, `expiring` from a week before its end,
    `ended`, `revoked`), at most a minute late; `live` is whether it counts at this moment. `use` is told where it was
    asked for (`unneeded=true`)."""

    id: str
    kind: Literal["exception", "override"]
    who: list[str]
    may: list[str]
    tag: list[str]
    unit: list[str]
    target: list[str]
    when: dict[str, Any]
    lifts: str | None
    reason: str
    reference: str | None
    granted_at: datetime
    until: datetime
    approved_by: list[str]
    proposal_id: str | None
    state: Literal["live", "expiring", "ended", "revoked"]
    live: bool
    days_left: int
    use: ExceptionUse | None


class ExceptionCounts(_Answer):
    live: int
    expiring: int
    ended: int
    revoked: int


class ExceptionPage(_Answer):
    items: list[GrantedException]
    next_page_token: str | None
    counts: ExceptionCounts


# --- decisions (OpenID AuthZEN Authorization API 1.0) -----------------------------------------------------------------

PrincipalId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9@._/:|+=~-]{0,199}$")]


class SubjectProperties(_Request):
    """What a gateway has verified about somebody: nothing of it is looked up."""

    groups: list[Name] = Field(default_factory=list, max_length=200)
    business_unit: Name | None = None


class EvaluationSubject(_Request):
    type: Literal["user", "service", "ci", "workload"]
    id: PrincipalId
    properties: SubjectProperties = Field(default_factory=SubjectProperties)

    @property
    def principal(self) -> str:
        return self.id if self.id.startswith(f"{self.type}:") else f"{self.type}:{self.id}"


class EvaluationResource(_Request):
    type: Literal["task-type"]
    id: Name


class EvaluationAction(_Request):
    name: Name


class EvaluationContext(_Request):
    business_unit: Name | None = None
    target: Name = "local"
    gpus: int = Field(default=0, ge=0, le=4096)
    model: Line | None = None
    change_ticket: Line | None = None


class EvaluationRequest(_Request):
    """May the subject do this? Without a subject, or with oneself, it is the caller; to ask for others, for whom one
    guards a gate, is a right of its own (`evaluate`)."""

    subject: EvaluationSubject | None = None
    resource: EvaluationResource
    action: EvaluationAction
    context: EvaluationContext = Field(default_factory=EvaluationContext)


class EvaluationItem(_Request):
    """One of many questions; what it leaves out is that of the request around it."""

    subject: EvaluationSubject | None = None
    resource: EvaluationResource | None = None
    action: EvaluationAction | None = None
    context: EvaluationContext | None = None


class EvaluationOptions(_Request):
    evaluations_semantic: Literal["execute_all", "deny_on_first_deny", "permit_on_first_permit"] = "execute_all"


class EvaluationsRequest(EvaluationItem):
    """Many questions at once (section 7): the members beside `evaluations` are what each of them leaves out."""

    evaluations: list[EvaluationItem] = Field(default_factory=list, max_length=100)
    options: EvaluationOptions = Field(default_factory=EvaluationOptions)


class RuleMatch(_Answer):
    """A rule that fits. It counts unless its level is `shadow`, or `warn` for a deny, or an exception lifts it."""

    id: str
    effect: str
    level: str
    lifted_by: str | None


class NearRule(_Answer):
    """An allow rule that fits but for these clauses; `owner` is the group that answers for it."""

    rule: str
    who: list[str]
    owner: str
    failed: list[str]


class DecisionReason(_Answer):
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


class Evaluation(_Answer):
    decision: bool
    context: EvaluationReason


class Evaluations(_Answer):
    evaluations: list[Evaluation]


class DecisionPoint(_Answer):
    """AuthZEN metadata (section 9)."""

    policy_decision_point: str
    access_evaluation_endpoint: str
    access_evaluations_endpoint: str


class PastDecision(_Answer):
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


# --- tickets ----------------------------------------------------------------------------------------------------------


class TicketRequest(_Request):
    """Ask to run. `arguments` are those the trainer gave; the registry fills in the rest from the profile."""

    task_type: Name
    version: VersionNumber | None = None
    business_unit: Name | None = None
    target: Name = "local"
    gpus: int = Field(default=0, ge=0, le=4096)
    arguments: dict[ArgumentName, Value] = Field(max_length=200)
    inputs: Inputs
    audience: Annotated[str, StringConstraints(pattern=r"^urn:[a-z0-9][A-Za-z0-9:._/-]{0,200}$")]
    jkt: Thumbprint
    client_id: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/+-]{0,100}$")]
    redeem: Redeem = "online"
    change_ticket: Line | None = None


class TicketGrant(_Answer):
    """The permit. `run_spec` holds the canonical bytes as text: store it verbatim as `run-spec.json`.

    `checkpoint` is the log's newest signed head (C2SP): whoever keeps it is a witness of the log.
    """

    ticket: str
    jti: str
    run_id: str
    run_spec: str
    run_spec_digest: Digest
    expires_at: datetime
    policy_rule: str
    warnings: list[str]
    checkpoint: Note


class TicketPlan(_Answer):
    """What `validate_only` answers: it would be granted, like this."""

    task_type: str
    version: int
    policy_rule: str
    pool: str
    limits: Limits
    arguments: dict[str, Any]
    gates: list[str]
    warnings: list[str]


class TicketStatus(_Answer):
    jti: str
    run_id: str
    state: str
    issued_at: datetime
    expires_at: datetime
    redeemed_at: datetime | None
    revoked_at: datetime | None
    redeem: Redeem


class Redemption(_Request):
    """`redemption_id` is made by the process that starts the run and kept in its memory: the same process may ask again
    after a lost answer, a second process with the same ticket may not."""

    redemption_id: Annotated[str, StringConstraints(pattern=r"^[0-9a-f-]{36}$")]


OnLeaseLoss = Literal["checkpoint-and-stop", "finish"]


class Lease(_Answer):
    """The right to go on training. After `lease_s` and `grace_s` without an answer, `on_lease_loss` says what a run
    does: the organisation's choice, which comes with the lease, so that no client loosens it."""

    run_id: str
    lease_token: str
    expires_at: datetime
    heartbeat_s: int
    checkpoint: Note
    lease_s: int
    grace_s: int
    on_lease_loss: OnLeaseLoss


class Revocation(_Request):
    reason: Reason


class RevokedList(_Answer):
    """A signed list (JWS, `typ: revoked+jwt`) of the tickets that were taken back and have not expired."""

    revoked: str


class TicketRefusal(_Request):
    """Why a worker did not start what a ticket permits: the number of the step that failed (`enforcer.tickets`)."""

    step: int = Field(ge=1, le=16)
    reason: Line


class RefusalNoted(_Answer):
    decision_id: str


# --- runs -------------------------------------------------------------------------------------------------------------


class Heartbeat(_Request):
    step: int = Field(ge=0, lt=2**53)
    total_steps: int = Field(ge=0, lt=2**53)
    logs: dict[Line, float] = Field(default_factory=dict, max_length=50)


class HeartbeatAnswer(_Answer):
    expires_at: datetime
    stop: str | None


class Report(_Request):
    """How a run ended. Scores are evidence; the verdict is the registry's."""

    state: Literal["finished", "failed", "interrupted"]
    scores: dict[Line, Score] = Field(default_factory=dict, max_length=100)
    steps: int = Field(default=0, ge=0, lt=2**53)
    train_seconds: float = Field(default=0.0, ge=0)
    peak_memory_bytes: int = Field(default=0, ge=0, lt=2**53)
    outputs: dict[Line, Digest] = Field(default_factory=dict, max_length=300)
    error: Annotated[str, StringConstraints(max_length=2_000, pattern=_NO_NUL)] | None = None
    manifest: Envelope | None = Field(default=None, description="the signed manifest, byte for byte")


class Upload(_Request):
    """What an offline run left, signed by its own key: that it redeemed the ticket, and how it ended."""

    record: Annotated[str, StringConstraints(min_length=1, max_length=8_192)]
    report: Report | None = None
    report_proof: Annotated[str, StringConstraints(min_length=1, max_length=8_192)] | None = None


class Run(_Answer):
    id: str
    task_type: str
    version: int
    business_unit: str
    actor: str
    state: str
    target: str
    pool: str
    policy_rule: str
    run_spec_digest: Digest
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    step: int
    total_steps: int
    logs: dict[str, float]
    scores: dict[str, Score]
    gates: list[Judgement]
    verdict: Verdict | None


class ReportedRun(Run):
    """`receipt` is the countersignature on the manifest that came with the report; keep it beside the run."""

    receipt: Envelope | None


class RunManifest(_Answer):
    """A run's manifest and the registry's countersignature (DSSE envelopes), and the log's events of both ends.

    `events` names those of `ticket.issued` and `run.manifest`, whose proofs complete the chain.
    """

    run_id: str
    digest: Digest
    manifest: Envelope
    receipt: Envelope
    events: dict[str, str]


class RunPage(_Answer):
    items: list[Run]
    next_page_token: str | None


# --- quotas -----------------------------------------------------------------------------------------------------------


class QuotaUse(_Answer):
    """One quota, and how much of it is taken: runs and GPUs at once, and in this window the GPU hours that ended runs
    used together with the most that open ones may take."""

    id: str
    unit: str
    tag: str
    reason: str
    concurrent: int | None
    runs: int
    max_gpus: int | None
    gpus: int
    window: str | None
    gpu_hours: float | None
    gpu_hours_taken: float
    resets_at: datetime | None


class QuotaList(_Answer):
    items: list[QuotaUse]


# --- audit ------------------------------------------------------------------------------------------------------------


class Event(_Answer):
    """One thing that happened or was refused. `enforcer.tlog.entry` makes the log entry from exactly this.

    `digest` is that of what the event is about (the ticket, the manifest), `groups_digest` that of the caller's
    groups. `salt` (hex) opens `personal_hash`, which stands in the log for actor, groups, reason and detail; when these
    were erased, so was the salt.
    """

    id: str
    at: datetime
    kind: str
    outcome: Literal["done", "refused"]
    actor: str
    groups: list[str]
    business_unit: str
    task_type: str | None
    version: int | None
    rule: str | None
    policy_revision: str | None
    run_id: str | None
    ticket_id: str | None
    proposal_id: str | None
    digest: Digest | None
    groups_digest: Digest
    reason: str | None
    detail: dict[str, Any]
    personal_hash: Digest
    salt: str | None


class EventPage(_Answer):
    items: list[Event]
    next_page_token: str | None


class ErasureRequest(_Request):
    """Erase what is personal about `actor`. The reason stays on record, so it does not name them."""

    actor: Annotated[str, StringConstraints(pattern=r"^[a-z]+:[A-Za-z0-9._:@/|+=~-]{1,200}$")]
    business_unit: Name | None = None
    reason: Reason


class ErasureReceipt(_Answer):
    """How much was erased. `person_digest` stands in the log; whoever kept `salt` (hex) can show later whose it is:
    `sha256(salt || actor)`."""

    person_digest: Digest
    salt: str
    events: int
    runs: int
    answers: int


class ConsistencyProof(_Answer):
    """That the log of `size` entries begins with the one of `old` (RFC 9162 section 2.1.4), hashes in base64."""

    old: int
    size: int
    proof: list[str]


# --- identity ---------------------------------------------------------------------------------------------------------


class Caller(_Answer):
    """Who a credential says that you are, and what counts of it here."""

    id: str
    groups: list[str]
    groups_digest: Digest
    business_unit: str
    scopes: list[str]
    expires_at: datetime | None


class ApiTokenRequest(_Request):
    """A token of one's own, never with more than the credential that asks. `scopes` are actions of the policy; `*` is
    all that the groups allow, and has to be said. Left out, `groups` and the end are those of the credential (30 days
    at most)."""

    scopes: list[Name] = Field(max_length=50)
    groups: list[Name] | None = Field(default=None, max_length=200)
    life_s: Annotated[int, Field(ge=60, le=90 * 86_400)] | None = None


class ApiToken(_Answer):
    id: str
    actor: str
    groups: list[str]
    business_unit: str
    scopes: list[str]
    created_at: datetime
    expires_at: datetime
    last_used_at: datetime | None


class ApiTokenMade(ApiToken):
    """`token` is shown once."""

    token: str


class ApiTokenList(_Answer):
    items: list[ApiToken]


class AccessToken(_Answer):
    """RFC 8693 section 2.2.1."""

    access_token: str
    issued_token_type: Literal["urn:ietf:params:oauth:token-type:access_token"]
    token_type: Literal["Bearer"]
    expires_in: int
    scope: str


class PrincipalChange(_Request):
    reason: Reason


class Principal(_Answer):
    """Somebody, and whether their credentials open anything."""

    id: str
    enabled: bool
    disabled_at: datetime | None
    disabled_by: str | None
    reason: str | None


class SignIn(_Answer):
    """How `swift-submit auth login` asks one provider (RFC 8628)."""

    name: str
    issuer: str
    client_id: str
    scope: str
    resource: str | None


class ProtectedResource(_Answer):
    """RFC 9728 metadata; `tagwarden_sign_in` is our own member (section 2 allows such)."""

    resource: str
    resource_name: str
    authorization_servers: list[str]
    bearer_methods_supported: list[str]
    scopes_supported: list[str]
    tagwarden_sign_in: list[SignIn]


class ProblemDocument(BaseModel):
    """RFC 9457 problem details. `code` is stable; further members depend on it."""

    model_config = ConfigDict(extra="allow")

    type: str
    title: str
    status: int
    code: str
    detail: str
