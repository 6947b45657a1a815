"""An event as a CloudEvent 1.0 (structured JSON).

It says what happened, to what, and by whom. Groups, reason, detail and salt stay here: what was sent can never be
erased, so a receiver that may see them asks `GET /v1/audit`, where reading is on record.
"""

from typing import Any

from enforcer import wire
from registry import audit
from registry.tables import Event

MEDIA_TYPE = "application/cloudevents+json"
KEPT_HERE = {"groups", "reason", "detail", "salt"}
_AUTH_TYPES = {"user": "user", "service": "service_account", "system": "system"}


def as_cloud_event(event: Event, source: str) -> dict[str, Any]:
    at = audit.moment(event.at)
    made = {
        "specversion": "1.0",
        "id": event.id,
        "source": source,
        "type": f"io.tagwarden.{event.kind}.v1",
        "subject": _subject(event),
        "time": at,
        "recordedtime": at,
        "datacontenttype": "application/json",
        "authtype": _AUTH_TYPES.get(event.actor.partition(":")[0], "unknown"),
        "authid": event.actor,
        "correlationid": event.proposal_id or event.run_id or event.ticket_id,
        "data": wire.Event.model_validate(event).model_dump(mode="json", exclude=KEPT_HERE),
    }
    return {name: value for name, value in made.items() if value is not None}


def _subject(event: Event) -> str | None:
    if event.proposal_id:
        return f"proposals/{event.proposal_id}"
    if event.run_id:
        return f"runs/{event.run_id}"
    return f"tags/{event.task_type}" if event.task_type else None
