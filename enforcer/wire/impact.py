"""What a proposal would do, for those who decide on it."""

from enforcer.gates import Verdict
from enforcer.runspec import Digest
from enforcer.wire.base import Answer
from enforcer.wire.tags import CompatibilityCheck, FieldChange, NameCheck


class UnitRuns(Answer):
    business_unit: str
    runs: int


class RunMissing(Answer):
    """An accepted run that the proposed gates would not pass, and why."""

    run_id: str
    task_type: str
    verdict: Verdict
    reasons: list[str]


class GateEffect(Answer):
    """Of the last accepted runs of the task type and those below it, `judged` again by the proposed gates."""

    judged: int
    would_not_pass: int
    runs: list[RunMissing]


class Impact(Answer):
    """Found out when it is asked for. `digest` is what a review signs. `changes` are against `compared_with`: the
    version in force, or the parent of a new task type. `names` is what the check of a new name says now. `in_flight`
    and `units` count the runs that have not ended, and those of the last `days`; not `complete`: there were too many to
    count them all. Of a change of the policy only the digest is told, its `checks` say the rest."""

    proposal_id: str
    digest: Digest
    compared_with: str | None
    changes: list[FieldChange]
    compatibility: CompatibilityCheck | None
    names: list[NameCheck]
    gates: GateEffect | None
    in_flight: list[UnitRuns]
    units: list[UnitRuns]
    days: int
    complete: bool
