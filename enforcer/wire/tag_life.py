"""The end of a task type, the proposals that lead to it, and who still trains under it."""

from datetime import datetime
from typing import Literal

from enforcer.wire.base import Answer, Moment, Name, Request

TagState = Literal["active", "deprecated", "sunset", "archived"]
Standing = Literal["active", "stale", "dead"]


class Deprecation(Answer):
    """That a task type ends: runs warn from `since` on, and are refused from `sunset_at` on."""

    since: datetime
    sunset_at: datetime
    replaced_by: str | None
    reason: str


class NewDeprecation(Request):
    """A task type shall end. Asked for one that is deprecated, it gives other terms. What it replaces itself is given
    over to `replaced_by`. The reason is the proposal's."""

    kind: Literal["deprecation"]
    tag: Name
    sunset_at: Moment
    replaced_by: Name | None = None


class DeprecationTerms(NewDeprecation):
    """The same as reviewers agree to it. `repointed` are those that it replaces itself, and `replaced_by` from then
    on."""

    repointed: list[str]


class Restoration(Request):
    """A deprecated task type shall go on."""

    kind: Literal["restoration"]
    tag: Name


class Archival(Request):
    """A task type whose sunset has passed shall be kept for the record only. There is no way back."""

    kind: Literal["archival"]
    tag: Name


class RunCounts(Answer):
    """Permitted runs of the last 30 and 90 days, and when the last one of this year was permitted."""

    last_30_days: int
    last_90_days: int
    last_seen: datetime


class UnitUsage(RunCounts):
    business_unit: str


class VersionUsage(RunCounts):
    version: int


class Consumer(RunCounts):
    """Somebody in a business unit who runs it: `active` within 30 days, `stale` within 90, `dead` within a year.
    Whoever was silent for longer is no consumer any more."""

    business_unit: str
    actor: str
    standing: Standing


class TagUsage(Answer):
    """Runs of a task type in one business unit, or in all. Of consumers the 500 that were seen last are named."""

    tag: str
    business_unit: str
    last_30_days: int
    last_90_days: int
    last_seen: datetime | None
    by_unit: list[UnitUsage]
    by_version: list[VersionUsage]
    consumers: list[Consumer]
    consumers_unnamed: int


class DeprecationReadiness(Answer):
    """Whether a task type can end without surprising anybody, over all business units. `reasons` say why not.

    `consumers` names the active ones in units whose runs the caller may read; the numbers count all. `replaced_by_of`
    are the task types that it replaces, `children` those below it that are not over.
    """

    tag: str
    state: TagState
    active_consumers: int
    stale: int
    dead: int
    consumers: list[Consumer]
    children: list[str]
    replaced_by_of: list[str]
    open_proposals: list[str]
    runs_in_flight: int
    safe_to_deprecate: bool
    reasons: list[str]
