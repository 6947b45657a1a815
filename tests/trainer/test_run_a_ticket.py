"""One ticket, one run: what was signed is what runs, once, or nothing does."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from submitting import Desk

from enforcer import tickets
from enforcer.keys import KeySet, SigningKey
from enforcer.problems import TicketInvalid, TicketUsed, TrainingFailed
from registry import db
from trainer.launch import local
from trainer.run import evidence, handover, work
from trainer.run.permit import Permit
from trainer.settings import local_audience


@pytest.fixture
def desk(tmp_path: Path, encoder: Path, live_registry: Any) -> Desk:
    return Desk(tmp_path, encoder, live_registry.url, live_registry.token("li", "retail-ds"))


WORKER = """
import sys
from trainer.launch import worker
code = worker.main(sys.argv[1])
print("LOADED", *sorted({"torch", "transformers", "numpy"} & set(sys.modules)), file=sys.stderr)
sys.exit(code)
"""


def worker(permit_file: Path) -> tuple[int, dict[str, Any], set[str]]:
    """Run the worker on a permit file; its exit code, its last word, and what it loaded of the training stack."""
    command = [sys.executable, "-P", "-c", WORKER, str(permit_file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    head, *loaded = done.stderr.splitlines()[-1].split()
    assert head == "LOADED", done.stderr
    return done.returncode, json.loads(done.stdout.splitlines()[-1]), set(loaded)


def test_the_files_that_were_signed_verify_offline_after_the_registry_is_gone(desk: Desk, live_registry: Any) -> None:
    folder = desk.permitted().folder.root
    live_registry.stop()

    verified, shown = desk.cli("ticket", "verify", str(folder)), desk.cli("--json", "ticket", "show", str(folder))

    assert verified.returncode == 0, verified.stderr
    assert "verified: form, key, signature" in verified.stdout
    assert json.loads(shown.stdout)["claims"]["task_type"] == "sequence-classification"


def test_a_run_that_cannot_sign_for_what_it_left_has_failed(
    desk: Desk, live_registry: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evidence, "MAX_REPORT_BYTES", 10)  # nothing fits

    done = work.execute(desk.permitted(max_steps=2))

    assert isinstance(done.refused, TrainingFailed)
    assert "its manifest could not be made: it would not fit into a report" in done.refused.detail
    assert (done.run.state, done.run.verdict) == ("failed", None) if done.run else False
    assert done.job.folder.model.is_dir(), "what was trained is here all the same"
    assert [event.kind for event in live_registry.events("run.failed", "run.finished")] == ["run.failed"]


def test_the_ticket_that_is_verified_is_the_one_that_was_named(desk: Desk) -> None:
    given = desk.permitted()
    _foreign_ticket(given)
    kept, foreign = given.folder.root / "kept.jwt", given.folder.root / "other.jwt"
    kept.write_text(given.folder.ticket.read_text())

    refused = desk.cli("ticket", "verify", str(foreign))
    given.folder.ticket.write_text(foreign.read_text())
    verified, folder = desk.cli("ticket", "verify", str(kept)), desk.cli("ticket", "verify", str(given.folder.root))

    assert (refused.returncode, "a key that this verifier does not know" in refused.stderr) == (8, True)
    assert verified.returncode == 0, verified.stderr
    assert folder.returncode == 8


def test_an_old_ticket_verifies_as_of_when_it_was_issued_and_an_edited_specification_never(desk: Desk) -> None:
    folder, key = desk.permitted().folder, SigningKey.generate()
    claims = tickets.verify(
        folder.ticket.read_text(), folder.run_spec.read_bytes(), KeySet.load(folder.jwks), issuer=desk.server,
        audience=local_audience(), allow_dev=True,
    ).claims  # fmt: skip
    old = claims.model_copy(update={name: getattr(claims, name) - 7200 for name in ("iat", "nbf", "exp")})
    folder.ticket.write_text(tickets.sign(old, key))
    pinned = desk.root / "pinned.json"
    pinned.write_text(json.dumps({"keys": [key.public_jwk()]}))
    verify = ["ticket", "verify", str(folder.ticket), "--jwks", str(pinned)]

    now, then = desk.cli(*verify), desk.cli(*verify, "--at-issue")
    unpinned = desk.cli("ticket", "verify", str(folder.root), "--at-issue")
    _replace(folder.run_spec, '"gpus":0', '"gpus":1')
    edited = desk.cli(*verify, "--at-issue")

    assert (now.returncode, "it expired" in now.stderr) == (8, True)
    assert then.returncode == 0, then.stderr
    assert (unpinned.returncode, "a key that this verifier does not know" in unpinned.stderr) == (8, True)
    assert (edited.returncode, "step 11" in edited.stderr) == (8, True)


def test_a_ticket_starts_one_run_and_no_second(desk: Desk, tmp_path: Path) -> None:
    given = handover.write(desk.permitted(max_steps=2))
    assert given.file is not None
    copy = shutil.copy(given.file, tmp_path / "copy.json")

    first, second = worker(given.file), worker(Path(copy))

    assert (first[0], "torch" in first[2]) == (0, True)
    assert not given.file.exists(), "the private key is deleted once the ticket is redeemed"
    assert (second[0], second[1]["problem"]["code"]) == (8, "ticket-used")


def test_a_used_ticket_is_refused_in_words(desk: Desk) -> None:
    given = desk.permitted(max_steps=2)
    local.launch(given, lambda event: None)

    with pytest.raises(TicketUsed, match="it starts one run and no second"):
        local.launch(given, lambda event: None)


def test_a_ticket_that_waited_too_long_is_refused(
    desk: Desk, live_registry: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = handover.write(desk.permitted(max_steps=2))
    assert given.file is not None
    real = db.utc_now
    monkeypatch.setattr(db, "utc_now", lambda: real() + timedelta(minutes=16))

    code, last, _ = worker(given.file)

    assert (code, last["problem"]["code"]) == (8, "ticket-expired")


@pytest.mark.parametrize(
    ("edit", "step", "told"),
    [
        (lambda folder: _replace(folder / "run-spec.json", '"max_steps":3', '"max_steps":4'), 11, True),
        (lambda folder: _replace(folder / "ticket.jwt", "", "A"), 1, False),
        (lambda folder: (folder / "run-spec.json").write_text("{}"), 11, True),
        (lambda folder: (folder / "ticket.jwt").write_text((folder / "other.jwt").read_text()), 6, False),
        (lambda folder: _append(folder.parents[2] / "train.jsonl", '{"text": "new", "label": "科技"}\n'), 16, True),
    ],
    ids=["an edited argument", "an appended character", "another specification", "a foreign ticket", "other data"],
)
def test_a_run_that_is_not_what_was_signed_is_refused_before_anything_loads(
    desk: Desk, live_registry: Any, edit: Any, step: int, told: bool
) -> None:
    """A registry that knows the ticket hears of the refusal; a token that is none of its own proves nothing to it."""
    given = handover.write(desk.permitted(max_steps=3))
    assert given.file is not None
    _foreign_ticket(given)
    edit(given.folder.root)

    code, last, loaded = worker(given.file)

    assert (code, last["problem"]["code"], last["problem"]["step"]) == (8, "ticket-invalid", step)
    assert _happened(live_registry) == ["ticket.issued", *(["ticket.refused"] if told else [])], "it was not spent"
    assert [event.detail["step"] for event in live_registry.events("ticket.refused")] == ([step] if told else [])
    assert loaded == set()


def test_a_worker_that_does_not_hold_the_tickets_key_is_refused_at_step_13_on_record(
    desk: Desk, live_registry: Any
) -> None:
    given = replace(desk.permitted(max_steps=3), key=SigningKey.generate())

    with pytest.raises(TicketInvalid) as refused:
        work.execute(given)

    assert refused.value.facts["step"] == 13
    (event,) = live_registry.events("refuse.refused")
    assert (event.outcome, event.actor, "another key" in event.reason) == ("refused", "user:li", True)


def test_a_model_that_was_swapped_after_the_ticket_is_refused(desk: Desk, tmp_path: Path) -> None:
    desk.model = Path(shutil.copytree(desk.model, tmp_path / "my-model"))
    given = desk.permitted(max_steps=3)
    (desk.model / "config.json").write_text((desk.model / "config.json").read_text() + "\n")

    with pytest.raises(TicketInvalid, match=r"model .* changed since it was issued"):
        local.launch(given, lambda event: None)


def _happened(live_registry: Any) -> list[str]:
    return [event.kind for event in live_registry.events() if event.kind.startswith(("ticket.", "run.", "gate."))]


def _append(path: Path, text: str) -> None:
    path.write_text(path.read_text() + text)


def _replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new) if old else text + new)


def _foreign_ticket(given: Permit) -> None:
    """A ticket with the same claims by another registry's key lies beside ours."""
    claims = given.verify().claims
    assert claims.aud == local_audience()
    (given.folder.root / "other.jwt").write_text(tickets.sign(claims, SigningKey.generate()))
