"""reward-modeling -- score answers as people ranked them.

Row      {"prompt": str, "chosen": str, "rejected": str}, read through the model's chat template where it has one; without
         `prompt`, the two texts as they stand
Loss     -log sigmoid(r(chosen) - r(rejected))   [nats]   Ouyang et al. 2022, eq. 1 (arXiv:2203.02155), pairs of one prompt
         + `center_rewards_coefficient` * (r(chosen) + r(rejected))^2   Eisenstein et al. 2023, eq. 2 (arXiv:2312.09244)
Trains   trl.RewardTrainer on AutoModelForSequenceClassification with one output, without dropout; with `use_lora` peft
         adapters on every linear layer, and the head (with whatever else the base model has no weights for) in full
Scores   reward_accuracy: share of held-out pairs with r(chosen) > r(rejected), Wilson interval
         reward_margin: mean of r(chosen) - r(rejected), bootstrap interval over pairs
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import PeftModel, TaskType
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerBase
from trl import RewardConfig, RewardTrainer

from trainer.inputs import folders
from trainer.inputs.chat import Reader
from trainer.job import Job, Outcome, Row
from trainer.recipes import _language, _preference, _steps
from trainer.recipes.sequence_classification import HEADS

log = logging.getLogger(__name__)

HEAD: dict[str, Any] = {"num_labels": 1, "id2label": {0: "reward"}, "label2id": {"reward": 0}}


def train(job: Job) -> Outcome:
    """Train, evaluate, and save the model (with `use_lora` the adapter) under `job.folder.model`."""
    _steps.begin(job)
    reader, tokenizer = Reader(job.model_dir), _steps.tokenizer(folders.weights_folder(job.model_dir))
    model, fresh = _model(job)
    with _steps.board(job) as board:
        trainer = RewardTrainer(
            model=model,
            args=RewardConfig(
                **{**_preference.arguments(job), "max_length": None},  # it would drop what is longer
                center_rewards_coefficient=job.arguments["center_rewards_coefficient"],
            ),
            train_dataset=_dataset(job, job.train_rows, reader),
            eval_dataset=_dataset(job, job.eval_rows, reader) if job.eval_rows else None,
            processing_class=tokenizer,
            peft_config=_adapter(job, fresh),
        )
        outcome = _steps.run(job, trainer, board)
        if outcome.stopped is not None:
            return outcome
        _language.save(job, trainer.model, tokenizer)
        trainer.model.config.save_pretrained(job.folder.model)  # an adapter folder has none: one output, its padding
        scores = _preference.pair_scores(rewards)(job, trainer) if job.eval_rows else {}
        details = {**outcome.details, "newly_initialised": fresh}
        return _steps.finish(job, replace(outcome, model=trainer.model, scores=scores, details=details), board)


def load(folder: Path, base: Path | None = None) -> tuple[Any, PreTrainedTokenizerBase]:
    """A saved model ready to score, with its tokenizer. An adapter only names its `base`: say where that one lies."""
    tokenizer = _steps.tokenizer(folder)
    model = AutoModelForSequenceClassification.from_pretrained(
        folders.weights_folder(folder if base is None else base), ignore_mismatched_sizes=base is not None,
        **HEAD, **_steps.WEIGHTS,
    )  # fmt: skip
    model.config.get_text_config().pad_token_id = tokenizer.pad_token_id
    if base is not None:
        model = PeftModel.from_pretrained(model, folder, use_safetensors=True)
    return model.eval(), tokenizer


def rewards(trainer: RewardTrainer, batch: _preference.Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """The rewards of the chosen and of the rejected answers: (B,) each. A batch holds the chosen ones first."""
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    chosen_B, rejected_B = trainer.model(**inputs, use_cache=False).logits.squeeze(-1).chunk(2)
    return chosen_B, rejected_B


def answer(reader: Reader, prompt: str | None, text: str) -> Sequence[int]:
    """The tokens of an answer as the model reads it, behind its prompt or alone."""
    return (reader.text(text) if prompt is None else reader.answer(prompt, text)).ids


def _model(job: Job) -> tuple[Any, list[str]]:
    """The model with a head of one output, and the modules that the base had no (fitting) weights for."""
    model, loaded = AutoModelForSequenceClassification.from_pretrained(
        folders.weights_folder(job.model_dir), ignore_mismatched_sizes=True, output_loading_info=True,
        **HEAD, **_steps.WEIGHTS,
    )  # fmt: skip
    keys = [*loaded["missing_keys"], *(key for key, *_ in loaded["mismatched_keys"])]
    fresh = sorted({key.rpartition(".")[0] for key in keys})
    log.info("attention: %s; newly initialised: %s", model.config._attn_implementation, ", ".join(fresh) or "nothing")
    return model, fresh


def _adapter(job: Job, fresh: Sequence[str]) -> Any:
    """A module with random weights must learn in full and be saved; peft does so for the head by itself."""
    if not job.arguments["use_lora"]:
        return None
    whole = [name for name in fresh if not any(part in HEADS for part in name.split("."))]
    return _steps.lora(job, TaskType.SEQ_CLS, whole or None)


def _dataset(job: Job, rows: Sequence[Row], reader: Reader) -> Dataset:
    """Tokens, so that TRL neither reads nor drops a row: `truncation` cuts its end, as with every other task type."""
    limit = job.arguments["max_length"]
    read = {
        f"{name}_ids": [list(answer(reader, row.get("prompt"), row[name])) for row in rows]
        for name in ("chosen", "rejected")
    }
    if not job.arguments["truncation"]:
        longest = [max(len(one), len(other)) for one, other in zip(*read.values(), strict=True)]
        _steps.refuse_overlong(longest, limit)
    return Dataset.from_dict({name: [ids[:limit] for ids in column] for name, column in read.items()})
