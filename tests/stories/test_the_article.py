"""The article's blocks of code, changed in names of models and data, and in lengths that a tiny encoder reads."""

import json
from pathlib import Path
from typing import Any

import pytest
from tiny import GIVEAWAY, make_chat, pair_rows, preferred_rows

from trainer import SwiftTrainer, TrainingArguments


@pytest.fixture
def here(live_registry: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory of somebody who is signed in and may train all three."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("SWIFT_SUBMIT_SERVER", live_registry.url)
    monkeypatch.setenv("SWIFT_SUBMIT_TOKEN", live_registry.token("wang", "nlp", "trainers", unit="retail"))
    return tmp_path


def test_preferences(here: Path) -> None:
    model, train_data = make_chat(here / "tiny"), preferred_rows(48, 1)

    args = TrainingArguments(task_type="dpo", model_name_or_path=str(model), dataset="dpo_zh_en_mixed",
                             per_device_train_batch_size=4, output_dir="./output/dpo-qwen3")  # fmt: skip
    trainer = SwiftTrainer(args, train_dataset=train_data)
    trainer.train()

    (run_dir,) = (here / "output/dpo-qwen3/task-type=dpo").iterdir()
    assert {"reward_accuracy", "reward_margin"} <= trainer.metrics.keys()
    (events,) = (run_dir / "tensorboard").rglob("events*")
    assert b"task=dpo" in events.read_bytes()


def test_embeddings_that_are_ready_for_retrieval(here: Path, encoder: Path) -> None:
    train_data = pair_rows(40, 1)

    args = TrainingArguments(task_type="embedding", model_name_or_path=str(encoder), pooling_method="mean",
                             normalize_embeddings=True, output_dir="./output/bge-finetuned", max_length=32)  # fmt: skip
    trainer = SwiftTrainer(args, train_dataset=train_data)
    trainer.train()
    pack = trainer.save_model(format="faiss")

    assert {"index.faiss", "manifest.json"} <= {path.name for path in pack.iterdir()}


def test_a_classifier_of_news(here: Path, encoder: Path) -> None:
    labels = ["科技", "体育", "娱乐", "财经", "军事"]
    words = {**GIVEAWAY, "娱乐": "w1", "军事": "w2"}
    train_data, eval_data = (
        [{"text": f"some news of {words[label]} w{i % 9}", "label": label} for label in labels for i in range(size)]
        for size in (12, 6)
    )

    args = TrainingArguments(task_type="sequence-classification", num_labels=5,
                             label_names=["科技", "体育", "娱乐", "财经", "军事"],
                             model_name_or_path=str(encoder), use_lora=True, lora_rank=64, max_length=64,
                             output_dir="./output/news-classifier")  # fmt: skip
    trainer = SwiftTrainer(args, train_dataset=train_data, eval_dataset=eval_data)
    trainer.train()

    (run_dir,) = (here / "output/news-classifier/task-type=sequence-classification").iterdir()
    assert {"accuracy", "macro_f1"} <= trainer.metrics.keys()
    confusion = json.loads((run_dir / "confusion-matrix.json").read_text("utf-8"))
    assert confusion["labels"] == labels
    assert (run_dir / "confusion-matrix.png").exists()
