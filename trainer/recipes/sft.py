"""sft -- supervised fine-tuning: answer as shown.

Row      {"prompt": str, "completion": str} or {"messages": [{"role", "content"}]}, with "tools" or without. Where the
         model has a chat template, every row is read through it, a pair as a conversation of two turns
Loss     -1/T sum_t log p(x_t | x_<t), over the T tokens that the assistant says; over all tokens where the profile's
         `loss_mask` is `all`   [nats]   (Radford et al. 2018, "Improving Language Understanding", eq. 1)
Trains   trl.SFTTrainer on tokens and labels that are made here, so that preflight shows what is learned; with
         `use_lora` peft adapters on every linear layer. `packing` fills rows by best-fit decreasing (Ding et al. 2024,
         arXiv:2404.10830) and keeps the examples of a row from seeing each other
Scores   eval_loss, perplexity and token_accuracy over the learned tokens of the held-out rows; bootstrap over rows
"""

from functools import partial

from trainer.job import Job, Outcome
from trainer.recipes import _language


def train(job: Job) -> Outcome:
    """Train, evaluate, and save the model (with `use_lora` the adapter) under `job.folder.model`."""
    return _language.fine_tune(
        job, partial(_language.token_scores, job), packing=job.arguments["packing"], packing_strategy="bfd"
    )


load, measure = _language.load, _language.measure
