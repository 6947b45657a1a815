"""gkd -- learn the next-token distribution of a teacher, on given answers and on answers of one's own.

Row      {"messages": [{"role", "content"}]}, read through the model's chat template. What is learned is the last words
         of the assistant; with probability `lmbda` a batch takes answers of the student's own in their place
Loss     generalised Jensen-Shannon divergence of teacher P and student Q at each token of the answer, M = beta P +
         (1 - beta) Q: beta KL(P, M) + (1 - beta) KL(Q, M); KL(P, Q) for beta 0 and KL(Q, P) for 1   [nats a token]
         Agarwal et al. 2024, eq. 1 and algorithm 1 (arXiv:2306.13649). `temperature` is of the sampling alone. TRL
         divides by the tokens of the given answers, also where the student's own stand in their place
Trains   trl.experimental.gkd.GKDTrainer: it may change in any release. `trl.DistillationTrainer` is stable, and learns
         from the student's own answers only, which is `lmbda` 1. With `use_lora` peft adapters on every linear layer.
         The teacher is an input as the model is, bound by its digest, and reads the same tokens
Scores   distillation_loss: the loss above, and eval_loss: -log Q of the given answers, both in nats a token of the
         held-out rows' last answers; bootstrap over rows
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerBase
from trl.experimental.gkd import GKDConfig, GKDTrainer
from trl.experimental.utils import DataCollatorForChatML

from enforcer.gates import Score
from trainer import evaluate
from trainer.inputs import folders
from trainer.inputs.chat import Reader, Tokens
from trainer.job import Job, Outcome
from trainer.recipes import _language, _steps

OF_TRL = ("max_length", "lmbda", "beta", "temperature")


def train(job: Job) -> Outcome:
    """Train, evaluate, and save the model (with `use_lora` the adapter) under `job.folder.model`."""
    assert job.teacher_dir is not None, "the registry permits no run without one"
    _steps.begin(job)
    reader = Reader(job.model_dir)
    train_rows, eval_rows = (
        [_last_answer(row) for row in _language.tokens(job, reader, rows)] for rows in (job.train_rows, job.eval_rows)
    )
    tokenizer = _steps.tokenizer(folders.weights_folder(job.model_dir))
    with _steps.board(job) as board:
        trainer = GKDTrainer(
            model=_language.model(job.model_dir),
            teacher_model=_language.model(job.teacher_dir),
            args=GKDConfig(
                **_language.arguments(job),
                **{name: job.arguments[name] for name in OF_TRL},
                max_new_tokens=job.arguments["max_completion_length"],
            ),
            data_collator=DataCollatorForChatML(tokenizer, max_length=job.arguments["max_length"]),
            train_dataset=Dataset.from_list([_as_trl(row) for row in train_rows]),
            processing_class=tokenizer,
            peft_config=_language.adapter(job),
        )
        outcome = _steps.run(job, trainer, board)
        if outcome.stopped is not None:
            return outcome
        _language.save(job, trainer.model, tokenizer)
        scores = _scores(job, trainer, tokenizer, eval_rows) if eval_rows else {}
        return _steps.finish(job, replace(outcome, model=trainer.model, scores=scores), board)


load = _language.load


def _last_answer(row: Tokens) -> Tokens:
    """The row up to its last learned token, of which only the last answer is learned: what comes before is its prompt,
    and that is what the student answers itself."""
    runs = [(learns, len(list(run))) for learns, run in groupby(row.trained)]
    if not runs[-1][0]:
        runs.pop()
    length, answer = sum(count for _, count in runs), runs[-1][1]
    return Tokens(row.ids[:length], [False] * (length - answer) + [True] * answer)


def _as_trl(row: Tokens) -> dict[str, Any]:
    """As TRL's collator takes rows that are tokens already; it looks for the text of a prompt, and reads none then."""
    return {"input_ids": list(row.ids), "completion_mask": [int(learns) for learns in row.trained], "prompt": ""}


def _scores(
    job: Job, trainer: GKDTrainer, tokenizer: PreTrainedTokenizerBase, rows: Sequence[Tokens]
) -> dict[str, Score]:
    divergence_N, counts_N = (
        np.array(values) for values in zip(*_divergences(job, trainer, tokenizer, rows), strict=True)
    )
    loss = _language.token_scores(job, trainer.model, tokenizer, rows)["eval_loss"]
    return {
        "distillation_loss": evaluate.bootstrap_ratio(divergence_N, counts_N, job.arguments["seed"]),
        "eval_loss": loss,
    }


@torch.inference_mode()
def _divergences(
    job: Job, trainer: GKDTrainer, tokenizer: PreTrainedTokenizerBase, rows: Sequence[Tokens]
) -> Iterator[tuple[float, int]]:
    """Of each row: the sum of the divergences at its learned tokens, and how many those are."""
    model, teacher = trainer.model, trainer.teacher_model
    step = job.arguments["per_device_eval_batch_size"]
    with _language.evaluating(model):
        for start in range(0, len(rows), step):
            part = rows[start : start + step]
            ids_BT, attention_BT = _language.padded([row.ids for row in part], tokenizer.pad_token_id, model.device)
            learned_BT = _language.padded([row.labels for row in part], -100, model.device)[0][:, 1:] != -100
            some_T = learned_BT.any(0).nonzero().squeeze(1)  # logits only where somebody learns
            asked = {"input_ids": ids_BT, "attention_mask": attention_BT, "use_cache": False, "logits_to_keep": some_T}
            losses_BTV = GKDTrainer.generalized_jsd_loss(
                model(**asked).logits.float(), teacher(**asked).logits.float(), beta=trainer.beta, reduction="none"
            )
            losses_BT = losses_BTV.sum(-1) * learned_BT[:, some_T]
            yield from zip(losses_BT.double().sum(1).tolist(), learned_BT.sum(1).tolist(), strict=True)
