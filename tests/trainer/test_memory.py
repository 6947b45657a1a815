"""The memory that a run may want, reckoned by hand from the formulas in `trainer/preflight/memory.py`."""

import json
from pathlib import Path
from typing import Any

import pytest

from trainer.preflight import memory
from trainer.preflight.memory import Shape, estimate, peak

ARGUMENTS: dict[str, Any] = {
    "use_lora": False, "lora_rank": 8, "lora_dropout": 0.05, "per_device_train_batch_size": 4,
    "gradient_checkpointing": False,
}  # fmt: skip
# 2 layers of width 10: a square and a wide matrix each; 1,000 parameters with the embeddings of 30 words.
SHAPE = Shape(parameters=1_000, linear=[(10, 10), (20, 10)] * 2, hidden=10, layers=2, vocabulary=30)


def bytes_of(recipe: str = "sft", gpus: int = 0, **changes: Any) -> dict[str, int]:
    return estimate(recipe, {**ARGUMENTS, **changes}, SHAPE, tokens=5, gpus=gpus)


def test_all_weights_take_sixteen_bytes_each_and_activations_what_the_formula_says() -> None:
    """t = 4 x 5 = 20 tokens: activations 88 x 20 x 10 x 2 = 35,200; logits in one tile 14 x 4 x 20 x 30 = 33,600."""
    assert bytes_of() == {
        "weights": 4_000, "reference": 0, "teacher": 0, "gradients": 4_000, "optimizer": 8_000,
        "activations": 35_200, "adapter": 0, "logits": 33_600,
    }  # fmt: skip


def test_words_are_scored_in_tiles_or_all_at_once() -> None:
    assert bytes_of("sft", gpus=1)["logits"] == 2 * 4 * 20 * 30
    assert bytes_of("orpo")["logits"] == 12 * 2 * 20 * 30
    assert bytes_of("embedding")["logits"] == 0
    large = Shape(1, [], 10, 2, vocabulary=100_000)
    assert estimate("sft", ARGUMENTS, large, 10_000)["logits"] == 14 * 4 * 4_096 * 32_768


def test_gradients_come_as_activations_go_unless_batches_are_accumulated() -> None:
    """4,000 + 8,000 last; 35,200 + 33,600 pass, more than the gradients' 4,000."""
    parts = bytes_of()

    assert peak(parts, {"gradient_accumulation_steps": 1}) == 12_000 + 68_800
    assert peak(parts, {"gradient_accumulation_steps": 4}) == 12_000 + 68_800 + 4_000
    assert peak({**parts, "gradients": 70_000}, {"gradient_accumulation_steps": 1}) == 12_000 + 70_000


def test_an_adapter_learns_little_and_keeps_copies_of_its_inputs() -> None:
    """L = 2 x 8 x ((10 + 10) + (20 + 10)) = 800; copies 5 x 20 x (4 x 10) = 4,000."""
    found = bytes_of(use_lora=True)

    assert (found["weights"], found["gradients"], found["optimizer"]) == (4 * 1_800, 4 * 800, 8 * 800)
    assert found["adapter"] == 4_000
    assert bytes_of(use_lora=True, lora_dropout=0.0)["adapter"] == 0


def test_checkpointing_keeps_each_layers_input_and_one_layer() -> None:
    """4 x 20 x 10 x 2 + 88 x 20 x 10 = 1,600 + 17,600."""
    assert bytes_of(gradient_checkpointing=True)["activations"] == 19_200


def test_preferences_take_two_sequences_a_row_and_a_reference_where_all_weights_learn() -> None:
    assert bytes_of("dpo")["reference"] == 4_000
    assert bytes_of("dpo", use_lora=True)["reference"] == 0, "the adapter is switched off instead"
    assert bytes_of("dpo")["activations"] == 2 * bytes_of("sft")["activations"]


def a_model(folder: Path, **config: Any) -> Path:
    """A model of one embedding, one layer and a head, of which only the headers say anything."""
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in {"embed_tokens.weight": [30, 10], "layers.0.q_proj.weight": [10, 10],
                        "layers.0.norm.weight": [10], "lm_head.weight": [30, 10]}.items():  # fmt: skip
        size = 4 * shape[0] * (shape[1] if len(shape) > 1 else 1)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [at, at + size]}  # type: ignore[dict-item]
        at += size
    text = json.dumps(header).encode()
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + bytes(at))
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_a_models_shape_is_read_from_its_headers(tmp_path: Path) -> None:
    model = a_model(tmp_path / "m", hidden_size=10, num_hidden_layers=1, vocab_size=30)

    assert Shape.of(model) == Shape(300 + 100 + 10 + 300, [(10, 10)], 10, 1, 30)
    assert Shape.of(a_model(tmp_path / "n", hidden_size=10)) is None, "its config does not say how many layers"


def test_what_does_not_fit_is_told_with_what_would_help(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = a_model(tmp_path / "m", hidden_size=10, num_hidden_layers=1, vocab_size=30)
    monkeypatch.setattr(memory, "memory_there", lambda gpus, pool: (f"a card of pool `{pool}`", 20_000))

    found = memory.look("sft", ARGUMENTS, model, 100, gpus=1, pool="tiny")

    assert found.facts["memory"]["room_bytes"] == 20_000
    assert found.facts["memory"]["full_bytes"] == found.facts["memory"]["estimate_bytes"]
    assert found.facts["memory"]["lora_bytes"] > 0
    (said,) = found.findings
    assert "and a card of pool `tiny` has 0.0 GB: lower `per_device_train_batch_size` or `max_length`" in said
    assert "`use_lora: true`" in said
    assert "turn on `gradient_checkpointing`" in said


@pytest.mark.parametrize(("pool", "room"), [("a100", 40 * 10**9), ("T4-spot", 16 * 10**9), ("cloud", None)])
def test_a_pool_is_known_by_the_card_that_it_is_called_after(
    pool: str, room: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")  # no nvidia-smi

    assert memory.memory_there(1, pool) == (f"a card of pool `{pool}`", room)


def test_without_a_gpu_the_memory_is_that_of_this_machine() -> None:
    where, room = memory.memory_there(0, "t4")

    assert where == "this machine"
    assert room is not None
    assert room > 0
