"""A run in several processes on one machine: `torchrun` starts them, the first is the run, the others help it.

The first process holds the permit: it verifies, redeems, saves, evaluates, reports. When the ticket is redeemed it
leaves word of where the inputs lie, without the key; only then do the others read them, check their digests and train
along. They have no say: when to stop is the first one's to decide, at each step, for all.
"""

import contextlib
import json
import os
import time
from pathlib import Path

from enforcer.keys import SigningKey
from enforcer.problems import ArgumentInvalid, TicketInvalid
from enforcer.runspec import RunSpec
from enforcer.tickets import unverified_claims
from trainer import preflight, recipes
from trainer.job import Helped
from trainer.layout import RunFolder, write_private
from trainer.run import handover
from trainer.run.lease import Watch
from trainer.run.permit import Permit

LOOK_EVERY_S = 0.05


def rank() -> int:
    """Which process of the run this is; the first, where it is the only one."""
    return int(os.environ.get("RANK", "0"))


def world() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def share(permit: Permit) -> None:
    """Let the other processes begin."""
    if world() > 1:
        document = {**handover.document(permit), "key": None}
        part = permit.folder.root / f".{handover.RANKS}.part"
        write_private(part, json.dumps(document).encode())
        part.replace(permit.folder.root / handover.RANKS)  # who waits for it finds it whole


def over(folder: RunFolder) -> None:
    (folder.root / handover.RANKS).unlink(missing_ok=True)


def help_out(folder: RunFolder) -> None:
    """Wait for the first process to begin, and train along. `torchrun` ends this process should the first one fail.

    Raises:
        TicketInvalid: the files are not those that were signed.
    """
    from trainer.run import work

    file = folder.root / handover.RANKS
    while not file.exists():
        time.sleep(LOOK_EVERY_S)
    permit = _read(file)
    spec = RunSpec.read(
        folder.run_spec.read_bytes(),
        expected_digest=str(unverified_claims(folder.ticket.read_text("ascii").strip())["run_spec_digest"]),
    )
    sources = work.sources(permit)
    work.check_inputs(permit, spec, sources)
    inputs = spec.inputs
    rows = preflight.rows_of(
        sources, spec.profile, inputs.columns, spec.arguments, inputs.eval_fraction, inputs.allow_row_loss
    )
    recipe = recipes.load(spec.profile.recipe)
    with work.kept_to_gpus(spec.gpus), contextlib.suppress(Helped):
        recipe.train(work.job_of(permit, spec, rows, Watch(float("inf"))))


def refuse_alone(nproc: int) -> None:
    """See that this process is one of as many as were permitted.

    Raises:
        ArgumentInvalid: it is the only one of several, as in a notebook.
    """
    if world() != nproc:
        raise ArgumentInvalid(
            f"`nproc`: {nproc} processes were permitted and this is one of {world()}; start the run with `swift-submit "
            "run`, which starts all of them, or take `nproc: 1`",
            pointer="/nproc",
        )


def _read(file: Path) -> Permit:
    try:
        return handover.restored(
            {**json.loads(file.read_bytes()), "key": SigningKey.generate().to_pem().decode()}, file
        )
    except ValueError as error:
        raise TicketInvalid(f"`{file}` cannot be read: {error}") from error
