"""The YAML head of a model card, as the Hub reads it (https://github.com/huggingface/hub-docs/blob/main/modelcard.md).

Left out is what is not known: `license` and `language` are those that the base model's own card names, and there are no
`datasets`, which would have to be names on the Hub, while a run's data are files. `model-index` knows no intervals, so
they stand among the arguments of a metric, with the rows that it was measured on.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from enforcer.gates import Score

CAUSAL = ("transformers", "text-generation")
PIPELINES = {  # recipe -> library, pipeline tag (https://huggingface.co/tasks); any other is a language model's
    "sequence-classification": ("transformers", "text-classification"),
    "embedding": ("sentence-transformers", "sentence-similarity"),
    "reranker": ("sentence-transformers", "text-ranking"),
    "reward-modeling": ("transformers", "text-classification"),
}
FROM_BASE = ("license", "license_name", "license_link", "language")
MAX_CARD_BYTES = 200_000


def metadata(
    *,
    task_type: str,
    recipe: str,
    base_model: str,
    run_id: str,
    lora: bool,
    datasets: Mapping[str, str],
    scores: Mapping[str, Score],
    known_of_base: Mapping[str, Any],
) -> dict[str, Any]:
    """What stands between the `---` lines."""
    library, pipeline = PIPELINES.get(recipe, CAUSAL)
    result = {
        "task": {"type": pipeline, "name": task_type},
        "dataset": {"name": "eval", "type": "eval", "revision": datasets.get("eval", "unknown")},
        "metrics": [_metric(name, score) for name, score in scores.items()],
    }
    return {
        **known_of_base,
        "base_model": base_model,
        "base_model_relation": "adapter" if lora else "finetune",
        "library_name": "peft" if lora and library == "transformers" else library,
        "pipeline_tag": pipeline,
        "tags": ["tagwarden", f"task-type:{task_type}", *(["lora"] if lora else [])],
        **({"model-index": [{"name": run_id, "results": [result]}]} if scores else {}),
    }


def of_base(model_dir: Path) -> dict[str, Any]:
    """License and language from a base model's card; empty without a card, or with one that cannot be read."""
    try:
        found = read((model_dir / "README.md").read_bytes()[:MAX_CARD_BYTES].decode("utf-8", "ignore"))
    except (OSError, ValueError):
        return {}
    return {name: found[name] for name in FROM_BASE if _plain(found.get(name))}


def read(card: str) -> dict[str, Any]:
    """The head of a card; raises `ValueError` when it is no YAML."""
    lines = card.splitlines()
    if not lines or lines[0] != "---" or "---" not in lines[1:]:
        return {}
    try:
        found = yaml.safe_load("\n".join(lines[1 : lines.index("---", 1)]))
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error
    return found if isinstance(found, dict) else {}


def of_merged(card: str) -> str:
    """The card of a run with an adapter, for the model that the adapter was added into."""
    head = read(card)
    if not head:
        return card
    library = "transformers" if head.get("library_name") == "peft" else head.get("library_name")
    tags = [tag for tag in head.get("tags", []) if tag != "lora"]
    merged = {**head, "base_model_relation": "finetune", "library_name": library, "tags": tags}
    return f"---\n{dump(merged)}---" + card.split("\n---", 1)[1]


def dump(head: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(head), allow_unicode=True, sort_keys=False)


def _metric(name: str, score: Score) -> dict[str, Any]:
    args = {"n": score.n}
    if score.low is not None:
        args |= {"low": score.low, "high": score.high, "confidence": score.confidence}  # type: ignore[dict-item]
    return {"type": name, "value": score.value, "name": name, "args": args}


def _plain(value: Any) -> bool:
    """A short text or a list of such: another model's card is not ours to trust with more."""
    return all(isinstance(one, str) and len(one) <= 200 for one in (value if isinstance(value, list) else [value]))
