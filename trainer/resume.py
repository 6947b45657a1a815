"""Continue a run that stopped, under a ticket of its own: the same specification, from the checkpoint that it left.

The old run folder is read and never written. Its checkpoint is looked at before a ticket is asked for; the ticket binds
its digest, and the worker compares that once more before it spends the ticket.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from enforcer import continuing
from enforcer.problems import CheckpointInvalid, NotContinued
from enforcer.profiles import Profile
from enforcer.runspec import Continued, Inputs, RunSpec
from trainer import reproduce, sealed
from trainer.inputs import folders
from trainer.layout import RunFolder


@dataclass(frozen=True)
class Earlier:
    """The run that is continued: what it was, where its checkpoint lies, and what the new ticket binds of it."""

    spec: RunSpec
    checkpoint: Path
    continued: Continued

    def check(self, tag: str, profile: Profile, arguments: dict[str, Any], inputs: Inputs, gpus: int) -> None:
        """Raises `NotContinued`: what is asked for is not the same run."""
        continuing.check(self.spec, task_type=tag, profile=profile, arguments=arguments, inputs=inputs, gpus=gpus)


def find(run_dir: Path) -> Earlier:
    """The run of a folder, and its newest checkpoint.

    Raises:
        ManifestInvalid, TicketInvalid: it is not the folder of a run, or its files do not belong together.
        NotContinued: it is training at this moment.
        CheckpointInvalid: it left no checkpoint, or one that is not what was saved or signed for.
    """
    folder = RunFolder(run_dir.expanduser().absolute())
    again = reproduce.read(folder)
    _refuse_running(folder, again.spec)
    checkpoint = sealed.newest(folder.checkpoints)
    digest = sealed.check(checkpoint)
    if again.manifest is not None:
        _check_signed(checkpoint, again.manifest.outputs)
    step = sealed.step_of(checkpoint)
    return Earlier(again.spec, checkpoint, Continued(run_id=again.spec.run_id, step=step, digest=digest))


def config(run_dir: Path) -> dict[str, Any]:
    """The arguments that ask for the rest of a run, put beside it.

    Raises:
        ManifestInvalid, TicketInvalid: it is not the folder of a run, or its files do not belong together.
    """
    folder = run_dir.expanduser().absolute()
    again = reproduce.read(RunFolder(folder))
    return {**reproduce.config(again), "output_dir": str(folder.parents[1]), "resume": str(run_dir)}


def in_words(folder: RunFolder) -> str | None:
    """How to go on with a run that stopped; None where it left nothing to go on from."""
    try:
        checkpoint = sealed.newest(folder.checkpoints)
    except CheckpointInvalid:
        return None
    step = sealed.step_of(checkpoint)
    return f"the checkpoint of step {step} is kept; continue with `swift-submit run --resume {folder.root}`"


def _refuse_running(folder: RunFolder, spec: RunSpec) -> None:
    """`worker.pid` outlives a machine that lost its power, and its number may be another process's by now."""
    try:
        pid = int(folder.worker_pid.read_text())
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (OSError, ValueError):
        return
    if b"trainer.launch.worker" in command:
        raise NotContinued(
            f"run `{spec.run_id}` is training (process {pid}); stop it first, or wait for its end", run_id=spec.run_id
        )


def _check_signed(checkpoint: Path, outputs: dict[str, str]) -> None:
    """What the run signed for when it stopped; where there were too many files, it signed for all in one."""
    where = checkpoint.parent
    here = {f"{where.name}/{name}": digest for name, digest in folders.file_digests(where).items()}
    whole = {where.name: folders.folder_digest(where)}
    if outputs not in (here, whole):
        raise CheckpointInvalid(
            f"`{where}` is not what the run signed for in its manifest; restore it, or start the run anew"
        )
