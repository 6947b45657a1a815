"""What a caller has seen: ETags of answers, and changes that are refused when that is not what there is any more.

A strong ETag is the digest of the bytes that were answered, so it is the content that is compared, whoever changed it
and how often. `If-None-Match` spares the body of what did not change (304). `If-Match` guards a change:

    required   where somebody decides by what they saw, and others may change it meanwhile: PATCH, and moves that go on
               with it (`:submit`, `:withdraw`, `:enable`); 428 without, 412 when it is another by now
    welcome    where something is stopped or taken back (`:cancel`, `:revoke`, `:disable`, DELETE of a webhook): who
               stops a run means it whatever step it is at. Where it comes along it counts (412)
    neither    reviews and ratifications, which name the digest they are of, what a run says of itself, and DELETE of a
               token, of which no answer has an ETag

`*` is whatever there is.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Header, Response
from pydantic import BaseModel

from enforcer.problems import PreconditionRequired, Stale
from enforcer.runspec import digest

JSON = "application/json"
REQUIRED = "required: the `ETag` of what the change is made to, as it was read; `*` for whatever there is"
_WELCOME = "the `ETag` of what the change is made to, where it shall be made to nothing else"
IfNoneMatch = Annotated[
    str | None, Header(max_length=1_000, description="an `ETag`, or several; 304 when nothing changed since")
]


@dataclass(frozen=True)
class Seen:
    """The ETags that a change may be made to; none: it does not matter."""

    tags: frozenset[str] = frozenset()

    def refuse_stale(self, current: BaseModel | bytes) -> None:
        """Hold what there is now, as this caller would read it, against what they saw. Within the transaction of the
        change, and after whatever locks it.

        Raises:
            Stale: it is another by now.
        """
        tag = of(current)
        if self.tags and not self.tags & {tag, "*"}:
            raise Stale("this was changed since you read it; read it again, and decide by what it says now", etag=tag)


ANY = Seen()


def _must(if_match: Annotated[str | None, Header(max_length=1_000, description=REQUIRED)] = None) -> Seen:
    if not (if_match or "").strip():
        raise PreconditionRequired(
            "`If-Match` is missing: read this first, and send the `ETag` of that answer, so that nobody's change "
            "meanwhile is passed over"
        )
    return _may(if_match)


def _may(if_match: Annotated[str | None, Header(max_length=1_000, description=_WELCOME)] = None) -> Seen:
    return Seen(frozenset(each.strip() for each in (if_match or "").split(",") if each.strip()))


MustMatch = Annotated[Seen, Depends(_must)]
MayMatch = Annotated[Seen, Depends(_may)]


def of(body: BaseModel | bytes) -> str:
    return f'"{digest(body if isinstance(body, bytes) else written(body))}"'


def written(body: BaseModel) -> bytes:
    """The bytes that go out: what is hashed, stored and sent are the same."""
    return body.model_dump_json().encode()


def answer(
    body: BaseModel | bytes,
    if_none_match: str | None,
    *,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """The answer with its ETag, or 304 where the caller has it (RFC 9110 section 13.1.2: compared weakly)."""
    content = body if isinstance(body, bytes) else written(body)
    tag = of(content)
    headers = {**(headers or {}), "ETag": tag}
    known = {each.strip().removeprefix("W/") for each in (if_none_match or "").split(",")}
    if known & {tag, "*"}:
        return Response(status_code=304, headers=headers)
    return Response(content, status, media_type=JSON, headers=headers)
