"""What the recipes of preferences share: rows as TRL reads them, the way through its trainers, rewards afterwards.

Shapes: N rows held out, B rows (or pairs) of a batch, T tokens.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from datasets import Dataset, disable_progress_bars
from transformers import PreTrainedTokenizerBase, Trainer

from enforcer.gates import Score
from enforcer.problems import DatasetInvalid
from trainer.evaluate import Floats, rewards
from trainer.inputs import folders
from trainer.job import Job, Outcome, Row
from trainer.recipes import _language, _steps

Batch = Mapping[str, torch.Tensor]
Rewards = Callable[[Any, Batch], tuple[torch.Tensor, torch.Tensor]]  # trainer, batch -> chosen_B, rejected_B

ROLES = {"prompt": "user", "chosen": "assistant", "rejected": "assistant", "completion": "assistant"}
UNLIMITED = 2**31 - 1  # tokens; TRL's CPO and ORPO read None as 512


def learn(job: Job, make: Callable[..., Trainer], score: Callable[[Job, Any], dict[str, Score]]) -> Outcome:
    """Train the language model of a job by the trainer that `make` builds, evaluate with `score`, and save.

    `make` takes the job and what every TRL trainer takes by the same name.
    """
    _steps.begin(job)
    disable_progress_bars()  # TRL maps rows several times
    tokenizer = _steps.tokenizer(folders.weights_folder(job.model_dir))
    with _steps.board(job) as board:
        trainer = make(
            job,
            model=_language.model(job.model_dir),
            train_dataset=dataset(job.train_rows, tokenizer),
            eval_dataset=dataset(job.eval_rows, tokenizer) if job.eval_rows else None,
            processing_class=tokenizer,
            peft_config=_language.adapter(job),
        )
        _refuse_cut(job, job.train_rows, trainer.train_dataset)
        _refuse_cut(job, job.eval_rows, trainer.eval_dataset)
        outcome = _steps.run(job, trainer, board)
        if outcome.stopped is not None:
            return outcome
        _language.save(job, trainer.model, tokenizer)
        scores = score(job, trainer) if job.eval_rows else {}
        return _steps.finish(job, replace(outcome, model=trainer.model, scores=scores), board)


def arguments(job: Job) -> dict[str, Any]:
    """The keyword arguments of a TRL config. Its trainers cut and drop rows without a word, so they get no limit unless
    the run allows `truncation`; what is too long is refused instead."""
    limit = job.arguments["max_length"] if job.arguments["truncation"] else UNLIMITED
    return {**_language.arguments(job), "max_length": limit}


def pair_scores(rewards_of: Rewards) -> Callable[[Job, Any], dict[str, Score]]:
    """The score of a trainer on pairs, by the rewards it gives the two answers."""

    def score(job: Job, trainer: Any) -> dict[str, Score]:
        chosen_N, rejected_N = measured(trainer, lambda batch: rewards_of(trainer, batch))
        return rewards.of_pairs(chosen_N, rejected_N, seed=job.arguments["seed"])

    return score


def measured(trainer: Any, measure: Callable[[Batch], Sequence[torch.Tensor]]) -> list[Floats]:
    """What `measure` gives for each batch of the held-out rows, each of its parts over all of them, in their order."""
    with _language.evaluating(trainer.model), torch.inference_mode(), trainer.accelerator.autocast():
        parts = [measure(batch) for batch in trainer.get_eval_dataloader()]
    return [np.concatenate([part.double().cpu().numpy() for part in column]) for column in zip(*parts, strict=True)]


def log_probabilities(model: Any, batch: Batch, which: str = "") -> torch.Tensor:
    """log p(answer | prompt) of each row, summed over the answer's tokens: (B,)   [nats]

    Through the head that TRL's DPO and KTO trainers put on a model, which never holds the logits of a whole batch.
    `which` is the prefix of other sequences in the batch.
    """
    ids_BT = batch[f"{which}input_ids"]
    labels_BT = ids_BT.masked_fill(batch[f"{which}completion_mask"] == 0, -100)
    attention_BT = batch[f"{which}attention_mask"]
    answer = model(input_ids=ids_BT, attention_mask=attention_BT, labels=labels_BT, use_cache=False, fused_lm_head=True)
    summed_B: torch.Tensor = answer.log_probs.sum(-1)
    return summed_B


@contextlib.contextmanager
def reference(trainer: Any) -> Iterator[Any]:
    """The model that training began with: a copy of it, or the same one without its adapter."""
    if trainer.ref_model is not None:
        yield trainer.ref_model
    else:
        with trainer.model.disable_adapter():
            yield trainer.model


def log_ratios(trainer: Any, batch: Batch, which: str = "") -> torch.Tensor:
    """log pi(answer | prompt) - log ref(answer | prompt) of each row: (B,)   [nats]"""
    policy_B = log_probabilities(trainer.model, batch, which)
    with reference(trainer) as model:
        return policy_B - log_probabilities(model, batch, which)


def dataset(rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase) -> Dataset:
    """Conversations, which TRL reads through the model's own chat template; plain texts where it has none."""
    if tokenizer.chat_template is None:
        return Dataset.from_list([dict(row) for row in rows])
    return Dataset.from_list([{name: _turn(name, value) for name, value in row.items()} for row in rows])


def _turn(column: str, value: Any) -> Any:
    return [{"role": ROLES[column], "content": value}] if column in ROLES else value


def _refuse_cut(job: Job, rows: Sequence[Row], read: Dataset | None) -> None:
    """Raise `DatasetInvalid` for rows that are too long, or that `truncation` would leave without an answer."""
    if read is None:
        return
    limit = job.arguments["max_length"]
    prompts, wholes = _lengths(read)
    if not job.arguments["truncation"]:
        _steps.refuse_overlong(wholes, limit)
    if empty := len(rows) - len(read) + sum(prompt >= limit for prompt in prompts):  # KTO has dropped them already
        raise DatasetInvalid(
            f"{empty} rows have nothing left to learn after {limit} tokens: their prompts fill `max_length`; raise it, "
            "or shorten the prompts"
        )


def _lengths(read: Dataset) -> tuple[list[int], list[int]]:
    """Tokens of each row's prompt, and of the prompt with its longest answer."""

    def count(column: str) -> list[int]:
        return [len(ids) for ids in read[column]]

    if "chosen_input_ids" in read.column_names:  # CPO and ORPO: the prompt stands in front
        wholes = map(max, count("chosen_input_ids"), count("rejected_input_ids"))
        return count("prompt_input_ids"), list(wholes)
    prompts = count("prompt_ids")
    answers = [count(name) for name in ("chosen_ids", "rejected_ids", "completion_ids") if name in read.column_names]
    return prompts, [prompt + max(of_row) for prompt, *of_row in zip(prompts, *answers, strict=True)]
