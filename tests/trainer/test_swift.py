"""The promise of the article: a task type, a `SwiftTrainer`, a model in the shape somebody needs."""

import json
import os
import shutil
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
from tiny import LABELS, labelled_rows, pair_rows, whole_weights

import trainer as package
from enforcer.problems import DatasetInvalid, NotPermitted, RunClosed, TrainingFailed
from trainer import SwiftTrainer, TrainingArguments, reproduce
from trainer.layout import RunFolder
from trainer.settings import Settings
from trainer.swift import NotTrained


@pytest.fixture
def settings(live_registry: Any) -> Settings:
    token = live_registry.token("li", "retail-ds")
    return Settings(server=live_registry.url, issuer=live_registry.url, token=token)


def embedding(encoder: Path, tmp_path: Path, **changes: Any) -> TrainingArguments:
    given = {"task_type": "embedding", "model_name_or_path": str(encoder), "pooling_method": "mean",
             "normalize_embeddings": True, "output_dir": tmp_path / "output", "max_length": 32, "max_steps": 3,
             **changes}  # fmt: skip
    return TrainingArguments(**given)


def classifier(encoder: Path, tmp_path: Path, **changes: Any) -> TrainingArguments:
    given = {"task_type": "sequence-classification", "num_labels": 3, "label_names": list(LABELS), "max_length": 32,
             "model_name_or_path": str(encoder), "output_dir": str(tmp_path / "output"), "max_steps": 3,
             "logging_steps": 1, **changes}  # fmt: skip
    return TrainingArguments(**given)


def test_an_embedding_model_is_trained_and_saved_as_a_pack_that_answers(
    encoder: Path, tmp_path: Path, settings: Settings
) -> None:
    swift = SwiftTrainer(embedding(encoder, tmp_path), train_dataset=pair_rows(60, 1), settings=settings)

    swift.train()
    pack = swift.save_model(format="faiss")

    assert pack == swift.run_dir / "faiss"
    assert swift.run_dir.parent == tmp_path / "output" / "task-type=embedding"
    assert swift.run is not None
    assert swift.run.state == "finished"
    assert {"manifest.json", "receipt.json", "proofs"} <= {path.name for path in swift.run_dir.iterdir()}
    assert set(swift.metrics) == {"ndcg@10", "mrr@10", "recall@10"}
    from trainer.export import FaissPack

    assert FaissPack.load(pack).search("w3 today", k=2)


def test_rows_in_memory_are_bound_by_the_ticket_like_files(encoder: Path, tmp_path: Path, settings: Settings) -> None:
    from trainer.inputs import rows

    train, held_out = labelled_rows(48, 1), labelled_rows(12, 2)
    swift = SwiftTrainer(classifier(encoder, tmp_path, dataset="a-name"), train, held_out, settings)

    swift.train()

    spec = json.loads((swift.run_dir / "run-spec.json").read_text())
    assert [(d["role"], d["name"], d["digest"], d["rows"]) for d in spec["inputs"]["datasets"]] == [
        ("train", "train_dataset", rows.hold(train).digest, 48),
        ("eval", "eval_dataset", rows.hold(held_out).digest, 12),
    ]
    assert swift.metrics.keys() == {"accuracy", "macro_f1"}
    differences = {d.what: d.now for d in reproduce.local_differences(reproduce.read(RunFolder(swift.run_dir)))}
    assert differences["data train train_dataset"] == "rows in memory, which no file holds"


def test_a_second_train_is_a_second_run(encoder: Path, tmp_path: Path, settings: Settings) -> None:
    swift = SwiftTrainer(classifier(encoder, tmp_path), labelled_rows(48, 1), settings=settings)

    first = swift.train().job.run_id
    second = swift.train().job.run_id

    assert first != second


