"""`tagwarden policy publish`, `history`, `show`, `shadow`: the policy of the database, beside the service.

The service follows what is changed here within a second.
"""

from pathlib import Path
from typing import Any

import click

from registry.cli.errors import in_words, stop
from registry.cli.opening import OPERATOR, migrated, settings_of
from registry.cli.policy_folder import folder_of, print_json


@click.command()
@click.option("--policies", type=click.Path(path_type=Path), help="The folder.  [env: TAGWARDEN_POLICIES_DIR]")
def publish(policies: Path | None) -> None:
    """Make what the folder says live, even where it was superseded before."""
    from enforcer.problems import PolicyUnchanged
    from registry import policy_folder

    settings = settings_of(policies_dir=folder_of(policies))
    if settings.policy_source != "folder":
        stop("the policy of this registry is changed by proposals (TAGWARDEN_POLICY_SOURCE); open one")

    def make_live() -> str:
        try:
            return f"{policy_folder.publish(migrated(settings), settings, force=True)} is live"
        except PolicyUnchanged:
            return "this policy is live already"

    click.echo(in_words(make_live))


@click.command()
@click.option("--last", default=20, show_default=True, type=click.IntRange(1, 1000), help="How many.")
@click.option("--json", "as_json", is_flag=True, help="For machines.")
def history(last: int, as_json: bool) -> None:
    """Which revisions went live, newest first."""
    from sqlmodel import col, select

    from registry.tables import PolicyPublication

    query = select(PolicyPublication).order_by(col(PolicyPublication.version).desc()).limit(last)
    found = in_words(lambda: [row.model_dump(mode="json") for row in _reading(lambda s: list(s.exec(query)))])
    if as_json:
        print_json(found)
        return
    for row in found:
        approver = f", approved by {row['approver']}" if row["approver"] else ""
        moment = row["at"][:19].replace("T", " ")
        click.echo(
            f"{row['version']:>4}  {moment}  {row['revision'][:19]}  {row['source']} by {row['author']}{approver}"
        )


@click.command()
@click.argument("revision", default="live")
def show(revision: str) -> None:
    """Print all that a revision says; the live one unless another is named."""
    from registry import policies

    def read(session: Any) -> Any:
        live = policies.live_revision(session)
        return policies.document(policies.load(session, live if revision == "live" else revision), live)

    print_json(in_words(lambda: _reading(read).model_dump(mode="json")))


@click.command()
@click.argument("folder", required=False, type=click.Path(path_type=Path))
@click.option("--off", is_flag=True, help="Watch none any more.")
def shadow(folder: Path | None, off: bool) -> None:
    """Watch what the policy in FOLDER would have decided, beside the live one; without it, show what was counted."""
    from registry import policies

    if off and folder is not None:
        raise click.UsageError("give either FOLDER or `--off`")
    if off or folder is not None:
        watched = in_words(lambda: _watch(folder))
        click.echo(f"{watched} is watched" if watched else "no candidate is watched")
        return
    print_json(in_words(lambda: _reading(policies.shadowed).model_dump(mode="json")))


def _watch(folder: Path | None) -> str | None:
    from enforcer.policy import folder as policy_files
    from registry import db, policies, policy_folder
    from registry.identity import Actor

    candidate = policy_files.load(folder) if folder else None
    with db.writing(migrated(settings_of())) as session:
        if candidate is not None:
            candidate, _ = policy_folder.with_what_was_granted_here(session, candidate)
        policies.watch(session, candidate, Actor(OPERATOR, (), "all"))
    return candidate.revision if candidate else None


def _reading(act: Any) -> Any:
    from registry import db

    with db.reading(migrated(settings_of())) as session:
        return act(session)
