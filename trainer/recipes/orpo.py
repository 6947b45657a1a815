"""orpo -- learn the chosen answer and the odds against the rejected one, in one loss and without a reference.

Row      {"prompt": str, "chosen": str, "rejected": str}, read through the model's chat template where it has one
Loss     mean over tokens of -log pi(prompt and chosen)   [nats a token]
         - beta * log sigmoid(log odds(chosen) - log odds(rejected)), odds = p / (1 - p), p = exp(mean over an answer's
         tokens of log pi)   [nats]
         Hong et al. 2024, eq. 6 and 7 (arXiv:2403.07691). TRL learns the prompt's tokens too
Trains   trl.experimental.orpo.ORPOTrainer, without dropout: TRL may change it or drop it in any release
Scores   reward_accuracy: share of held-out pairs with r(chosen) > r(rejected), r = beta * mean over tokens of log pi,
         Wilson interval
         reward_margin: mean of r(chosen) - r(rejected), bootstrap interval over pairs   [nats a token]
"""

from typing import Any

from trl.experimental.orpo import ORPOConfig, ORPOTrainer

from trainer.job import Job, Outcome
from trainer.recipes import _language, _preference
from trainer.recipes.cpo import rewards


def train(job: Job) -> Outcome:
    """Train, evaluate, and save the model (with `use_lora` the adapter) under `job.folder.model`."""
    return _preference.learn(job, _trainer, _preference.pair_scores(rewards))


load = _language.load


def _trainer(job: Job, **parts: Any) -> ORPOTrainer:
    return ORPOTrainer(args=ORPOConfig(**_preference.arguments(job), beta=job.arguments["beta"]), **parts)
