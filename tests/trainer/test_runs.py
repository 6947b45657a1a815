"""Whole runs, with the real command, the real registry over the policy that ships, and a real tiny model."""

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from submitting import Desk, events
from tiny import whole_weights

from trainer.launch import local
from trainer.run import work
from trainer.run.work import kept_to_gpus


@pytest.fixture
def desk(tmp_path: Path, encoder: Path, live_registry: Any) -> Desk:
    return Desk(tmp_path, encoder, live_registry.url, live_registry.token("li", "retail-ds"))


def test_a_granted_run_trains_passes_its_gate_and_leaves_its_proofs(desk: Desk, live_registry: Any) -> None:
    (desk.root / "trainer").mkdir()  # a folder of this name where people work must not become the trainer
    (desk.root / "trainer" / "__init__.py").write_text("raise SystemExit(77)")

    done = desk.cli("--json", "run", desk.config())

    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["run"]["state"], told["run"]["verdict"], told["report"]) == ("finished", "pass", "sent")
    (folder,) = desk.run_dirs
    assert told["run_dir"] == str(folder)
    left = {path.name for path in folder.iterdir()}
    assert {"run-spec.json", "ticket.jwt", "jwks.json", "metrics.json", "README.md", "model", "train.log"} <= left
    assert {"manifest.json", "receipt.json"} <= left
    assert not {"permit.json", "report.pending"} & left, "the key and the lease are gone"
    verdict = json.loads((folder / "verdict.json").read_text())
    assert (verdict["verdict"], verdict["gates"][0]["verdict"]) == ("pass", "pass")
    ends = ["run.finished", "gate.pass", "run.manifest"]
    assert _happened(live_registry) == ["ticket.issued", "ticket.redeemed", *ends]


def test_a_report_that_finds_no_registry_waits_and_is_sent_later(desk: Desk, live_registry: Any) -> None:
    with desk.start("run", desk.config()) as process:
        _wait_for_a_step(process)
        live_registry.stop()
        rest = list(events(process))
        assert process.wait(timeout=120) == 9
    (folder,) = desk.run_dirs
    assert rest[-1]["result"]["report"] == "waiting"
    assert (folder / "report.pending").stat().st_mode & 0o077 == 0, "it holds the lease token"
    assert (folder / "manifest.json").exists(), "signed while the key was there"
    assert not (folder / "verdict.json").exists()

    away = desk.cli("runs", "report", str(folder))
    live_registry.start()
    sent, again = desk.cli("--json", "runs", "report", str(folder)), desk.cli("runs", "report", str(folder))

    assert away.returncode == 9
    assert (sent.returncode, json.loads(sent.stdout)["verdict"]) == (0, "pass"), sent.stderr
    assert json.loads((folder / "verdict.json").read_text())["verdict"] == "pass"
    assert (folder / "receipt.json").exists()
    assert not (folder / "report.pending").exists()
    assert (again.returncode, "no report waits" in again.stderr) == (7, True)


def test_ctrl_c_leaves_a_checkpoint_and_a_run_that_is_interrupted(desk: Desk) -> None:
    with desk.start("run", desk.config(max_steps=100_000)) as process:
        _wait_for_a_step(process)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does it
        rest = list(events(process))
        code = process.wait(timeout=120)

    assert code == 130
    assert "saving a checkpoint; press Ctrl-C again" in next(e for e in rest if e["event"] == "notice")["text"]
    (folder,) = desk.run_dirs
    assert list((folder / "checkpoints").glob("checkpoint-*/model.safetensors"))
    assert (rest[-1]["result"]["stopped"], rest[-1]["result"]["run"]["state"]) == ("interrupted", "interrupted")
    proven = desk.cli("verify", str(folder), "--trust", _trust(desk))
    assert "TAGWARDEN_RUN_INTERRUPTED" in proven.stdout, proven.stderr


def test_three_ctrl_c_kill_a_worker_that_does_not_listen_and_the_run_is_interrupted(
    desk: Desk, live_registry: Any
) -> None:
    with desk.start("run", desk.config(max_steps=100_000)) as process:
        _wait_for_a_step(process)
        (worker,) = desk.workers
        os.kill(worker, signal.SIGSTOP)  # as a kernel call does that never returns
        for _ in range(3):
            os.kill(process.pid, signal.SIGINT)
            time.sleep(0.2)
        *_, last = events(process)
        code = process.wait(timeout=120)

    assert (code, last["result"]["stopped"], last["result"]["report"]) == (130, "interrupted", "sent")
    assert live_registry.events("run.interrupted")[0].reason == "killed at the third Ctrl-C"
    assert desk.workers == []


