"""The manifest by which a larger engine serves a run, and answers as this repository's own server does.

    vllm     a Deployment of vLLM
    tei      a Deployment of text-embeddings-inference: embeddings, single-label classifiers, rerankers
    kserve   an InferenceService whose predictor is that same vLLM

What decides the answers is written out, never left to an engine's default: pooling and normalisation, the chat
template, the length, the precision. What an engine would answer otherwise is refused here. A Deployment checks every
file of the model against what was verified here before its engine starts.
"""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from trainer.inputs import folders
from trainer.serve.accepted import Servable
from trainer.serve.problems import NotServable

ENGINES = ("vllm", "tei", "kserve")


@dataclass(frozen=True)
class Deployed:
    """What is to run where. `model` is the folder whose content lies at `storage`."""

    run: Servable
    model: Path
    storage: str
    name: str
    served_names: tuple[str, ...]
    image: str | None = None
    gpus: int = 1
    replicas: int = 1
    dtype: str = "float32"
    key_secret: str | None = None

    @property
    def recipe(self) -> str:
        return self.run.spec.profile.recipe

    @property
    def arguments(self) -> Mapping[str, Any]:
        return self.run.arguments

    def has(self, file: str) -> bool:
        return (self.model / file).is_file()


def render(asked: Deployed, engine: str) -> list[dict[str, Any]]:
    """Kubernetes objects, in the order in which they are to be applied.

    Raises:
        NotServable: this engine would not answer as the run does.
    """
    assert engine in ENGINES, "the command takes no other"
    module = importlib.import_module(f"{__name__}.{engine}")
    return cast("Callable[[Deployed], list[dict[str, Any]]]", module.render)(asked)


def model_of(run: Servable) -> Path:
    """The folder that engines load: the model, or the export in which an adapter was merged into its base.

    Raises:
        NotServable: an adapter that has not been merged.
    """
    if not run.is_adapter:
        return run.folder.model
    merged = run.folder.root / "merged"
    if not (merged / "merge.json").is_file():
        raise NotServable(
            f"run `{run.spec.run_id}` trained an adapter, and engines load whole models: "
            f"`swift-submit export {run.folder.root} --format merged` leaves one in `merged`"
        )
    return merged


def sums(model: Path) -> str:
    """Lines for `sha256sum -c`, run inside of the folder."""
    return "".join(
        f"{digest.removeprefix('sha256:')}  {name}\n" for name, digest in folders.file_digests(model).items()
    )
