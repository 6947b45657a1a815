"""What ms-swift made, in our layout, and scored as the recipe scores its own.

Weights and nothing else come from there: the tokenizer is the base model's, and the names of labels are those of the
run. What it saves beside them (`training_args.bin`, a pickle) stays behind.
"""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.utils.tensorboard import SummaryWriter
from transformers import AutoConfig

from enforcer.problems import TrainingFailed
from trainer import recipes
from trainer.backends.ms_swift_arguments import PROBLEMS
from trainer.inputs import folders
from trainer.job import Job, Outcome
from trainer.recipes import _steps

WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "config.json", "generation_config.json", "adapter_config.json")


def bring(recipe: str, job: Job, out: Path, outcome: Outcome, board: SummaryWriter) -> Outcome:
    """Save under `job.folder.model`, and score. The outcome holds the live model."""
    tokenizer = _steps.tokenizer(folders.weights_folder(job.model_dir))
    _copy_weights(job, _last_checkpoint(job, out))
    if "label_names" in job.arguments:
        _name_labels(job, tokenizer.pad_token_id)
    tokenizer.save_pretrained(job.folder.model)
    if job.arguments["use_lora"]:
        _steps.name_base(job.folder.model, folders.public_name(job.model_dir))
    ours: Any = recipes.load(recipe)
    model, _ = ours.load(job.folder.model, job.model_dir if job.arguments["use_lora"] else None)
    if torch.accelerator.is_available():
        model.to(torch.accelerator.current_accelerator())
    outcome = replace(outcome, model=model)
    return ours.measure(job, outcome, tokenizer, board) if job.eval_rows else outcome


def _last_checkpoint(job: Job, out: Path) -> Path:
    found = sorted(out.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    if not found:
        raise TrainingFailed("ms-swift ended well and left no checkpoint", run_id=job.run_id)
    return found[-1]


def _copy_weights(job: Job, checkpoint: Path) -> None:
    job.folder.model.mkdir(exist_ok=True)
    for pattern in WEIGHTS:
        for file in checkpoint.glob(pattern):
            shutil.move(file, job.folder.model / file.name)


def _name_labels(job: Job, pad: int | None) -> None:
    """The config of a classifier, with the names that ms-swift forgets. An adapter folder needs one as well."""
    file = job.folder.model / "config.json"
    names = job.arguments["label_names"]
    if not file.is_file():
        AutoConfig.from_pretrained(folders.weights_folder(job.model_dir), **_steps.LOCAL).save_pretrained(file.parent)
    document = json.loads(file.read_text()) | {
        "id2label": {str(i): name for i, name in enumerate(names)},
        "label2id": {name: i for i, name in enumerate(names)},
        "problem_type": PROBLEMS[job.arguments["problem_type"]],
        "pad_token_id": pad,
    }
    file.write_text(json.dumps(document, ensure_ascii=False, indent=2, sort_keys=True) + "\n", "utf-8")