def test_a_ctrl_c_that_comes_before_there_is_a_worker_reaches_it(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    given, popen = desk.permitted(), subprocess.Popen

    def pressed_just_before(*arguments: Any, **settings: Any) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        return popen(*arguments, **settings)

    monkeypatch.setattr("trainer.launch.local.subprocess.Popen", pressed_just_before)

    assert local.launch(given, lambda event: None) == local.Ended("interrupted", None)


def test_the_worker_of_a_launcher_that_was_killed_can_be_found(desk: Desk) -> None:
    with desk.start("run", desk.config(max_steps=100_000)) as process:
        _wait_for_a_step(process)
        process.kill()
        process.wait()

        (worker,) = desk.workers
        assert b"trainer.launch.worker" in Path(f"/proc/{worker}/cmdline").read_bytes()


@pytest.mark.parametrize(
    ("before", "permitted", "during"),
    [(None, 0, ""), (None, 2, "0,1"), ("3,5,7", 2, "3,5"), ("", 2, ""), ("GPU-a", 4, "GPU-a")],
)
def test_a_run_sees_no_more_gpus_than_its_ticket_permits(
    monkeypatch: pytest.MonkeyPatch, before: str | None, permitted: int, during: str
) -> None:
    if before is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", before)

    with kept_to_gpus(permitted):
        seen = os.environ["CUDA_VISIBLE_DEVICES"]

    assert seen == during
    assert os.environ.get("CUDA_VISIBLE_DEVICES") == before


def test_a_run_permitted_no_gpu_trains_without(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    given = desk.permitted(max_steps=2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    seen: set[str] = set()

    work.execute(given, tell=lambda step, total, logs: seen.add(os.environ["CUDA_VISIBLE_DEVICES"]))

    assert seen == {""}


def test_a_worker_that_is_killed_is_reported_failed_by_its_launcher(desk: Desk, live_registry: Any) -> None:
    with desk.start("run", desk.config(max_steps=100_000)) as process:
        _wait_for_a_step(process)
        seen = _kill_worker_of(process)
        *_, last = events(process)
        code = process.wait(timeout=120)

    assert code == 10
    assert last["problem"]["code"] == "training-failed"
    assert not any(secret in seen for secret in (b"SWIFT_SUBMIT_TOKEN", desk.token.encode()))
    assert seen.count(b"permit.json") == 1, "a permit is a file, on the command line by its path alone"
    assert "SIGKILL" in last["problem"]["detail"]
    assert live_registry.events("run.failed")[0].reason == "the training process was killed by SIGKILL (out of memory?)"


def test_a_recipe_that_raises_is_told_with_the_end_of_its_log(desk: Desk, live_registry: Any, tmp_path: Path) -> None:
    desk.model = Path(shutil.copytree(desk.model, tmp_path / "broken"))
    (desk.model / "model.safetensors").write_bytes(whole_weights("X8"))

    done = desk.cli("run", desk.config())

    assert done.returncode == 10
    (folder,) = desk.run_dirs
    assert str(folder / "train.log") in done.stderr
    assert "SafetensorError" in done.stderr
    assert live_registry.events("run.failed")
    assert not (folder / "manifest.json").exists(), "it left nothing to sign for"
    assert "no `manifest.json`" in desk.cli("verify", str(folder), "--trust", _trust(desk)).stderr
    assert "left no manifest" in desk.cli("reproduce", str(folder), "--offline").stderr


def test_a_run_that_is_cancelled_saves_a_checkpoint_and_stops(desk: Desk, live_registry: Any) -> None:
    lease_ttl_s = 15  # a heartbeat in 5 s
    object.__setattr__(live_registry.app.state.books, "settings", live_registry.settings.model_copy(
        update={"lease_ttl_s": lease_ttl_s}))  # fmt: skip
    with desk.start("run", desk.config(max_steps=1_000_000)) as process:
        _wait_for_a_step(process)
        (folder,) = desk.run_dirs
        live_registry.as_("boss", "retail-ds").post(f"/v1/runs/{folder.name}:cancel")
        *_, last = events(process)
        code = process.wait(timeout=120)

    assert code == 130
    assert last["result"]["stopped"] == "cancelled by user:boss"
    assert list((folder / "checkpoints").glob("checkpoint-*"))


def _wait_for_a_step(process: "subprocess.Popen[str]") -> None:
    assert any(event["event"] == "step" for event in events(process))


def _happened(live_registry: Any) -> list[str]:
    return [event.kind for event in live_registry.events() if event.kind.startswith(("ticket.", "run.", "gate."))]


def _kill_worker_of(process: "subprocess.Popen[str]") -> bytes:
    """Kill it; what anybody on this machine could have seen of it before."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    (child,) = children
    assert os.getsid(int(child)) == int(child) != os.getsid(process.pid), "Ctrl-C must reach it once, from its launcher"
    seen = Path(f"/proc/{child}/cmdline").read_bytes() + Path(f"/proc/{child}/environ").read_bytes()
    os.kill(int(child), signal.SIGKILL)
    return seen


def _trust(desk: Desk) -> str:
    assert desk.cli("trust", "save", "trust.json").returncode == 0
    return "trust.json"
