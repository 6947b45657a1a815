"""text-embeddings-inference, by its own command line (`text-embeddings-router --help`, 1.8).

It answers at /v1/embeddings as we do. A classifier answers at /predict and a reranker at /rerank, in shapes of its own
with the same numbers.
"""

import json
from typing import Any

from trainer.serve.problems import NotServable
from trainer.serve.render import Deployed
from trainer.serve.render._objects import MODELS, PORT, container, deployment

IMAGE = "ghcr.io/huggingface/text-embeddings-inference:1.8"
CPU_IMAGE = "ghcr.io/huggingface/text-embeddings-inference:cpu-1.8"
POOLING = {"cls": "cls", "mean": "mean", "lasttoken": "last-token"}


def render(asked: Deployed) -> list[dict[str, Any]]:
    args = ["--model-id", MODELS, "--hostname", "0.0.0.0", "--port", str(PORT), "--dtype", asked.dtype]  # noqa: S104
    if asked.dtype not in ("float32", "float16"):
        raise NotServable(f"text-embeddings-inference computes in float32 or float16, not in `{asked.dtype}`")
    if asked.arguments.get("truncation"):
        args.append("--auto-truncate")
    engine = container(
        asked, image=IMAGE if asked.gpus else CPU_IMAGE, command=[], args=[*args, *_task(asked)],
        key_variable="API_KEY",
    )  # fmt: skip
    return deployment(asked, engine)


def _task(asked: Deployed) -> list[str]:
    interface = asked.run.interface
    if interface == "/v1/embeddings":
        if not asked.arguments["normalize_embeddings"]:
            raise NotServable(
                "text-embeddings-inference scales what it answers at /v1/embeddings to length 1, and this run's "
                "vectors are not; take `--render vllm`"
            )
        return ["--pooling", POOLING[asked.arguments["pooling_method"]]]
    kind = json.loads((asked.model / "config.json").read_text("utf-8")).get("problem_type")
    if interface == "/v1/classify" and kind in (None, "single_label_classification"):
        return []
    if interface == "/v1/rerank" and asked.recipe == "reranker" and not asked.has("chat_template.jinja"):
        return []
    raise NotServable(
        f"text-embeddings-inference would not answer as this `{asked.recipe}` model does ({kind or interface}); take "
        "`--render vllm`, or `swift-submit serve`"
    )
