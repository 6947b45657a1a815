"""Every kind of event that the registry writes, and what OCSF 1.8 calls it: class by noun, activity by kind.

`<action>.refused` is of no list: an action is a word of the policy, and none of them a word of OCSF.
"""

ACCOUNT, AUTHENTICATION, ENTITY, ACCESS, API = 3001, 3002, 3004, 3005, 6003
CLASSES = {
    **dict.fromkeys(("tag", "proposal", "policy", "exception", "override", "key", "hold", "webhook"), ENTITY),
    "delegation": ACCESS,
    "principal": ACCOUNT,
    "token": AUTHENTICATION,
}  # everything else is API activity: who asked for what, and got it or was refused

OTHER = 99
_CREATE, _READ, _UPDATE, _DELETE = 1, 2, 3, 4  # of entities and of the API
_ENABLE, _DISABLE, _ACTIVATE, _DEACTIVATE, _SUSPEND = 8, 9, 10, 11, 12  # of entities alone
_ASSIGN, _TAKE = 1, 2  # of access
ACTIVITIES = {
    "tag.seeded": _CREATE, "tag.activated": _ACTIVATE, "tag.alias-added": _UPDATE, "tag.repointed": _UPDATE,
    "tag.deprecated": _UPDATE, "tag.restored": _ENABLE, "tag.sunset": _DISABLE, "tag.archived": _DEACTIVATE,
    "tag.reverted": _UPDATE, "tag.taken-back": _DEACTIVATE, "tag.name-reserved": _CREATE, "tag.name-released": _DELETE,
    "tag.name-rules-published": _UPDATE,
    "proposal.drafted": _CREATE, "proposal.opened": _CREATE, "proposal.edited": _UPDATE, "proposal.reviewed": _UPDATE,
    "proposal.approved": _UPDATE, "proposal.rejected": _UPDATE, "proposal.approval-lost": _UPDATE,
    "proposal.reopened": _UPDATE, "proposal.applied": _ACTIVATE, "proposal.broke-glass": _ACTIVATE,
    "proposal.ratified": _UPDATE, "proposal.reverted": _DEACTIVATE, "proposal.not-reverted": OTHER,
    "proposal.withdrawn": _DELETE, "proposal.expired": _DELETE, "proposal.superseded": _DELETE,
    "proposal.reminded": OTHER, "proposal.escalated": OTHER,
    "policy.published": _CREATE, "policy.live": _ACTIVATE, "policy.shadowed": OTHER, "policy.refused": OTHER,
    "policy.unusable": OTHER, "policy.differs": OTHER,
    "exception.granted": _CREATE, "exception.expiring": OTHER, "exception.ended": _DELETE,
    "exception.revoked": _DELETE, "override.granted": _CREATE,
    "key.published": _CREATE, "key.activated": _ACTIVATE, "key.retired": _DEACTIVATE, "key.compromised": _DISABLE,
    "hold.placed": _CREATE, "hold.released": _DELETE,
    "webhook.created": _CREATE, "webhook.changed": _UPDATE, "webhook.secret-rotated": _UPDATE,
    "webhook.paused": _SUSPEND, "webhook.ended": _DELETE, "webhook.tested": OTHER, "webhook.replayed": OTHER,
    "delegation.made": _ASSIGN, "delegation.ended": _TAKE,
    "principal.enabled": 2, "principal.disabled": 5,  # enable, disable
    "token.created": 3, "token.exchanged": 3, "token.revoked": 2,  # a ticket of authentication is issued; logoff
    "ticket.issued": _CREATE, "ticket.redeemed": _UPDATE, "ticket.revoked": _DELETE, "ticket.refused": OTHER,
    "ticket.never-issued": OTHER, "ticket.used-twice": OTHER, "ticket.used-revoked": OTHER,
    "run.finished": _UPDATE, "run.failed": _UPDATE, "run.interrupted": _UPDATE, "run.cancelled": _UPDATE,
    "run.lost": _UPDATE, "run.lapsed": _UPDATE, "run.found": _UPDATE, "run.forced": _READ,  # its model is used
    "gate.pass": OTHER, "gate.fail": OTHER, "gate.inconclusive": OTHER,
    "audit.read": _READ, "audit.exported": _READ, "audit.export-finished": _READ, "audit.manifest": _READ,
    "audit.erased": _DELETE, "audit.erasure-finished": _DELETE, "audit.retained": _DELETE,
    "audit.retention-finished": _DELETE,
    "decision.read": _READ, "evaluation.answered": _READ,
}  # fmt: skip


def of(kind: str) -> tuple[int, int]:
    """Class and activity."""
    return CLASSES.get(kind.partition(".")[0], API), ACTIVITIES.get(kind, OTHER)
