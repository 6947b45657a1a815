"""dpo -- learn to prefer the chosen answer over the rejected one, without leaving the model that one came from.

Row      {"prompt": str, "chosen": str, "rejected": str}, read through the model's chat template where it has one
Loss     m = beta * ((log pi - log ref)(chosen) - (log pi - log ref)(rejected)), summed over an answer's tokens   [nats]
         sigmoid  -log sigmoid(m): Rafailov et al. 2023, eq. 7 (arXiv:2305.18290)
         robust   (-(1 - e) log sigmoid(m) + e log sigmoid(-m)) / (1 - 2e), e = `label_smoothing`, the share of pairs
                  that are the wrong way round: Chowdhury et al. 2024 (arXiv:2403.00409)
         hinge    max(0, 1 - m): Zhao et al. 2023 (arXiv:2305.10425)
         ipo      (h - 1 / (2 beta))^2, h the difference of the two log ratios, each a token:
                  Azar et al. 2023, eq. 17 (arXiv:2310.12036)
         apo_zero 1 - sigmoid(r_chosen) + sigmoid(r_rejected), r = beta * log ratio:
                  D'Oosterlinck et al. 2024, eq. 7 (arXiv:2408.06266)
Trains   trl.DPOTrainer, without dropout; the reference is a copy of the model, with `use_lora` the model alone
Scores   reward_accuracy: share of held-out pairs with m > 0, Wilson interval
         reward_margin: mean of m, bootstrap interval over pairs   [nats]
"""

from dataclasses import replace
from typing import Any

import torch
from trl import DPOConfig, DPOTrainer

from trainer.job import Job, Outcome
from trainer.recipes import _language, _preference


def train(job: Job) -> Outcome:
    """Train, evaluate, and save the model (with `use_lora` the adapter) under `job.folder.model`."""
    return _preference.learn(job, _trainer, _preference.pair_scores(rewards))


load = _language.load


def measure(job: Job, outcome: Outcome, tokenizer: Any, _board: Any) -> Outcome:
    """Score `outcome.model`, whoever trained it, against the model it came from. The trainer here trains nothing."""
    rows = _preference.dataset(job.eval_rows, tokenizer)
    parts = {"model": outcome.model, "train_dataset": rows, "eval_dataset": rows, "processing_class": tokenizer}
    trainer = _trainer(job, peft_config=None, **parts)
    return replace(outcome, scores=_preference.pair_scores(rewards)(job, trainer))


def _trainer(job: Job, **parts: Any) -> DPOTrainer:
    config = DPOConfig(
        **_preference.arguments(job),
        beta=job.arguments["beta"],
        loss_type=[job.arguments["loss_type"]],
        label_smoothing=job.arguments["label_smoothing"],
    )
    reference = None if job.arguments["use_lora"] else _language.model(job.model_dir)
    return DPOTrainer(ref_model=reference, args=config, **parts)


def rewards(trainer: DPOTrainer, batch: _preference.Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """beta * log ratio of the chosen and of the rejected answers: (B,) each. A batch holds the chosen ones first."""
    chosen_B, rejected_B = (trainer.beta * _preference.log_ratios(trainer, batch)).chunk(2)
    return chosen_B, rejected_B
