"""The policy: its revisions, and what comes of trying another."""

from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from enforcer.runspec import Digest
from enforcer.wire.base import Answer, FileText, PolicyFileName, Request


class ReplayedPart(Answer):
    """Of one business unit and task type: how many decisions would have come out otherwise."""

    unit: str
    tag: str
    allow_to_deny: int
    deny_to_allow: int
    errors: int


class ReplayedDecision(Answer):
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


class PolicyReplay(Answer):
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


class PolicyPublication(Answer):
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


class PolicyHistory(Answer):
    live: Digest
    items: list[PolicyPublication]
    next_page_token: str | None


class PolicyDocument(Answer):
    """All that a revision says, in the members of the policy files; what stands at its default is left out."""

    revision: Digest
    live: bool
    model: str
    directory: dict[str, Any]
    rules: list[dict[str, Any]]
    exceptions: list[dict[str, Any]]
    quotas: list[dict[str, Any]]
    approvals: list[dict[str, Any]]


class PolicyToValidate(Request):
    """Policy files, with the cases that they have to decide under `tests/`."""

    files: dict[PolicyFileName, FileText] = Field(min_length=1, max_length=200)


class PolicyFinding(Answer):
    severity: Literal["error", "warning"]
    check: str
    message: str
    hint: str
    file: str | None
    line: int | None
    rule: str | None


class PolicyValidation(Answer):
    """`valid`: nothing is wrong enough to refuse it. `revision` is null where it could not be read whole."""

    valid: bool
    revision: Digest | None
    tests: int
    tests_failed: int
    findings: list[PolicyFinding]


class PolicyToReplay(Request):
    """Which policy, and how many days; left out, as many as a proposal's replay has."""

    files: dict[PolicyFileName, FileText] | None = Field(default=None, min_length=1, max_length=200)
    revision: Digest | None = None
    days: int | None = Field(default=None, ge=1, le=365)


class ShadowPart(Answer):
    business_unit: str
    task_type: str
    outcome: Literal["same", "allow->deny", "deny->allow", "error"]
    count: int


class PolicyShadow(Answer):
    """What a candidate would have answered, by unit, task type and outcome. Nobody was answered with it."""

    candidate: Digest | None
    decisions: int
    parts: list[ShadowPart]
