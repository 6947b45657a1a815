"""`swift-submit requests`: proposals, and the reviews that decide them."""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from trainer.cli.flags import Group, matching
from trainer.cli.session import Session, current

if TYPE_CHECKING:
    from pydantic import BaseModel

    from enforcer import wire

STATES = ("draft", "open", "approved", "applied", "rejected", "withdrawn", "expired", "superseded")
F = TypeVar("F", bound=Callable[..., Any])
M = TypeVar("M", bound="BaseModel")
LIFE = {"deprecation": "deprecated", "restoration": "active again", "archival": "archived"}


def review_flags(command: F) -> F:
    """What `approve`, `reject` and `ratify` take."""
    reason = click.option("--reason", metavar="TEXT", help="Why; kept for ever.")
    saw = "The content you saw (`requests show`); left out, it is shown now."
    digest = click.option("--digest", metavar="SHA256", help=saw)
    whose = "In whose name, by a delegation of theirs (`user:li`)."
    on_behalf_of = click.option("--for", "on_behalf_of", metavar="WHO", help=whose)
    return click.argument("id")(digest(reason(on_behalf_of(command))))


@click.group(cls=Group)
def requests() -> None:
    """Proposals: of task types, of the policy, of exceptions from it."""


@requests.command()
@click.argument("file", type=click.Path(dir_okay=False))
@click.option("--draft", is_flag=True, help="For nobody to review until `requests submit`.")
@click.option("--break-glass", "incident", metavar="INCIDENT", help="Let it take effect now, for 72 hours at most.")
@click.option("--reason", metavar="TEXT", help="With --break-glass: why it cannot wait for others; kept for ever.")
def propose(file: str, draft: bool, incident: str | None, reason: str | None) -> None:
    """Propose what stands in FILE (`change` and `reason`, .yaml, .json or .toml).

    `change.kind` is `new-tag` or `new-version` (a task type), `alias` (another spelling of one), `reserved-name` (a
    word that none may be called), `deprecation`, `restoration` or `archival` (a task type's end), or `exception` (what
    somebody shall be let do until an end, although the policy does not let them).
    """
    if (incident is None) != (reason is None):
        raise click.UsageError("--break-glass INCIDENT and --reason TEXT come together")
    glass = {"break_glass": {"incident": incident, "reason": reason}} if incident else {}
    propose_from(Path(file), **({"draft": True} if draft else {}), **glass)


@requests.command()
@click.argument("id")
@click.argument("file", type=click.Path(dir_okay=False))
@click.option("--digest", metavar="SHA256", help="The content you made FILE from; left out, the one that is there now.")
def edit(id: str, file: str, digest: str | None) -> None:
    """Make a proposal anew by what stands in FILE (any of `change`, `reason`, `not_before`).

    It is made from what is in force now, no approval outlives it, and whoever edits somebody else's proposal does not
    approve it.
    """
    from enforcer import wire
    from enforcer.problems import Stale
    from trainer.arguments import read_document

    asked = _as_model(wire.ProposalEdit, read_document(Path(file)), file)
    session = current()
    with session.registry() as registry:
        there = registry.proposal(id)
        if digest not in (None, there.digest):
            raise Stale(f"FILE was made from `{digest}`, `{id}` is `{there.digest}` by now; read it again")
        proposal = registry.edit_proposal(id, asked, seen=registry.etag)
    session.output.result(proposal.model_dump(mode="json"), _opened(proposal), brief=[proposal.digest])


@requests.command()
@click.argument("id")
def submit(id: str) -> None:
    """Open a draft of yours for others to review."""
    session = current()
    with session.registry() as registry:
        registry.proposal(id)
        proposal = registry.submit_proposal(id, seen=registry.etag)
    session.output.result(proposal.model_dump(mode="json"), _opened(proposal), brief=[proposal.id])


