"""Exceptions from the policy: somebody may, for a reason and until an end, what the rules do not let them.

Without `lifts` an exception grants like an allow rule, which no deny may stand against. With `lifts` it takes back one
deny, for what it describes, and grants nothing itself. Whether it is live is decided here and nowhere else.

It never counts for those who approved it. Who it is for is compared with the approver's groups when it is granted, and
a credential may show fewer groups than its owner has: what was approved with a narrowed token must not serve the whole
one.
"""

from datetime import datetime, timedelta
from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, StringConstraints, model_validator

from enforcer.policy.conditions import Context, Moment
from enforcer.policy.rules import RuleId, Scope

MAX_LIFE = timedelta(days=90)
MAX_OVERRIDE = timedelta(days=1)
TOLD_BEFORE = timedelta(days=7)


class PolicyException(Scope):
    """One exception. `granted_at` and `until` bound it: 90 days, and for an override one day."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["exception", "override"] = "exception"
    lifts: RuleId | None = None
    reference: Annotated[str, StringConstraints(min_length=1, max_length=300)] | None = None
    granted_at: Moment
    until: Moment
    approved_by: list[str] = Field(min_length=1)

    @property
    def effect(self) -> Literal["allow"]:
        return "allow"

    @model_validator(mode="after")
    def bounded(self) -> Self:
        life = self.until - self.granted_at
        most = MAX_OVERRIDE if self.kind == "override" else MAX_LIFE
        if not timedelta(0) < life <= most:
            raise ValueError(f"`{self.id}` ends {life.days} days after it was granted; at most {most.days} are given")
        if self.when.until is not None:
            raise ValueError(f"`{self.id}`: the end of an exception is its own `until`, not one under `when`")
        if self.kind == "exception" and len(set(self.approved_by)) < 2:
            raise ValueError(f"`{self.id}` needs two approvers; it names {len(set(self.approved_by))}")
        if beneficiaries := set(self.approved_by) & set(self.who):
            raise ValueError(f"`{self.id}`: {', '.join(sorted(beneficiaries))} cannot approve for themselves")
        return self

    def live(self, now: datetime) -> bool:
        return self.granted_at <= now < self.until

    def approved_by_one_of(self, principals: frozenset[str]) -> bool:
        return not principals.isdisjoint(self.approved_by)

    def expiring(self, now: datetime) -> bool:
        """Whether its end is near. One that was granted for less than that is known to be short."""
        told_from = self.until - TOLD_BEFORE
        return self.granted_at < told_from <= now < self.until

    def first_failing(self, context: Context) -> str | None:
        if not self.live(context.now):
            return f"until {self.until:%Y-%m-%dT%H:%M:%S%z}"
        return self.when.first_failing(context)
