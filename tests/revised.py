"""The policy that is live, with something changed, and published as a proposal would be."""

from datetime import timedelta
from typing import Any

from conftest import Registry

from enforcer.policy.exceptions import PolicyException
from enforcer.policy.revision import Policy
from enforcer.policy.rules import Rule
from registry import db, policies

LI = {"source": "proposal", "author": "user:li", "approver": "user:zhao", "proposal_id": "prop-1"}


def with_rule(policy: Policy, rule_id: str = "retail-is-frozen", **said: Any) -> Policy:
    """The policy with one more rule: a deny for retail, unless another is described."""
    rule = Rule.model_validate(
        {"id": rule_id, "effect": "deny", "who": "group:trainers", "may": "submit", "reason": "year's end"}
        | {"unit": "retail"}
        | said
    )
    return Policy.of(
        policy.model,
        policy.directory,
        [*policy.rules, rule],
        owners={**policy.owners, rule_id: "platform-admins"},
        exceptions=policy.exceptions,
        quotas=policy.quotas,
    )


def publish(registry: Registry, policy: Policy, *, seen: int | None = None, **said: Any) -> int:
    """Publish it as a proposal of li's that zhao approved; returns the new version of the head."""
    with db.writing(registry.books.engine) as session:
        version = policies.head(session).version if seen is None else seen
        return policies.publish(session, policy, seen=version, **{**LI, **said}).version


def an_exception(**said: Any) -> PolicyException:
    """Li may train dpo for retail for a week, as two others agreed."""
    now = db.utc_now().replace(microsecond=0)
    return PolicyException.model_validate(
        {
            "id": "li-trains-dpo",
            "who": "user:li",
            "may": "submit",
            "tag": "dpo",
            "unit": "retail",
            "reason": "a pilot",
            "granted_at": now,
            "until": now + timedelta(days=7),
            "approved_by": ["user:zhao", "user:wu"],
        }
        | said
    )
