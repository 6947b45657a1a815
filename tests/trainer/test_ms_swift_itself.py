"""The real ms-swift, where `SWIFT_SUBMIT_MS_SWIFT` names an interpreter that has it. Half a minute a run."""

import json
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import LiveRegistry, free_port
from submitting import Desk
from tiny import CLASSIFICATION, LANGUAGE, Watcher, make_chat, make_encoder, make_job, preferred_rows

from enforcer.bindings import Binding
from registry.settings import Settings
from trainer.backends.ms_swift import MsSwift
from trainer.inputs.chat import Reader
from trainer.job import Job, Outcome

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif("SWIFT_SUBMIT_MS_SWIFT" not in os.environ, reason="SWIFT_SUBMIT_MS_SWIFT names no interpreter"),
]
VOCABULARY = Path(__file__).parents[2] / "policies" / "vocabulary"


def bindings(tag: str) -> list[Binding]:
    """Those that are shipped."""
    files = (yaml.safe_load(file.read_text("utf-8")) for file in VOCABULARY.glob("*.yaml"))
    (found,) = (entry for file in files for entry in file["tags"] if entry["name"] == tag)
    return [Binding.model_validate(binding) for binding in found["profile"]["bindings"]]


def trained(job: Job) -> Outcome:
    return MsSwift(job.task_type, job.task_type, bindings(job.task_type)).train(job)


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_chat(tmp_path_factory.mktemp("models") / "chat")


@pytest.mark.parametrize("use_lora", [False, True])
def test_answers_are_learned_and_nothing_else(
    tmp_path: Path, chat: Path, use_lora: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    job = make_job(tmp_path, chat, LANGUAGE, loss_mask="assistant", use_lora=use_lora)

    outcome = trained(job)

    assert outcome.steps == 12
    losses = [entry["loss"] for entry in outcome.details["log_history"]]
    assert losses[-1] < losses[0]
    assert outcome.scores["eval_loss"].n == len(job.eval_rows)
    # It logs the first row as it reads it: our tokens, up to what the template writes behind the end token.
    said = capfd.readouterr().err
    ids, labels = (
        [int(word) for word in re.findall(r"-?\d+", re.search(rf"\[{name}\] \[([^\]]*)\]", said)[1])]  # type: ignore[index]
        for name in ("INPUT_IDS", "LABELS_IDS")
    )
    ours = [Reader(chat).row(row, "assistant") for row in job.train_rows]
    assert (ids, labels) in [(list(row.ids[: len(ids)]), row.labels[: len(ids)]) for row in ours]


@pytest.mark.parametrize("use_lora", [False, True])
def test_the_better_answer_is_preferred(tmp_path: Path, chat: Path, use_lora: bool) -> None:
    asked = {**LANGUAGE, "beta": 0.1, "loss_type": "sigmoid", "label_smoothing": 0.0, "use_lora": use_lora}
    rows: Any = {"train_rows": preferred_rows(64, 1), "eval_rows": preferred_rows(40, 2)}
    job = make_job(tmp_path, chat, asked, task_type="dpo", loss_mask="completion", max_steps=16, **rows)

    outcome = trained(job)

    # Before anything is learned, a pair is a coin: -log sigmoid(0) = log 2.
    assert outcome.details["log_history"][0]["loss"] == pytest.approx(0.693147, abs=1e-5)
    assert outcome.scores["reward_accuracy"].value > 0.9
    assert outcome.scores["reward_margin"].low > 0  # type: ignore[operator]


@pytest.mark.parametrize("use_lora", [False, True])
def test_a_classifier_comes_home_with_its_labels(tmp_path: Path, use_lora: bool) -> None:
    from trainer.recipes import sequence_classification

    # As a masked language model it has no pooler: what is put there at random must come home with an adapter.
    encoder = make_encoder(tmp_path / "encoder", head=True)
    job = make_job(tmp_path, encoder, CLASSIFICATION, use_lora=use_lora, max_steps=200, learning_rate=5e-3)

    outcome = trained(job)

    assert outcome.scores["accuracy"].value > 0.9
    model, tokenizer = sequence_classification.load(job.folder.model, encoder if use_lora else None)
    for row in job.eval_rows[:3]:  # one of each label
        answer = model(**tokenizer(row["text"], return_tensors="pt")).logits.argmax().item()
        assert model.config.id2label[answer] == row["label"]


def test_a_stop_ends_the_real_one(tmp_path: Path, chat: Path) -> None:
    job = make_job(tmp_path, chat, LANGUAGE, loss_mask="assistant", max_steps=100_000)
    job = replace(job, listener=Watcher(stop_at=3))

    outcome = trained(job)

    assert outcome.stopped == "interrupted"
    assert not job.folder.model.exists()


@pytest.mark.timeout(300)
def test_a_ticket_is_run_judged_and_asked_for_again(tmp_path: Path) -> None:
    live = LiveRegistry(Settings(state_dir=tmp_path / "state", port=free_port()))
    live.start()
    desk = Desk(tmp_path, make_encoder(tmp_path / "model"), live.url, live.token("li", "retail-ds"))
    python = os.environ["SWIFT_SUBMIT_MS_SWIFT"]

    unset = desk.cli("run", desk.config(backend="ms-swift"))
    done = desk.cli("run", desk.config(backend="ms-swift", max_steps=20), SWIFT_SUBMIT_MS_SWIFT=python)
    (folder,) = desk.run_dirs
    again = desk.cli("import-args", str(folder / "ms-swift" / "args.json"))
    live.stop()

    assert unset.returncode == 6
    assert "set `SWIFT_SUBMIT_MS_SWIFT`" in unset.stderr
    assert done.returncode in (0, 11), done.stderr  # whether twenty steps pass the gate is not the point
    assert json.loads((folder / "run-spec.json").read_text())["arguments"]["backend"] == "ms-swift"
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["scores"]["macro_f1"]["n"] > 0
    assert metrics["details"]["backend"]["packages"]["ms-swift"]
    assert (folder / "manifest.json").is_file()
    assert json.loads((folder / "verdict.json").read_text())["gates"]
    config = yaml.safe_load(again.stdout)
    assert (config["task_type"], config["backend"], config["max_steps"]) == ("sequence-classification", "ms-swift", 20)
