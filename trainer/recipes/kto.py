"""kto -- learn from single answers that were found good or bad.

Row      {"prompt": str, "completion": str, "label": bool}, read through the model's chat template where it has one
Loss     good answer: `desirable_weight` * (1 - sigmoid(r - beta * KL))
         bad answer: `undesirable_weight` * (1 - sigmoid(beta * KL - r))
         r = beta * (log pi - log ref)(completion), summed over its tokens; KL >= 0, the mean log ratio of the batch's
         prompts with each other's completions   [of utility, 0 to the weight]
         Ethayarajh et al. 2024, eq. 7 (arXiv:2402.01306)
Trains   trl.KTOTrainer, without dropout, on rows in the order given: rows of both labels should be mixed. The reference
         is a copy of the model, with `use_lora` the model without its adapter
Scores   accuracy: share of held-out rows with r > 0 where the answer is good and r < 0 where it is bad, Wilson interval
         eval_loss: mean of the loss, bootstrap interval over rows
"""

from typing import Any

import numpy as np
import torch
from trl import KTOConfig, KTOTrainer

from enforcer.gates import Score
from trainer.evaluate import bootstrap_mean, rewards
from trainer.job import Job, Outcome
from trainer.recipes import _language, _preference


def train(job: Job) -> Outcome:
    """Train, evaluate, and save the model (with `use_lora` the adapter) under `job.folder.model`."""
    return _preference.learn(job, _trainer, _score)


load = _language.load


def _trainer(job: Job, **parts: Any) -> KTOTrainer:
    config = KTOConfig(
        **_preference.arguments(job),
        beta=job.arguments["beta"],
        desirable_weight=job.arguments["desirable_weight"],
        undesirable_weight=job.arguments["undesirable_weight"],
    )
    reference = None if job.arguments["use_lora"] else _language.model(job.model_dir)
    return KTOTrainer(ref_model=reference, args=config, **parts)


def _score(job: Job, trainer: KTOTrainer) -> dict[str, Score]:
    reward_N, loss_N, good_N = _preference.measured(trainer, lambda batch: losses(trainer, batch))
    return {
        "accuracy": rewards.of_answers(reward_N, good_N.astype(np.bool_)),
        "eval_loss": bootstrap_mean(loss_N, seed=job.arguments["seed"]),
    }


def losses(trainer: KTOTrainer, batch: _preference.Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Reward, loss and label of each row: (B,) each. KL is that of the batch, as in training."""
    good_B = batch["label"].bool()
    reward_B = trainer.beta * _preference.log_ratios(trainer, batch)
    point = trainer.beta * _preference.log_ratios(trainer, batch, "KL_").mean().clamp(min=0)
    ahead_B = torch.where(good_B, reward_B - point, point - reward_B)
    weight_B = torch.where(good_B, trainer.desirable_weight, trainer.undesirable_weight)
    return reward_B, weight_B * (1 - torch.sigmoid(ahead_B)), good_B