@requests.command()
@click.argument("id")
def withdraw(id: str) -> None:
    """Take back a proposal of yours, before it takes effect."""
    session = current()
    with session.registry() as registry:
        registry.proposal(id)
        proposal = registry.withdraw_proposal(id, seen=registry.etag)
    session.output.result(proposal.model_dump(mode="json"), _outcome(proposal), brief=[proposal.state])


@requests.command("propose-policy")
@click.argument("folder", type=click.Path(file_okay=False, exists=True))
@click.option("--reason", metavar="TEXT", required=True, help="Why; kept for ever.")
def propose_policy(folder: str, reason: str) -> None:
    """Propose the policy in FOLDER as the next revision. It is linted, tested and tried on past decisions first."""
    from enforcer.problems import Malformed

    root = Path(folder)
    found = [
        root / name
        for name in ("model.conf", "directory.yaml", "quotas.yaml", "approvals.yaml")
        if (root / name).is_file()
    ]
    found += [*sorted(root.glob("rules/*.yaml")), *sorted(root.glob("tests/*.yaml"))]
    if not found:
        raise Malformed(f"`{folder}` holds no policy: there is no `model.conf`, no `rules/*.yaml`")
    files = {file.relative_to(root).as_posix(): _text(file) for file in found}
    _propose({"change": {"kind": "policy", "files": files}, "reason": reason}, folder)


def _text(file: Path) -> str:
    from enforcer.problems import Malformed

    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Malformed(f"`{file}` cannot be read: {error}") from None


@requests.command("list")
@click.option("--state", type=click.Choice(STATES), help="Only these.")
@click.option("--awaiting-me", is_flag=True, help="Only those that wait for your approval.")
@matching
def list_(state: str | None, awaiting_me: bool, filter_: str | None) -> None:
    """Proposals, newest first."""
    from trainer.cli.output import table

    session = current()
    with session.registry() as registry:
        found = list(registry.proposals(state=state, awaiting_me=awaiting_me, filter=filter_))
    rows = [
        (p.id, p.state, p.change.kind, _subject(p), p.author, f"{_approvals(p)}/{p.approvals_needed}") for p in found
    ]
    session.output.result(
        [proposal.model_dump(mode="json") for proposal in found],
        table(("proposal", "state", "change", "of", "author", "approvals"), rows),
        brief=[proposal.id for proposal in found],
    )


@requests.command()
@click.argument("id")
@click.option("--impact", "with_impact", is_flag=True, help="What it would do, too; for its reviewers and author.")
def show(id: str, with_impact: bool) -> None:
    """One proposal: its content, its digest, its reviews, and who is missing."""
    session = current()
    with session.registry() as registry:
        proposal = registry.proposal(id)
        impact = registry.impact(id) if with_impact else None
    document, lines = proposal.model_dump(mode="json"), _lines(proposal)
    if impact is not None:
        document, lines = document | {"impact": impact.model_dump(mode="json")}, [*lines, "", *_impact(impact)]
    session.output.result(document, lines, brief=[proposal.digest])


@requests.command()
@review_flags
def approve(id: str, **given: str | None) -> None:
    """Approve a proposal, exactly as you saw it. The last approval needed makes it take effect."""
    _review(current(), id, "approve", given)


@requests.command()
@review_flags
def reject(id: str, **given: str | None) -> None:
    """Reject a proposal."""
    _review(current(), id, "reject", given)


@requests.command()
@review_flags
def ratify(id: str, **given: str | None) -> None:
    """Approve what is in effect before others agreed to it. The last approval needed makes it stay."""
    _review(current(), id, "ratify", given)


def propose_from(file: Path, **more: Any) -> None:
    from trainer.arguments import read_document

    _propose({**read_document(file), **more}, str(file))


def _as_model(kind: type[M], document: Any, where: str) -> M:
    from pydantic import ValidationError

    from enforcer.problems import Malformed, from_validation

    try:
        return kind.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise from_validation(error.errors()) or Malformed(
            f"`{where}`: `{field}`: {first['msg'].lower()}", pointer=f"/{field.replace('.', '/')}"
        ) from None


