"""API tokens that people make for themselves: never more than the credential that asks for one."""

from datetime import datetime, timedelta

from sqlmodel import Session

from enforcer import wire
from enforcer.problems import NotPermitted
from registry import audit, identity
from registry.identity import Actor
from registry.tables import ApiToken

USUAL_LIFE = timedelta(days=30)


def create(session: Session, asked: wire.ApiTokenRequest, by: Actor, *, now: datetime) -> wire.ApiTokenMade:
    """Make a token for `by`, and write the event.

    Raises:
        NotPermitted: more groups, scopes or life than the credential has, or a job's credential that asks.
        Invalid: an unknown scope.
    """
    if by.is_machine:
        raise NotPermitted(f"`{by.id}` is signed in by a job's own token, which is never turned into a lasting one")
    groups = by.groups if asked.groups is None else tuple(dict.fromkeys(asked.groups))
    if beyond := [group for group in groups if group not in by.groups]:
        raise NotPermitted(f"the credential that asks does not have the group `{beyond[0]}`")
    if beyond := [scope for scope in asked.scopes if not by.in_scope(scope)]:
        raise NotPermitted(f"the credential that asks does not have the scope `{beyond[0]}`")
    left = by.expires_at - now if by.expires_at else identity.MAX_LIFE
    life = timedelta(seconds=asked.life_s) if asked.life_s else min(left, USUAL_LIFE)
    if life > left:
        raise NotPermitted(
            f"a token made here ends with the credential that asks, which has {left.total_seconds():.0f} s left; "
            "an operator makes longer ones with `tagwarden token create`"
        )
    secret = identity.create_token(session, by.id, groups, by.business_unit, life=life, now=now, scopes=asked.scopes)
    row = session.get(ApiToken, secret.split("_")[1])
    assert row is not None, "it was written above"
    detail = {"token": row.id, "groups": row.groups, "scopes": row.scopes, "life_s": int(life.total_seconds())}
    audit.record(session, "token.created", by, detail=detail)
    return wire.ApiTokenMade.model_validate({**row.model_dump(), "token": secret})


def of(session: Session, actor: Actor) -> list[ApiToken]:
    return identity.tokens(session, actor.id)


def revoke(session: Session, token_id: str, by: Actor) -> None:
    """End one of `by`'s own tokens, and write the event.

    Raises:
        NotFound: no such token of theirs.
    """
    row = identity.revoke_token(session, token_id, by.id)
    audit.record(session, "token.revoked", by, detail={"user": row.actor, "token": row.id})
