"""simpo -- learn to prefer the chosen answer by its mean log-likelihood, with a margin and without a reference.

Row      {"prompt": str, "chosen": str, "rejected": str}, read through the model's chat template where it has one
Loss     -log sigmoid(r(chosen) - r(rejected) - gamma), r = beta * mean over tokens of log pi, gamma = `simpo_gamma`   [nats]
         Meng et al. 2024, eq. 6 (arXiv:2405.14734)
Trains   trl.experimental.cpo.CPOTrainer with `loss_type` simpo and `cpo_alpha` 0, without dropout: TRL may change it or
         drop it in any release
Scores   reward_accuracy: share of held-out pairs with r(chosen) > r(rejected), Wilson interval
         reward_margin: mean of r(chosen) - r(rejected), without gamma, bootstrap interval over pairs   [nats a token]
"""

from typing import Any

from trl.experimental.cpo import CPOConfig, CPOTrainer

from trainer.job import Job, Outcome
from trainer.recipes import _language, _preference
from trainer.recipes.cpo import rewards


def train(job: Job) -> Outcome:
    """Train, evaluate, and save the model (with `use_lora` the adapter) under `job.folder.model`."""
    return _preference.learn(job, _trainer, _preference.pair_scores(rewards))


load = _language.load


def _trainer(job: Job, **parts: Any) -> CPOTrainer:
    config = CPOConfig(
        **_preference.arguments(job),
        loss_type="simpo",
        cpo_alpha=0.0,  # TRL's default of 1 would add the loss of CPO
        beta=job.arguments["beta"],
        simpo_gamma=job.arguments["simpo_gamma"],
    )
    return CPOTrainer(args=config, **parts)
