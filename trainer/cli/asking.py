"""What `run` and `plan` have in common: from a config and flags to arguments."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

FIELDS = {  # flag -> field of TrainingArguments
    "task_type": "task_type", "dataset": "dataset", "eval_dataset": "eval_dataset", "model": "model_name_or_path",
    "business_unit": "business_unit", "output_dir": "output_dir", "target": "target", "gpus": "gpus",
    "redeem": "redeem", "change_ticket": "change_ticket", "resume": "resume",
}  # fmt: skip


def run_flags(command: F) -> F:
    """CONFIG and the flags that override it."""
    for decorate in reversed(
        [
            click.argument("config", required=False, type=click.Path(dir_okay=False)),
            click.option("-t", "--task-type", metavar="TAG[@VERSION]", help="The task type."),
            click.option("--dataset", multiple=True, metavar="FILE", help="Training data (.jsonl .json .csv .tsv)."),
            click.option("--eval-dataset", multiple=True, metavar="FILE", help="Evaluation data."),
            click.option("--model", metavar="DIR", help="The base model's folder."),
            click.option("--bu", "business_unit", metavar="UNIT", help="The business unit that the run is for."),
            click.option("--output-dir", metavar="DIR", help="Where the run folder goes."),
            click.option("--target", metavar="PLACE", help="Where to run (local)."),
            click.option("--gpus", type=int, metavar="N", help="GPUs to use (0)."),
            click.option(
                "--redeem", type=click.Choice(["online", "offline"]), help="Where the ticket is used up (online)."
            ),
            click.option("--change-ticket", metavar="ID", help="The change ticket that a rule may ask for."),
            click.option(
                "--resume", metavar="RUN_DIR", help="Continue the run that stopped there, under a new ticket."
            ),
            click.option("--set", "changes", multiple=True, metavar="KEY=VALUE", help="Any argument, value in YAML."),
        ]
    ):
        command = decorate(command)
    return command


def arguments(config: str | None, changes: tuple[str, ...], flags: dict[str, Any]) -> Any:
    """`TrainingArguments` from a config, then `--set`, then the flags with names of their own."""
    from pathlib import Path

    from trainer.arguments import TrainingArguments, from_file, parse_setting

    given: dict[str, Any] = dict(parse_setting(setting) for setting in changes)
    for flag, value in flags.items():
        if value not in (None, ()):
            given[FIELDS[flag]] = list(value) if isinstance(value, tuple) else value
    if config is not None:
        return from_file(Path(config), given)
    if "resume" in given:  # the folder says all that was asked for
        from trainer import resume

        given = {**resume.config(Path(given["resume"])), **given}
    return TrainingArguments(**given)


def in_words(args: Any, facts: dict[str, Any]) -> str:
    held = f", {facts['eval_rows']:,} held out" if facts["eval_rows"] else ""
    return f"{args.task_type}: {facts['train_rows']:,} rows to train on{held}; model {args.model_name_or_path}"
