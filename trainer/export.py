"""Hand a finished run's model over in the shape somebody else needs.

    hugging-face   the model folder as training saved it (for a LoRA run: adapter, labels, tokenizer) and the run's card
    adapter        the LoRA weights alone
    merged         the adapter added into its base: a model that needs no peft; `merge.json` says how far the two agree
    faiss          embedding only: model, documents and index in one pack that answers queries by itself

The run's own files are read and never changed; a target that exists is never written to. No format holds a pickle.
Importing this module imports no torch.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from trainer import faiss_pack
from trainer.faiss_pack import ExportRefused, FaissPack, Hit
from trainer.job import Job, Outcome, Row

__all__ = ["ExportRefused", "FaissPack", "Hit", "export", "formats"]

PROBES = 32  # rows on which a merged model must agree with its adapter
MERGE_TOLERANCE = 1e-3  # float32 sums in another order differ by about 1e-6; a wrong merge by far more


def export(job: Job, outcome: Outcome, format: str, path: Path | None = None) -> Path:
    """Write the model in `format` and return where it lies: `path`, or `<run>/<format>`.

    Raises:
        ExportRefused: a stopped run, an unknown format, one that this run cannot have, or a target that exists.
    """
    if outcome.stopped is not None:
        raise ExportRefused(
            f"run `{job.run_id}` was stopped (`{outcome.stopped}`) and left no final model; run it to the end"
        )
    if format not in formats(job):
        raise ExportRefused(_why_not(job, format))
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
    return ["hugging-face", *(["adapter", "merged"] if _is_adapter(job) else []), *(["faiss"] if _embeds(job) else [])]


def _why_not(job: Job, format: str) -> str:
    reason = "is no export format"
    if format in ("adapter", "merged"):
        reason = "needs a run with `use_lora`, and this one trained every weight"
    if format == "faiss":
        reason = f"needs embeddings, and a `{job.task_type}` model gives none"
    return (
        f"`{format}` {reason}; run `{job.run_id}` can be exported as {', '.join(f'`{name}`' for name in formats(job))}"
    )


def _is_adapter(job: Job) -> bool:
    return (job.folder.model / "adapter_config.json").exists()


def _embeds(job: Job) -> bool:
    return _made_by(job) == "SentenceTransformer"


def _reranks(job: Job) -> bool:
    return _made_by(job) == "CrossEncoder"


def _made_by(job: Job) -> str | None:
    """Which class of sentence-transformers the model belongs to, if to any."""
    config = job.folder.model / "config_sentence_transformers.json"
    return json.loads(config.read_text())["model_type"] if config.exists() else None


def _write_hugging_face(job: Job, folder: Path) -> None:
    shutil.copytree(job.folder.model, folder, dirs_exist_ok=True)
    if job.folder.card.exists():
        shutil.copy(job.folder.card, folder / "README.md")


def _write_adapter(job: Job, folder: Path) -> None:
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copy(job.folder.model / name, folder / name)


def _write_merged(job: Job, folder: Path) -> None:
    """Merge a copy read from disk, and measure the largest difference between the answers before and after."""
    merge = _merge_embedding if _embeds(job) else _merge_reranker if _reranks(job) else _merge_classifier
    save, before, after, what = merge(job)
    difference = float(np.abs(before - after).max())
    if not difference <= MERGE_TOLERANCE:  # not `>`: NaN is refused too
        raise ExportRefused(f"after merging, {what} differ by {difference:.2g}; use the `adapter` format for this run")
    save(folder)
    record = {"compared": what, "dtype": "float32", "max_abs_difference": difference, "rows": len(before)}
    (folder / "merge.json").write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")


Merged = tuple[
    Callable[[Path], None], Any, Any, str
]  # save into a folder, answers before, answers after, what they are


def _merge_classifier(job: Job) -> Merged:
    import torch

    from trainer.recipes import sequence_classification as recipe

    model, tokenizer = recipe.load(job.folder.model, job.model_dir)
    texts = [row["text"] for row in (*job.eval_rows, *job.train_rows)[:PROBES]]
    batch = tokenizer(texts, truncation=True, max_length=job.arguments["max_length"], padding=True, return_tensors="pt")
    with torch.inference_mode():
        before = model(**batch).logits.numpy()
    merged = model.merge_and_unload()
    with torch.inference_mode():
        after = merged(**batch).logits.numpy()

    def save(folder: Path) -> None:
        merged.save_pretrained(folder)
        tokenizer.save_pretrained(folder)

    return save, before, after, "logits"


def _merge_embedding(job: Job) -> Merged:
    from trainer.recipes import embedding as recipe

    texts = [_asked(row) for row in (*job.eval_rows, *job.train_rows)[:PROBES]]
    before = recipe.load(job.folder.model, job.model_dir).encode(texts, show_progress_bar=False)
    merged = recipe.merge(job.folder.model, job.model_dir)
    after = merged.encode(texts, show_progress_bar=False)

    def save(folder: Path) -> None:
        merged.save_pretrained(str(folder), create_model_card=False)

    return save, before, after, "embeddings"


def _merge_reranker(job: Job) -> Merged:
    from trainer.recipes import reranker as recipe

    pairs = [(row["query"], row["document"]) for row in (*job.eval_rows, *job.train_rows)[:PROBES]]
    before = recipe.load(job.folder.model, job.model_dir).predict(pairs, show_progress_bar=False)
    merged = recipe.merge(job.folder.model, job.model_dir)
    after = merged.predict(pairs, show_progress_bar=False)

    def save(folder: Path) -> None:
        merged.save_pretrained(str(folder), create_model_card=False)

    return save, before, after, "scores"


def _write_faiss(job: Job, folder: Path) -> None:
    from trainer.recipes import embedding as recipe

    rows = (*job.train_rows, *job.eval_rows)
    model = recipe.merge(job.folder.model, job.model_dir) if _is_adapter(job) else recipe.load(job.folder.model)
    queries = dict.fromkeys(map(_asked, job.eval_rows))
    faiss_pack.write(folder, model, documents=[text for row in rows for text in _documents(row)], queries=[*queries])


def _asked(row: Row) -> str:
    return str(row["anchor"] if "anchor" in row else row["sentence1"])


def _documents(row: Row) -> list[str]:
    """What a row has to be found: the positive of a query; of a pair of sentences, both."""
    return [row["positive"]] if "positive" in row else [row["sentence1"], row["sentence2"]]


WRITERS: dict[str, Callable[[Job, Path], None]] = {
    "hugging-face": _write_hugging_face,
    "adapter": _write_adapter,
    "merged": _write_merged,
    "faiss": _write_faiss,
}
