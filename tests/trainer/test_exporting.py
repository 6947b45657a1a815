"""`swift-submit export`: a model is handed over from the run folder alone, by what the run signed for."""

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import LiveRegistry, free_port
from submitting import Desk
from tiny import LABELS, contents, labelled_rows, pair_rows

from enforcer.problems import ManifestInvalid, ModelInvalid
from registry.settings import Settings as RegistrySettings
from trainer import cli, exporting
from trainer.arguments import TrainingArguments
from trainer.cli.export import FORMATS
from trainer.export import WRITERS, ExportRefused, FaissPack, export
from trainer.layout import RunFolder
from trainer.run import work
from trainer.settings import Settings
from trainer.swift import SwiftTrainer

Train = Callable[..., SwiftTrainer]


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory, encoder: Path) -> Any:
    """Trains in this process, and gives the trainer that did; its files and its model lie in one folder."""
    root = tmp_path_factory.mktemp("exporting")
    live = LiveRegistry(RegistrySettings(state_dir=root / "state", port=free_port()))
    live.start()
    desk = Desk(root, Path(shutil.copytree(encoder, root / "my-model")), live.url, live.token("li", "retail-ds"))

    def trained(name: str, rows: Any, in_memory: bool = False, **changes: Any) -> SwiftTrainer:
        given = {"model_name_or_path": str(desk.model), "output_dir": str(root / "output"), "max_length": 32,
                 "max_steps": 3, **changes}  # fmt: skip
        dataset = {} if in_memory else {"dataset": str(desk.data(rows, f"{name}.jsonl")), "eval_fraction": 0.3}
        settings = Settings(server=live.url, issuer=live.url, token=desk.token)
        swift = SwiftTrainer(
            TrainingArguments(**given, **dataset), train_dataset=rows if in_memory else None, settings=settings
        )
        swift.train()
        return swift

    yield trained
    live.stop()


@pytest.fixture(scope="module")
def classifier(train: Train) -> SwiftTrainer:
    rows = labelled_rows(90, 1)
    return train("labels", rows, task_type="sequence-classification", label_names=list(LABELS), use_lora=True)


@pytest.fixture(scope="module")
def embedder(train: Train) -> SwiftTrainer:
    rows = pair_rows(60, 1)
    return train("pairs", rows, task_type="embedding", pooling_method="mean", normalize_embeddings=True)


def exported(run_dir: Path, format: str, to: Path, **known: Any) -> Path:
    return export(*exporting.read(RunFolder(run_dir), format, **known), format, to)


def test_the_command_knows_every_format() -> None:
    assert set(FORMATS) == set(WRITERS)