def test_ctrl_c_in_train_saves_a_checkpoint_reports_and_is_raised_again(
    encoder: Path, tmp_path: Path, settings: Settings, live_registry: Any
) -> None:
    args = classifier(encoder, tmp_path, max_steps=100_000)
    swift = SwiftTrainer(args, labelled_rows(48, 1), settings=settings)
    pressed = threading.Event()

    def press_when_it_trains() -> None:
        # The first checkpoint folder is made when the trainer exists; a moment later it steps.
        while not pressed.wait(0.2):
            if list((tmp_path / "output").glob("task-type=*/run-*/tensorboard/*")):
                os.kill(os.getpid(), signal.SIGINT)
                return

    thread = threading.Thread(target=press_when_it_trains, daemon=True)
    thread.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            swift.train()
    finally:
        pressed.set()
        thread.join(timeout=5)

    assert swift.run is not None
    assert swift.run.state == "interrupted"
    assert list((swift.run_dir / "checkpoints").glob("checkpoint-*/trainer_state.json"))
    assert live_registry.events("run.interrupted")[0].reason == "stopped: interrupted"


def test_a_recipe_that_raises_is_reported_and_its_cause_kept(
    encoder: Path, tmp_path: Path, settings: Settings, live_registry: Any
) -> None:
    broken = Path(shutil.copytree(encoder, tmp_path / "broken"))
    (broken / "model.safetensors").write_bytes(whole_weights("X8"))
    swift = SwiftTrainer(classifier(broken, tmp_path), labelled_rows(48, 1), settings=settings)

    with pytest.raises(TrainingFailed, match="training stopped with `SafetensorError`") as failed:
        swift.train()

    assert failed.value.__cause__ is not None
    assert live_registry.events("run.failed")


def test_what_a_recipe_refuses_keeps_its_name_and_ends_the_run(
    encoder: Path, tmp_path: Path, settings: Settings, live_registry: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Choosy:
        def train(self, job: Any) -> Any:
            raise DatasetInvalid("the rows contradict each other; mend them")

    monkeypatch.setattr("trainer.recipes.load", lambda _name: Choosy())

    with pytest.raises(DatasetInvalid, match="contradict"):
        SwiftTrainer(classifier(encoder, tmp_path), labelled_rows(48, 1), settings=settings).train()

    assert [event.reason for event in live_registry.events("run.failed")] == [
        "the rows contradict each other; mend them"
    ]


def test_a_failure_whose_report_is_refused_stays_the_failure(
    encoder: Path, tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = Path(shutil.copytree(encoder, tmp_path / "broken"))
    (broken / "model.safetensors").write_bytes(whole_weights("X8"))
    monkeypatch.setattr("registry.runs.report", _closed)

    with pytest.raises(TrainingFailed, match="training stopped with `SafetensorError`"):
        SwiftTrainer(classifier(broken, tmp_path), labelled_rows(48, 1), settings=settings).train()


def test_a_model_whose_report_is_refused_can_still_be_saved(
    encoder: Path, tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("registry.runs.report", _closed)
    swift = SwiftTrainer(classifier(encoder, tmp_path), labelled_rows(48, 1), settings=settings)

    with pytest.raises(RunClosed):
        swift.train()

    assert swift.run is None
    assert (swift.save_model() / "model.safetensors").exists()


def _closed(*_: Any) -> None:
    raise RunClosed("run `r` is failed")


def test_what_the_policy_refuses_is_raised_before_a_run_folder_exists(
    encoder: Path, tmp_path: Path, live_registry: Any
) -> None:
    nobody = Settings(server=live_registry.url, issuer=live_registry.url, token=live_registry.token("x", "auditors"))

    with pytest.raises(NotPermitted, match="may not submit `sequence-classification`"):
        SwiftTrainer(classifier(encoder, tmp_path), labelled_rows(48, 1), settings=nobody).train()

    assert not (tmp_path / "output").exists()
    assert len(live_registry.events("submit.refused")) == 1


def test_a_broken_dataset_is_raised_without_a_ticket(encoder: Path, tmp_path: Path, settings: Settings) -> None:
    with pytest.raises(DatasetInvalid, match="`text` <- `review`"):
        SwiftTrainer(classifier(encoder, tmp_path), [{"review": "a", "label": LABELS[0]}], settings=settings).train()


def test_nothing_is_saved_before_training(encoder: Path, tmp_path: Path) -> None:
    with pytest.raises(NotTrained, match="call `train\\(\\)` first"):
        SwiftTrainer(classifier(encoder, tmp_path)).save_model()


def test_the_package_offers_two_names_and_says_so_of_others() -> None:
    assert package.__all__ == ["SwiftTrainer", "TrainingArguments"]
    with pytest.raises(AttributeError, match="has no attribute `Swift`"):
        _ = package.Swift
