"""Who calls: the one door. `Authorization: Bearer ...` holds one of

    twp_<id>_<secret>_<crc32>     an API token, made by `tagwarden token create` or `POST /v1/tokens`, shown once
    a JWT of an issuer            an access token of a provider that `policies/identity.yaml` names (`oidc.py`)
    a JWT of our own              what a job's or workload's token was traded for (`exchange.py`)

An API token's checksum lets secret scanners and typing errors be told from real tokens without a look-up; the secret
has 256 random bits and is stored as SHA-256 only. Groups and business unit come from the credential and the policy
files, never from what a client says.
"""

import hashlib
import hmac
import os
import re
import secrets
import stat
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, Request
from fastapi.security import HTTPBearer
from sqlalchemy import Engine, or_, update
from sqlmodel import Session, col, delete, select

from enforcer import access_tokens, canonical, jws
from enforcer.policy.identity import ANY_SCOPE, Issuer, safe_subject
from enforcer.policy.rules import ACTIONS, ROOT_UNIT
from enforcer.problems import (
    GroupsOverage,
    Invalid,
    NotFound,
    NotPermitted,
    PrincipalDisabled,
    Problem,
    Unauthenticated,
)
from enforcer.runspec import digest
from registry import db
from registry.books import Books
from registry.oidc import VerifiedToken
from registry.tables import ApiToken, Principal

PREFIX = "twp"
MAX_LIFE = timedelta(days=90)
USE_NOTED_EVERY = timedelta(minutes=1)
_TOKEN = re.compile(rf"{PREFIX}_(?P<id>[0-9a-f]{{12}})_(?P<secret>[A-Za-z0-9_-]{{43}})_(?P<crc>[0-9a-f]{{8}})")
_NAME = r"[a-z0-9][a-z0-9._-]{0,63}"
_PRINCIPAL = re.compile(rf"(user|service|ci|workload):{_NAME}(:[A-Za-z0-9~][A-Za-z0-9._-]{{0,127}})?")
_SCHEME = HTTPBearer(
    auto_error=False, description="An API token, an access token of a configured issuer, or one of `POST /v1/token`."
)


@dataclass(frozen=True)
class Actor:
    """Somebody we know: a stable id (`user:alice`, `ci:retail-nightly`), the groups their credential carries, and their
    business unit. `scopes` are the actions that the credential is for; `via` is who really acts, for the record.
    `acts_for` is in whose name and with whose rights, where it is not their own (`delegations`)."""

    id: str
    groups: tuple[str, ...]
    business_unit: str
    scopes: tuple[str, ...] = (ANY_SCOPE,)
    expires_at: datetime | None = None
    via: Mapping[str, str] = field(default_factory=dict, hash=False)
    acts_for: "Actor | None" = None

    @property
    def principals(self) -> tuple[str, ...]:
        return (self.id, *(f"group:{group}" for group in self.groups))

    @property
    def groups_digest(self) -> str:
        """Which groups counted, as one digest: SHA-256 over the RFC 8785 form of the sorted list."""
        return _groups_digest(self.groups)

    @property
    def is_machine(self) -> bool:
        """Signed in by a job's or workload's token, which was traded for a short one."""
        return self.id.startswith(("ci:", "workload:"))

    def in_scope(self, action: str) -> bool:
        return ANY_SCOPE in self.scopes or action in self.scopes


SERVICE = Actor("system:registry", (), "all")  # by whom it is that what happens by the clock is done


@dataclass
class Attempt:
    """What a request is trying to do, as far as known: the refusal's event is written from it."""

    action: str
    actor: Actor
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Known:
    """Whose credential it is, and why it opens nothing, if so."""

    actor: Actor
    refusal: Problem | None = None

    def admitted(self) -> Actor:
        if self.refusal is not None:
            raise self.refusal
        return self.actor


@lru_cache(maxsize=1_000)
def _groups_digest(groups: tuple[str, ...]) -> str:
    return digest(canonical.dumps(sorted(groups)))


def identify(request: Request, _documented: Annotated[object, Depends(_SCHEME)]) -> Actor:
    """The caller behind `Authorization: Bearer <credential>`. A refusal of somebody known is on record.

    Raises:
        Unauthenticated: no credential, or none of ours or of an issuer that is believed; unknown, altered or expired.
        PrincipalDisabled, GroupsOverage, NotPermitted: known, and not let in.
        Unavailable: the issuer cannot be asked for its keys.
    """
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise Unauthenticated("an API token or access token is needed: send `Authorization: Bearer <token>`")
    known = recognise(request.app.state.books, token.strip(), now=db.utc_now())
    if known.refusal is not None:
        request.state.attempt = Attempt("sign-in", known.actor)
    return known.admitted()


