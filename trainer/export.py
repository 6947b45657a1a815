"""Hand a finished run's model over in the shape somebody else needs.

    hugging-face   the model folder as training saved it (for a LoRA run: adapter, labels, tokenizer) and the run's card
    adapter        the LoRA weights alone
    merged         the adapter added into its base: a model that needs no peft; `merge.json` says how far the two agree
    faiss          embedding only: model, documents and index in one pack that answers queries by itself
    onnx           classification, embedding, reranker: one graph, compared with the model; `onnx.json` says how far

The run's own files are read and never changed; a target that exists is never written to. No format holds a pickle.
Importing this module imports no torch.
"""

import shutil
from collections.abc import Callable
from pathlib import Path

from trainer import faiss_pack, merging, onnx_model
from trainer.faiss_pack import ExportRefused, FaissPack, Hit
from trainer.job import Job, Outcome, Row
from trainer.model_kinds import is_adapter, kind_of

__all__ = ["ExportRefused", "FaissPack", "Hit", "export", "formats"]


def export(job: Job, outcome: Outcome, format: str, path: Path | None = None) -> Path:
    """Write the model in `format` and return where it lies: `path`, or `<run>/<format>`.

    Raises:
        ExportRefused: a stopped run, an unknown format, one that this run cannot have, or a target that exists.
    """
    if outcome.stopped is not None:
        raise ExportRefused(
            f"run `{job.run_id}` was stopped (`{outcome.stopped}`) and left no final model; run it to the end"
        )
    refuse_impossible(job, format)
    target = path or job.folder.root / format
    if target.exists():
        raise ExportRefused(f"`{target}` exists; move it away or name another path")

    unfinished = target.with_name(f"{target.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    try:
        WRITERS[format](job, unfinished)
        return unfinished.rename(target)  # whoever sees the target sees all of it
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def formats(job: Job) -> list[str]:
    """What this run can be exported as, read off the model folder that it left."""
    kind = kind_of(job)
    return [
        "hugging-face",
        *(["adapter", "merged"] if is_adapter(job) else []),
        *(["faiss"] if kind == "embedding" else []),
        *(["onnx"] if onnx_model.possible(kind) else []),
    ]


def refuse_impossible(job: Job, format: str) -> None:
    """Raise `ExportRefused` for a format that this run cannot have, with those that it can."""
    if format not in formats(job):
        raise ExportRefused(_why_not(job, format))


def _why_not(job: Job, format: str) -> str:
    reason = "is no export format"
    if format in ("adapter", "merged"):
        reason = "needs a run with `use_lora`, and this one trained every weight"
    if format == "faiss":
        reason = f"needs embeddings, and a `{job.task_type}` model gives none"
    if format == "onnx":
        reason = f"is for models that read a text once, and a `{job.task_type}` model is served from its folder"
    return (
        f"`{format}` {reason}; run `{job.run_id}` can be exported as {', '.join(f'`{name}`' for name in formats(job))}"
    )


def _write_hugging_face(job: Job, folder: Path) -> None:
    shutil.copytree(job.folder.model, folder, dirs_exist_ok=True)
    if job.folder.card.exists():
        shutil.copy(job.folder.card, folder / "README.md")


def _write_adapter(job: Job, folder: Path) -> None:
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copy(job.folder.model / name, folder / name)


def _write_faiss(job: Job, folder: Path) -> None:
    from trainer.recipes import embedding as recipe

    rows = (*job.train_rows, *job.eval_rows)
    model = recipe.merge(job.folder.model, job.model_dir) if is_adapter(job) else recipe.load(job.folder.model)
    queries = dict.fromkeys(map(merging.asked, job.eval_rows))
    faiss_pack.write(folder, model, documents=[text for row in rows for text in _documents(row)], queries=[*queries])


def _documents(row: Row) -> list[str]:
    """What a row has to be found: the positive of a query; of a pair of sentences, both."""
    return [row["positive"]] if "positive" in row else [row["sentence1"], row["sentence2"]]


WRITERS: dict[str, Callable[[Job, Path], None]] = {
    "hugging-face": _write_hugging_face,
    "adapter": _write_adapter,
    "merged": merging.write,
    "faiss": _write_faiss,
    "onnx": onnx_model.write,
}
