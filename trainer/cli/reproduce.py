"""`swift-submit reproduce`."""

import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from trainer.cli.flags import Command
from trainer.cli.session import Session, current
from trainer.cli.verify import RUN_DIR
from trainer.exits import FAILED, FINE

if TYPE_CHECKING:
    from trainer.reproduce import Again, Difference


@click.command(cls=Command)
@RUN_DIR
@click.option("--offline", is_flag=True, help="Do not ask the registry what is in force.")
@click.option("--write", "target", type=click.Path(dir_okay=False), help="Write the config that asks for it again.")
def reproduce(run_dir: str, offline: bool, target: str | None) -> None:
    """Plan a run again, and say what differs now.

    Looks at code, data, model, packages and hardware here, and at the task type and policy that are in force. Nothing
    is run. Exits 0 when nothing differs and 1 when something does.
    """
    from trainer import reproduce as plan
    from trainer.layout import RunFolder

    session = current()
    again = plan.read(RunFolder(Path(run_dir).absolute()))
    found = list(plan.local_differences(again))
    asked = False if offline else _ask(session, again, found)
    config = plan.config(again)
    if target is not None:
        _write(Path(target), config)
    command = f"swift-submit run {shlex.quote(target)}" if target else _command(config)
    document = {
        "run_id": again.spec.run_id,
        "differences": [asdict(difference) for difference in found],
        "registry_asked": asked,
        "manifest": again.manifest is not None,
        "config": config,
        "command": command,
    }
    if again.manifest is None:
        session.output.warn("this run left no manifest, so packages and hardware cannot be compared")
    session.output.result(document, _lines(again, found, command), brief=[item.what for item in found])
    sys.exit(FAILED if found else FINE)


def _ask(session: Session, again: "Again", found: "list[Difference]") -> bool:
    from enforcer.problems import RegistryUnreachable
    from trainer import reproduce as plan

    readable = not any(item.what.startswith(("data ", "model ")) for item in found)
    try:
        with session.registry() as registry:
            found += plan.governed_differences(again, registry, readable=readable)
    except RegistryUnreachable as away:
        session.output.warn(f"task type and policy were not compared: {away.detail}")
        return False
    if not readable:
        session.output.warn("the policy was not asked: what it decides on, model and data, is not what it was")
    return True


def _write(path: Path, config: dict[str, Any]) -> None:
    import yaml

    from enforcer.problems import OutputInvalid

    try:
        with path.open("x", encoding="utf-8") as file:
            yaml.safe_dump(config, file, allow_unicode=True, sort_keys=False)
    except OSError as error:
        raise OutputInvalid(f"`{path}` cannot be written: {(error.strerror or '').lower()}; name a new file") from error


def _command(config: dict[str, Any]) -> str:
    import yaml

    flags = {
        "task_type": "--task-type", "model_name_or_path": "--model", "dataset": "--dataset",
        "eval_dataset": "--eval-dataset", "business_unit": "--bu", "target": "--target", "gpus": "--gpus",
    }  # fmt: skip
    words = ["swift-submit", "run"]
    for name, value in config.items():
        if name in flags:
            for item in value if isinstance(value, list) else [value]:
                words += [flags[name], str(item)]
        else:
            # One value in one line, as YAML reads it back: a list of one, without its brackets.
            flow = yaml.safe_dump([value], default_flow_style=True, allow_unicode=True, width=sys.maxsize)
            words += ["--set", f"{name}={flow.strip()[1:-1]}"]
    return shlex.join(words)


def _lines(again: "Again", found: "list[Difference]", command: str) -> list[str]:
    from trainer.cli.output import table

    rows = [(item.what, item.then, item.now) for item in found]
    told = table(("differs", "then", "now"), rows) if rows else ["nothing differs"]
    head = f"{again.spec.run_id}  {again.spec.task_type}@{again.spec.version}"
    return [head, *(f"  {line}" for line in told), command]
