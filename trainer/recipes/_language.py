"""What the recipes of causal language models share: model, rows as tokens, arguments, scores of each token, saving.

Shapes: B rows, T tokens, V words of the vocabulary.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from peft import PeftModel, TaskType
from torch.nn.functional import cross_entropy
from torch.utils.tensorboard import SummaryWriter
from transformers import AutoModelForCausalLM, PreTrainedTokenizerBase
from trl import SFTConfig, SFTTrainer

from enforcer.gates import Score
from enforcer.problems import DatasetInvalid
from trainer import evaluate
from trainer.inputs import folders
from trainer.inputs.chat import Reader, Tokens
from trainer.job import Job, Outcome, Row
from trainer.recipes import _steps

Scorer = Callable[[Any, PreTrainedTokenizerBase, Sequence[Tokens]], dict[str, Score]]


def model(folder: Path) -> Any:
    """A causal language model from this disk, in float32."""
    return AutoModelForCausalLM.from_pretrained(folders.weights_folder(folder), **_steps.WEIGHTS)


def load(folder: Path, base: Path | None = None) -> tuple[Any, PreTrainedTokenizerBase]:
    """A saved model ready to answer, with its tokenizer. An adapter only names its `base`: say where that one lies."""
    loaded = model(folder if base is None else base)
    if base is not None:
        loaded = PeftModel.from_pretrained(loaded, folder, use_safetensors=True)
    return loaded.eval(), _steps.tokenizer(folder)


def measure(job: Job, outcome: Outcome, tokenizer: PreTrainedTokenizerBase, _board: SummaryWriter) -> Outcome:
    """Score `outcome.model`, whoever trained it."""
    rows = tokens(job, Reader(job.model_dir), job.eval_rows)
    return replace(outcome, scores=token_scores(job, outcome.model, tokenizer, rows))


def arguments(job: Job) -> dict[str, Any]:
    """The keyword arguments of a TRL config. What TRL turns on by itself (bfloat16, checkpointing of activations) is
    said outright; rows come cut and counted, so nothing is cut by it."""
    return {**_steps.training_arguments(job), "gradient_checkpointing": job.arguments["gradient_checkpointing"]}


def adapter(job: Job) -> Any:
    """The LoRA configuration, or None when every weight learns."""
    return _steps.lora(job, TaskType.CAUSAL_LM) if job.arguments["use_lora"] else None


def tokens(job: Job, reader: Reader, rows: Sequence[Row]) -> list[Tokens]:
    """Every row as the model reads it, none longer than `max_length`.

    Raises:
        DatasetInvalid: a row is too long and `truncation` is off, or nothing that is learned is left of it.
    """
    limit = job.arguments["max_length"]
    read = [reader.row(row, job.loss_mask or "assistant") for row in rows]
    if not job.arguments["truncation"]:
        _steps.refuse_overlong([len(row.ids) for row in read], limit)
    cut = [row.cut(limit) for row in read]
    if empty := sum(not any(row.trained) for row in cut):
        raise DatasetInvalid(
            f"{empty} rows have nothing left to learn after {limit} tokens: their prompts fill `max_length`; raise it, "
            "or shorten the prompts"
        )
    return cut


def dataset(rows: Sequence[Tokens]) -> Dataset:
    return Dataset.from_dict({"input_ids": [list(row.ids) for row in rows], "labels": [row.labels for row in rows]})


def fine_tune(job: Job, score: Scorer, **config: Any) -> Outcome:
    """Train on the learned tokens of every row, evaluate with `score`, save. `config` goes to `trl.SFTConfig`."""
    _steps.begin(job)
    reader = Reader(job.model_dir)
    train_rows, eval_rows = tokens(job, reader, job.train_rows), tokens(job, reader, job.eval_rows)
    tokenizer = _steps.tokenizer(folders.weights_folder(job.model_dir))
    if reader.taught is not None:  # saved with the model: what it was trained with is what it is served with
        tokenizer.chat_template = reader.taught
    with _steps.board(job) as board:
        trainer = _trainer(
            job,
            model=model(job.model_dir),
            args=SFTConfig(**arguments(job), max_length=job.arguments["max_length"], **config),
            train_dataset=dataset(train_rows),
            processing_class=tokenizer,
            peft_config=adapter(job),
        )
        outcome = _steps.run(job, trainer, board)
        if outcome.stopped is not None:
            return outcome
        if job.arguments["sequence_parallel_size"] > 1:  # the first process reads whole texts again
            trainer.model.set_attn_implementation("sdpa")
        save(job, trainer.model, tokenizer)
        scores = score(trainer.model, tokenizer, eval_rows) if eval_rows else {}
        details = {**outcome.details, "trained_token_share": trained_share(train_rows)}
        return _steps.finish(job, replace(outcome, model=trainer.model, scores=scores, details=details), board)


def _trainer(job: Job, **given: Any) -> SFTTrainer:
    shared = job.arguments["sequence_parallel_size"]
    if shared == 1:
        return SFTTrainer(**given)
    from trainer.recipes import _ulysses

    trainer = _ulysses.SharingTrainer(size=shared, **given)
    trainer.model.set_attn_implementation(_ulysses.NAME)
    return trainer


def trained_share(rows: Sequence[Tokens]) -> float:
    """Learned tokens over all tokens."""
    return sum(sum(row.trained) for row in rows) / max(1, sum(len(row.ids) for row in rows))


def save(job: Job, model: Any, tokenizer: PreTrainedTokenizerBase) -> None:
    """The model, or the adapter, with tokenizer and chat template, under `job.folder.model`."""
    model.save_pretrained(job.folder.model)
    tokenizer.save_pretrained(job.folder.model)
    if job.arguments["use_lora"]:
        _steps.name_base(job.folder.model, folders.public_name(job.model_dir))
    (job.folder.model / "README.md").unlink(missing_ok=True)  # peft's empty card; ours is the run's README.md


def token_scores(job: Job, model: Any, tokenizer: PreTrainedTokenizerBase, rows: Sequence[Tokens]) -> dict[str, Score]:
    """`eval_loss` (nats a token), `perplexity` (its exp) and `token_accuracy`, over the learned tokens of all rows.

    Sums over tokens, not means of rows: a long row counts for more. The bootstrap draws rows.
    """
    losses_N, hits_N, counts_N = (
        np.array(values) for values in zip(*_per_row(job, model, tokenizer, rows), strict=True)
    )
    seed = job.arguments["seed"]
    loss = evaluate.bootstrap_ratio(losses_N, counts_N, seed)
    bounds = {"low": loss.low, "high": loss.high}
    return {
        "eval_loss": loss,
        "perplexity": loss.model_copy(
            update={"value": _exp(loss.value), **{name: _exp(bound) for name, bound in bounds.items()}}
        ),
        "token_accuracy": evaluate.bootstrap_ratio(hits_N, counts_N, seed),
    }


def _exp(nats: float | None) -> Any:
    return None if nats is None else float(np.exp(min(nats, 700.0)))  # above, a double is infinite


@torch.inference_mode()
def _per_row(
    job: Job, model: Any, tokenizer: PreTrainedTokenizerBase, rows: Sequence[Tokens]
) -> Iterator[tuple[float, int, int]]:
    """Of each row: the sum of its losses, how many tokens were the likeliest, how many carry loss."""
    step = job.arguments["per_device_eval_batch_size"]
    with evaluating(model):
        for start in range(0, len(rows), step):
            part = rows[start : start + step]
            ids_BT, attention_BT = padded([row.ids for row in part], tokenizer.pad_token_id, model.device)
            labels_BT, _ = padded([row.labels for row in part], -100, model.device)
            # Words are told apart only where somebody learns: logits are by far the largest thing in memory.
            learned_T = (labels_BT[:, 1:] != -100).any(0).nonzero().squeeze(1)
            out = model(input_ids=ids_BT, attention_mask=attention_BT, use_cache=False, logits_to_keep=learned_T)
            logits_BTV, wanted_BT = out.logits.float(), labels_BT[:, learned_T + 1]
            losses_BT = cross_entropy(logits_BTV.transpose(1, 2), wanted_BT, reduction="none", ignore_index=-100)
            hits_BT = (logits_BTV.argmax(-1) == wanted_BT) & (wanted_BT != -100)
            sums = losses_BT.double().sum(1), hits_BT.sum(1), (wanted_BT != -100).sum(1)
            yield from zip(*(values.tolist() for values in sums), strict=True)


def padded(
    rows: Sequence[Sequence[int]], filler: int, device: torch.device, *, left: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of one length, filled at the end (or `left`), and the attention mask that hides the filler: (B, T) both."""
    longest = max(map(len, rows))
    gaps = [[filler] * (longest - len(row)) for row in rows]
    full = [[*gap, *row] if left else [*row, *gap] for row, gap in zip(rows, gaps, strict=True)]
    seen = [[0] * len(gap) + [1] * len(row) if left else [1] * len(row) + [0] * len(gap)
            for row, gap in zip(rows, gaps, strict=True)]  # fmt: skip
    return torch.tensor(full, device=device), torch.tensor(seen, device=device)


