"""Whether a model is of the kind that a recipe trains, by what its config says that it is."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from enforcer.problems import ModelInvalid
from trainer.inputs import folders

SPEAKING = frozenset(
    "pre-training sft dpo cpo simpo orpo kto grpo gkd text-to-sql agent-training".split()
)  # recipes of language models
SPEAKERS = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")


def check(recipe: str, arguments: Mapping[str, Any], model: Path) -> None:
    """See that what is to speak can: transformers gives any encoder a head of random words.

    Raises:
        ModelInvalid: it is another kind of model. One whose config does not say is not refused.
    """
    speaks = recipe in SPEAKING or (recipe == "reranker" and arguments.get("loss_type") == "generative")
    kinds = folders.architectures(model)
    if speaks and kinds and not any(kind.endswith(SPEAKERS) for kind in kinds):
        instead = ", or `loss_type: pointwise`" if recipe == "reranker" else ""
        raise ModelInvalid(
            f"`{folders.public_name(model)}` is a `{kinds[0]}`, and this task type trains causal language models "
            f"(`...ForCausalLM`); take one{instead}",
            model=folders.public_name(model),
        )
