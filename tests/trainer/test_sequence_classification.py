"""Classification: labels by name in any script, a confusion matrix, a whole adapter, and no surprise in the loss."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest
import tiny
from tiny import CLASSIFICATION, LABELS, Watcher, losses, make_job
from torch.utils.tensorboard import SummaryWriter

from trainer.recipes import sequence_classification


def test_classification_computes_what_a_plain_script_computes(encoder: Path, tmp_path: Path) -> None:
    from datasets import Dataset
    from peft import LoraConfig, get_peft_model
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        Trainer,
        TrainingArguments,
        set_seed,
    )

    job = make_job(tmp_path, encoder, CLASSIFICATION, use_lora=True, lora_dropout=0.1, max_steps=8)
    ours = losses(sequence_classification.train(job))

    set_seed(7)
    tokenizer = AutoTokenizer.from_pretrained(encoder)
    model = AutoModelForSequenceClassification.from_pretrained(encoder, num_labels=3)
    adapter = LoraConfig(task_type="SEQ_CLS", r=4, lora_alpha=8, lora_dropout=0.1, target_modules="all-linear")
    rows = Dataset.from_list(list(job.train_rows)).map(
        lambda row: {**tokenizer(row["text"]), "label": LABELS.index(row["label"])}, remove_columns=["text"]
    )
    plain = Trainer(
        model=get_peft_model(model, adapter),
        args=TrainingArguments(
            str(tmp_path / "plain"), learning_rate=3e-3, max_steps=8, per_device_train_batch_size=16, warmup_steps=0.1,
            seed=7, logging_steps=1, report_to="none", save_strategy="no", disable_tqdm=True,
        ),
        train_dataset=rows,
        data_collator=DataCollatorWithPadding(tokenizer),
    )  # fmt: skip
    plain.train()

    theirs = [entry["loss"] for entry in plain.state.log_history if "loss" in entry]
    assert ours == pytest.approx(theirs, abs=1e-4)


def test_label_names_are_in_the_config_in_any_script(encoder: Path, tmp_path: Path) -> None:
    for use_lora in (False, True):
        job = make_job(tmp_path, encoder, CLASSIFICATION, f"lora-{use_lora}", use_lora=use_lora, max_steps=1)

        sequence_classification.train(job)

        config = json.loads((job.folder.model / "config.json").read_text(encoding="utf-8"))
        assert config["id2label"] == {"0": "科技", "1": "体育", "2": "财经"}
        assert config["label2id"] == {"科技": 0, "体育": 1, "财经": 2}
        assert config["problem_type"] == "single_label_classification"


def test_the_confusion_matrix_is_kept_named_and_drawn(encoder: Path, tmp_path: Path) -> None:
    job = make_job(tmp_path, encoder, CLASSIFICATION, max_steps=40)

    outcome = sequence_classification.train(job)

    matrix = outcome.details["confusion_matrix"]
    assert matrix["labels"] == list(LABELS)
    assert np.sum(matrix["rows_are_truth"], axis=1).tolist() == [20, 20, 20]
    assert outcome.scores["accuracy"].value == np.trace(matrix["rows_are_truth"]) / 60
    assert [row["support"] for row in outcome.details["per_class"]] == [20, 20, 20]
    assert (job.folder.root / "confusion-matrix.png").read_bytes().startswith(b"\x89PNG")


def drawn(names: list[str], tmp_path: Path) -> tuple[int, int]:
    """Width and height of the picture of a matrix with 3 rows of each class (PNG, section 11.2.2: bytes 16 to 24)."""
    path = tmp_path / "confusion-matrix.png"
    with SummaryWriter(str(tmp_path / "board")) as board:
        sequence_classification._draw(3 * np.eye(len(names), dtype=np.int64), names, path, board, 1)
    return struct.unpack(">II", path.read_bytes()[16:24])


def test_a_picture_of_two_thousand_labels_is_no_larger_than_one_of_fifty(tmp_path: Path) -> None:
    assert drawn([f"label {i}" for i in range(2_000)], tmp_path) == drawn([str(i) for i in range(50)], tmp_path)


def test_label_names_are_drawn_as_they_are_written(tmp_path: Path) -> None:
    assert drawn(["$a_{$", "$\\frac$", "x" * 5_000], tmp_path) < (1_000, 1_000)


def test_a_picture_that_cannot_be_drawn_costs_no_scores(
    encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sequence_classification, "_draw", lambda *_: 1 / 0)

    outcome = sequence_classification.train(make_job(tmp_path, encoder, CLASSIFICATION, max_steps=1))

    assert set(outcome.scores) == {"accuracy", "macro_f1"}
    assert "the confusion matrix could not be drawn" in caplog.text


@pytest.mark.parametrize("use_lora", [False, True], ids=["full", "lora"])
def test_an_encoder_decoder_can_classify(use_lora: bool, encoder: Path, tmp_path: Path) -> None:
    base = tiny.make_encoder_decoder(tmp_path / "bart", encoder)
    job = make_job(tmp_path, base, CLASSIFICATION, use_lora=use_lora, max_steps=40, learning_rate=1e-2)

    outcome = sequence_classification.train(job)

    assert losses(outcome)[-1] < losses(outcome)[0]
    assert outcome.scores["accuracy"].n == 60
    assert sequence_classification.load(job.folder.model, base if use_lora else None)


@pytest.mark.parametrize("pooler", [True, False], ids=["pooler-in-base", "pooler-new"])
def test_a_saved_adapter_answers_as_the_live_model_does(pooler: bool, encoder: Path, tmp_path: Path) -> None:
    """A base saved by masked-language training has no pooler: the random one must be saved with the adapter."""
    import torch

    base = encoder if pooler else tiny.make_encoder(tmp_path / "masked", head=True)
    job = make_job(tmp_path, base, CLASSIFICATION, use_lora=True, max_steps=5)

    outcome = sequence_classification.train(job)

    model, tokenizer = sequence_classification.load(job.folder.model, base)
    batch = tokenizer([row["text"] for row in job.eval_rows], padding=True, return_tensors="pt")
    with torch.inference_mode():
        assert torch.equal(model(**batch).logits, outcome.model.eval()(**batch).logits)


def test_a_decoder_without_a_padding_token_can_classify(encoder: Path, tmp_path: Path) -> None:
    decoder = tiny.make_decoder(tmp_path / "decoder", encoder)
    watcher = Watcher()

    outcome = sequence_classification.train(
        make_job(tmp_path, decoder, CLASSIFICATION, use_lora=True, max_steps=40, learning_rate=1e-2, listener=watcher)
    )

    assert watcher.losses[-1] < watcher.losses[0]
    assert outcome.scores["accuracy"].n == 60
