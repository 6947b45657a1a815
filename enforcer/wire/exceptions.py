"""Exceptions from the policy, and overrides of a day."""

from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from enforcer.wire.base import Answer, Line, Moment, Name, Names, Reason, Request


class NewException(Request):
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
    until: Moment


class OverrideRequest(Request):
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
    until: Moment


class ExceptionRevocation(Request):
    reason: Reason


class ExceptionUse(Answer):
    """In how many decisions it had a part, and how many of them would be otherwise without it. None: not needed."""

    decisions: int
    changed: int


class GrantedException(Answer):
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


class ExceptionCounts(Answer):
    live: int
    expiring: int
    ended: int
    revoked: int


class ExceptionPage(Answer):
    items: list[GrantedException]
    next_page_token: str | None
    counts: ExceptionCounts