def _propose(document: Any, where: str) -> None:
    from enforcer import wire

    request = _as_model(wire.ProposalRequest, document, where)
    session = current()
    with session.registry() as registry:
        proposal = registry.propose(request)
    session.output.result(proposal.model_dump(mode="json"), _opened(proposal), brief=[proposal.id])


def _opened(proposal: "wire.Proposal") -> list[str]:
    if proposal.state == "draft":
        waits = f"  nobody reviews it yet: swift-submit requests submit {proposal.id}"
    elif proposal.provisional_until is not None:
        waits = (
            f"  in effect until {proposal.provisional_until:%Y-%m-%d %H:%M} UTC, and then undone, unless "
            f"{proposal.approvals_needed} others agree: swift-submit requests ratify {proposal.id}"
        )
    else:
        people = proposal.approvals_needed
        waits = f"  it takes effect after {people} approvals: swift-submit requests show {proposal.id}"
    return [
        f"{proposal.id}  {proposal.change.kind} {_subject(proposal)}  {proposal.state}",
        *(_checks(proposal.checks) if proposal.checks else ()),
        waits,
        *_missing(proposal),
    ]


def _review(session: Session, id: str, verdict: str, given: Mapping[str, str | None]) -> None:
    from pydantic import ValidationError

    from enforcer import wire

    digest, reason = given["digest"], given["reason"]
    with session.registry() as registry:
        if digest is None or reason is None:
            if not sys.stdin.isatty():
                raise click.UsageError(
                    f"without a terminal to ask on, give --digest and --reason; `swift-submit requests show {id}` "
                    "shows content and digest"
                )
            proposal = registry.proposal(id)
            for line in _lines(proposal):
                session.output.talk(line)
            digest = digest or proposal.digest
            reason = reason or click.prompt(f"why {verdict}", err=True)
            click.confirm(f"{verdict} {id} as shown?", abort=True, err=True)
        try:
            said = {"digest": digest, "reason": reason, "on_behalf_of": given["on_behalf_of"]}
            asked = wire.Ratification.model_validate(said)
        except ValidationError as error:
            first = error.errors()[0]
            flag = str(first["loc"][0]).replace("on_behalf_of", "for")
            raise click.UsageError(f"--{flag}: {first['msg'].lower()}") from None
        if verdict == "ratify":
            proposal = registry.ratify(id, asked)
        else:
            proposal = registry.review(id, wire.Review.model_validate({"verdict": verdict, **said}))
    session.output.result(proposal.model_dump(mode="json"), _outcome(proposal), brief=[proposal.state])


def _impact(impact: "wire.Impact") -> list[str]:
    from trainer.cli.tags import changes

    lines = [f"what it would do (digest {impact.digest})"]
    if impact.compared_with:
        lines += [f"  against {impact.compared_with}:", *changes(impact.changes)]
    for check in impact.names:
        lines += [f"  name {check.name}: {check.verdict}", *(f"    {match.evidence}" for match in check.matches)]
    if impact.compatibility:
        kept = "kept" if impact.compatibility.compatible else "BROKEN"
        lines.append(f"  compatibility {impact.compatibility.mode}: {kept}")
        lines += [f"    version {one.version}: {one.sentence}" for one in impact.compatibility.incompatibilities]
    if impact.gates:
        missed, judged = impact.gates.would_not_pass, impact.gates.judged
        lines.append(f"  gates: {missed} of the last {judged} accepted runs would not have passed")
        lines += [f"    {run.run_id} {run.task_type}: {'; '.join(run.reasons)}" for run in impact.gates.runs]
    for said, units in (("in flight", impact.in_flight), (f"runs in {impact.days} days", impact.units)):
        counted = ", ".join(f"{one.business_unit} {one.runs}" for one in units) or "none"
        lines.append(f"  {said}: {counted}")
    return lines if impact.complete else [*lines, "  there were more runs than are counted here"]


