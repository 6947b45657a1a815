"""What the commands of `tagwarden policy` work on: a folder, and the task types that its rules speak of."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from registry.cli.errors import in_words, stop
from registry.cli.opening import migrated, settings_of

if TYPE_CHECKING:
    from enforcer.policy.folder import Written
    from enforcer.policy.snapshot import Snapshot

Command = TypeVar("Command", bound=Callable[..., Any])


@dataclass(frozen=True)
class Opened:
    """A policy folder that could go live, with the task-type tree and the time that everything is judged by."""

    folder: Path
    written: "Written"
    tags: Mapping[str, str | None]
    now: datetime

    def gate(self) -> "Snapshot":
        from enforcer.policy.snapshot import Snapshot

        return Snapshot(self.written.policy, self.tags)


def of_a_folder(command: Command) -> Command:
    """The options that say which policy and which task types."""
    for option in (
        click.option("--json", "as_json", is_flag=True, help="For machines."),
        click.option("--database", is_flag=True, help="Task types of the database, not of the folder's vocabulary/."),
        click.option("--policies", type=click.Path(path_type=Path), help="The folder.  [env: TAGWARDEN_POLICIES_DIR]"),
    ):
        command = option(command)
    return command


def opened(policies: Path | None, database: bool) -> Opened:
    """Read it, or end the command with what is wrong, by file and line."""
    found: Opened = in_words(lambda: read(policies, database))
    return found


def read(policies: Path | None, database: bool) -> Opened:
    """Raises PolicyInvalid."""
    from enforcer.policy import folder

    where = folder_of(policies)
    written = folder.written(folder.files_of(where))
    return Opened(where, written, _live_tags() if database else folder.tag_tree(where), datetime.now(UTC))


def folder_of(policies: Path | None) -> Path:
    where: Path = settings_of(policies_dir=policies).policies_dir
    if not where.is_dir():
        stop(f"`{where}` is not a folder; name one with `--policies`")
    return where


def print_json(answer: Any) -> None:
    click.echo(json.dumps(answer, indent=2, ensure_ascii=False, default=_plain))


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    return asdict(value) if hasattr(value, "__dataclass_fields__") else sorted(value)


def _live_tags() -> dict[str, str | None]:
    from sqlmodel import select

    from registry import db
    from registry.tables import Tag

    with db.reading(migrated(settings_of())) as session:
        return dict(session.exec(select(Tag.name, Tag.parent)).all())
