"""Trade the token that a CI job or workload has anyway for a short access token of ours (RFC 8693).

1. The request is one (RFC 6749 section 3.2: form-encoded, no parameter twice; unknown ones are ignored).
2. The subject token holds: issuer, key, signature, audience, times (`oidc.py`).
3. Exactly one trust rule of `policies/identity.yaml` fits its claims.
4. From here on somebody is known: not disabled, within the rule's scopes, and the token was not traded before.
"""

import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qsl

from sqlmodel import Session, col, delete

from enforcer import access_tokens, wire
from enforcer.access_tokens import Acting
from enforcer.policy.identity import TrustRule
from enforcer.problems import ExchangeRefused, Unauthenticated
from registry import audit, db
from registry.books import Books
from registry.identity import Actor, disabled_refusal
from registry.oidc import LEEWAY_S, VerifiedToken
from registry.tables import Principal, TradedToken

GRANT = "urn:ietf:params:oauth:grant-type:token-exchange"
ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token"
TAKEN = frozenset(f"urn:ietf:params:oauth:token-type:{kind}" for kind in ("jwt", "id_token", "access_token"))
MAX_FIELDS = 20
MAX_SUBJECT_LIFE_S = 24 * 3600  # so long a traded token is remembered at most


def read_form(body: bytes) -> dict[str, str]:
    """The parameters of a token request. That it is a form was checked with the other limits (`limits.py`).

    Raises:
        ExchangeRefused: not a form, or a parameter stands twice.
    """
    try:
        pairs = parse_qsl(body.decode("ascii"), keep_blank_values=True, max_num_fields=MAX_FIELDS, errors="strict")
    except ValueError:
        raise refused("invalid_request", "the body is not a form of at most 20 parameters") from None
    form = dict(pairs)
    if len(form) != len(pairs):
        raise refused("invalid_request", "a parameter stands twice")
    return form


def subject_of(books: Books, form: Mapping[str, str]) -> VerifiedToken:
    """The token that is to be traded, verified. May ask its issuer for keys, so no session is open.

    Raises:
        ExchangeRefused: with the error code of RFC 6749 section 5.2 or RFC 8693 section 2.2.2.
        Unavailable: its issuer cannot be asked.
    """
    if form.get("grant_type") != GRANT:
        raise refused("unsupported_grant_type", f"`grant_type` must be `{GRANT}`")
    if form.get("subject_token_type") not in TAKEN:
        raise refused("invalid_request", f"`subject_token_type` must be one of {', '.join(sorted(TAKEN))}")
    if form.get("requested_token_type", ACCESS_TOKEN) != ACCESS_TOKEN:
        raise refused("invalid_request", f"`requested_token_type` can only be `{ACCESS_TOKEN}`")
    if "actor_token" in form:
        raise refused("invalid_request", "`actor_token` is not taken: a job acts for itself")
    if not {form.get("audience", books.settings.issuer), form.get("resource", books.settings.issuer)} == {
        books.settings.issuer
    }:
        raise refused("invalid_target", f"tokens are issued for `{books.settings.issuer}` only")
    try:
        token = books.issuers.subject_token(form.get("subject_token", ""))
    except Unauthenticated as error:
        raise refused("invalid_request", f"the subject token: {error.detail}") from error
    if token.expires_at - token.claims["iat"] > MAX_SUBJECT_LIFE_S:
        raise refused("invalid_request", "the subject token lives longer than a day; ask its issuer for a shorter one")
    return token


def rule_for(books: Books, token: VerifiedToken) -> TrustRule:
    """The one trust rule that fits.

    Raises:
        ExchangeRefused: none does, or more than one.
    """
    audiences = token.claims["aud"] if isinstance(token.claims["aud"], list) else [token.claims["aud"]]
    rules = [rule for rule in books.issuers.policy.trust_rules if rule.issuer == token.issuer]
    fitting = [rule for rule in rules if rule.audience in audiences and rule.first_mismatch(token.claims) is None]
    if not fitting:
        told = "; ".join(
            f"`{rule.id}` wants another `{rule.first_mismatch(token.claims) or 'aud'}`" for rule in rules[:5]
        )
        raise refused("invalid_request", f"no trust rule of `policies/identity.yaml` fits the subject token: {told}")
    if len(fitting) > 1:
        names = ", ".join(f"`{rule.id}`" for rule in fitting)
        raise refused("invalid_request", f"the trust rules {names} all fit the subject token; let only one of them fit")
    return fitting[0]


