"""What answers behind each interface. Found by name, so that torch loads only when a model does."""

import importlib
from pathlib import Path
from typing import cast

from trainer.serve.accepted import Servable
from trainer.serve.problems import NotServable
from trainer.serve.serving import Engine

ENGINES = {
    "/v1/embeddings": "embeddings",
    "/v1/classify": "classify",
    "/v1/rerank": "rerank",
    "/v1/chat/completions": "chat",
}
BY_RECIPE = {"reward-modeling": "rewards"}  # asked like a reranker, read like a conversation


def load(run: Servable, base: Path | None) -> Engine:
    """The run's model, on a GPU where there is one.

    Raises:
        NotServable: this release has nothing for the interface that the task type names.
    """
    name = BY_RECIPE.get(run.spec.profile.recipe) or ENGINES.get(run.interface)
    if name is None:
        raise NotServable(
            f"`{run.spec.task_type}` is to be served at `{run.interface}`, which this release does not know; it knows "
            f"{', '.join(f'`{path}`' for path in ENGINES)}"
        )
    return cast(Engine, importlib.import_module(f"{__name__}.{name}").load(run, base))
