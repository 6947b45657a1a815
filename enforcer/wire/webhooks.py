"""Webhooks: who is told of events."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from enforcer.wire.base import Answer, Name, Request

# `proposal.applied` itself, `proposal.*` all below it, `*` everything.
KindPattern = Annotated[
    str,
    StringConstraints(pattern=r"^(\*|[a-z][a-z0-9-]*(\.[a-z][a-z0-9-]*)*(\.\*)?)$", max_length=100),
]
KindPatterns = Annotated[list[KindPattern], Field(min_length=1, max_length=50)]


class WebhookRequest(Request):
    """Tell `url` of events of one business unit, the caller's own unless another is named; `all` is all of them."""

    url: Annotated[str, StringConstraints(min_length=1, max_length=1_000, pattern=r"^[\x21-\x7e]+$")]
    kinds: KindPatterns
    business_unit: Name | None = None
    task_type: Name | None = None


class WebhookChange(Request):
    """Pause, resume, or choose other kinds. Where it goes and whose events go there never changes."""

    state: Literal["active", "paused"] | None = None
    kinds: KindPatterns | None = None

    @model_validator(mode="after")
    def _changes_something(self) -> "WebhookChange":
        if self.state is None and self.kinds is None:
            raise ValueError("name `state` or `kinds`")
        return self


class Webhook(Answer):
    """`holder` made it or resumed it last; `cursor` is the index in the log of the next event that it is told of,
    `attempts` how often that was tried in vain, since `failing_since`."""

    id: str
    url: str
    kinds: list[str]
    business_unit: str
    task_type: str | None
    holder: str
    state: Literal["active", "paused", "ended"]
    reason: str | None
    generation: int
    old_secret_until: datetime | None
    created_at: datetime
    cursor: int
    attempts: int
    next_attempt_at: datetime
    failing_since: datetime | None


class WebhookMade(Webhook):
    """With the secret (`whsec_...`), which is shown this once."""

    secret: str


class WebhookPage(Answer):
    items: list[Webhook]
    next_page_token: str | None


class WebhookDelivery(Answer):
    """`id` is the event's."""

    id: str
    state: Literal["delivered", "parked"]
    attempts: int
    at: datetime
    answer: str


class WebhookDeliveryPage(Answer):
    items: list[WebhookDelivery]
    next_page_token: str | None


class WebhookTest(Answer):
    """What the receiver answered to a ping."""

    delivered: bool
    answer: str
