"""What the registry knows of people while they are not here: their groups and unit, as they are now.

- Whoever is shut out, or whose tokens are all revoked, is nobody.
- Of people with API tokens only, the groups are those of their tokens that live; of the newest, where all have expired.
- Whose groups an identity provider or a trust rule tells is known by the last thing they did here that the policy
  decided. A group that they lost meanwhile is seen when they next do something.
"""

from sqlmodel import Session, col, select

from registry import db, identity
from registry.identity import Actor
from registry.tables import ApiToken, Event, Principal


def now(session: Session, who: str) -> Actor | None:
    """Who this is at this moment; None where nothing that they hold lets them in, or nothing is known of them."""
    if session.get(Principal, who) is not None:
        return None
    return _as_last_seen(session, who) if told_by_an_issuer(who) else _by_tokens(who, identity.tokens(session, who))


def with_tokens(session: Session) -> list[Actor]:
    """Everybody who has an API token that lives and is not shut out."""
    shut_out = set(session.exec(select(Principal.id)))
    held: dict[str, list[ApiToken]] = {}
    for token in identity.tokens(session):
        if token.actor not in shut_out and token.expires_at > db.utc_now():
            held.setdefault(token.actor, []).append(token)
    return [actor for who, tokens in held.items() if (actor := _by_tokens(who, tokens)) is not None]


def is_shut_out(session: Session, who: str) -> bool:
    """Whether nothing lets them in any more, for certain."""
    if session.get(Principal, who) is not None:
        return True
    return not told_by_an_issuer(who) and not identity.tokens(session, who)


def told_by_an_issuer(who: str) -> bool:
    """`user:<issuer>:<subject>`, or a job or workload."""
    return who.count(":") > 1 or who.startswith(("ci:", "workload:"))


def _by_tokens(who: str, tokens: list[ApiToken]) -> Actor | None:
    living = [token for token in tokens if token.expires_at > db.utc_now()] or tokens[-1:]
    if not living:
        return None
    groups = dict.fromkeys(group for token in living for group in token.groups)
    return Actor(who, tuple(groups), living[-1].business_unit)


def _as_last_seen(session: Session, who: str) -> Actor | None:
    """Events of a run bear its owner's name and no groups; those that the policy decided tell what was asked."""
    asked = col(Event.detail)["asked"]
    own = asked["own_unit"].as_string().is_not(None), asked["for"].as_string().is_(None)
    query = select(Event).where(Event.actor == who, *own).order_by(col(Event.id).desc()).limit(1)
    seen = session.exec(query).first()
    return Actor(who, tuple(seen.groups), seen.detail["asked"]["own_unit"]) if seen else None
