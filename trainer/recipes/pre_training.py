"""pre-training -- continued pre-training: predict the next token of plain text.

Row      {"text": str}; the end token is put behind it
Loss     -1/T sum_t log p(x_t | x_<t) over all T tokens   [nats]   (Radford et al. 2018, eq. 1)
Trains   trl.SFTTrainer on tokens that are made here. With `packing` texts are joined and cut every `max_length` tokens,
         so that no token is padding; a text may then begin in one row and end in the next
Scores   eval_loss, perplexity (its exp) and token_accuracy on the held-out texts, each read alone; bootstrap over texts
"""

from functools import partial

from trainer.job import Job, Outcome
from trainer.recipes import _language


def train(job: Job) -> Outcome:
    """Train, evaluate, and save the model (with `use_lora` the adapter) under `job.folder.model`."""
    return _language.fine_tune(
        job, partial(_language.token_scores, job), packing=job.arguments["packing"], packing_strategy="wrapped"
    )


load, measure = _language.load, _language.measure
