"""vLLM, by its own command line (`vllm serve --help`, v0.28): one flag for each thing that decides an answer.

It answers at /v1/embeddings, /v1/rerank and /v1/chat/completions as we do, and at /classify instead of /v1/classify.
"""

import json
from typing import Any

from trainer.serve.problems import NotServable
from trainer.serve.render import Deployed
from trainer.serve.render._objects import MODELS, PORT, container, deployment

IMAGE = "vllm/vllm-openai:v0.28.0"
POOLING = {"cls": "CLS", "mean": "MEAN", "lasttoken": "LAST"}


def render(asked: Deployed) -> list[dict[str, Any]]:
    return deployment(asked, engine(asked, MODELS))


def engine(asked: Deployed, models: str) -> dict[str, Any]:
    """The container, with the model in the folder `models`."""
    flags = ["--host", "0.0.0.0", "--port", str(PORT), "--served-model-name", *asked.served_names]  # noqa: S104
    flags += ["--dtype", asked.dtype, *_task(asked, models)]
    return container(
        asked, image=IMAGE, command=["vllm", "serve"], args=[models, *flags], key_variable="VLLM_API_KEY"
    )  # fmt: skip


def _task(asked: Deployed, models: str) -> list[str]:
    interface = asked.run.interface
    if interface == "/v1/chat/completions":
        return ["--runner", "generate", "--chat-template", f"{models}/{_template(asked)}"]
    length = ["--max-model-len", str(asked.arguments["max_length"])]
    if interface == "/v1/embeddings":
        pooler = {
            "pooling_type": POOLING[asked.arguments["pooling_method"]],
            "use_activation": asked.arguments["normalize_embeddings"],  # for embeddings: to length 1
        }
        return ["--runner", "pooling", "--convert", "embed", "--pooler-config", json.dumps(pooler), *length]
    if interface in ("/v1/classify", "/v1/rerank"):
        _refuse_templates(asked)
        return ["--runner", "pooling", "--convert", "classify", *length]
    raise NotServable(f"vLLM has nothing like `{interface}`")


def _template(asked: Deployed) -> str:
    if not asked.has("chat_template.jinja"):
        raise NotServable(
            "the model has no chat template (`chat_template.jinja`), and vLLM takes no conversation without one; "
            "`swift-submit serve` continues a single message"
        )
    return "chat_template.jinja"


def _refuse_templates(asked: Deployed) -> None:
    if asked.recipe == "reward-modeling" or asked.has("chat_template.jinja"):
        raise NotServable(
            f"a `{asked.recipe}` model like this reads query and document through a template, which vLLM's rerank "
            "route would leave out; `swift-submit serve` reads it as training did"
        )
