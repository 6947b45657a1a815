"""grpo -- sample answers in groups, and learn from what sets the rewarded ones apart.

Row      {"prompt": str}, with "answer" where a reward compares with one. A prompt is the user's turn where the model
         has a chat template, else plain text
Loss     over the G answers to each prompt, r their rewards and A = (r - mean r) / std r:
         -sum_t min(rho_t A, clip(rho_t, 0.8, 1.2) A) + beta KL_t, over all tokens of the batch; rho_t is the likelihood
         of token t now over when it was sampled   [nats]   Shao et al. 2024, eq. 3 (arXiv:2402.03300), the sum taken
         over the batch's tokens as in Yu et al. 2025, eq. 8 (arXiv:2503.14476), which is TRL's default (`dapo`)
Trains   trl.GRPOTrainer; with `use_lora` peft adapters on every linear layer. `per_device_train_batch_size` counts
         answers, not prompts. Rewards are named: `_rewards.py` says which there are
Scores   mean_reward: the sum of the rewards, mean over `num_generations` sampled answers to each held-out prompt
         greedy_reward: the same of the likeliest answer; bootstrap over prompts, both
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerBase, TrainerCallback, set_seed
from trl import GRPOConfig, GRPOTrainer

from enforcer.gates import Score
from enforcer.problems import ArgumentInvalid, DatasetInvalid
from trainer import evaluate
from trainer.inputs import folders
from trainer.inputs.chat import Reader
from trainer.job import Job, Outcome, Row
from trainer.recipes import _language, _rewards, _steps

OF_TRL = ("num_generations", "max_completion_length", "temperature", "beta")


def train(job: Job) -> Outcome:
    """Train, evaluate, and save the model (with `use_lora` the adapter) under `job.folder.model`."""
    _steps.begin(job)
    rewards = _rewards.named(job.arguments["reward_functions"])
    _rewards.check([*rewards], [*job.train_rows, *job.eval_rows])
    reader = Reader(job.model_dir)
    _refuse_long_prompts(job, reader)
    tokenizer = _steps.tokenizer(folders.weights_folder(job.model_dir))
    with _steps.board(job) as board:
        trainer = GRPOTrainer(
            model=_language.model(job.model_dir),
            reward_funcs=[_rewards.as_trl(name, reward) for name, reward in rewards.items()],
            args=GRPOConfig(**_language.arguments(job), **{name: job.arguments[name] for name in OF_TRL}),
            train_dataset=Dataset.from_list([_asked(row, reader) for row in job.train_rows]),
            processing_class=tokenizer,
            peft_config=_language.adapter(job),
        )
        trainer.add_callback(_SamePasses())
        outcome = _steps.run(job, trainer, board)
        if outcome.stopped is not None:
            return outcome
        _language.save(job, trainer.model, tokenizer)
        scores = _scores(job, trainer.model, tokenizer, reader, rewards) if job.eval_rows else {}
        return _steps.finish(job, replace(outcome, model=trainer.model, scores=scores), board)


load = _language.load


class _SamePasses(TrainerCallback):  # type: ignore[misc]
    """TRL shuffles the prompts of each pass with a generator that no checkpoint holds. A run that is continued draws
    the orders of the passes that were done, so that the next one is the one that would have come."""

    def on_train_begin(self, _args: Any, state: Any, _control: Any, train_dataloader: Any = None, **_: Any) -> None:
        batches = train_dataloader.batch_sampler  # with several processes, a share of those of all
        sampler = getattr(batches, "batch_sampler", batches).sampler
        for _pass in range(int(state.epoch or 0)):
            torch.randperm(sampler.num_samples, generator=sampler.generator)


def _asked(row: Row, reader: Reader) -> dict[str, Any]:
    """A row as TRL takes it: the prompt as a turn where the model knows turns, the other columns for the rewards."""
    prompt = row["prompt"] if reader.template is None else [{"role": "user", "content": row["prompt"]}]
    return {**row, "prompt": prompt}


def _refuse_long_prompts(job: Job, reader: Reader) -> None:
    """Prompts are never cut: what is asked is at their end, and the answer has to have its room behind it."""
    limit = job.arguments["max_length"] - job.arguments["max_completion_length"]
    if limit < 1:
        raise ArgumentInvalid(
            f"`max_length`: {job.arguments['max_length']} leaves no room for a prompt beside an answer of "
            f"`max_completion_length` {job.arguments['max_completion_length']} tokens",
            pointer="/max_length",
        )
    lengths = [len(reader.prompt(row)) for row in (*job.train_rows, *job.eval_rows)]
    if longer := sum(length > limit for length in lengths):
        raise DatasetInvalid(
            f"{longer} prompts are longer than the {limit} tokens that `max_length` leaves beside "
            f"`max_completion_length` (the longest has {max(lengths)}); raise the one, lower the other, or shorten them"
        )


def _scores(
    job: Job, model: Any, tokenizer: PreTrainedTokenizerBase, reader: Reader, rewards: dict[str, _rewards.Reward]
) -> dict[str, Score]:
    seed, batch = job.arguments["seed"], job.arguments["per_device_eval_batch_size"]
    prompts = [reader.prompt(row) for row in job.eval_rows]

    def rewarded(row: Row, said: Sequence[str]) -> float:
        return float(np.mean([sum(reward(text, row) for reward in rewards.values()) for text in said]))

    set_seed(seed)  # the answers depend on the model, and not on how long it trained
    sampled = list(_sampled(job, model, tokenizer, prompts))
    likeliest = _language.answers(
        model, tokenizer, prompts, max_new_tokens=job.arguments["max_completion_length"], batch=batch
    )
    pairs = zip(job.eval_rows, sampled, likeliest, strict=True)
    mean_N, greedy_N = np.array([(rewarded(row, many), rewarded(row, [one])) for row, many, one in pairs]).T
    return {
        "mean_reward": evaluate.bootstrap_mean(mean_N, seed),
        "greedy_reward": evaluate.bootstrap_mean(greedy_N, seed),
    }


@torch.inference_mode()
def _sampled(
    job: Job, model: Any, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Sequence[int]]
) -> Iterator[list[str]]:
    """`num_generations` answers to each prompt, drawn as in training."""
    count = job.arguments["num_generations"]
    with _language.evaluating(model):
        for prompt in prompts:
            ids_1T, attention_1T = _language.padded([prompt], tokenizer.pad_token_id, model.device)
            out_GT = model.generate(
                input_ids=ids_1T, attention_mask=attention_1T, do_sample=True, num_return_sequences=count,
                temperature=job.arguments["temperature"], top_k=0, top_p=1.0, use_cache=True,
                max_new_tokens=job.arguments["max_completion_length"], pad_token_id=tokenizer.pad_token_id,
                eos_token_id=_language.ends(model, tokenizer),
            )  # fmt: skip
            yield tokenizer.batch_decode(out_GT[:, len(prompt) :], skip_special_tokens=True)
