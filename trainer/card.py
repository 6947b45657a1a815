"""The model card: what a model is, how it was measured, and where it came from, as Hugging Face reads it.

The YAML head follows https://github.com/huggingface/hub-docs/blob/main/modelcard.md. That format knows no intervals and
no gates, so they stand in tables below it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from enforcer.gates import Gate, Judgement, Score
from trainer.layout import RunFolder

PIPELINES = {  # recipe -> library, pipeline tag (https://huggingface.co/tasks)
    "sequence-classification": ("transformers", "text-classification"),
    "embedding": ("sentence-transformers", "sentence-similarity"),
    "reranker": ("sentence-transformers", "text-ranking"),
}


def write_card(
    folder: RunFolder,
    *,
    task_type: str,
    version: int,
    recipe: str,
    base_model: str,
    run_id: str,
    ticket_id: str,
    arguments: Mapping[str, Any],
    datasets: Mapping[str, str],
    scores: Mapping[str, Score],
    judgements: Sequence[Judgement],
) -> None:
    """Write `README.md` in the run's folder. `datasets` maps a name (`train`, `eval`) to its sha256."""
    head = yaml.safe_dump(
        _metadata(task_type, recipe, base_model, run_id, bool(arguments.get("use_lora")), datasets, scores),
        allow_unicode=True,
        sort_keys=False,
    )
    parts = [
        f"---\n{head}---",
        f"# {_cell(task_type)} from {_cell(base_model)}",
        "## Scores",
        _table(["metric", "value", "interval", "n"], [_score_row(name, score) for name, score in scores.items()]),
        "## Acceptance gates",
        _table(["gate", "verdict", "reason"], [[_bar(j.gate), j.verdict, j.reason] for j in judgements]),
        "Gates as the trainer sees them. It is the registry that judges: its verdict stands in `verdict.json`.",
        "## Where it came from",
        _table(
            ["what", "value"],
            [
                ["task type", f"{task_type}, version {version}"],
                ["recipe", recipe],
                ["base model", base_model],
                ["run", run_id],
                ["ticket", ticket_id],
                *([f"dataset `{name}`, sha256", digest] for name, digest in datasets.items()),
            ],
        ),
        "## Arguments",
        _table(["argument", "value"], [[f"`{name}`", value] for name, value in sorted(arguments.items())]),
    ]
    folder.card.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def _metadata(
    task_type: str,
    recipe: str,
    base_model: str,
    run_id: str,
    lora: bool,
    datasets: Mapping[str, str],
    scores: Mapping[str, Score],
) -> dict[str, Any]:
    library, pipeline = PIPELINES.get(recipe, ("transformers", None))
    metrics = [{"type": name, "value": score.value, "name": name} for name, score in scores.items()]
    result = {
        "task": {"type": pipeline or recipe},
        "dataset": {"name": "eval", "type": "eval", "revision": datasets.get("eval", "unknown")},
        "metrics": metrics,
    }
    return {
        "base_model": base_model,
        "base_model_relation": "adapter" if lora else "finetune",
        "library_name": "peft" if lora and library == "transformers" else library,
        **({"pipeline_tag": pipeline} if pipeline else {}),
        "tags": ["tagwarden", f"task-type:{task_type}", *(["lora"] if lora else [])],
        **({"model-index": [{"name": run_id, "results": [result]}]} if metrics else {}),
    }


def _score_row(name: str, score: Score) -> list[Any]:
    interval = "none"
    if score.low is not None and score.high is not None and score.confidence is not None:
        interval = f"[{score.low:.4f}, {score.high:.4f}] at {score.confidence:.0%}"
    return [name, f"{score.value:.4f}", interval, score.n]


def _bar(gate: Gate) -> str:
    return f"{gate.metric} {gate.op} {gate.value:g}"


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    if not rows:
        return "None."
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(_cell(value) for value in line) + " |" for line in lines)


def _cell(value: Any) -> str:
    """Users' words as text that can neither end its table cell nor its line, nor become a tag or a link."""
    text = str(value).replace("\\", "\\\\").replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    for mark in "|[]!":
        text = text.replace(mark, f"\\{mark}")
    return " ".join(text.split())
