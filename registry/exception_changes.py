"""Proposals of exceptions: what somebody shall be let do until an end, although the policy does not let them.

Whoever may propose may ask, also for themselves. Two approve, of those who answer for the policy; nobody approves what
they gain by. The exception begins with the last approval.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sqlmodel import Session

from enforcer import wire
from enforcer.policy.exceptions import PolicyException
from enforcer.policy.rules import ANY_TAG, ANY_TARGET, ROOT_UNIT, Directory
from enforcer.problems import StaleReview
from registry import db, exceptions, policies, tags
from registry.access import Matter, Permit
from registry.changes import Draft, about_tag
from registry.identity import Actor
from registry.tables import Proposal

PROPOSE, REVIEW = "propose", "policy-approve"
APPROVALS = 2
UNDECIDED = ["(first)", "(second)"]  # in the place of approvers, to try whether it could be granted


def matter(session: Session, change: Mapping[str, Any]) -> Matter:
    """What it is for, where that is one unit, target and task type; else all of them."""
    unit, target, tag = (
        names[0] if len(names) == 1 else all_of_them
        for names, all_of_them in (
            (change["unit"], ROOT_UNIT),
            (change["target"], ANY_TARGET),
            (change["tag"], ANY_TAG),
        )
    )
    return replace(about_tag(session, tag), unit=unit, target=target)


def draft(session: Session, request: wire.ProposalRequest, _checks: object, /) -> Draft:
    """Raises PolicyRefused, ExceptionExists, UnknownTaskType, TaskTypeArchived."""
    change = request.change
    assert isinstance(change, wire.NewException)
    exceptions.refuse_known(session, change.id)
    terms = change.model_dump(mode="json", exclude_none=True)
    terms["tag"] = [tag if tag == ANY_TAG else tags.find_runnable(session, tag).name for tag in change.tag]
    live = policies.live(session)
    trial = _granted(terms, request.reason, UNDECIDED)
    exceptions.with_exceptions(live, [*live.exceptions, trial])
    return Draft(f"exception:{change.id}", terms, approvals_at_least=APPROVALS)


def asked(_session: Session, proposal: Proposal, /) -> dict[str, Any]:
    return proposal.change


def refuse_reviewer(directory: Directory, proposal: Proposal, reviewer: Actor, /) -> None:
    """Raises BeneficiaryApproval."""
    exceptions.refuse_beneficiary(directory, proposal.change["who"], reviewer)


def apply(session: Session, proposal: Proposal, permit: Permit, approvers: list[str], /) -> None:
    """The exception is granted, from this moment on.

    Raises:
        StaleReview: its end has passed.
        ExceptionExists, PolicyRefused: the policy moved, and has no place for it any more.
    """
    change = wire.NewException.model_validate(proposal.change)
    if change.until <= db.utc_now():
        raise StaleReview(f"`{proposal.id}` was for a time until {change.until:%Y-%m-%dT%H:%M:%SZ}, which has passed")
    exception = _granted(proposal.change, proposal.reason, approvers)
    exceptions.grant(session, exception, permit, author=proposal.author, proposal_id=proposal.id)
    proposal.policy_revision = policies.head(session).revision


def _granted(terms: Mapping[str, Any], reason: str, approvers: list[str]) -> PolicyException:
    asked = {name: value for name, value in terms.items() if name != "kind"}
    return exceptions.granted({**asked, "reason": reason}, db.utc_now(), approvers)
