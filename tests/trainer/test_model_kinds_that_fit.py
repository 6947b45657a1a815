"""A task type that trains language models takes no other kind, and says so before a ticket is asked for."""

import json
from pathlib import Path

import pytest

from enforcer.problems import ModelInvalid
from trainer.preflight import models


def model(folder: Path, *kinds: str) -> Path:
    (folder / "config.json").write_text(json.dumps({"architectures": list(kinds)} if kinds else {}))
    return folder


@pytest.mark.parametrize("kind", ["LlamaForCausalLM", "GPT2LMHeadModel", "T5ForConditionalGeneration"])
def test_what_speaks_is_taken(kind: str, tmp_path: Path) -> None:
    models.check("sft", {}, model(tmp_path, kind))


def test_a_model_that_does_not_say_what_it_is_is_taken(tmp_path: Path) -> None:
    models.check("sft", {}, model(tmp_path))


@pytest.mark.parametrize(("recipe", "arguments"), [("sft", {}), ("dpo", {}), ("reranker", {"loss_type": "generative"})])
def test_an_encoder_is_refused(recipe: str, arguments: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(ModelInvalid, match="is a `BertModel`"):
        models.check(recipe, arguments, model(tmp_path, "BertModel"))


def test_other_task_types_take_encoders(tmp_path: Path) -> None:
    models.check("reranker", {"loss_type": "pointwise"}, model(tmp_path, "BertModel"))
    models.check("reward-modeling", {}, model(tmp_path, "BertModel"))
