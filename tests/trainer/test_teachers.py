"""A teacher is an input as the model is: bound by its digest, refused for what a model is refused for."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import LiveRegistry, ask, ticket_request
from submitting import Desk
from tiny import asked_rows, make_chat

from enforcer.problems import ArgumentInvalid, DatasetInvalid, ModelInvalid, TicketInvalid
from trainer import reproduce
from trainer.inputs import folders
from trainer.run import handover, work


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_chat(tmp_path_factory.mktemp("chat"))


@pytest.fixture
def teacher(chat: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(chat, tmp_path / "teacher"))


@pytest.fixture
def desk(tmp_path: Path, chat: Path, live_registry: LiveRegistry) -> Desk:
    desk = Desk(tmp_path, chat, live_registry.url, live_registry.token("wang", "nlp", "trainers", unit="retail"))
    desk.data([{"messages": [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": "yes"}]}
               for row in asked_rows(20, 1)])  # fmt: skip
    return desk


def asked(teacher: Path, **changes: Any) -> dict[str, Any]:
    return {"task_type": "gkd", "label_names": None, "teacher_model": str(teacher), "max_length": 128, **changes}


def test_the_ticket_binds_the_teacher_and_a_run_does_not_start_with_another(desk: Desk, teacher: Path) -> None:
    given = handover.read(handover.write(desk.permitted(**asked(teacher))).file)  # type: ignore[arg-type]

    spec = json.loads(given.folder.run_spec.read_text())
    (teacher / "config.json").write_text((teacher / "config.json").read_text() + "\n")

    assert spec["inputs"]["teacher"] == {"name": str(teacher), "digest": spec["inputs"]["model"]["digest"]}
    assert spec["inputs"]["teacher"]["digest"] != folders.folder_digest(teacher)
    with pytest.raises(TicketInvalid, match=r"teacher .* changed since it was issued"):
        work.execute(given)
    differs = [found.what for found in reproduce.local_differences(reproduce.read(given.folder))]
    assert f"teacher {teacher}" in differs


def _renumber(teacher: Path) -> None:
    read = json.loads((teacher / "tokenizer.json").read_text())
    vocabulary = read["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    (teacher / "tokenizer.json").write_text(json.dumps(read))


def _widen(teacher: Path) -> None:
    config = json.loads((teacher / "config.json").read_text())
    (teacher / "config.json").write_text(json.dumps({**config, "vocab_size": config["vocab_size"] + 64}))


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (_renumber, "numbers 2 of 259 tokens otherwise than the model does \\(`a`\\)"),
        (_widen, "tells 323 tokens apart, the model 259"),
        (lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"), "only as pickle"),
        (shutil.rmtree, "is no model folder on this machine"),
    ],
    ids=["other words", "another size", "a pickle", "nowhere"],
)
def test_a_teacher_that_cannot_be_learned_from_is_refused_before_a_ticket(
    desk: Desk, teacher: Path, live_registry: LiveRegistry, spoil: Any, why: str
) -> None:
    spoil(teacher)

    with pytest.raises(ModelInvalid, match=why):
        desk.permitted(**asked(teacher))

    assert not live_registry.events("ticket.issued")


def test_no_ticket_hides_a_teacher(registry: Any) -> None:
    """A client that binds no teacher, or binds one where the task type knows none."""
    client = registry.as_("wang", "nlp", "trainers")
    inputs = ticket_request()["inputs"]

    none = ask(client, ticket_request("gkd", arguments={"teacher_model": "big"}))
    odd = ask(client, ticket_request(inputs={**inputs, "teacher": inputs["model"]}))

    assert [(reply.status_code, reply.json()["code"]) for reply in (none, odd)] == [(422, "malformed-request")] * 2
    assert "`inputs.teacher`" in none.json()["detail"]


@pytest.mark.parametrize(
    ("changes", "refusal", "why"),
    [
        ({"reward_functions": ["exact_match"]}, ArgumentInvalid, "did you mean `exact-match`"),
        ({"reward_functions": ["exact-match"]}, DatasetInvalid, "compares with `answer`"),
        ({"num_generations": 3}, ArgumentInvalid, "groups of 3 do not fill the 16 answers of a step"),
    ],
)
def test_what_grpo_cannot_reward_is_refused_before_a_ticket(
    desk: Desk, changes: dict[str, Any], refusal: type[Exception], why: str
) -> None:
    desk.data([{"prompt": row["prompt"]} for row in asked_rows(20, 1)])
    run = {"task_type": "grpo", "label_names": None, "max_length": 1024, "reward_functions": ["json-valid"]}

    with pytest.raises(refusal, match=why):
        desk.permitted(**{**run, **changes})
