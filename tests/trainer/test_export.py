"""What a run hands over is what it promised, and a format that it cannot have is refused with those that it can."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import LANGUAGE, Run, contents, copied, make_chat, make_job

from enforcer.problems import Invalid
from trainer import faiss_pack, merging
from trainer.exits import INVALID, exit_code
from trainer.export import ExportRefused, export, formats
from trainer.recipes import embedding, sequence_classification

# Which formats there are


def test_each_run_offers_what_it_can_be_exported_as(embedder: Run, embedder_lora: Run, classifier_lora: Run) -> None:
    assert formats(embedder[0]) == ["hugging-face", "faiss", "onnx"]
    assert formats(embedder_lora[0]) == ["hugging-face", "adapter", "merged", "faiss", "onnx"]
    assert formats(classifier_lora[0]) == ["hugging-face", "adapter", "merged", "onnx"]


@pytest.mark.parametrize("format", ["gguf", "pickle", "", "../faiss"])
def test_an_unknown_format_is_refused_with_the_possible_ones(format: str, embedder: Run) -> None:
    with pytest.raises(ExportRefused, match="can be exported as `hugging-face`, `faiss`, `onnx`") as refusal:
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

    assert list(tmp_path.iterdir()) == []


def test_a_refusal_has_a_code_that_programs_can_switch_on(embedder: Run) -> None:
    with pytest.raises(Invalid) as refused:
        export(*embedder, "gguf")

    assert (refused.value.code, exit_code(refused.value)) == ("export-refused", INVALID)


# hugging-face, adapter, merged


def test_hugging_face_is_the_model_folder_with_our_card(embedder: Run, tmp_path: Path) -> None:
    job, outcome = copied(embedder, tmp_path)
    job.folder.card.write_text("# our card")

    folder = export(job, outcome, "hugging-face", tmp_path / "model")

    assert {name: text for name, text in contents(folder).items() if name != "README.md"} == contents(job.folder.model)
    assert (folder / "README.md").read_text() == "# our card"


def test_the_adapter_format_holds_the_lora_weights_alone(classifier_lora: Run, tmp_path: Path) -> None:
    job, outcome = copied(classifier_lora, tmp_path)

    folder = export(job, outcome, "adapter")

    assert folder == job.folder.root / "adapter"
    assert sorted(contents(folder)) == ["adapter_config.json", "adapter_model.safetensors"]


def test_a_merged_classifier_answers_as_its_adapter_does_and_needs_no_peft(
    classifier_lora: Run, tmp_path: Path
) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification

    job, outcome = classifier_lora

    folder = export(job, outcome, "merged", tmp_path / "merged")

    merged = AutoModelForSequenceClassification.from_pretrained(folder)
    adapted, tokenizer = sequence_classification.load(job.folder.model, job.model_dir)
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
    before = embedding.load(job.folder.model, job.model_dir).encode(texts)
    after = embedding.load(folder).encode(texts)
    assert np.abs(before - after).max() < 1e-5
    assert not (folder / "adapter_config.json").exists()


def test_a_merged_language_model_answers_as_its_adapter_does(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    from trainer.recipes import sft

    job = make_job(tmp_path, make_chat(tmp_path / "chat"), LANGUAGE, use_lora=True, max_steps=3)
    outcome = sft.train(job)

    folder = export(job, outcome, "merged", tmp_path / "merged")

    record = json.loads((folder / "merge.json").read_text())
    assert (record["compared"], record["rows"], record["dtype"]) == ("logits", 32, "float32")
    assert record["max_abs_difference"] < 1e-4
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert not any("lora" in name for name, _ in model.named_parameters())
    assert (folder / "chat_template.jinja").exists()
    assert (job.folder.model / "adapter_model.safetensors").exists()
    assert formats(job) == ["hugging-face", "adapter", "merged"]


def test_a_merge_that_changes_the_answers_is_refused(classifier_lora: Run, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(merging, "TOLERANCE", -1.0)

    with pytest.raises(ExportRefused, match="after merging, logits differ by"):
        export(*classifier_lora, "merged", tmp_path / "merged")

    assert list(tmp_path.iterdir()) == []


def test_importing_the_exporter_imports_no_torch() -> None:
    asks = (
        "import sys, trainer.export, trainer.evaluate, trainer.card, trainer.recipes; sys.exit('torch' in sys.modules)"
    )

    assert subprocess.run([sys.executable, "-c", asks], check=False).returncode == 0