def recognise(books: Books, token: str, *, now: datetime) -> Known:
    """Whose credential this is. Raises as `identify`."""
    if not token.startswith(f"{PREFIX}_") and token.count(".") == 2:
        known = _by_jwt(books, token, now)  # may ask an issuer for its keys, so no session is open
        with books.reading() as session:
            return _unless_disabled(session.get(Principal, known.actor.id), known)
    with books.reading() as session:
        known, last_used = _by_api_token(session, token, now)
    if known.refusal is None and (last_used is None or now - last_used > USE_NOTED_EVERY):
        _note_use(books.engine, token.split("_")[1], now)
    return known


def _by_api_token(session: Session, token: str, now: datetime) -> tuple[Known, datetime | None]:
    match = _TOKEN.fullmatch(token)
    if match is None or match["crc"] != _checksum(match["id"], match["secret"]):
        raise Unauthenticated("this is not one of our API tokens; was it cut or mistyped?")
    query = select(ApiToken, Principal).join(Principal, col(Principal.id) == col(ApiToken.actor), isouter=True)
    found = session.exec(query.where(ApiToken.id == match["id"])).first()
    presented = hashlib.sha256(match["secret"].encode()).digest()
    if found is None or not hmac.compare_digest(found[0].secret_sha256, presented):
        raise Unauthenticated("this API token is not known here; make one with `tagwarden token create`")
    row, disabled = found
    if now >= row.expires_at:
        raise Unauthenticated(f"this API token expired on {row.expires_at:%Y-%m-%d}; make a new one")
    actor = Actor(row.actor, tuple(row.groups), row.business_unit, tuple(row.scopes), row.expires_at)
    return _unless_disabled(disabled, Known(actor)), row.last_used_at


def _by_jwt(books: Books, token: str, now: datetime) -> Known:
    try:
        _, unverified = jws.read_foreign(token)
    except jws.Malformed as error:
        raise Unauthenticated(f"this token is refused: {error}") from error
    if unverified.get("iss") == books.settings.issuer:
        return Known(_machine(books, token, now))
    issuer, verified = books.issuers.access_token(token)
    return _person(books, issuer, verified)


def _machine(books: Books, token: str, now: datetime) -> Actor:
    """The principal of one of our own access tokens, as long as its trust rule stands."""
    claims = access_tokens.verify(token, books.token_keys, issuer=books.settings.issuer, now=now.timestamp)
    if claims.client_id not in books.issuers.policy.rules_by_id:
        raise Unauthenticated(
            f"trust rule `{claims.client_id}`, by which this token was given, does not exist any more"
        )
    scopes, ends = tuple(claims.scope.split()), datetime.fromtimestamp(claims.exp, UTC)
    return Actor(claims.sub, tuple(claims.groups), claims.business_unit, scopes, ends, claims.act.facts)


def _person(books: Books, issuer: Issuer, token: VerifiedToken) -> Known:
    """Who an issuer's token speaks of. The id rests on `iss` and `sub` alone: names and e-mail addresses change hands.

    A token whose subject is its client speaks of a service (RFC 9068 section 2.2).
    """
    claims = token.claims
    with books.reading() as session:
        directory = books.gate(session).policy.directory
    kind = "service" if claims.get("client_id") == token.subject else "user"
    who = f"{kind}:{issuer.name}:{safe_subject(token.subject)}"
    said, unit = issuer.business_unit, None
    if isinstance(said, str):
        unit = said
    else:
        value = str(claims.get(said.claim, ""))
        # A unit that holds others is given by name in the file, not by whoever fills in a profile field.
        unit = said.names.get(value) or (value if value not in directory.units.values() else "")
    ends = datetime.fromtimestamp(token.expires_at, UTC)
    if unit not in directory.units:
        refusal = NotPermitted(
            f"the token of `{who}` names no business unit that `policies/directory.yaml` knows; "
            f"the administrators of `{issuer.name}` and of this registry have to agree on one"
        )
        return Known(Actor(who, (), ROOT_UNIT), refusal)
    named = claims.get(issuer.groups.claim)
    if _left_out(issuer, claims) or not (named is None or _is_list_of_names(named)):
        refusal = GroupsOverage(
            f"the token of `{who}` does not carry the groups (`{issuer.groups.claim}`), so what they allow or deny is "
            f"not known; let `{issuer.name}` send only the groups that are assigned to this application"
        )
        return Known(Actor(who, (), unit), refusal)
    names = [issuer.groups.names.get(name, name) for name in named or ()]
    groups = tuple(dict.fromkeys(name for name in names if name in directory.groups))
    return Known(Actor(who, groups, unit, expires_at=ends))


