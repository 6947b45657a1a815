"""An ONNX graph answers as the model did, for texts of any number and length, without torch."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import CLASSIFICATION, LABELS, LANGUAGE, Run, make_chat, make_decoder, make_job, trained

from enforcer.problems import NotConfigured
from trainer import onnx_model
from trainer.export import ExportRefused, export, formats
from trainer.recipes import embedding, sequence_classification

onnxruntime = pytest.importorskip("onnxruntime", reason="the extra `onnx` is not installed")
TEXTS = ["a goal", "say the very old chip today and then some more people", "stock"]


def asked(folder: Path, texts: list[Any], output: str) -> Any:
    """What somebody without torch gets: a tokenizer file and a graph."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_padding()
    encoded = tokenizer.encode_batch(texts)
    graph = onnxruntime.InferenceSession(folder / "model.onnx")
    given = {
        "input_ids": [one.ids for one in encoded],
        "attention_mask": [one.attention_mask for one in encoded],
        "token_type_ids": [one.type_ids for one in encoded],
    }
    return graph.run([output], {one.name: np.array(given[one.name], np.int64) for one in graph.get_inputs()})[0]


def test_a_classifier_trained_with_lora_is_one_graph_with_its_labels(classifier_lora: Run, tmp_path: Path) -> None:
    import torch

    job, _ = classifier_lora

    folder = export(*classifier_lora, "onnx", tmp_path / "onnx")

    model, tokenizer = sequence_classification.load(job.folder.model, job.model_dir)
    with torch.inference_mode():
        expected = model(**tokenizer(TEXTS, padding=True, return_tensors="pt")).logits.numpy()
    assert np.abs(asked(folder, TEXTS, "logits") - expected).max() < 1e-5
    assert np.abs(asked(folder, TEXTS[:1], "logits") - expected[:1]).max() < 1e-5
    assert json.loads((folder / "config.json").read_text())["id2label"] == dict(zip("012", LABELS, strict=True))
    record = json.loads((folder / "onnx.json").read_text())
    assert (record["compared"], record["rows"]) == ("logits", 32)
    assert record["max_abs_difference"] < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["embedder", "embedder_lora"])
def test_an_embedder_pools_and_normalises_inside_the_graph(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    job, outcome = request.getfixturevalue(kind)

    folder = export(job, outcome, "onnx", tmp_path / "onnx")

    base = job.model_dir if kind == "embedder_lora" else None
    expected = embedding.load(job.folder.model, base).encode(TEXTS, show_progress_bar=False)
    vectors = asked(folder, TEXTS, "embeddings")
    assert np.abs(vectors - expected).max() < 1e-5
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1.0, abs=1e-5)


@pytest.mark.slow
def test_a_reranker_scores_inside_the_graph_as_it_predicts(encoder: Path, tmp_path: Path) -> None:
    from test_reranker import rerank_job

    from trainer.recipes import reranker

    job = rerank_job(tmp_path, encoder, max_steps=4)
    outcome = reranker.train(job)
    pairs = [("a goal", "say the very old chip"), ("stock", "stock of people")]

    folder = export(job, outcome, "onnx", tmp_path / "onnx")

    expected = reranker.load(job.folder.model).predict(pairs, show_progress_bar=False)
    assert np.abs(asked(folder, pairs, "scores") - expected).max() < 1e-5


@pytest.mark.slow
def test_a_classifier_on_a_decoder_is_a_graph_too(tmp_path: Path, encoder: Path) -> None:
    """It reads its logits at the last token that is no padding."""
    run = trained(tmp_path, make_decoder(tmp_path / "decoder", encoder), CLASSIFICATION)

    folder = export(*run, "onnx", tmp_path / "onnx")

    assert json.loads((folder / "onnx.json").read_text())["max_abs_difference"] < 1e-5


def test_a_graph_that_answers_otherwise_is_refused_and_leaves_nothing(
    classifier_lora: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Wrong:
        def __init__(self, *_: Any, **__: Any) -> None:
            pass

        def run(self, _outputs: Any, given: Any) -> list[Any]:
            return [np.zeros((len(given["input_ids"]), 3), np.float32)]

    monkeypatch.setattr(onnxruntime, "InferenceSession", Wrong)
    monkeypatch.setattr(onnx_model, "_export", lambda *_: 18)

    with pytest.raises(ExportRefused, match="answers otherwise: logits differ by"):
        export(*classifier_lora, "onnx", tmp_path / "onnx")

    assert list(tmp_path.iterdir()) == []


def test_without_its_packages_the_format_says_what_to_install(
    classifier_lora: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)

    with pytest.raises(NotConfigured, match=r"pip install 'tagwarden\[onnx\]'"):
        export(*classifier_lora, "onnx", tmp_path / "onnx")

    assert list(tmp_path.iterdir()) == []


def test_a_language_model_has_no_such_graph(tmp_path: Path) -> None:
    job = make_job(tmp_path, make_chat(tmp_path / "chat"), LANGUAGE)

    assert "onnx" not in formats(job)
