"""What a run hands over can be used without it, is the same twice, and is not accepted once it has changed."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import CLASSIFICATION, EMBEDDING, make_job

from trainer import export as exporting
from trainer import faiss_pack
from trainer.export import ExportRefused, FaissPack, export, formats
from trainer.job import Job, Outcome
from trainer.recipes import embedding, sequence_classification

Run = tuple[Job, Outcome]


def trained(root: Path, encoder: Path, arguments: Any, **changes: Any) -> Run:
    recipe: Any = embedding if arguments is EMBEDDING else sequence_classification
    job = make_job(root, encoder, arguments, max_steps=20, learning_rate=5e-3, **changes)
    return job, recipe.train(job)


@pytest.fixture(scope="module")
def embedder(encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return trained(tmp_path_factory.mktemp("embedder"), encoder, EMBEDDING)


@pytest.fixture(scope="module")
def embedder_lora(encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return trained(tmp_path_factory.mktemp("embedder-lora"), encoder, EMBEDDING, use_lora=True)


@pytest.fixture(scope="module")
def classifier_lora(encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return trained(tmp_path_factory.mktemp("classifier-lora"), encoder, CLASSIFICATION, use_lora=True)


@pytest.fixture(scope="module")
def original(embedder: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(*embedder, "faiss", tmp_path_factory.mktemp("packs") / "pack")


@pytest.fixture
def pack(original: Path, tmp_path: Path) -> Path:
    """A pack to damage."""
    return Path(shutil.copytree(original, tmp_path / "pack"))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


# Which formats there are


def test_each_run_offers_what_it_can_be_exported_as(embedder: Run, embedder_lora: Run, classifier_lora: Run) -> None:
    assert formats(embedder[0]) == ["hugging-face", "faiss"]
    assert formats(embedder_lora[0]) == ["hugging-face", "adapter", "merged", "faiss"]
    assert formats(classifier_lora[0]) == ["hugging-face", "adapter", "merged"]


@pytest.mark.parametrize("format", ["onnx", "pickle", "", "../faiss"])
def test_an_unknown_format_is_refused_with_the_possible_ones(format: str, embedder: Run) -> None:
    with pytest.raises(ExportRefused, match="can be exported as `hugging-face`, `faiss`") as refusal:
        export(*embedder, format)

    assert f"`{format}` is no export format" in str(refusal.value)


def test_a_classifier_gives_no_faiss_pack(classifier_lora: Run) -> None:
    with pytest.raises(
        ExportRefused, match="`faiss` needs embeddings, and a `sequence-classification` model gives none"
    ):
        export(*classifier_lora, "faiss")


def test_a_run_without_lora_has_no_adapter(embedder: Run) -> None:
    for lora_only in ("adapter", "merged"):
        with pytest.raises(ExportRefused, match="needs a run with `use_lora`"):
            export(*embedder, lora_only)


def test_a_stopped_run_is_not_exported(embedder: Run) -> None:
    job, outcome = embedder

    with pytest.raises(ExportRefused, match="was stopped"):
        export(job, replace(outcome, stopped="lease-lost"), "hugging-face")


def test_a_target_that_exists_is_left_alone(embedder: Run, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("precious")

    with pytest.raises(ExportRefused, match="exists"):
        export(*embedder, "hugging-face", tmp_path / "mine")

    assert (tmp_path / "mine").read_text() == "precious"


def test_an_export_that_fails_leaves_no_half_target(embedder: Run, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(faiss_pack, "_recall", lambda *_: 1 / 0)

    with pytest.raises(ZeroDivisionError):
        export(*embedder, "faiss", tmp_path / "pack")

    assert not (tmp_path / "pack").exists()


# hugging-face, adapter, merged


def test_hugging_face_is_the_model_folder_with_our_card(embedder: Run, tmp_path: Path) -> None:
    job, outcome = embedder
    job.folder.card.write_text("# our card")

    folder = export(job, outcome, "hugging-face", tmp_path / "model")

    assert {name: text for name, text in contents(folder).items() if name != "README.md"} == contents(job.folder.model)
    assert (folder / "README.md").read_text() == "# our card"


def test_the_adapter_format_holds_the_lora_weights_alone(classifier_lora: Run) -> None:
    folder = export(*classifier_lora, "adapter")

    assert folder == classifier_lora[0].folder.root / "adapter"
    assert sorted(contents(folder)) == ["adapter_config.json", "adapter_model.safetensors"]


def test_a_merged_classifier_answers_as_its_adapter_does_and_needs_no_peft(
    classifier_lora: Run, tmp_path: Path
) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification

    job, outcome = classifier_lora

    folder = export(job, outcome, "merged", tmp_path / "merged")

    merged = AutoModelForSequenceClassification.from_pretrained(folder)
    adapted, tokenizer = sequence_classification.load(job.folder.model)
    batch = tokenizer([row["text"] for row in job.eval_rows], padding=True, return_tensors="pt")
    with torch.inference_mode():
        assert torch.allclose(merged(**batch).logits, adapted(**batch).logits, atol=1e-5)
    assert merged.config.id2label[0] == "科技"
    record = json.loads((folder / "merge.json").read_text())
    assert (record["compared"], record["rows"]) == ("logits", 32)
    assert record["max_abs_difference"] < 1e-5
    assert (job.folder.model / "adapter_model.safetensors").exists()  # merging took a copy


def test_a_merged_embedder_answers_as_its_adapter_does(embedder_lora: Run, tmp_path: Path) -> None:
    job, outcome = embedder_lora

    folder = export(job, outcome, "merged", tmp_path / "merged")

    texts = [row["anchor"] for row in job.eval_rows]
    before, after = embedding.load(job.folder.model).encode(texts), embedding.load(folder).encode(texts)
    assert np.abs(before - after).max() < 1e-5
    assert not (folder / "adapter_config.json").exists()


def test_a_merge_that_changes_the_answers_is_refused(classifier_lora: Run, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(exporting, "MERGE_TOLERANCE", -1.0)

    with pytest.raises(ExportRefused, match="after merging, logits differ by"):
        export(*classifier_lora, "merged", tmp_path / "merged")

    assert not (tmp_path / "merged").exists()


# faiss


def test_a_pack_finds_the_document_that_belongs_to_the_query(embedder: Run, original: Path) -> None:
    job, _ = embedder
    pack = FaissPack.load(original)

    found = [[hit.text for hit in pack.search(row["anchor"], k=10)] for row in job.train_rows]

    shares = [row["positive"] in texts for row, texts in zip(job.train_rows, found, strict=True)]
    assert np.mean(shares) > 0.8  # a random model finds 10 of 144 documents: 0.07


def test_hits_are_cosines_best_first(embedder: Run, original: Path) -> None:
    _, outcome = embedder
    pack = FaissPack.load(original)

    hits = pack.search("the w3", k=5)

    query, *documents = outcome.model.encode(["the w3", *(hit.text for hit in hits)])
    assert [hit.score for hit in hits] == pytest.approx([float(query @ document) for document in documents], abs=1e-5)
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)


def test_a_pack_holds_each_positive_of_the_run_once(embedder: Run, original: Path) -> None:
    job, _ = embedder
    expected = {row["positive"] for row in (*job.train_rows, *job.eval_rows)}

    pack = FaissPack.load(original)

    assert set(pack.texts.values()) == expected
    assert pack.manifest["documents"] == len(expected) == pack.index.ntotal
    assert len(pack.search("w1", k=10_000)) == len(expected)


def test_a_pack_needs_neither_the_run_nor_the_base_model(embedder_lora: Run, tmp_path: Path) -> None:
    pack = export(*embedder_lora, "faiss", tmp_path / "pack")
    asks = (
        "import sys, pathlib\nfrom trainer.faiss_pack import FaissPack\n"
        "print(FaissPack.load(pathlib.Path(sys.argv[1])).search('the w3', 1)[0].text)"
    )

    reply = subprocess.run(
        [sys.executable, "-c", asks, str(pack)], capture_output=True, text=True, check=True, cwd=tmp_path
    )

    assert reply.stdout.strip()
    assert not (pack / "model" / "adapter_config.json").exists()


def test_the_same_run_gives_the_same_bytes(embedder: Run, original: Path, tmp_path: Path) -> None:
    again = export(*embedder, "faiss", tmp_path / "again")

    assert contents(again) == contents(original)


def test_a_pack_says_how_well_its_index_finds(original: Path) -> None:
    manifest = json.loads((original / "manifest.json").read_text())

    assert manifest["index"] == "IndexFlatIP"
    assert manifest["recall@10"] == 1.0
    assert (manifest["metric"], manifest["dimension"]) == ("inner-product", 64)


def test_many_documents_go_into_a_graph_with_measured_recall(embedder: Run, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(faiss_pack, "HNSW_FROM", 100)

    first, second = (export(*embedder, "faiss", tmp_path / name) for name in ("first", "second"))

    pack = FaissPack.load(first)
    assert pack.manifest["index"] == "IndexHNSWFlat"
    assert pack.manifest["recall@10"] > 0.95
    assert pack.search("the w3", 3)[0].score <= 1.0001
    assert contents(first) == contents(second)


def test_vectors_that_are_not_normalised_are_refused(encoder: Path, tmp_path: Path) -> None:
    run = trained(tmp_path, encoder, EMBEDDING, normalize_embeddings=False)

    with pytest.raises(ExportRefused, match=r"not of length 1.*train with `normalize_embeddings`"):
        export(*run, "faiss")

    assert not (run[0].folder.root / "faiss").exists()


@pytest.mark.parametrize("name", ["index.faiss", "docs.jsonl", "model/model.safetensors", "model/tokenizer.json"])
def test_a_flipped_bit_is_caught_on_load(name: str, pack: Path) -> None:
    content = bytearray((pack / name).read_bytes())
    content[len(content) // 2] ^= 1
    (pack / name).write_bytes(content)

    with pytest.raises(ExportRefused, match=f"`{name}` was changed"):
        FaissPack.load(pack)


def damage_add(pack: Path) -> None:
    (pack / "model" / "extra.json").write_text("{}")


def damage_remove(pack: Path) -> None:
    (pack / "docs.jsonl").unlink()


def damage_pickle(pack: Path) -> None:
    (pack / "model" / "pytorch_model.bin").write_bytes(b"\x80\x04.")


def damage_link(pack: Path) -> None:
    (pack / "docs.jsonl").rename(pack.parent / "elsewhere.jsonl")
    (pack / "docs.jsonl").symlink_to(pack.parent / "elsewhere.jsonl")


def damage_manifest(pack: Path) -> None:
    (pack / "manifest.json").unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_add, "`model/extra.json` was added"),
        (damage_remove, "`docs.jsonl` is missing"),
        (damage_pickle, "`model/pytorch_model.bin` has no place in a pack"),
        (damage_link, "symbolic link"),
        (damage_manifest, "has no `manifest.json`"),
    ],
)
def test_a_pack_with_other_files_is_not_loaded(damage: Callable[[Path], None], message: str, pack: Path) -> None:
    damage(pack)

    with pytest.raises(ExportRefused, match=message):
        FaissPack.load(pack)


def test_an_archive_is_not_opened(original: Path, tmp_path: Path) -> None:
    archive = shutil.make_archive(str(tmp_path / "pack"), "zip", original)

    with pytest.raises(ExportRefused, match="archives are not opened"):
        FaissPack.load(Path(archive))


def test_a_model_that_does_not_belong_to_the_index_fails_the_probe(pack: Path, encoder: Path) -> None:
    """Somebody swaps the weights and mends the digests: the vector of the probe gives it away."""
    from safetensors.torch import load_file, save_file

    weights = pack / "model" / "model.safetensors"
    save_file({name: tensor * 1.5 for name, tensor in load_file(weights).items()}, weights, metadata={"format": "pt"})
    manifest = json.loads((pack / "manifest.json").read_text())
    manifest["files"] = faiss_pack._digests(pack)
    (pack / "manifest.json").write_text(json.dumps(manifest))

    with pytest.raises(ExportRefused, match="gives the probe another vector"):
        FaissPack.load(pack)


def test_importing_the_exporter_imports_no_torch() -> None:
    asks = (
        "import sys, trainer.export, trainer.evaluate, trainer.card, trainer.recipes; sys.exit('torch' in sys.modules)"
    )

    assert subprocess.run([sys.executable, "-c", asks], check=False).returncode == 0
