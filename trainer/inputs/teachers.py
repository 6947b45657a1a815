"""The model that another one learns from: an input of the run like its base model, and a reader of the same tokens."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from enforcer.problems import ModelInvalid
from trainer.inputs import folders
from trainer.inputs.chat import Reader


def folder(arguments: Mapping[str, Any], model: Path) -> Path | None:
    """Where the teacher lies; None where the task type has none.

    Raises:
        ModelInvalid: no folder of a model, refused for what a base model is refused for, or one of other tokens.
    """
    name = arguments.get("teacher_model")
    if name is None:
        return None
    teacher = folders.model_folder(name)
    ours, theirs = (Reader(place).tokenizer.get_vocab() for place in (model, teacher))
    other = sorted(word for word in ours.keys() | theirs.keys() if ours.get(word) != theirs.get(word))
    if other:
        raise ModelInvalid(
            f"the teacher `{name}` numbers {len(other):,} of {len(ours):,} tokens otherwise than the model does "
            f"(`{other[0]}`), so neither could say what the other one means; take a teacher of the same family",
            model=name,
        )
    sizes = [folders.vocabulary_size(place) for place in (model, teacher)]
    if sizes[0] != sizes[1]:
        raise ModelInvalid(
            f"the teacher `{name}` tells {sizes[1]} tokens apart, the model {sizes[0]} (`vocab_size` in "
            "`config.json`); take a teacher of the same family, or bring both to one size",
            model=name,
        )
    return teacher
