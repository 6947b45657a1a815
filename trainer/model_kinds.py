"""What kind of model a run left, read off its folder: by that it is loaded, merged and exported. Imports no torch."""

import json
from pathlib import Path
from typing import Any, Literal

from trainer.job import Job

Kind = Literal["embedding", "reranker", "classifier", "reward", "language"]
_OF_SENTENCE_TRANSFORMERS: dict[str, Kind] = {"SentenceTransformer": "embedding", "CrossEncoder": "reranker"}


def kind_of(job: Job) -> Kind:
    made_by = _document(job.folder.model / "config_sentence_transformers.json").get("model_type")
    if made_by in _OF_SENTENCE_TRANSFORMERS:
        return _OF_SENTENCE_TRANSFORMERS[made_by]
    if "num_labels" in job.arguments:
        return "classifier"
    return "reward" if _document(job.folder.model / "config.json").get("id2label") == {"0": "reward"} else "language"


def is_adapter(job: Job) -> bool:
    return (job.folder.model / "adapter_config.json").exists()


def _document(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text("utf-8")) if path.exists() else {}