@torch.inference_mode()
def answers(
    model: Any, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Sequence[int]], *, max_new_tokens: int, batch: int
) -> list[str]:
    """The likeliest answer to each prompt (greedy, so the same every time), without special tokens."""
    said: list[str] = []
    with evaluating(model):
        for start in range(0, len(prompts), batch):
            part = prompts[start : start + batch]
            ids_BT, attention_BT = padded(part, tokenizer.pad_token_id, model.device, left=True)
            # A model may bring sampling settings of its own; beside `do_sample=False` they would only be warned about.
            out_BT = model.generate(
                input_ids=ids_BT, attention_mask=attention_BT, max_new_tokens=max_new_tokens, do_sample=False,
                temperature=None, top_p=None, top_k=None, pad_token_id=tokenizer.pad_token_id,
                eos_token_id=ends(model, tokenizer), use_cache=True,
            )  # fmt: skip
            said += tokenizer.batch_decode(out_BT[:, ids_BT.shape[1] :], skip_special_tokens=True)
    return said


def ends(model: Any, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Every token at which an answer is over: the model's own and the tokenizer's."""
    own = getattr(model.generation_config, "eos_token_id", None)
    return sorted(
        {*(own if isinstance(own, list) else [own] if own is not None else []), tokenizer.eos_token_id} - {None}
    )


@contextlib.contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Without dropout, and with the cache that training turned off; as it was afterwards."""
    training, cache = model.training, model.config.use_cache
    model.eval()
    model.config.use_cache = True
    try:
        yield
    finally:
        model.config.use_cache = cache
        model.train(training)
