"""What the end of a task type means for those who train under it: warned until the sunset, refused from then on.

After the sunset an exception lets a run through that names this very task type (not `any`, nor one above it), allows
`submit`, lifts nothing, and was granted after the deprecation: by people who knew that it ends. It is an exception like
any other, so two have approved it and it is over after 90 days at most. Nothing lets a run of an archived one through.
"""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from email.utils import format_datetime
from urllib.parse import quote

from enforcer import wire
from enforcer.policy.decision import Decision
from enforcer.policy.snapshot import Snapshot
from enforcer.problems import TaskTypeArchived, TaskTypeSunset
from registry import tag_life
from registry.access import Permit
from registry.tables import Tag
from registry.tags import InForce

HEADERS = {  # as the OpenAPI document tells of them
    "Deprecation": {"description": "Since when the task type is deprecated (RFC 9745)", "schema": {"type": "string"}},
    "Sunset": {"description": "When it takes no new runs any more (RFC 8594)", "schema": {"type": "string"}},
    "Link": {"description": "What replaces it: `rel=successor-version`", "schema": {"type": "string"}},
}


def weighed(task: InForce, gate: Snapshot, permit: Permit, now: datetime) -> Permit:
    """The permit with what there is to say of the task type's end.

    Raises:
        TaskTypeSunset: it has come, and no exception is for that.
    """
    ends = task.deprecation
    if ends is None:
        return permit
    past_sunset = _exception(task.tag, ends, gate, permit.decision) if ends.sunset_at <= now else None
    permit = replace(permit, past_sunset=past_sunset, warnings=[*permit.warnings, _sentence(task.tag, ends, now)])
    refuse_ended(task, permit, now)
    return permit


def refuse_ended(task: InForce, permit: Permit, now: datetime) -> None:
    """Raises TaskTypeSunset."""
    ends = task.deprecation
    if ends is not None and ends.sunset_at <= now and permit.past_sunset is None:
        raise TaskTypeSunset(
            f"{_sentence(task.tag, ends, now)}. Who still has to run it asks for an exception: `swift-submit requests "
            f"propose FILE` with `kind: exception`, `may: [submit]`, `tag: [{task.tag}]`",
            replaced_by=ends.replaced_by,
            sunset_at=f"{ends.sunset_at:%Y-%m-%dT%H:%M:%SZ}",
        )


def headers(ends: wire.Deprecation | None) -> Mapping[str, str]:
    """For an answer about a task type that ends: `Deprecation` (RFC 9745), `Sunset` (RFC 8594), and what replaces it
    (`successor-version`, RFC 5829)."""
    if ends is None:
        return {}
    told = {
        "Deprecation": f"@{int(ends.since.timestamp())}",
        "Sunset": format_datetime(ends.sunset_at, usegmt=True),
    }
    if ends.replaced_by is not None:
        told["Link"] = f'</v1/tags/{quote(ends.replaced_by)}>; rel="successor-version"'
    return told


def outlook(tag: Tag, gate: Snapshot, decision: Decision, now: datetime) -> tuple[str | None, str | None]:
    """What its end does to a run that the policy allows: the code of the refusal, where it would be refused, and a
    sentence, where there is something to say."""
    if tag.state == "archived":
        instead = f"; use `{tag.replaced_by}`" if tag.replaced_by else ""
        return TaskTypeArchived.code, f"`{tag.name}` is archived, for the record only{instead}"
    ends = tag_life.deprecation_of(tag)
    if ends is None:
        return None, None
    over = ends.sunset_at <= now and _exception(tag.name, ends, gate, decision) is None
    return TaskTypeSunset.code if over else None, _sentence(tag.name, ends, now)


def _exception(tag: str, ends: wire.Deprecation, gate: Snapshot, decision: Decision) -> str | None:
    fits = {match.id for match in decision.matched}  # those that lift something are no line of their own
    for one in gate.policy.exceptions:
        if one.id in fits and tag in one.tag and one.granted_at >= ends.since:
            return one.id
    return None


def _sentence(tag: str, ends: wire.Deprecation, now: datetime) -> str:
    verb = "takes" if ends.sunset_at > now else "has taken"
    preposition = "from" if ends.sunset_at > now else "since"
    instead = f"use `{ends.replaced_by}`" if ends.replaced_by else "nothing replaces it"
    return (
        f"`{tag}` is deprecated ({ends.reason}) and {verb} no new runs {preposition} "
        f"{ends.sunset_at:%Y-%m-%dT%H:%M:%SZ}; {instead}"
    )
