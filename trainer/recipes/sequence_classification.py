"""sequence-classification -- give a text one of a fixed set of labels, several of them, or a number.

Row      single-label {"text": str, "label": str}; multi-label {"text": str, "labels": [str]}, which may be empty;
         regression {"text": str, "score": number}. Labels are among `label_names`
Loss     single-label: cross-entropy over the K labels, -log softmax(logits)[label]   [nats]
         multi-label: binary cross-entropy of each label, mean over rows and labels   [nats]
         regression: (output - score)^2, mean over rows
Trains   transformers.Trainer on AutoModelForSequenceClassification; with `use_lora` peft adapters on every linear
         layer, and the head (with whatever else the base model has no weights for) in full
Scores   single-label: accuracy, the share of rows given their label, Wilson interval; macro_f1, the mean over labels of
         2PR/(P+R), bootstrap interval over rows
         multi-label, a label being given where its sigmoid is 0.5 or more: accuracy (all labels of a row and no other),
         micro_f1, macro_f1
         regression: spearman, mae, rmse, r2, bootstrap intervals over rows
Leaves   single-label: `confusion-matrix.json`, `confusion-matrix.png` and a picture on TensorBoard; calibration error
         multi-label: for each label the threshold that would have been best on the held-out rows
         both: precision, recall, F1 of each label in the details
"""

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from peft import PeftModel, TaskType, get_peft_model
from torch.utils.data import DataLoader
from torch.utils.tensorboard import SummaryWriter
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    DataCollatorWithPadding,
    PreTrainedTokenizerBase,
    Trainer,
    TrainingArguments,
)

from enforcer.gates import Score
from trainer import evaluate
from trainer.inputs import folders
from trainer.job import Job, Outcome, Row
from trainer.recipes import _steps

log = logging.getLogger(__name__)

PROBLEMS = {  # as transformers calls them: it takes its loss from this word in the config
    "single-label": "single_label_classification",
    "multi-label": "multi_label_classification",
    "regression": "regression",
}
HEADS = ("classifier", "score")  # what peft trains in full by itself (PeftModelForSequenceClassification)

CJK_FONTS = ("Noto Sans CJK SC", "Source Han Sans SC", "WenQuanYi Micro Hei", "PingFang SC", "Microsoft YaHei")
FIRST_CJK = 0x2E80  # matplotlib's own DejaVu Sans has no glyph from here on
MAX_SIDE_INCHES = 20  # 2,000 pixels: 16 MB while it is drawn
MAX_NAMED = 40  # labels that can still be told apart on it
MAX_NAME = 40


def train(job: Job) -> Outcome:
    """Train, evaluate, and save the model (with `use_lora` the adapter) under `job.folder.model`."""
    _steps.begin(job)
    tokenizer = _steps.tokenizer(folders.weights_folder(job.model_dir))
    model, fresh = _model(job, tokenizer)
    with _steps.board(job) as board:
        trainer = Trainer(
            model=model,
            args=TrainingArguments(**_steps.training_arguments(job)),
            train_dataset=_encoded(job, job.train_rows, tokenizer),
            data_collator=DataCollatorWithPadding(tokenizer),
        )
        outcome = _steps.run(job, trainer, board)
        if outcome.stopped is not None:
            return outcome
        model.save_pretrained(job.folder.model)
        model.config.save_pretrained(job.folder.model)  # an adapter folder has none, and the labels live there
        tokenizer.save_pretrained(job.folder.model)
        if job.arguments["use_lora"]:
            _steps.name_base(job.folder.model, folders.public_name(job.model_dir))
        (job.folder.model / "README.md").unlink(missing_ok=True)  # peft's empty card; ours is the run's README.md
        outcome = replace(outcome, model=model, details={**outcome.details, "newly_initialised": fresh})
        return _steps.finish(job, measure(job, outcome, tokenizer, board), board)


def load(folder: Path, base: Path | None = None) -> tuple[Any, PreTrainedTokenizerBase]:
    """A saved model ready to answer, with its tokenizer. An adapter only names its `base`: say where that one lies."""
    config = AutoConfig.from_pretrained(folder, **_steps.LOCAL)
    weights = folder if base is None else folders.weights_folder(base)
    model = AutoModelForSequenceClassification.from_pretrained(
        weights, config=config, ignore_mismatched_sizes=base is not None, **_steps.WEIGHTS
    )
    if base is not None:
        model = PeftModel.from_pretrained(model, folder, use_safetensors=True)
    return model.eval(), _steps.tokenizer(folder)


