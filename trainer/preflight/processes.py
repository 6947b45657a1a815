"""Whether a run may have as many processes as it asks for, and share its texts among so many."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from enforcer.problems import ArgumentInvalid
from trainer.inputs import folders


def check(gpus: int, arguments: Mapping[str, Any], model: Path) -> None:
    """A device a process, and as many heads of attention to each process that shares a text.

    Raises:
        ArgumentInvalid: the numbers do not fit.
    """
    nproc, shared = int(arguments.get("nproc", 1)), int(arguments.get("sequence_parallel_size", 1))
    if gpus and nproc != gpus:
        raise ArgumentInvalid(
            f"`nproc`: {nproc} for {gpus} GPUs; each GPU takes a process, so set `nproc: {gpus}`",
            pointer="/nproc",
        )
    if nproc % shared:
        raise ArgumentInvalid(
            f"`sequence_parallel_size`: {shared} does not divide `nproc` {nproc}; every text is shared by as many "
            "processes",
            pointer="/sequence_parallel_size",
        )
    heads = folders.attention_heads(model)
    if shared > 1 and (heads is None or heads % shared):
        fits = [str(n) for n in range(2, (heads or 0) + 1) if not (heads or 0) % n and not nproc % n]
        hint = f"take {' or '.join(fits)}" if fits else "take 1"
        raise ArgumentInvalid(
            f"`sequence_parallel_size`: {shared} does not divide the {heads or 'unknown number of'} attention heads of "
            f"this model, and each process takes whole heads; {hint}",
            pointer="/sequence_parallel_size",
        )
    if shared > 1 and (odd := folders.attends_otherwise(model)):
        raise ArgumentInvalid(
            f"`sequence_parallel_size`: this model has `{odd}`, and shared texts are attended to as a whole; take 1",
            pointer="/sequence_parallel_size",
        )
    if shared > 1 and arguments.get("packing"):
        raise ArgumentInvalid(
            "`packing`: rows that are shared by processes are not packed; take `packing: false`", pointer="/packing"
        )
