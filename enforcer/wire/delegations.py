"""Delegations: who reviews in whose name, of what, and until when."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field

from enforcer.wire.base import Answer, Moment, Name, Reason, Request
from enforcer.wire.decisions import PrincipalId

Reviewing = Literal["approve", "policy-approve"]


class DelegationScope(Request):
    """What the delegate may review: by these actions, with these of the delegator's groups (left out, those of the
    credential that asks), for this task type and those below it, for this business unit and those below it."""

    actions: Annotated[list[Reviewing], Field(min_length=1, max_length=2)]
    groups: Annotated[list[Name], Field(min_length=1, max_length=50)] | None = None
    tag: Name | None = None
    unit: Name | None = None


class DelegationRequest(Request):
    """Let somebody review in one's name until `not_after`, 30 days from now at most."""

    to: PrincipalId
    scope: DelegationScope
    not_after: Moment
    reason: Reason


class DelegationEnd(Request):
    reason: Reason


class Delegation(Answer):
    """`ended_because`: its time was over, it was revoked, or one of the two lost what it rests on."""

    id: str
    delegator: str
    to: str
    actions: list[str]
    groups: list[str]
    tag: str | None
    unit: str | None
    reason: str
    made_at: datetime
    not_after: datetime
    ended_at: datetime | None
    ended_because: Literal["expired", "revoked", "right-lost"] | None


class DelegationPage(Answer):
    items: list[Delegation]
    next_page_token: str | None
