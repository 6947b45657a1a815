"""A model as one ONNX graph that answers as it did, whatever runs it: no Python, no torch.

    model.onnx   `input_ids` (and what else the tokenizer gives) of any number of texts and tokens go in, int64
                 classifier -> `logits`; embedding -> `embeddings`, pooled and normalised as the run was trained;
                 reranker -> `scores`, as the model predicts them
    onnx.json    what was compared through onnxruntime, on how many rows, how far it differs; opset and packages
    tokenizer and config, label names included, as the model folder has them

By `torch.onnx.export(dynamo=True)`. optimum-onnx, which would do the same, stops at transformers 4.57.
Importing this module imports no torch.
"""

import json
import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from enforcer.problems import NotConfigured
from trainer.faiss_pack import ExportRefused
from trainer.job import Job
from trainer.merging import asked, probe_rows
from trainer.model_kinds import Kind, is_adapter, kind_of

TOLERANCE = 1e-4  # float32 kernels of two libraries differ by about 1e-6
PACKAGES = ("torch", "onnx", "onnxscript", "onnxruntime")


@dataclass(frozen=True)
class Exportable:
    """`tokens` turns rows into a batch; `answer`, of its tensors alone, becomes the graph and is called `output`."""

    tokens: Callable[[Sequence[Any]], Mapping[str, Any]]
    answer: Callable[[Mapping[str, Any]], Any]
    output: str
    save_beside: Callable[[Path], None]
    module: Any  # that holds the weights


def possible(kind: Kind) -> bool:
    return kind in MODELS


def write(job: Job, folder: Path) -> None:
    """Export, run the graph, compare.

    Raises:
        NotConfigured: the packages are not installed.
        ExportRefused: this architecture has no graph, or its graph answers otherwise.
    """
    _need_packages()
    model = MODELS[kind_of(job)](job)
    rows = probe_rows(job)
    opset = _export(model, model.tokens(rows[:3]), folder / "model.onnx")
    difference = _compare(model, rows, folder / "model.onnx")
    model.save_beside(folder)
    record = {
        "compared": model.output,
        "max_abs_difference": difference,
        "rows": len(rows),
        "opset": opset,
        "packages": {name: version(name) for name in PACKAGES},
    }
    (folder / "onnx.json").write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")


def _need_packages() -> None:
    try:
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise NotConfigured("`onnx` needs packages of its own: `pip install 'tagwarden[onnx]'`") from error


def _export(model: Exportable, batch: Mapping[str, Any], path: Path) -> int:
    """Write the graph; returns its opset. Three rows, because torch takes a size of 1 for a constant."""
    import torch

    names = list(batch)

    class Graph(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.held = model.module

        def forward(self, *given: Any) -> Any:
            return model.answer(dict(zip(names, given, strict=True)))

    any_size = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    log = logging.getLogger("torch.onnx._internal.exporter._registration")  # of torchvision, which is not ours to have
    before, log.level = log.level, logging.ERROR
    try:
        with warnings.catch_warnings(), torch.inference_mode():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                Graph().eval(), tuple(batch.values()), dynamo=True, verbose=False, input_names=names,
                output_names=[model.output], dynamic_shapes=(tuple(any_size for _ in names),),
            )  # fmt: skip
            assert program is not None, "without a path, torch gives the program"
            program.save(str(path))
    except torch.onnx.OnnxExporterError as error:
        reason = " ".join(str(error.__cause__ or error).split())[:300]
        raise ExportRefused(f"torch makes no ONNX graph of this architecture: {reason}; take another format") from error
    finally:
        log.level = before
    return int(program.model.opset_imports[""])


def _compare(model: Exportable, rows: Sequence[Any], path: Path) -> float:
    """The largest difference to Python, over batches of several shapes."""
    import onnxruntime
    import torch

    graph = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    worst = 0.0
    for part in (rows, rows[:1], rows[1:6]):
        if not part:
            continue
        batch = model.tokens(part)
        with torch.inference_mode():
            expected = model.answer(dict(batch)).numpy()
        (answered,) = graph.run([model.output], {name: tensor.numpy() for name, tensor in batch.items()})
        worst = max(worst, float(np.abs(expected - answered).max()) if expected.shape == answered.shape else np.inf)
    if not worst <= TOLERANCE:
        raise ExportRefused(f"the ONNX graph answers otherwise: {model.output} differ by {worst:.2g}; it was not kept")
    return worst


def _classifier(job: Job) -> Exportable:
    from trainer.recipes import sequence_classification as recipe

    model, tokenizer = recipe.load(job.folder.model, job.model_dir if is_adapter(job) else None)
    merged = model.merge_and_unload() if is_adapter(job) else model

    def tokens(rows: Sequence[Any]) -> Mapping[str, Any]:
        limit = job.arguments["max_length"]
        texts = [row["text"] for row in rows]
        return dict(tokenizer(texts, truncation=True, max_length=limit, padding=True, return_tensors="pt"))

    def save(folder: Path) -> None:
        tokenizer.save_pretrained(folder)
        merged.config.save_pretrained(folder)

    return Exportable(tokens, lambda batch: merged(**batch).logits, "logits", save, merged)


def _embedding(job: Job) -> Exportable:
    from trainer.recipes import embedding as recipe

    model = recipe.merge(job.folder.model, job.model_dir) if is_adapter(job) else recipe.load(job.folder.model)
    return _sentence_model(model, asked, "embeddings", lambda batch: model(batch)["sentence_embedding"])


def _reranker(job: Job) -> Exportable:
    from trainer.recipes import reranker as recipe

    model = recipe.merge(job.folder.model, job.model_dir) if is_adapter(job) else recipe.load(job.folder.model)

    def scores(batch: dict[str, Any]) -> Any:
        return model.activation_fn(model(batch)["scores"]).squeeze(-1)

    return _sentence_model(model, lambda row: (row["query"], row["document"]), "scores", scores)


def _sentence_model(
    model: Any, text: Callable[[Any], Any], output: str, answer: Callable[[dict[str, Any]], Any]
) -> Exportable:
    import torch

    model = model.to("cpu").float().eval()

    def tokens(rows: Sequence[Any]) -> Mapping[str, Any]:
        features = model.preprocess([text(row) for row in rows])
        return {name: value for name, value in features.items() if isinstance(value, torch.Tensor)}

    def save(folder: Path) -> None:
        model.tokenizer.save_pretrained(folder)
        model[0].model.config.save_pretrained(folder)

    return Exportable(tokens, lambda batch: answer(dict(batch)), output, save, model)


MODELS: dict[Kind, Callable[[Job], Exportable]] = {
    "classifier": _classifier,
    "embedding": _embedding,
    "reranker": _reranker,
}
