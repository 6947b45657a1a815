"""Add an adapter into the weights of its base, and hold the answers before and after side by side.

The adapter itself is kept: what is merged is a copy read from disk, in float32. `merge.json` says what was compared, on
how many rows, and how far it differs at most. Importing this module imports no torch.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trainer import card_metadata
from trainer.faiss_pack import ExportRefused
from trainer.job import Job, Row
from trainer.model_kinds import Kind, kind_of

PROBES = 32  # rows on which a merged model must agree with its adapter
TOLERANCE = 1e-3  # float32 sums in another order differ by about 1e-6; a wrong merge by far more


@dataclass(frozen=True)
class Merged:
    """`save` writes the model into a folder; `before` and `after` are its answers to the probes."""

    save: Callable[[Path], None]
    before: Any
    after: Any
    compared: str


def write(job: Job, folder: Path) -> None:
    """The merged model of a run with an adapter.

    Raises:
        ExportRefused: it answers otherwise than the adapter did.
    """
    merged = MERGES[kind_of(job)](job)
    difference = float(np.abs(merged.before - merged.after).max())
    if not difference <= TOLERANCE:  # not `>`: NaN is refused too
        raise ExportRefused(
            f"after merging, {merged.compared} differ by {difference:.2g}; use the `adapter` format for this run"
        )
    merged.save(folder)
    record = {"compared": merged.compared, "dtype": "float32", "max_abs_difference": difference, "rows": probes(job)}
    if job.folder.card.exists():
        (folder / "README.md").write_text(card_metadata.of_merged(job.folder.card.read_text("utf-8")), "utf-8")
    (folder / "merge.json").write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")


def probes(job: Job) -> int:
    return min(PROBES, len(job.eval_rows) + len(job.train_rows))


def probe_rows(job: Job) -> list[Any]:
    return [*job.eval_rows, *job.train_rows][:PROBES]


def asked(row: Row) -> str:
    """The text of an embedding row that stands for a query."""
    return str(row["anchor"] if "anchor" in row else row["sentence1"])


def _classifier(job: Job) -> Merged:
    from trainer.recipes import sequence_classification as recipe

    model, tokenizer = recipe.load(job.folder.model, job.model_dir)
    texts = [row["text"] for row in probe_rows(job)]
    ids = tokenizer(texts, truncation=True, max_length=job.arguments["max_length"])["input_ids"]
    return _by_logits(model, tokenizer, ids)


def _reward(job: Job) -> Merged:
    from trainer.inputs.chat import Reader
    from trainer.recipes import reward_modeling as recipe

    model, tokenizer = recipe.load(job.folder.model, job.model_dir)
    reader = Reader(job.folder.model)
    ids = [recipe.answer(reader, row.get("prompt"), row["chosen"]) for row in probe_rows(job)]
    return _by_logits(model, tokenizer, [of_one[: job.arguments["max_length"]] for of_one in ids])


def _language(job: Job) -> Merged:
    from trainer.inputs.chat import Reader
    from trainer.recipes import _language as recipe

    model, tokenizer = recipe.load(job.folder.model, job.model_dir)
    reader = Reader(job.folder.model)
    ids = [reader.text(row["text"]).ids if "text" in row else reader.prompt(row) for row in probe_rows(job)]
    return _by_logits(model, tokenizer, [of_one[: job.arguments["max_length"]] for of_one in ids], last=True)


def _by_logits(model: Any, tokenizer: Any, ids: Any, *, last: bool = False) -> Merged:
    """By what the model answers to token ids. Of a language model the `last` position is enough: it stands on all."""
    import torch

    def answers(model: Any) -> Any:
        with torch.inference_mode():
            given = [model(input_ids=torch.tensor([of_one])).logits for of_one in ids]
        return torch.cat([logits[:, -1] if last else logits for logits in given]).float().numpy()

    before = answers(model)
    merged = model.merge_and_unload()

    def save(folder: Path) -> None:
        merged.save_pretrained(folder)
        tokenizer.save_pretrained(folder)

    return Merged(save, before, answers(merged), "logits")


def _embedding(job: Job) -> Merged:
    from trainer.recipes import embedding as recipe

    texts = [asked(row) for row in probe_rows(job)]
    before = recipe.load(job.folder.model, job.model_dir).encode(texts, show_progress_bar=False)
    merged = recipe.merge(job.folder.model, job.model_dir)
    after = merged.encode(texts, show_progress_bar=False)
    return Merged(
        lambda folder: merged.save_pretrained(str(folder), create_model_card=False), before, after, "embeddings"
    )


def _reranker(job: Job) -> Merged:
    from trainer.recipes import reranker as recipe

    pairs = [(row["query"], row["document"]) for row in probe_rows(job)]
    before = recipe.load(job.folder.model, job.model_dir).predict(pairs, show_progress_bar=False)
    merged = recipe.merge(job.folder.model, job.model_dir)
    after = merged.predict(pairs, show_progress_bar=False)
    return Merged(lambda folder: merged.save_pretrained(str(folder), create_model_card=False), before, after, "scores")


MERGES: dict[Kind, Callable[[Job], Merged]] = {
    "classifier": _classifier,
    "embedding": _embedding,
    "language": _language,
    "reranker": _reranker,
    "reward": _reward,
}