def _outcome(proposal: "wire.Proposal") -> list[str]:
    if proposal.state == "applied":
        version = f"@{proposal.version}" if proposal.version else ""
        done = LIFE.get(proposal.change.kind, "in effect")
        return [f"{proposal.id}  applied: `{_subject(proposal)}{version}` is {done}"]
    if proposal.state == "approved":
        return [f"{proposal.id}  approved: it takes effect at {proposal.not_before:%Y-%m-%d %H:%M}"]
    more = proposal.approvals_needed - _approvals(proposal)
    waits = f"; {more} more approvals are needed" if proposal.state == "open" and more > 0 else ""
    return [f"{proposal.id}  {proposal.state}{waits}", *_missing(proposal)]


def _missing(proposal: "wire.Proposal") -> list[str]:
    """Who could give what is missing."""
    return [
        f"  missing {one.need - one.have} of {one.need} {one.name}"
        + (f", of group:{one.group}" if one.group else "")
        + (f", for {one.unit}" if one.unit else "")
        for one in proposal.missing
    ]


def _subject(proposal: "wire.Proposal") -> str:
    return proposal.subject.rpartition(":")[2]


def _checks(checks: "wire.PolicyChecks") -> list[str]:
    replay = checks.replay
    rules = [("added", checks.rules_added), ("changed", checks.rules_changed), ("removed", checks.rules_removed)]
    return [
        *(f"  rules {what}: {', '.join(ids)}" for what, ids in rules if ids),
        f"  tests   {checks.tests} green",
        *(f"  warning {warning}" for warning in checks.warnings),
        f"  replay  of {replay.decisions} decisions in {replay.days} days: {replay.allow_to_deny} would be refused, "
        f"{replay.deny_to_allow} allowed, {replay.errors} fail; {replay.left_out} could not be asked again",
        *(
            f"          {part.unit} {part.tag}: {part.allow_to_deny} refused, {part.deny_to_allow} allowed"
            for part in replay.parts
        ),
    ]


def _terms(proposal: "wire.Proposal") -> list[str]:
    terms = proposal.terms
    if terms is None:
        return []
    units = f", of {terms.distinct_units} business units" if terms.distinct_units > 1 else ""
    until = f", until {proposal.expires_at:%Y-%m-%d %H:%M}" if proposal.expires_at else ""
    return [
        f"  terms   rule `{terms.rule}` ({terms.change_class} change): {terms.approvals} people{units}{until}",
        *([f"  not     before {proposal.not_before:%Y-%m-%d %H:%M}"] if proposal.not_before else []),
    ]


def _approvals(proposal: "wire.Proposal") -> int:
    return sum(review.counts and review.verdict == "approve" for review in proposal.reviews)


def _lines(proposal: "wire.Proposal") -> list[str]:
    import yaml

    content = yaml.safe_dump(
        proposal.change.model_dump(mode="json", exclude_none=True), allow_unicode=True, sort_keys=False, width=110
    )
    return [
        f"{proposal.id}  {proposal.state}  {_approvals(proposal)} of {proposal.approvals_needed} approvals",
        f"  by      {', '.join([proposal.author, *proposal.contributors])}, {proposal.opened_at:%Y-%m-%d %H:%M}",
        f"  reason  {proposal.reason}",
        f"  digest  {proposal.digest}",
        *_terms(proposal),
        *(
            f"  {r.verdict:<7} {r.reviewer}, {r.at:%Y-%m-%d %H:%M}: {r.reason}{'' if r.counts else ' (counts no more)'}"
            for r in proposal.reviews
        ),
        *_missing(proposal),
        *(_checks(proposal.checks) if proposal.checks else ()),
        *(f"  near    {match.evidence}" for match in proposal.name_matches),
        "",
        *(f"  {line}" for line in content.splitlines()),
    ]
