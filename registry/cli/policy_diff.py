"""`tagwarden policy diff`: what a change of the policy changes, for those who approve it."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from registry.cli.errors import in_words
from registry.cli.opening import migrated, settings_of
from registry.cli.policy_folder import Opened, of_a_folder, opened, print_json

if TYPE_CHECKING:
    from enforcer.policy.diff import Change, Difference
    from enforcer.policy.snapshot import Snapshot


@click.command()
@click.argument("old", type=click.Path(path_type=Path), required=False)
@of_a_folder
@click.option("--live", is_flag=True, help="Compare with the policy that the database has live, instead of OLD.")
@click.option("--exit-code", is_flag=True, help="Exit 1 when a decision differs.")
@click.option("--most", type=click.IntRange(min=1), help="Decide at most so many requests; more are sampled.")
def diff(
    old: Path | None,
    policies: Path | None,
    database: bool,
    as_json: bool,
    live: bool,
    exit_code: bool,
    most: int | None,
) -> None:
    """Which decisions differ between the folder OLD and the one of --policies.

    The same requests are put to both: all that a changed rule speaks of, at the corners of every condition.
    """
    from enforcer.policy.diff import MAX_ASKED, compare

    if (old is None) is not live:
        raise click.UsageError("name the folder to compare with, or say `--live`")
    after = opened(policies, database or live)
    old_gate, new_gate = _against_live(after) if old is None else (opened(old, database).gate(), after.gate())
    found: Difference = in_words(lambda: compare(old_gate, new_gate, after.now, most=most or MAX_ASKED))
    if as_json:
        print_json(found)
    else:
        for change in found.changes:
            click.echo(_line(change))
        click.echo(_summary(found))
    raise SystemExit(1 if exit_code and found.changes else 0)


def _against_live(after: Opened) -> "tuple[Snapshot, Snapshot]":
    """What decides, and what would if the folder were published: exceptions granted in the registry live on."""
    from enforcer.policy.snapshot import Snapshot
    from registry import db, policy_folder, revisions

    def both() -> tuple[Snapshot, Snapshot]:
        with db.reading(migrated(settings_of())) as session:
            live = revisions.live(session)
            complete, _ = policy_folder.with_what_was_granted_here(session, after.written.policy)
        return Snapshot(live, after.tags), Snapshot(complete, after.tags)

    gates: tuple[Snapshot, Snapshot] = in_words(both)
    return gates


def _line(change: "Change") -> str:
    tags = "every task type" if change.tags == ("any",) else ", ".join(change.tags)
    units = "" if change.units == ("all",) else f", for {', '.join(change.units)}"
    targets = "" if change.targets == ("any",) else f", on {', '.join(change.targets)}"
    when = "".join(f", {said}" for said in change.when)
    by = ", ".join(f"`{rule}`" for rule in change.by)
    who, actions = ", ".join(change.who), ", ".join(change.actions)
    said = f"{who} {change.outcome} {actions} on {tags}{units}{targets}{when}"
    return f"{said} ({change.decisions:,} decisions, by {by})"


def _summary(found: "Difference") -> str:
    if found.old == found.new:
        return "the two are the same revision"
    said = (
        f"{found.granted + found.revoked:,} of {found.asked:,} decisions change: {found.granted:,} granted, "
        f"{found.revoked:,} revoked; rules that changed: {', '.join(found.changed_rules[:10]) or 'none'}"
    )
    return f"{said}. SAMPLED: {found.asked:,} of {found.possible:,} requests were decided" if found.sampled else said