def _model(job: Job, tokenizer: PreTrainedTokenizerBase) -> tuple[Any, list[str]]:
    """What trains, and the names of the modules that the base had no (fitting) weights for."""
    model, fresh = with_head(job)
    model.config.pad_token_id = tokenizer.pad_token_id  # decoders read the logits at the last token that is no padding
    log.info("attention: %s; newly initialised: %s", model.config._attn_implementation, ", ".join(fresh) or "nothing")
    if job.arguments["use_lora"]:
        model = get_peft_model(model, _steps.lora(job, TaskType.SEQ_CLS, saved_whole(fresh) or None))
    return model, fresh


def saved_whole(fresh: Sequence[str]) -> list[str]:
    """A module with random weights must learn in full and be saved: an adapter on it would be lost with the weights."""
    return [name for name in fresh if not any(part in HEADS for part in name.split("."))]


def with_head(job: Job) -> tuple[Any, list[str]]:
    """The base model with a head of K labels, and the modules that it had no (fitting) weights for."""
    names: Sequence[str] = job.arguments["label_names"]
    assert len(names) == job.arguments["num_labels"], "preflight lets no run through whose labels do not add up"
    model, loaded = AutoModelForSequenceClassification.from_pretrained(
        folders.weights_folder(job.model_dir),
        num_labels=len(names),
        id2label=dict(enumerate(names)),
        label2id={name: i for i, name in enumerate(names)},
        problem_type=PROBLEMS[job.arguments["problem_type"]],
        ignore_mismatched_sizes=True,  # a base that was a classifier before gets a new head
        output_loading_info=True,
        **_steps.WEIGHTS,
    )
    return model, _steps.modules_of([*loaded["missing_keys"], *(key for key, *_ in loaded["mismatched_keys"])])


def _encoded(job: Job, rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase) -> Dataset:
    """Token ids and targets of every row, in order."""
    limit = job.arguments["max_length"]
    texts = [row["text"] for row in rows]
    tokens = tokenizer(texts, truncation=job.arguments["truncation"], max_length=limit)
    _steps.refuse_overlong([len(ids) for ids in tokens["input_ids"]], limit)
    return Dataset.from_dict({**tokens, "labels": [*map(_target(job), rows)]})


def _target(job: Job) -> Callable[[Row], Any]:
    """What a row is to be answered with: the number of its label, a 1.0 or 0.0 for each label, or its score."""
    number = {name: i for i, name in enumerate(job.arguments["label_names"])}
    match job.arguments["problem_type"]:
        case "single-label":
            return lambda row: number[row["label"]]
        case "multi-label":
            return lambda row: [float(name in row["labels"]) for name in number]
    return lambda row: float(row["score"])


@torch.inference_mode()
def _logits(job: Job, model: Any, rows: Dataset, tokenizer: PreTrainedTokenizerBase) -> evaluate.Floats:
    """What the model answers to every row, in order: (N, K). Not by the trainer, whose processes have parted by now."""
    size = job.arguments["per_device_eval_batch_size"]
    batches = DataLoader(rows.remove_columns("labels"), size, collate_fn=DataCollatorWithPadding(tokenizer))
    model.eval()
    return np.concatenate([model(**batch.to(model.device)).logits.float().cpu().numpy() for batch in batches])


def measure(job: Job, outcome: Outcome, tokenizer: PreTrainedTokenizerBase, board: SummaryWriter) -> Outcome:
    """Score `outcome.model`, whoever trained it."""
    if not job.eval_rows:
        return outcome
    rows, seed = _encoded(job, job.eval_rows, tokenizer), job.arguments["seed"]
    logits_NK, truth = _logits(job, outcome.model, rows, tokenizer), np.array(rows["labels"])
    details: dict[str, Any] = {}
    match job.arguments["problem_type"]:
        case "regression":
            scores = evaluate.regression_scores(logits_NK[:, 0], truth, seed)
        case "multi-label":
            scores, details = _sets_scored(job, logits_NK, truth > 0)
        case _:
            confusion_KK, details = _classes_counted(job, logits_NK, truth)
            scores = {
                "accuracy": evaluate.accuracy(confusion_KK),
                "macro_f1": evaluate.macro_f1(confusion_KK, seed=seed),
            }
            _keep_confusion(job, confusion_KK, details, board, outcome.steps)
    return replace(outcome, scores=scores, details={**outcome.details, **details})


