"""What rewards on held-out rows say of a model, in numpy alone: pairs of answers, or single answers found good or bad.

N rows. A reward is what the task type's data sheet says it is; a difference counts, never its scale alone.
"""

# ruff: noqa: N803, N806 -- names end in their shape

import numpy as np
from numpy.typing import NDArray

from enforcer.gates import Score
from trainer.evaluate.intervals import Floats, bootstrap_mean, share


def of_pairs(chosen_N: Floats, rejected_N: Floats, seed: int) -> dict[str, Score]:
    """`reward_accuracy`, the share of pairs whose chosen answer is rewarded more (a tie is none), Wilson interval;
    `reward_margin`, by how much in the mean, bootstrap interval over pairs.

    Raises:
        ValueError: a reward that is not finite.
    """
    margin_N = _finite(chosen_N) - _finite(rejected_N)
    return {"reward_accuracy": _share(margin_N > 0), "reward_margin": bootstrap_mean(margin_N, seed)}


def of_answers(reward_N: Floats, good_N: NDArray[np.bool_]) -> Score:
    """`accuracy`: the share of answers whose reward has the sign of their label (0 has neither), Wilson interval.

    Raises:
        ValueError: a reward that is not finite.
    """
    return _share(np.where(good_N, _finite(reward_N) > 0, reward_N < 0))


def _share(hits_N: NDArray[np.bool_]) -> Score:
    return share(int(hits_N.sum()), len(hits_N))


def _finite(reward_N: Floats) -> Floats:
    if not np.isfinite(reward_N).all():
        raise ValueError("the model gives rewards that are not finite; it has diverged or was damaged")
    return reward_N
