"""Proposals of the policy itself: its next revision, whole, as the files that people read.

The registry tries a candidate itself before anybody is asked to read it (`check`): what its author says of it counts
for nothing. What came out is part of the result, so reviewers agree to that, too. Exceptions are no part of a
revision's files: they have proposals of their own, and go on under the new rules.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from sqlmodel import Session, select

from enforcer import approvals, wire
from enforcer.policy import folder
from enforcer.policy.revision import Policy
from enforcer.policy.rules import Directory, PolicyInvalid
from enforcer.problems import PolicyComesFromFolder, PolicyRefused, PolicyUnchanged, StaleBase
from enforcer.runspec import digest
from registry import db, exceptions, policies, policy_trials, replay
from registry.access import THE_HOUSE, Matter, Permit
from registry.books import Books
from registry.changes import Draft
from registry.identity import Actor
from registry.tables import Proposal, ProposedFile

PROPOSE, REVIEW = "policy-write", "policy-approve"
SUBJECT = "policy"


def check(books: Books, change: wire.PolicyFiles) -> wire.PolicyChecks:
    """Try a candidate: read and lint it, run its own tests, make the decisions of the last days again.

    Holds no transaction for as long as that takes.

    Raises:
        PolicyComesFromFolder: the policy is not changed here.
        PolicyRefused: it cannot be read, holds errors, has no tests, or decides one of them otherwise.
        PolicyUnchanged: it says what the live one says.
    """
    _refuse_where_folder(books)
    with books.reading() as session:
        gate = books.gate(session)
    warnings, tests = _tried(change.files, gate.tag_parents)
    before, candidate = gate.policy.with_exceptions(()), _read(change.files)
    if candidate.revision == before.revision:
        raise PolicyUnchanged("this is what the live policy says, exceptions aside")
    whole = _with_those_that_go_on(candidate, gate.policy)
    replayed = replay.run(books, whole, days=books.settings.replay_days)
    weakened = list(approvals.weakened(before.approvals, candidate.approvals))
    return wire.PolicyChecks(
        base=before.revision,
        revision=candidate.revision,
        **_differences(before, candidate),
        tests=tests,
        approvals_weakened=weakened,
        warnings=[*weakened, *_warnings(replayed), *warnings],
        replay=replayed,
    )


def _tried(given: Mapping[str, str], tags: Mapping[str, str | None]) -> tuple[list[str], int]:
    """What reviewers should know, and how many tests came out as written. Raises PolicyRefused."""
    trial = policy_trials.validate(given, tags)
    if trial.revision is not None and trial.tests == 0:
        raise PolicyRefused("the policy has no tests: write the decisions that must come out into `tests/<name>.yaml`")
    told = [(found.severity, f"{found.file}:{found.line}: {found.message}; {found.hint}") for found in trial.findings]
    if errors := [text for severity, text in told if severity == "error"]:
        more = f" (and {len(errors) - 1} more, see `findings`)" if len(errors) > 1 else ""
        raise PolicyRefused(f"the policy cannot go live: {errors[0]}{more}", findings=errors)
    return [text for _, text in told], trial.tests


def _warnings(replayed: wire.PolicyReplay) -> Iterator[str]:
    if replayed.deny_to_allow:
        yield f"{replayed.deny_to_allow} decisions would allow what was refused: one approval more is needed"
    if not replayed.complete:
        yield f"there was time for the decisions since {replayed.since:%Y-%m-%d %H:%M} only"


def matter(_session: Session, _change: Mapping[str, Any], /) -> Matter:
    return THE_HOUSE


def draft(session: Session, request: wire.ProposalRequest, checks: wire.PolicyChecks | None, /) -> Draft:
    change = request.change
    assert isinstance(change, wire.PolicyFiles)
    assert checks is not None
    _refuse_moved(session, checks.base)
    digests = {name: digest(text.encode()) for name, text in sorted(change.files.items())}
    return Draft(
        SUBJECT,
        {"kind": "policy", "files": digests},
        {"checks": checks.model_dump(mode="json")},
        change.files,
        approvals_more=bool(_may_allow_more(checks.replay)) + bool(checks.approvals_weakened),
        base=_base(checks.base),
    )


def _may_allow_more(replay: wire.PolicyReplay) -> bool:
    """Whether it allows what was refused, or it is not known whether it does."""
    return bool(replay.deny_to_allow or replay.errors or not replay.complete)


def asked(session: Session, proposal: Proposal, /) -> dict[str, Any]:
    return {"kind": "policy", "files": files(session, proposal)}


def refuse_reviewer(_directory: Directory, _proposal: Proposal, _reviewer: Actor, /) -> None:
    """Whoever answers for the policy approves any of its revisions but their own."""


def apply(session: Session, proposal: Proposal, permit: Permit, _approvers: list[str], /) -> None:
    """The revision is live, with the exceptions that go on.

    Raises:
        StaleBase: another revision went live meanwhile.
        PolicyRefused: an exception that was granted meanwhile has no place in it.
    """
    db.queue_for(session, "policy")
    _refuse_moved(session, proposal.result["checks"]["base"])
    policy = as_it_would_be(files(session, proposal), policies.live(session))
    policies.publish(
        session,
        policy,
        source="proposal",
        author=proposal.author,
        approver=permit.actor.id,
        seen=policies.seen(session),
        proposal_id=proposal.id,
        by=permit.actor,
    )
    proposal.policy_revision = policy.revision


def as_it_would_be(given: Mapping[str, str], live: Policy) -> Policy:
    """The revision that these files would make, the live exceptions included. Raises PolicyRefused."""
    return _with_those_that_go_on(_read(given), live)


def files(session: Session, proposal: Proposal) -> dict[str, str]:
    """The files of a proposed policy, by name; none for other proposals."""
    query = select(ProposedFile).where(ProposedFile.proposal_id == proposal.id, ProposedFile.round == proposal.round)
    return {file.name: file.content for file in session.exec(query)}


def _refuse_where_folder(books: Books) -> None:
    if books.settings.policy_source == "folder":
        raise PolicyComesFromFolder(
            "the policy of this registry is that of its policy folder; open a pull request there"
        )


def base(session: Session) -> dict[str, str]:
    """What the next revision is made from: the live one, exceptions left aside."""
    return _base(policies.live(session).with_exceptions(()).revision)


def _base(revision: str) -> dict[str, str]:
    return {"digest": revision}


def _refuse_moved(session: Session, tried: str) -> None:
    if (now := base(session)) != _base(tried):
        raise StaleBase(
            "another policy went live since this one was tried, so what was agreed to is not what would apply; "
            "propose the change again from what is live",
            base=now,
        )


def _read(given: Mapping[str, str]) -> Policy:
    """Raises PolicyRefused, with all that is wrong."""
    try:
        return folder.read({name: text for name, text in given.items() if not name.startswith(policy_trials.TESTS)})
    except PolicyInvalid as invalid:
        findings = [str(fault) for fault in invalid.faults]
        raise PolicyRefused(f"the policy cannot go live: {findings[0]}", findings=findings) from None


def _with_those_that_go_on(candidate: Policy, live: Policy) -> Policy:
    """With the exceptions of the live policy; those that ended may have lost what they were exceptions from.

    Raises:
        PolicyRefused: one that goes on has no place in it.
    """
    try:
        return candidate.with_exceptions(live.exceptions)
    except PolicyInvalid:
        now = db.utc_now()
        return exceptions.with_exceptions(candidate, [one for one in live.exceptions if one.until > now])


def _differences(before: Policy, after: Policy) -> dict[str, list[str]]:
    """Rules by id; the rest of a revision (directory, quotas, model) is in the files."""
    old, new = ({rule.id: (rule, policy.owners[rule.id]) for rule in policy.rules} for policy in (before, after))
    return {
        "rules_added": sorted(new.keys() - old.keys()),
        "rules_changed": sorted(one for one in new.keys() & old.keys() if new[one] != old[one]),
        "rules_removed": sorted(old.keys() - new.keys()),
    }
