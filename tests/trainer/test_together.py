"""Two processes train one model: the same losses as one that sees all rows, and the same gradients on shared texts."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import LiveRegistry
from submitting import Desk, events
from tiny import LANGUAGE, asked_rows, losses, make_chat, make_job

from enforcer.problems import ArgumentInvalid, ModelInvalid
from trainer.layout import RunFolder
from trainer.preflight import processes
from trainer.recipes import sft
from trainer.run import ranks

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1"]


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_chat(tmp_path_factory.mktemp("chat"))


def together(*arguments: str) -> dict[str, Any]:
    script = str(Path(__file__).with_name("together.py"))
    done = subprocess.run(
        [*TORCHRUN, "--nproc-per-node", "2", script, *arguments], capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr[-4000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_a_shared_text_has_the_loss_and_every_gradient_of_a_whole_one(chat: Path) -> None:
    found = together("gradients", str(chat))

    assert found["shared"] == pytest.approx(found["whole"], abs=1e-6)
    assert found["tensors"] > 10
    assert found["worst"] < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "says"),
    [({"per_device_train_batch_size": 4}, "DDP over gloo"), ({"sequence_parallel_size": 2}, "DDP over gloo")],
    ids=["rows", "texts"],
)
def test_two_processes_compute_what_one_does(changes: dict[str, Any], says: str, chat: Path, tmp_path: Path) -> None:
    """Eight rows a step: four to each process, or half of each text."""
    alone = sft.train(make_job(tmp_path / "alone", chat, LANGUAGE, max_steps=4))

    found = together(
        "train", str(chat), str(tmp_path / "two"), json.dumps({**LANGUAGE, "max_steps": 4, "nproc": 2, **changes})
    )

    assert found["losses"] == pytest.approx(losses(alone), abs=1e-3)
    assert found["losses"][0] == pytest.approx(losses(alone)[0], abs=1e-5)
    assert found["scores"] == pytest.approx({name: score.value for name, score in alone.scores.items()}, abs=1e-2)
    assert found["parallel"] == says


SAID = {
    "task_type": "sft", "label_names": None, "max_length": 128, "gradient_checkpointing": False, "nproc": 2,
    "per_device_train_batch_size": 4, "eval_fraction": 0.2,
}  # fmt: skip


@pytest.fixture
def desk(tmp_path: Path, chat: Path, live_registry: LiveRegistry) -> Desk:
    desk = Desk(tmp_path, chat, live_registry.url, live_registry.token("wang", "nlp", unit="retail"))
    desk.data(asked_rows(60, 1))
    return desk


@pytest.mark.slow
def test_a_run_of_two_processes_is_one_run(desk: Desk) -> None:
    done = desk.cli("run", desk.config(**SAID, max_steps=4))

    assert done.returncode == 0, done.stderr
    (run_dir,) = desk.run_dirs
    metrics = json.loads((run_dir / "metrics.json").read_text())
    assert (metrics["steps"], metrics["details"]["processes"]) == (4, 2)
    assert metrics["scores"]["eval_loss"]["n"] > 0
    assert len(list((run_dir / "tensorboard").rglob("events*"))) == 1
    assert {"permit.json", "ranks.json", "worker.pid"}.isdisjoint(path.name for path in run_dir.iterdir())


@pytest.mark.slow
def test_one_ctrl_c_stops_both_with_a_checkpoint(desk: Desk) -> None:
    import signal

    with desk.start("run", desk.config(**SAID, max_steps=4_000)) as process:
        for event in events(process):
            if event.get("event") == "step" and event["step"] == 3:
                process.send_signal(signal.SIGINT)
        assert process.wait(timeout=120) == 130
    (run_dir,) = desk.run_dirs
    (checkpoint,) = (run_dir / "checkpoints").glob("checkpoint-*")
    assert {"rng_state_0.pth", "rng_state_1.pth"} <= {path.name for path in checkpoint.iterdir()}


def test_a_run_that_was_permitted_several_processes_does_not_start_as_one() -> None:
    with pytest.raises(ArgumentInvalid, match="2 processes were permitted and this is one of 1"):
        ranks.refuse_alone(2)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"gpus": 4}, "each GPU takes a process, so set `nproc: 4`"),
        ({"gpus": 1}, "each GPU takes a process, so set `nproc: 1`"),
        ({"nproc": 3, "sequence_parallel_size": 2}, "2 does not divide `nproc` 3"),
        ({"nproc": 3, "sequence_parallel_size": 3}, "3 does not divide the 4 attention heads of this model"),
        ({"sequence_parallel_size": 2, "packing": True}, "take `packing: false`"),
    ],
)
def test_processes_that_do_not_fit_are_refused_before_a_ticket(desk: Desk, changes: Any, says: str) -> None:
    done = desk.cli("plan", desk.config(**{**SAID, **changes}))

    assert done.returncode != 0
    assert says in " ".join(done.stderr.split())
    assert not desk.run_dirs


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"sliding_window": 8}, "sliding_window"),
        ({"sliding_window": 8, "use_sliding_window": False}, None),
        ({"attn_logit_softcapping": 50.0}, "attn_logit_softcapping"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "layer_types"),
    ],
)
def test_a_model_that_attends_otherwise_shares_no_texts(config: Any, says: str | None, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"num_attention_heads": 4, **config}))
    asked = {"nproc": 2, "sequence_parallel_size": 2}
    if says is None:
        return processes.check(0, asked, tmp_path)
    with pytest.raises(ArgumentInvalid, match=says):
        processes.check(0, asked, tmp_path)
    return None


def test_attention_that_is_not_shared_is_refused_where_it_happens() -> None:
    from trainer.recipes import _ulysses

    with pytest.raises(ModelInvalid, match="`sliding_window`"):
        _ulysses.attention(None, None, None, None, None, sliding_window=8)  # type: ignore[arg-type]


def test_helpers_find_the_word_of_the_first_whole_or_not_at_all(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(ranks.handover, "document", lambda _permit: {"key": "secret", "run_folder": "x"})
    seen: list[str] = []
    monkeypatch.setattr(Path, "replace", lambda part, to: seen.append(f"{part.name} {to.name} {part.read_text()}"))

    ranks.share(SimpleNamespace(folder=RunFolder(tmp_path)))  # type: ignore[arg-type]

    assert seen == ['.ranks.json.part ranks.json {"key": null, "run_folder": "x"}']


def test_a_worker_is_no_helper_because_somebody_else_left_a_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    from trainer.launch import local

    for name in local.OF_TORCHRUN:
        monkeypatch.setenv(name, "1")

    assert not set(local.OF_TORCHRUN) & local._environment().keys()