def test_the_command_writes_what_the_training_process_would_have(
    classifier: SwiftTrainer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    there = tmp_path / "there"

    with pytest.raises(SystemExit) as ended:
        cli.main(["--json", "export", str(classifier.run_dir), "--format", "adapter", "--output", str(there)])

    assert ended.value.code == 0
    assert json.loads(capsys.readouterr().out) == {
        "run_id": classifier.run_dir.name, "task_type": "sequence-classification", "export": "adapter",
        "path": str(there),
    }  # fmt: skip
    assert contents(there) == contents(Path(classifier.save_model(path=tmp_path / "here", format="adapter")))


def test_an_adapter_is_merged_from_the_folder_with_the_rows_that_it_was_compared_on_then(
    classifier: SwiftTrainer, tmp_path: Path
) -> None:
    there = exported(classifier.run_dir, "merged", tmp_path / "there")

    assert contents(there) == contents(Path(classifier.save_model(path=tmp_path / "here", format="merged")))
    assert json.loads((there / "merge.json").read_text())["rows"] == 32


def test_a_pack_holds_the_documents_of_the_run(embedder: SwiftTrainer, tmp_path: Path) -> None:
    pack = FaissPack.load(exported(embedder.run_dir, "faiss", tmp_path / "pack"))

    assert {hit.text for hit in pack.search("w3 today", k=60)} == {row["positive"] for row in pair_rows(60, 1)}


def test_a_model_that_is_not_what_the_run_signed_for_is_not_exported(classifier: SwiftTrainer, tmp_path: Path) -> None:
    changed = Path(shutil.copytree(classifier.run_dir, tmp_path / classifier.run_dir.name))
    (changed / "model" / "adapter_model.safetensors").write_bytes(b"another")

    with pytest.raises(ManifestInvalid, match=r"adapter_model\.safetensors"):
        exported(changed, "adapter", tmp_path / "adapter")

    assert not (tmp_path / "adapter").exists()


def test_rows_that_changed_or_are_gone_are_named_and_missed_only_where_they_are_needed(
    embedder: SwiftTrainer, tmp_path: Path
) -> None:
    data = Path(embedder.args.train_files[0])
    kept = data.read_bytes()
    try:
        data.write_bytes(kept + b'{"anchor": "a", "positive": "b"}\n')
        with pytest.raises(
            ExportRefused, match=r"`faiss` needs the rows .* data train .*pairs\.jsonl was sha256:"
        ) as was:
            exported(embedder.run_dir, "faiss", tmp_path / "pack")
        data.unlink()
        with pytest.raises(ExportRefused, match="missing: no such file"):
            exported(embedder.run_dir, "faiss", tmp_path / "pack")
        alone = exported(embedder.run_dir, "hugging-face", tmp_path / "folder")
    finally:
        data.write_bytes(kept)

    assert "`hugging-face` and `adapter` need the run folder alone" in str(was.value)
    assert (alone / "model.safetensors").exists()


def test_rows_that_were_in_memory_only_are_told_as_such(train: Train, tmp_path: Path) -> None:
    rows = pair_rows(60, 2)
    given = {"task_type": "embedding", "pooling_method": "mean", "normalize_embeddings": True}
    run = train("memory", rows, in_memory=True, **given)

    with pytest.raises(ExportRefused, match="rows in memory, which no file holds"):
        exported(run.run_dir, "faiss", tmp_path / "pack")


def test_the_base_of_an_adapter_may_have_moved_and_may_not_have_changed(
    classifier: SwiftTrainer, tmp_path: Path
) -> None:
    base = Path(classifier.args.model_name_or_path)
    moved, other = tmp_path / "moved", Path(shutil.copytree(base, tmp_path / "other"))
    (other / "config.json").write_text((base / "config.json").read_text() + "\n")
    base.rename(moved)
    try:
        with pytest.raises(ModelInvalid, match="is no model folder on this machine"):
            exported(classifier.run_dir, "merged", tmp_path / "merged")
        with pytest.raises(ModelInvalid, match="is not the model that the adapter was trained on"):
            exported(classifier.run_dir, "merged", tmp_path / "merged", base=str(other))
        assert exported(classifier.run_dir, "merged", tmp_path / "merged", base=str(moved)).is_dir()
    finally:
        moved.rename(base)


def test_a_format_that_a_run_cannot_have_is_refused_before_anything_is_looked_for(classifier: SwiftTrainer) -> None:
    data = Path(classifier.args.train_files[0])
    data.rename(data.with_suffix(".away"))
    try:
        with pytest.raises(ExportRefused, match="`faiss` needs embeddings"):
            exporting.read(RunFolder(classifier.run_dir), "faiss")
    finally:
        data.with_suffix(".away").rename(data)


def test_a_run_that_was_stopped_has_no_model_to_export(live_registry: Any, tmp_path: Path, encoder: Path) -> None:
    desk = Desk(tmp_path, encoder, live_registry.url, live_registry.token("li", "retail-ds"))
    given = desk.permitted(max_steps=50)

    with pytest.raises(ManifestInvalid, match=r"no `manifest\.json`"):
        exporting.read(given.folder, "hugging-face")
    done = work.execute(given, tell=lambda step, total, logs: _press_ctrl_c(step))

    assert done.outcome.stopped == "interrupted"
    with pytest.raises(ExportRefused, match="was stopped and left no final model"):
        exporting.read(given.folder, "hugging-face")


def _press_ctrl_c(step: int) -> None:
    if step == 2:
        os.kill(os.getpid(), signal.SIGINT)
