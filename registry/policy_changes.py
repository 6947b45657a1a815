"""Proposals of the policy itself: its next revision, whole, as the files that people read.

The registry tries a candidate itself before anybody is asked to read it (`check`): what its author says of it counts
for nothing. What came out is part of the result, so reviewers agree to that, too. Exceptions are no part of a
revision's files: they have proposals of their own, and go on under the new rules.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from sqlmodel import Session, select

from enforcer import wire
from enforcer.policy import cases, folder
from enforcer.policy.cases import Outcome
from enforcer.policy.coverage import coverage
from enforcer.policy.folder import Written
from enforcer.policy.lint import Finding, lint
from enforcer.policy.revision import Policy
from enforcer.policy.rules import PolicyInvalid
from enforcer.policy.snapshot import Snapshot
from enforcer.problems import PolicyComesFromFolder, PolicyRefused, PolicyUnchanged, StaleReview
from enforcer.runspec import digest
from registry import db, exceptions, policies, replay
from registry.access import Matter, Permit
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
    written = _read(change.files)
    with books.reading() as session:
        gate = books.gate(session)
    before = gate.policy.with_exceptions(())
    if written.policy.revision == before.revision:
        raise PolicyUnchanged("this is what the live policy says, exceptions aside")
    tests = _tested(written.policy, change.files, gate.tag_parents)
    warnings = _linted(written, gate.tag_parents, coverage(written.policy, tests).decided)
    candidate = _with_those_that_go_on(written.policy, gate.policy)
    replayed = replay.run(books, candidate, days=books.settings.replay_days)
    if replayed.deny_to_allow:
        warnings.insert(
            0, f"{replayed.deny_to_allow} decisions would allow what was refused: one approval more is needed"
        )
    return wire.PolicyChecks(
        base=before.revision,
        revision=written.policy.revision,
        **_differences(before, written.policy),
        tests=len(tests),
        warnings=warnings,
        replay=replayed,
    )


def _tested(policy: Policy, given: Mapping[str, str], tags: Mapping[str, str | None]) -> list[Outcome]:
    """The outcomes of the candidate's own tests. Raises PolicyRefused unless there are some and all are green."""
    try:
        tests = [
            case for name in sorted(given) if name.startswith("tests/") for case in cases.parsed(given[name], name)
        ]
        outcomes = cases.run(tests, _compiled(policy, tags), db.utc_now())
    except PolicyInvalid as invalid:
        raise _refused("cannot be tested", map(str, invalid.faults)) from None
    if not outcomes:
        raise _refused("has no tests", ["write the decisions that must come out into `tests/<name>.yaml`"])
    red = [f"{one.place.file}:{one.place.line}: {one.case.says}: {one.failure}" for one in outcomes if one.failure]
    if red:
        raise _refused("fails its own tests", red)
    return outcomes


def _linted(written: Written, tags: Mapping[str, str | None], decided: Iterable[str]) -> list[str]:
    """What reviewers should know. Raises PolicyRefused where lint calls it an error."""
    findings = lint(written, tags, db.utc_now(), decided)
    if errors := [_told(finding) for finding in findings if finding.severity == "error"]:
        raise _refused("has errors", errors)
    return [_told(finding) for finding in findings]


def _told(finding: Finding) -> str:
    return f"{finding.file}:{finding.line}: {finding.message}; {finding.hint}"


def _compiled(policy: Policy, tags: Mapping[str, str | None]) -> Snapshot:
    """Raises PolicyInvalid."""
    try:
        return Snapshot(policy, tags)
    except PolicyInvalid:
        raise
    except Exception as error:  # whatever Casbin says of a model that it does not understand
        raise PolicyInvalid(f"model.conf: {error}") from error


def matter(_session: Session, _change: Mapping[str, Any], /) -> Matter:
    return Matter()


def draft(session: Session, request: wire.ProposalRequest, checks: wire.PolicyChecks | None, /) -> Draft:
    change = request.change
    assert isinstance(change, wire.PolicyFiles)
    assert checks is not None
    _refuse_moved(policies.live(session), checks.base)
    digests = {name: digest(text.encode()) for name, text in sorted(change.files.items())}
    return Draft(
        SUBJECT,
        {"kind": "policy", "files": digests},
        {"checks": checks.model_dump(mode="json")},
        change.files,
        approvals_more=1 if checks.replay.deny_to_allow else 0,
    )


def refuse_reviewer(_session: Session, _proposal: Proposal, _reviewer: Actor, /) -> None:
    """Whoever answers for the policy approves any of its revisions but their own."""


def apply(session: Session, proposal: Proposal, permit: Permit, _approvers: list[str], /) -> None:
    """The revision is live, with the exceptions that go on.

    Raises:
        StaleReview: another revision went live meanwhile.
        PolicyRefused: an exception that was granted meanwhile has no place in it.
    """
    db.queue_for(session, "policy")
    live = policies.live(session)
    _refuse_moved(live, proposal.result["checks"]["base"])
    policy = _with_those_that_go_on(_read(files(session, proposal)).policy, live)
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


def files(session: Session, proposal: Proposal) -> dict[str, str]:
    """The files of a proposed policy, by name; none for other proposals."""
    query = select(ProposedFile).where(ProposedFile.proposal_id == proposal.id)
    return {file.name: file.content for file in session.exec(query)}


def _refuse_where_folder(books: Books) -> None:
    if books.settings.policy_source == "folder":
        raise PolicyComesFromFolder(
            "the policy of this registry is that of its policy folder; open a pull request there"
        )


def _refuse_moved(live: Policy, base: str) -> None:
    if live.with_exceptions(()).revision != base:
        raise StaleReview(
            "another policy went live since this one was tried, so what was agreed to is not what would apply; "
            "withdraw it, and propose the change again from what is live"
        )


def _read(given: Mapping[str, str]) -> Written:
    """Raises PolicyRefused, with all that is wrong."""
    try:
        return folder.written({name: text for name, text in given.items() if not name.startswith("tests/")})
    except PolicyInvalid as invalid:
        raise _refused("cannot be read", map(str, invalid.faults)) from None


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


def _refused(what: str, findings: Iterable[str]) -> PolicyRefused:
    found = list(findings)
    more = f" (and {len(found) - 1} more, see `findings`)" if len(found) > 1 else ""
    return PolicyRefused(f"the policy {what}: {found[0]}{more}", findings=found[:200])
