"""`swift-submit verify` and `swift-submit trust`: the proof chain of a run, and what a verifier trusts."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from trainer.cli.flags import Command, Group
from trainer.cli.session import Session, current

if TYPE_CHECKING:
    from enforcer.chain import Trust, VerifiedRun

RUN_DIR = click.argument("run_dir", metavar="RUN_DIR", type=click.Path(file_okay=False, exists=True))


@click.command(cls=Command)
@RUN_DIR
@click.option("--trust", "trust_file", required=True, type=click.Path(dir_okay=False), help="What you trust: a file.")
@click.option("--without-log", is_flag=True, help="Leave the log out: a ticket that was never logged may pass.")
@click.option("--fetch", is_flag=True, help="First ask the registry for what the folder lacks of its proofs.")
def verify(run_dir: str, trust_file: str, without_log: bool, fetch: bool) -> None:
    """Prove offline what a run is, from its permit to its outputs.

    Nothing in RUN_DIR is trusted, and no registry is asked (but for --fetch). TRUST is a file that `swift-submit trust
    save` wrote when you had reason to trust a registry. Exits 0 when every step holds, else 8 with the first that does
    not.
    """
    from enforcer import chain
    from trainer.layout import RunFolder
    from trainer.run import evidence

    session, folder = current(), RunFolder(Path(run_dir).absolute())
    trust = read_trust(trust_file)
    if fetch:
        with session.registry() as registry:
            evidence.complete(registry, folder)
    if folder.report_pending.exists():
        session.output.warn(
            "this run's report was not sent yet, so the registry has neither seen its manifest nor put it in the log; "
            f"send it first with `swift-submit runs report {run_dir}`"
        )
    run = chain.verify(evidence.bundle(folder), trust, without_log=without_log)
    if without_log:
        session.output.warn(
            "the log was left out: nothing here proves that the registry ever recorded this ticket or this manifest"
        )
    for name in run.absent:
        session.output.warn(f"`{name}` is gone, so it was not checked; the manifest names it beside the outputs")
    _tell(session, run, without_log)


@click.group(cls=Group)
def trust() -> None:
    """What a verifier trusts: save it from a registry."""


@trust.command()
@click.argument("file", type=click.Path(dir_okay=False))
def save(file: str) -> None:
    """Write the keys of the registry that you trust now to FILE, for `verify --trust FILE`.

    Keep it where nobody else writes. Add witnesses of the log and a quorum by hand, as `name+id+key` lines.
    """
    from trainer import trusted

    session, path = current(), Path(file)
    with session.registry() as registry:
        found = trusted.gather(registry)
    trusted.write(found, path)
    lines = [f"trusted from now on: {found.issuer}", *(f"  {line}" for line in _key_lines(found)), str(path)]
    session.output.result(found.model_dump(mode="json", exclude_none=True), lines, brief=[str(path)])


def read_trust(file: str) -> "Trust":
    from enforcer.chain import Trust
    from enforcer.problems import NotConfigured

    try:
        return Trust.read(Path(file).read_bytes())
    except OSError as error:
        raise NotConfigured(
            f"the trust file `{file}` cannot be read: {(error.strerror or '').lower()}; "
            "`swift-submit trust save FILE` writes one"
        ) from error


def _tell(session: Session, run: "VerifiedRun", without_log: bool) -> None:
    from enforcer.chain import STEPS

    details, claims = run.manifest.details, run.claims
    steps = [
        {"step": number, "what": what, "held": None if without_log and number <= 2 else True}
        for number, what in enumerate(STEPS, start=1)
    ]
    document = {
        "verified": True,
        "without_log": without_log,
        "steps": steps,
        "run_id": details.metadata.invocation_id,
        "ticket": claims.model_dump(),
        "logged_at": run.logged_at,
        "manifest": run.manifest.model_dump(mode="json", by_alias=True, exclude_none=True),
        "receipt": run.receipt.model_dump(mode="json", by_alias=True, exclude_none=True),
        "absent": run.absent,
    }
    permitted = f"{claims.sub} for {claims.business_unit}, by rule `{claims.policy_rule}`"
    logged = f"issued {run.logged_at:%Y-%m-%d %H:%M:%S UTC}" if run.logged_at else "NOT CHECKED against the log"
    lines = [
        *(f"  {'✓' if step['held'] else '-'} {step['step']} {step['what']}" for step in steps),
        f"{details.metadata.invocation_id}  {claims.task_type}@{claims.task_version}  {details.state}",
        f"  permitted to {permitted}; {logged}",
        f"  on {details.builder.id}, {details.metadata.started_on:%Y-%m-%d %H:%M:%S} to "
        f"{details.metadata.finished_on:%H:%M:%S UTC}; {len(run.manifest.subject)} outputs",
        *(f"  {name} {score.value:.4f}, n={score.n}" for name, score in details.metrics.items()),
        f"  {run.receipt.predicate.verifier.id} says: {', '.join(run.receipt.predicate.properties)}",
    ]
    session.output.result(document, lines, brief=[details.metadata.invocation_id])


def _key_lines(found: "Trust") -> list[str]:
    from trainer.cli.output import table

    keys = [
        (purpose, key.kid, "" if key.until is None else f"until {key.until:%Y-%m-%d %H:%M:%S}")
        for purpose, held in (
            ("tickets", found.ticket_keys), ("log", found.log_keys), ("attestation", found.attestation_keys)
        )
        for key in held
    ]  # fmt: skip
    return table(("signs", "key", ""), keys)
