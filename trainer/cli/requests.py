"""`swift-submit requests`: proposals, and the reviews that decide them."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from trainer.cli.flags import Group
from trainer.cli.session import Session, current

if TYPE_CHECKING:
    from enforcer import wire

F = TypeVar("F", bound=Callable[..., Any])


def review_flags(command: F) -> F:
    """What `approve` and `reject` take."""
    reason = click.option("--reason", metavar="TEXT", help="Why; kept for ever.")
    saw = "The content you saw (`requests show`); left out, it is shown now."
    digest = click.option("--digest", metavar="SHA256", help=saw)
    return click.argument("id")(digest(reason(command)))


@click.group(cls=Group)
def requests() -> None:
    """Proposals: of task types, of the policy, of exceptions from it."""


@requests.command()
@click.argument("file", type=click.Path(dir_okay=False))
def propose(file: str) -> None:
    """Propose what stands in FILE (`change` and `reason`, .yaml, .json or .toml).

    `change.kind` is `new-tag` or `new-version` (a task type), or `exception` (what somebody shall be let do until an
    end, although the policy does not let them).
    """
    propose_from(Path(file))


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
@click.option("--state", type=click.Choice(["open", "applied", "rejected", "withdrawn"]), help="Only these.")
def list_(state: str | None) -> None:
    """Proposals, newest first."""
    from trainer.cli.output import table

    session = current()
    with session.registry() as registry:
        found = list(registry.proposals(state=state))
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
def show(id: str) -> None:
    """One proposal: its content, its digest, its reviews."""
    session = current()
    with session.registry() as registry:
        proposal = registry.proposal(id)
    session.output.result(proposal.model_dump(mode="json"), _lines(proposal), brief=[proposal.digest])


@requests.command()
@review_flags
def approve(id: str, digest: str | None, reason: str | None) -> None:
    """Approve a proposal, exactly as you saw it. The last approval needed makes it take effect."""
    _review(current(), id, "approve", digest, reason)


@requests.command()
@review_flags
def reject(id: str, digest: str | None, reason: str | None) -> None:
    """Reject a proposal."""
    _review(current(), id, "reject", digest, reason)


def propose_from(file: Path) -> None:
    from trainer.arguments import read_document

    _propose(read_document(file), str(file))


def _propose(document: Any, where: str) -> None:
    from pydantic import ValidationError

    from enforcer import wire
    from enforcer.problems import Malformed

    session = current()
    try:
        request = wire.ProposalRequest.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise Malformed(
            f"`{where}`: `{field}`: {first['msg'].lower()}", pointer=f"/{field.replace('.', '/')}"
        ) from None
    with session.registry() as registry:
        proposal = registry.propose(request)
    lines = [
        f"{proposal.id}  {proposal.change.kind} {_subject(proposal)}  {proposal.state}",
        *(_checks(proposal.checks) if proposal.checks else ()),
        f"  it takes effect after {proposal.approvals_needed} approvals: swift-submit requests show {proposal.id}",
    ]
    session.output.result(proposal.model_dump(mode="json"), lines, brief=[proposal.id])


def _review(session: Session, id: str, verdict: str, digest: str | None, reason: str | None) -> None:
    from pydantic import ValidationError

    from enforcer import wire

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
            review = wire.Review.model_validate({"verdict": verdict, "digest": digest, "reason": reason})
        except ValidationError as error:
            first = error.errors()[0]
            raise click.UsageError(f"--{first['loc'][0]}: {first['msg'].lower()}") from None
        proposal = registry.review(id, review)
    session.output.result(proposal.model_dump(mode="json"), _outcome(proposal), brief=[proposal.state])


def _outcome(proposal: "wire.Proposal") -> list[str]:
    if proposal.state == "applied":
        version = f"@{proposal.version}" if proposal.version else ""
        return [f"{proposal.id}  applied: `{_subject(proposal)}{version}` is in effect"]
    missing = proposal.approvals_needed - _approvals(proposal)
    waits = f"; {missing} more approvals are needed" if proposal.state == "open" else ""
    return [f"{proposal.id}  {proposal.state}{waits}"]


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


def _approvals(proposal: "wire.Proposal") -> int:
    return sum(review.verdict == "approve" for review in proposal.reviews)


def _lines(proposal: "wire.Proposal") -> list[str]:
    import yaml

    content = yaml.safe_dump(
        proposal.change.model_dump(mode="json", exclude_none=True), allow_unicode=True, sort_keys=False, width=110
    )
    return [
        f"{proposal.id}  {proposal.state}  {_approvals(proposal)} of {proposal.approvals_needed} approvals",
        f"  by      {proposal.author}, {proposal.opened_at:%Y-%m-%d %H:%M}",
        f"  reason  {proposal.reason}",
        f"  digest  {proposal.digest}",
        *(f"  {r.verdict:<7} {r.reviewer}, {r.at:%Y-%m-%d %H:%M}: {r.reason}" for r in proposal.reviews),
        *(_checks(proposal.checks) if proposal.checks else ()),
        "",
        *(f"  {line}" for line in content.splitlines()),
    ]
