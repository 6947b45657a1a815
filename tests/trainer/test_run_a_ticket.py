"""Whole runs, with the real command, the real registry over the policy that ships, and a real tiny model."""

import json
import os
import shutil
import signal
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from submitting import Desk, events

from enforcer import tickets
from enforcer.problems import TicketInvalid, TicketUsed
from registry import db
from trainer import contract, handover, permit
from trainer.arguments import TrainingArguments
from trainer.client import Registry
from trainer.launch import local
from trainer.permit import Permit
from trainer.settings import Settings, local_audience


@pytest.fixture
def desk(tmp_path: Path, encoder: Path, live_registry: Any) -> Desk:
    return Desk(tmp_path, encoder, live_registry.url, live_registry.token("li", "retail-ds"))


def permitted(desk: Desk, **changes: Any) -> Permit:
    """A permit as `run` gets it, before anything is launched."""
    args = TrainingArguments(**desk.arguments(**changes))
    settings = Settings(server=desk.server, issuer=desk.server, token=desk.token)
    with Registry(settings) as registry:
        found, checked = contract.look(registry, args)
        return permit.obtain(registry, args, found, checked)


def worker(permit_file: Path) -> tuple[int, dict[str, Any]]:
    """Run the worker on a permit file; its exit code and its last word."""
    command = [sys.executable, "-P", "-m", "trainer.launch.worker", str(permit_file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    return done.returncode, json.loads(done.stdout.splitlines()[-1])


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
    assert not {"permit.json", "report.pending"} & left, "the key and the lease are gone"
    metrics = json.loads((folder / "metrics.json").read_text())
    assert (metrics["verdict"], metrics["gates"][0]["verdict"]) == ("pass", "pass")
    assert _happened(live_registry) == ["ticket.issued", "ticket.redeemed", "run.finished", "gate.pass"]


def test_the_files_that_were_signed_verify_offline_after_the_registry_is_gone(desk: Desk, live_registry: Any) -> None:
    folder = permitted(desk).folder.root
    live_registry.stop()

    verified, shown = desk.cli("ticket", "verify", str(folder)), desk.cli("--json", "ticket", "show", str(folder))

    assert verified.returncode == 0, verified.stderr
    assert "verified: form, key, signature" in verified.stdout
    assert json.loads(shown.stdout)["claims"]["task_type"] == "sequence-classification"


def test_a_ticket_starts_one_run_and_no_second(desk: Desk, tmp_path: Path) -> None:
    given = handover.write(permitted(desk, max_steps=2))
    assert given.file is not None
    copy = shutil.copy(given.file, tmp_path / "copy.json")

    first, second = worker(given.file), worker(Path(copy))

    assert first[0] == 0
    assert not given.file.exists(), "the private key is deleted once the ticket is redeemed"
    assert (second[0], second[1]["problem"]["code"]) == (8, "ticket-used")


def test_a_used_ticket_is_refused_in_words(desk: Desk) -> None:
    given = permitted(desk, max_steps=2)
    local.launch(given, lambda event: None)

    with pytest.raises(TicketUsed, match="it starts one run and no second"):
        local.launch(given, lambda event: None)


def test_a_ticket_that_waited_too_long_is_refused(
    desk: Desk, live_registry: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = handover.write(permitted(desk, max_steps=2))
    assert given.file is not None
    real = db.utc_now
    monkeypatch.setattr(db, "utc_now", lambda: real() + timedelta(minutes=16))

    code, last = worker(given.file)

    assert (code, last["problem"]["code"]) == (8, "ticket-expired")


@pytest.mark.parametrize(
    ("edit", "step"),
    [
        (lambda folder: _replace(folder / "run-spec.json", '"max_steps":3', '"max_steps":4'), 11),
        (lambda folder: _replace(folder / "ticket.jwt", "", "A"), 1),
        (lambda folder: (folder / "run-spec.json").write_text("{}"), 11),
        (lambda folder: (folder / "ticket.jwt").write_text((folder / "other.jwt").read_text()), 6),
        (lambda folder: (folder.parents[2] / "train.jsonl").open("a").write('{"text": "new", "label": "科技"}\n'), 16),
    ],
    ids=["an edited argument", "an appended character", "another specification", "a foreign ticket", "other data"],
)
def test_a_run_that_is_not_what_was_signed_is_refused_before_anything_loads(
    desk: Desk, live_registry: Any, edit: Any, step: int
) -> None:
    given = permitted(desk, max_steps=3)
    _foreign_ticket(given)
    edit(given.folder.root)

    with pytest.raises(TicketInvalid) as refused:
        local.launch(given, lambda event: None)

    assert refused.value.facts["step"] == step
    assert _happened(live_registry) == ["ticket.issued"], "the ticket was not spent"
    assert "torch" not in given.folder.log.read_text()


def test_a_model_that_was_swapped_after_the_ticket_is_refused(desk: Desk, tmp_path: Path) -> None:
    desk.model = Path(shutil.copytree(desk.model, tmp_path / "my-model"))
    given = permitted(desk, max_steps=3)
    (desk.model / "config.json").write_text((desk.model / "config.json").read_text() + "\n")

    with pytest.raises(TicketInvalid, match=r"model .* changed since it was issued"):
        local.launch(given, lambda event: None)


def test_a_report_that_finds_no_registry_waits_and_is_sent_later(desk: Desk, live_registry: Any) -> None:
    process = desk.start("run", desk.config())
    for event in events(process):
        if event["event"] == "step":
            live_registry.stop()
            break
    rest = list(events(process))
    assert process.wait(timeout=120) == 9
    (folder,) = desk.run_dirs
    assert rest[-1]["result"]["report"] == "waiting"
    assert (folder / "report.pending").stat().st_mode & 0o077 == 0, "it holds the lease token"
    assert json.loads((folder / "metrics.json").read_text())["gates"] is None

    away = desk.cli("runs", "report", str(folder))
    live_registry.start()
    sent, again = desk.cli("--json", "runs", "report", str(folder)), desk.cli("runs", "report", str(folder))

    assert away.returncode == 9
    assert (sent.returncode, json.loads(sent.stdout)["verdict"]) == (0, "pass"), sent.stderr
    assert json.loads((folder / "metrics.json").read_text())["verdict"] == "pass"
    assert not (folder / "report.pending").exists()
    assert (again.returncode, "no report waits" in again.stderr) == (7, True)


def test_ctrl_c_leaves_a_checkpoint_and_a_run_that_is_interrupted(desk: Desk) -> None:
    process = desk.start("run", desk.config(max_steps=100_000))
    for event in events(process):
        if event["event"] == "step":
            process.send_signal(signal.SIGINT)
            break
    rest = list(events(process))

    assert process.wait(timeout=120) == 130
    (folder,) = desk.run_dirs
    assert list((folder / "checkpoints").glob("checkpoint-*/model.safetensors"))
    assert (rest[-1]["result"]["stopped"], rest[-1]["result"]["run"]["state"]) == ("interrupted", "interrupted")


def test_a_worker_that_is_killed_is_reported_failed_by_its_launcher(desk: Desk, live_registry: Any) -> None:
    process = desk.start("run", desk.config(max_steps=100_000))
    seen = b""
    for event in events(process):
        if event["event"] == "step":
            seen = _kill_worker_of(process)
            break
    *_, last = events(process)

    assert process.wait(timeout=120) == 10
    assert last["problem"]["code"] == "training-failed"
    assert not any(secret in seen for secret in (b"SWIFT_SUBMIT_TOKEN", desk.token.encode()))
    assert seen.count(b"permit.json") == 1, "a permit is a file, on the command line by its path alone"
    assert "SIGKILL" in last["problem"]["detail"]
    assert live_registry.events("run.failed")[0].reason == "the training process was killed by SIGKILL (out of memory?)"


def test_a_recipe_that_raises_is_told_with_the_end_of_its_log(desk: Desk, live_registry: Any, tmp_path: Path) -> None:
    desk.model = Path(shutil.copytree(desk.model, tmp_path / "broken"))
    (desk.model / "model.safetensors").write_bytes(b"no weights")

    done = desk.cli("run", desk.config())

    assert done.returncode == 10
    (folder,) = desk.run_dirs
    assert str(folder / "train.log") in done.stderr
    assert "SafetensorError" in done.stderr
    assert live_registry.events("run.failed")


def test_a_run_that_is_cancelled_saves_a_checkpoint_and_stops(desk: Desk, live_registry: Any) -> None:
    lease_ttl_s = 15  # a heartbeat in 5 s
    object.__setattr__(live_registry.app.state.books, "settings", live_registry.settings.model_copy(
        update={"lease_ttl_s": lease_ttl_s}))  # fmt: skip
    process = desk.start("run", desk.config(max_steps=1_000_000))
    asked = False
    for event in events(process):
        if event["event"] == "step" and not asked:
            asked = True
            (folder,) = desk.run_dirs
            live_registry.as_("boss", "retail-ds").post(f"/v1/runs/{folder.name}:cancel")
        last = event

    assert process.wait(timeout=120) == 130
    assert last["result"]["stopped"] == "cancelled by user:boss"
    assert list((folder / "checkpoints").glob("checkpoint-*"))


def _happened(live_registry: Any) -> list[str]:
    return [event.kind for event in live_registry.events() if event.kind != "tag.seeded"]


def _replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new) if old else text + new)


def _foreign_ticket(given: Permit) -> None:
    """A ticket with the same claims by another registry's key lies beside ours."""
    from enforcer.keys import SigningKey

    claims = given.verify().claims
    assert claims.aud == local_audience()
    (given.folder.root / "other.jwt").write_text(tickets.sign(claims, SigningKey.generate()))


def _kill_worker_of(process: "subprocess.Popen[str]") -> bytes:
    """Kill it; what anybody on this machine could have seen of it before."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    (child,) = children
    seen = Path(f"/proc/{child}/cmdline").read_bytes() + Path(f"/proc/{child}/environ").read_bytes()
    os.kill(int(child), signal.SIGKILL)
    return seen
