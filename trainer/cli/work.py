"""`swift-submit work`."""

import sys
from pathlib import Path

import click

from trainer.cli.flags import Command
from trainer.cli.session import current


@click.command(cls=Command)
@click.argument("run_dir", type=click.Path(exists=True, file_okay=False))
def work(run_dir: str) -> None:
    """Start the run that a permit in RUN_DIR allows.

    `swift-submit run --permit-only` left it there, perhaps on another machine. With an offline ticket no registry is
    needed: the run trains, and its report is sent when one answers, or by `swift-submit runs report RUN_DIR`.
    """
    from trainer.cli import run
    from trainer.run import handover

    session = current()
    permit = handover.read(Path(run_dir).absolute() / handover.NAME)
    sys.exit(run.tell(session, run.launch(session, permit), permit.folder))