def _sets_scored(job: Job, logits_NK: evaluate.Floats, truth_NK: Any) -> tuple[dict[str, Score], dict[str, Any]]:
    """A label is given from a probability of 0.5 on, whatever threshold would have been better: that is told, and not
    used, for it was found on the same rows."""
    names: Sequence[str] = job.arguments["label_names"]
    probability_NK = 1 / (1 + np.exp(-logits_NK.astype(np.float64)))
    predicted_NK = probability_NK >= 0.5
    best = evaluate.best_thresholds(probability_NK, truth_NK)
    thresholds = [
        {"label": name, "threshold": threshold, "f1_on_the_same_rows": f1}
        for name, (threshold, f1) in zip(names, best, strict=True)
    ]
    details = {"per_class": evaluate.per_label(truth_NK, predicted_NK, names), "best_thresholds": thresholds}
    return evaluate.multilabel_scores(truth_NK, predicted_NK, job.arguments["seed"]), details


def _classes_counted(job: Job, logits_NK: evaluate.Floats, truth_N: Any) -> tuple[evaluate.Ints, dict[str, Any]]:
    names: Sequence[str] = job.arguments["label_names"]
    predicted_N = logits_NK.argmax(axis=1)
    confusion_KK = evaluate.confusion_matrix(truth_N, predicted_N, len(names))
    spread_NK = np.exp(logits_NK.astype(np.float64) - logits_NK.max(axis=1, keepdims=True))
    confidence_N = spread_NK.max(axis=1) / spread_NK.sum(axis=1)
    return confusion_KK, {
        "confusion_matrix": {"labels": list(names), "rows_are_truth": confusion_KK.tolist()},
        "per_class": evaluate.per_class(confusion_KK, names),
        "calibration_error": evaluate.calibration_error(confidence_N, predicted_N == truth_N),
    }


def _keep_confusion(
    job: Job, confusion_KK: evaluate.Ints, details: dict[str, Any], board: SummaryWriter, step: int
) -> None:
    """As a table for programs and as a picture for people, beside the model."""
    table, picture = (job.folder.root / f"confusion-matrix.{suffix}" for suffix in ("json", "png"))
    try:
        document = {**details["confusion_matrix"], "per_class": details["per_class"]}
        table.write_text(json.dumps(document, ensure_ascii=False, indent=1) + "\n", "utf-8")
        _draw(confusion_KK, job.arguments["label_names"], picture, board, step)
    except Exception:  # fonts, disks: whatever it is, the scores of a finished run are worth more than their picture
        log.exception("the confusion matrix could not be drawn")


def _draw(confusion_KK: evaluate.Ints, names: Sequence[str], path: Path, board: SummaryWriter, step: int) -> None:
    """The confusion matrix as a picture, in a file and on the board.

    Where no font can draw the names they are numbered, in the order of `label_names`; where there are too many to read,
    the colours have to do.
    """
    from matplotlib import font_manager
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    installed = {font.name for font in font_manager.fontManager.ttflist}
    fonts = [*(font for font in CJK_FONTS if font in installed), "DejaVu Sans"]
    drawable = len(fonts) > 1 or all(ord(char) < FIRST_CJK for char in "".join(names))
    named = len(names) if len(names) <= MAX_NAMED else 0
    ticks = [name[:MAX_NAME] if drawable else f"label {i}" for i, name in enumerate(names)][:named]
    side = min(3 + 0.4 * len(names), MAX_SIDE_INCHES)
    figure = Figure(figsize=(side, side), layout="constrained")  # no pyplot: it keeps global state and opens windows
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot(xlabel="predicted", ylabel="truth", xticks=range(named), yticks=range(named))
    axes.set_xticklabels(ticks, rotation=45, ha="right", fontfamily=fonts, parse_math=False)
    axes.set_yticklabels(ticks, fontfamily=fonts, parse_math=False)
    share_KK = confusion_KK / np.maximum(confusion_KK.sum(axis=1, keepdims=True), 1)
    axes.imshow(share_KK, cmap="Blues", vmin=0, vmax=1)
    for truth, predicted in np.argwhere(confusion_KK[:named, :named]):
        color = "white" if share_KK[truth, predicted] > 0.5 else "black"
        axes.text(predicted, truth, str(confusion_KK[truth, predicted]), ha="center", va="center", color=color)
    canvas.draw()
    figure.savefig(path)
    board.add_image("confusion-matrix", np.asarray(canvas.buffer_rgba())[..., :3], step, dataformats="HWC")
