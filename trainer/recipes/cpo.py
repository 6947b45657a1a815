"""cpo -- learn to prefer the chosen answer over the rejected one without a reference, and to say the chosen one.

Row      {"prompt": str, "chosen": str, "rejected": str}, read through the model's chat template where it has one
Loss     -log sigmoid(beta * (log pi(chosen) - log pi(rejected))), summed over an answer's tokens   [nats]
         + `cpo_alpha` * mean over tokens of -log pi(chosen)   [nats a token]
         Xu et al. 2024, eq. 3 and the likelihood term beside it (arXiv:2401.08417)
Trains   trl.experimental.cpo.CPOTrainer, without dropout: TRL may change it or drop it in any release
Scores   reward_accuracy: share of held-out pairs with a positive margin, Wilson interval
         reward_margin: mean of beta * (log pi(chosen) - log pi(rejected)), bootstrap interval over pairs   [nats]
         The longer answer is the less likely one, whatever it says: a sum over tokens favours short ones
"""

from typing import Any

import torch
from trl.experimental.cpo import CPOConfig, CPOTrainer

from trainer.job import Job, Outcome
from trainer.recipes import _language, _preference


def train(job: Job) -> Outcome:
    """Train, evaluate, and save the model (with `use_lora` the adapter) under `job.folder.model`."""
    return _preference.learn(job, _trainer, _preference.pair_scores(rewards))


load = _language.load


def _trainer(job: Job, **parts: Any) -> CPOTrainer:
    config = CPOConfig(**_preference.arguments(job), beta=job.arguments["beta"], cpo_alpha=job.arguments["cpo_alpha"])
    return CPOTrainer(args=config, **parts)


def rewards(trainer: Any, batch: _preference.Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """beta * log pi of the chosen and of the rejected answers, as the trainer of CPO, SimPO or ORPO takes it: (B,)."""
    chosen_B, rejected_B, *_ = trainer.concatenated_forward(trainer.model, batch)
    return trainer.beta * chosen_B, trainer.beta * rejected_B
