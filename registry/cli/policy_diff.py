"""`tagwarden policy diff`: what a change of the policy changes, for those who approve it."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from registry.cli.errors import in_words
from registry.cli.policy_folder import of_a_folder, opened, print_json

if TYPE_CHECKING:
    from enforcer.policy.diff import Change, Difference


@click.command()
@click.argument("old", type=click.Path(path_type=Path))
@of_a_folder
@click.option("--exit-code", is_flag=True, help="Exit 1 when a decision differs.")
@click.option("--most", type=click.IntRange(min=1), help="Decide at most so many requests; more are sampled.")
def diff(old: Path, policies: Path | None, database: bool, as_json: bool, exit_code: bool, most: int | None) -> None:
    """Which decisions differ between the folder OLD and the one of --policies.

    The same requests are put to both: all that a changed rule speaks of, at the corners of every condition.
    """
    from enforcer.policy.diff import MAX_ASKED, compare

    before, after = opened(old, database), opened(policies, database)
    found: Difference = in_words(lambda: compare(before.gate(), after.gate(), after.now, most=most or MAX_ASKED))
    if as_json:
        print_json(found)
    else:
        for change in found.changes:
            click.echo(_line(change))
        click.echo(_summary(found))
    raise SystemExit(1 if exit_code and found.changes else 0)


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