def _left_out(issuer: Issuer, claims: Mapping[str, Any]) -> bool:
    """Whether the provider says that the groups stand elsewhere (OpenID Connect Core section 5.6.2; Entra sends
    `_claim_names` or `hasgroups` above 200), or keeps silent though it should not."""
    elsewhere = claims.get("_claim_names")
    return (
        (isinstance(elsewhere, dict) and issuer.groups.claim in elsewhere)
        or bool(claims.get("hasgroups"))
        or (issuer.groups.required and issuer.groups.claim not in claims)
    )


def _is_list_of_names(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _unless_disabled(disabled: Principal | None, known: Known) -> Known:
    return known if disabled is None else Known(known.actor, disabled_refusal(disabled))


def disabled_refusal(row: Principal) -> PrincipalDisabled:
    return PrincipalDisabled(
        f"`{row.id}` is disabled since {row.disabled_at:%Y-%m-%d %H:%M} UTC; a platform admin can enable it again"
    )


def _note_use(engine: Engine, token_id: str, now: datetime) -> None:
    """Once a minute is enough to tell a token that is used from one that is forgotten."""
    lately = now - USE_NOTED_EVERY
    unnoted = or_(col(ApiToken.last_used_at).is_(None), col(ApiToken.last_used_at) < lately)
    with db.writing(engine) as session:
        session.connection().execute(
            update(ApiToken).where(col(ApiToken.id) == token_id, unnoted).values(last_used_at=now)
        )


# --- API tokens -------------------------------------------------------------------------------------------------------


def create_token(
    session: Session,
    user: str,
    groups: Sequence[str],
    business_unit: str,
    *,
    life: timedelta,
    now: datetime,
    scopes: Sequence[str] = (ANY_SCOPE,),
) -> str:
    """Make an API token and return its only readable copy. `user` is a name, or the whole id of a user or service.

    Raises:
        Invalid: a name that could pass for something else, an unknown scope, or a life beyond 90 days.
    """
    actor = user if ":" in user else f"user:{user}"
    if not _PRINCIPAL.fullmatch(actor) or actor.startswith(("ci:", "workload:")):
        raise Invalid(
            f"`{user[:64]}` is not a user name (lower-case letters, digits, `.`, `_` and `-`, at most 64), nor the id "
            "of a user or service"
        )
    if unknown := sorted(set(scopes) - ACTIONS - {ANY_SCOPE}):
        raise Invalid(f"`{unknown[0][:64]}` is not a scope; there are {', '.join(sorted(ACTIONS))}, and `*` for all")
    if not timedelta(0) < life <= MAX_LIFE:
        raise Invalid(f"a token lives at most {MAX_LIFE.days} days")
    token_id, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
    session.add(
        ApiToken(
            id=token_id,
            secret_sha256=hashlib.sha256(secret.encode()).digest(),
            actor=actor,
            groups=list(groups),
            business_unit=business_unit,
            scopes=sorted(set(scopes)),
            created_at=now,
            expires_at=now + life,
        )
    )
    return f"{PREFIX}_{token_id}_{secret}_{_checksum(token_id, secret)}"


def tokens(session: Session, actor: str | None = None) -> list[ApiToken]:
    """All API tokens, or those of one actor."""
    query = select(ApiToken).order_by(col(ApiToken.actor), col(ApiToken.created_at))
    return list(session.exec(query if actor is None else query.where(ApiToken.actor == actor)))


def revoke_token(session: Session, token_id: str, actor: str | None = None) -> ApiToken:
    """End a token (of this actor, if one is given) and return what it was; the next request with it is refused.

    Raises:
        NotFound: there is none with this id, or it is somebody else's, which looks the same.
    """
    row = session.get(ApiToken, token_id)
    if row is None or actor not in (None, row.actor):
        raise NotFound(f"`{token_id[:40]}` is not the id of a token; see `tagwarden token list` or `GET /v1/tokens`")
    session.delete(row)
    return row


def is_principal(id: str) -> bool:
    """Whether this could be the id of a user, service, CI rule or workload."""
    return _PRINCIPAL.fullmatch(id) is not None


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
