"""Runs: what they tell while they go, and what is told of them."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from enforcer.gates import Judgement, Score, Verdict
from enforcer.runspec import Digest
from enforcer.wire.base import NO_NUL, Answer, Envelope, Line, Reason, Request


class Heartbeat(Request):
    step: int = Field(ge=0, lt=2**53)
    total_steps: int = Field(ge=0, lt=2**53)
    logs: dict[Line, float] = Field(default_factory=dict, max_length=50)


class HeartbeatAnswer(Answer):
    expires_at: datetime
    stop: str | None


class Report(Request):
    """How a run ended. Scores are evidence; the verdict is the registry's."""

    state: Literal["finished", "failed", "interrupted"]
    scores: dict[Line, Score] = Field(default_factory=dict, max_length=100)
    steps: int = Field(default=0, ge=0, lt=2**53)
    train_seconds: float = Field(default=0.0, ge=0)
    peak_memory_bytes: int = Field(default=0, ge=0, lt=2**53)
    outputs: dict[Line, Digest] = Field(default_factory=dict, max_length=300)
    error: Annotated[str, StringConstraints(max_length=2_000, pattern=NO_NUL)] | None = None
    manifest: Envelope | None = Field(default=None, description="the signed manifest, byte for byte")


class ForcedUse(Request):
    """That a model is used although its run was not accepted: served, or written into a manifest for another engine."""

    use: Literal["serve", "deploy"]
    reason: Reason


class Upload(Request):
    """What an offline run left, signed by its own key: that it redeemed the ticket, and how it ended."""

    record: Annotated[str, StringConstraints(min_length=1, max_length=8_192)]
    report: Report | None = None
    report_proof: Annotated[str, StringConstraints(min_length=1, max_length=8_192)] | None = None


class Run(Answer):
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


class RunManifest(Answer):
    """A run's manifest and the registry's countersignature (DSSE envelopes), and the log's events of both ends.

    `events` names those of `ticket.issued` and `run.manifest`, whose proofs complete the chain.
    """

    run_id: str
    digest: Digest
    manifest: Envelope
    receipt: Envelope
    events: dict[str, str]


class RunPage(Answer):
    items: list[Run]
    next_page_token: str | None
