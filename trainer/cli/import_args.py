"""`swift-submit import-args`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from trainer.cli.flags import Command
from trainer.cli.session import current

if TYPE_CHECKING:
    from enforcer.wire.tags import TagDetail
    from trainer.client import Registry

MAX_BYTES = 4 << 20


@click.command("import-args", cls=Command)
@click.argument("file", type=click.Path(dir_okay=False))
@click.option("--task-type", "tag", help="Which task type it was, where its bindings leave a choice.")
def import_args(file: str, tag: str | None) -> None:
    """Print the config that asks for a run of ms-swift again, from its args.json.

    The bindings in force say which task type it was. What it set and a config cannot say is warned about; bounds and
    defaults are the task type's, so look at it with `swift-submit plan` before it runs.
    """
    import yaml

    from trainer.backends import MS_SWIFT, ms_swift_arguments

    session = current()
    document = _record(Path(file))
    with session.registry() as registry:
        found = _task_type(registry, document, file, tag)
    given, lost = ms_swift_arguments.read_back(document)
    known = found.profile.parameters.keys() | {"model_name_or_path", "dataset"}
    lost += [f"{name}: {json.dumps(given[name])}" for name in sorted(given.keys() - known)]
    config: dict[str, Any] = {"task_type": found.name, **{name: given[name] for name in given if name in known}}
    if "backend" in found.profile.parameters:
        config["backend"] = MS_SWIFT
    for what in lost:
        session.output.warn(f"not carried over: {what}")
    text = yaml.safe_dump(config, allow_unicode=True, sort_keys=False)
    session.output.result({"config": config, "not_carried_over": lost}, text.splitlines(), brief=[found.name])


def _record(file: Path) -> dict[str, Any]:
    from enforcer.problems import NotConfigured

    try:
        text = file.read_bytes()
        found = json.loads(text) if len(text) <= MAX_BYTES else None
    except OSError as error:
        raise NotConfigured(f"`{file}` cannot be read: {(error.strerror or '').lower()}") from error
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or not isinstance(found.get("swift_version"), str):
        raise NotConfigured(f"`{file}` is no args.json of ms-swift: a JSON object that names its `swift_version`")
    return found


def _task_type(registry: "Registry", document: dict[str, Any], file: str, tag: str | None) -> "TagDetail":
    """Raises `ArgumentInvalid`: by the bindings in force it was none, or one of several."""
    from enforcer.bindings import BoundTag, tags_of, version_of
    from enforcer.problems import ArgumentInvalid
    from trainer.backends import MS_SWIFT

    try:
        version = version_of(document["swift_version"])
    except ValueError as error:
        raise ArgumentInvalid(f"`{file}`: {error}", pointer="/swift_version") from error
    names = [tag] if tag else [known.name for known in registry.tags(state="active")]
    details = {detail.name: detail for detail in map(registry.tag, names)}
    bound = [BoundTag(name, detail.parent, detail.profile.bindings) for name, detail in details.items()]
    commands = {"rlhf"} if document.get("rlhf_type") else {"pt", "sft"}  # the file does not name its sub-command
    matches = tags_of(bound, MS_SWIFT, version, commands, document).matches
    if len(matches) != 1:
        said = ", ".join(f"`{match.tag}`" for match in matches) or (f"not `{tag}`" if tag else "no task type here")
        raise ArgumentInvalid(f"by the bindings in force, `{file}` was a run of {said}; name one with `--task-type`")
    return details[matches[0].tag]
