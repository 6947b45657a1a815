"""Who calls. For now by API token: `twp_<id>_<secret>_<crc32>`, made by `tagwarden token create`, shown once.

The checksum lets secret scanners and typing errors be told from real tokens without a look-up; the secret has 256
random bits and is stored as SHA-256 only. Groups and business unit belong to the token, so that a decision rests on
what was granted and not on what a client says.
"""

import hashlib
import hmac
import os
import re
import secrets
import stat
import zlib
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPBearer
from sqlalchemy import Engine
from sqlmodel import Session, col, delete, select

from enforcer.problems import Invalid, NotFound, Unauthenticated
from registry import db
from registry.tables import ApiToken

PREFIX = "twp"
MAX_LIFE = timedelta(days=90)
_TOKEN = re.compile(rf"{PREFIX}_(?P<id>[0-9a-f]{{12}})_(?P<secret>[A-Za-z0-9_-]{{43}})_(?P<crc>[0-9a-f]{{8}})")
_ACTOR = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_SCHEME = HTTPBearer(auto_error=False, description="An API token, made by `tagwarden token create`.")


@dataclass(frozen=True)
class Actor:
    """Somebody we know: a stable id (`user:alice`), the groups their credential carries, and their business unit."""

    id: str
    groups: tuple[str, ...]
    business_unit: str
    # When the credential that says so ends; None for whoever must be asked about each time.
    expires_at: datetime | None = field(default=None, compare=False)

    @property
    def principals(self) -> tuple[str, ...]:
        return (self.id, *(f"group:{group}" for group in self.groups))


def identify(request: Request, _documented: Annotated[object, Depends(_SCHEME)]) -> Actor:
    """The caller behind `Authorization: Bearer <api token>`.

    Raises:
        Unauthenticated: no token, not a token, unknown, or expired.
    """
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise Unauthenticated("an API token is needed: send `Authorization: Bearer <token>`")
    with db.reading(request.app.state.books.engine) as session:
        return actor_of(session, token.strip(), now=db.utc_now())


def actor_of(session: Session, token: str, *, now: datetime) -> Actor:
    match = _TOKEN.fullmatch(token)
    if match is None or match["crc"] != _checksum(match["id"], match["secret"]):
        raise Unauthenticated("this is not one of our API tokens; was it cut or mistyped?")
    row = session.get(ApiToken, match["id"])
    presented = hashlib.sha256(match["secret"].encode()).digest()
    if row is None or not hmac.compare_digest(row.secret_sha256, presented):
        raise Unauthenticated("this API token is not known here; make one with `tagwarden token create`")
    if now >= row.expires_at:
        raise Unauthenticated(f"this API token expired on {row.expires_at:%Y-%m-%d}; make a new one")
    return Actor(row.actor, tuple(row.groups), row.business_unit, row.expires_at)


def create_token(
    session: Session, user: str, groups: list[str], business_unit: str, *, life: timedelta, now: datetime
) -> str:
    """Make an API token and return its only readable copy.

    Raises:
        Invalid: a user name that could pass for something else, or a life beyond 90 days.
    """
    if not _ACTOR.fullmatch(user):
        raise Invalid(f"`{user[:64]}` is not a user name: lower-case letters, digits, `.`, `_` and `-`, at most 64")
    if not timedelta(0) < life <= MAX_LIFE:
        raise Invalid(f"a token lives at most {MAX_LIFE.days} days")
    token_id, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
    session.add(
        ApiToken(
            id=token_id,
            secret_sha256=hashlib.sha256(secret.encode()).digest(),
            actor=f"user:{user}",
            groups=groups,
            business_unit=business_unit,
            created_at=now,
            expires_at=now + life,
        )
    )
    return f"{PREFIX}_{token_id}_{secret}_{_checksum(token_id, secret)}"


def tokens(session: Session) -> list[ApiToken]:
    return list(session.exec(select(ApiToken).order_by(col(ApiToken.actor), col(ApiToken.created_at))))


def revoke_token(session: Session, token_id: str) -> ApiToken:
    """End a token and return what it was; the next request that carries it is refused.

    Raises:
        NotFound: there is none with this id.
    """
    row = session.get(ApiToken, token_id)
    if row is None:
        raise NotFound(f"`{token_id[:40]}` is not the id of a token; see `tagwarden token list`")
    session.delete(row)
    return row


def leave_local_token(engine: Engine, file: Path) -> None:
    """The embedded default: a token for whoever can read this user's 0600 file, with every right an operator needs."""
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    status = file.parent.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o022:
        raise Invalid(f"`{file.parent}` belongs to or can be written by others; no token is left there")
    with db.writing(engine) as session:
        # One at a time: the token of the last start ends with this one.
        session.exec(delete(ApiToken).where(col(ApiToken.actor) == f"user:local-{os.getuid()}"))
        token = create_token(
            session, f"local-{os.getuid()}", ["platform-admins", "nlp"], "all", life=MAX_LIFE, now=db.utc_now()
        )
    file.unlink(missing_ok=True)
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w") as handle:
        handle.write(token)


def _checksum(token_id: str, secret: str) -> str:
    return f"{zlib.crc32(f'{token_id}_{secret}'.encode()):08x}"