def actor_for(rule: TrustRule, token: VerifiedToken, scope: str | None = None) -> Actor:
    """The principal of a trust rule, as this token's bearer. `scope` cuts it down.

    Raises:
        ExchangeRefused: a scope that the rule does not have.
    """
    scopes = tuple(dict.fromkeys(scope.split())) if scope is not None else tuple(rule.scopes)
    if beyond := [wanted for wanted in scopes if wanted not in rule.scopes]:
        raise refused("invalid_scope", f"trust rule `{rule.id}` has no scope `{beyond[0][:64]}`, but {rule.scopes}")
    return Actor(rule.principal, tuple(rule.groups), rule.business_unit, scopes, via=_acting(token).facts)


def trade(
    session: Session, rule: TrustRule, token: VerifiedToken, actor: Actor, books: Books, *, now: datetime
) -> wire.AccessToken:
    """Sign an access token for `actor`, write down that the subject token was traded, and the event.

    Raises:
        PrincipalDisabled.
        ExchangeRefused: the subject token was traded before.
    """
    if disabled := session.get(Principal, rule.principal):
        raise disabled_refusal(disabled)
    if rule.single_use:
        _use_up(session, token, now)
    claims = access_tokens.Claims(
        iss=books.settings.issuer,
        sub=actor.id,
        aud=books.settings.issuer,
        iat=int(now.timestamp()),
        exp=int(now.timestamp()) + rule.ttl_s,
        jti=db.uuid7(),
        client_id=rule.id,
        scope=" ".join(actor.scopes),
        groups=list(actor.groups),
        business_unit=actor.business_unit,
        act=_acting(token),
    )
    detail = {"trust_rule": rule.id, "token": claims.jti, "scopes": list(actor.scopes)}
    detail["identity_revision"] = books.issuers.policy.revision
    audit.record(session, "token.exchanged", actor, detail=detail)
    return wire.AccessToken(
        access_token=access_tokens.sign(claims, books.token_key),
        issued_token_type=ACCESS_TOKEN,
        token_type="Bearer",
        expires_in=rule.ttl_s,
        scope=claims.scope,
    )


def refused(error: str, why: str) -> ExchangeRefused:
    """`error_description` takes printable ASCII without quotes and backslashes (RFC 6749 section 5.2)."""
    plain = why.encode("ascii", "replace").decode().replace('"', "'").replace("\\", "/")
    return ExchangeRefused(why, error=error, error_description=plain)


def _use_up(session: Session, token: VerifiedToken, now: datetime) -> None:
    """A token seen in a job's log opens nothing after the job has used it."""
    session.exec(delete(TradedToken).where(col(TradedToken.expires_at) < now))
    named = token.claims.get("jti")
    # Without a `jti`, the claims stand for the token: the same bytes signed twice are the same token.
    unique = named if isinstance(named, str) and named else json.dumps(token.claims, sort_keys=True)
    id_ = hashlib.sha256(f"{token.issuer}\n{unique}".encode()).hexdigest()
    db.queue_for(session, f"traded {id_}")
    if session.get(TradedToken, id_) is not None:
        raise refused("invalid_request", "the subject token was traded before; a job asks its issuer for a fresh one")
    until = datetime.fromtimestamp(token.expires_at, UTC) + timedelta(seconds=2 * LEEWAY_S)
    session.add(TradedToken(id=id_, expires_at=until))
    session.flush()


def _acting(token: VerifiedToken) -> Acting:
    claims = token.claims
    run, pod = claims.get("run_id"), _inside(claims, "kubernetes.io", "pod", "uid")
    return Acting(iss=token.issuer, sub=token.subject, run=_short(run), pod=_short(pod))


def _inside(claims: Any, *path: str) -> Any:
    for name in path:
        claims = claims.get(name) if isinstance(claims, Mapping) else None
    return claims


def _short(value: Any) -> str | None:
    return value if isinstance(value, str) and 0 < len(value) <= 300 else None
