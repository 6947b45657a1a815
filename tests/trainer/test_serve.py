"""`swift-submit serve` as a process: who may be served, who may ask, what is on record, and how it ends."""

import json
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest
from conftest import LiveRegistry, free_port
from served import serving
from submitting import Desk
from tiny import LABELS

from enforcer.manifest import Receipt, countersign, open_manifest
from registry.settings import Settings

TAG = "sequence-classification"


@dataclass
class World:
    registry: LiveRegistry
    desk: Desk
    run: Path
    missed: Path

    def copy(self, run: Path, root: Path) -> Path:
        return Path(shutil.copytree(run, root / run.name))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, encoder: Path) -> Iterator[World]:
    """A run that passed its gate, and one of a single step that missed it."""
    root = tmp_path_factory.mktemp("serving")
    live = LiveRegistry(Settings(state_dir=root / "state", port=free_port()))
    live.start()
    desk = Desk(root, encoder, live.url, live.token("li", "retail-ds"))
    for steps, code in ((120, 0), (1, 11)):
        done = desk.cli("run", desk.config(max_steps=steps))
        assert done.returncode == code, done.stderr
    assert desk.cli("trust", "save", "trust.json").returncode == 0
    run, missed = desk.run_dirs
    yield World(live, desk, run, missed)
    live.stop()


def test_an_accepted_run_answers_on_loopback_and_ends_in_peace(world: World) -> None:
    with serving(world.desk, world.run, "--name", "news") as served:
        told = served.post("/v1/classify", {"model": "news", "input": ["a chip", "the goal", "stock"]}).json()
        by_tag = served.post("/v1/classify", {"model": TAG, "input": "a chip"}).json()
        models = served.client.get("/v1/models").json()["data"]
        elsewhere = served.post("/v1/embeddings", {"model": "news", "input": "a"})
        code = served.end(signal.SIGTERM)

    assert [item["label"] for item in told["data"]] == list(LABELS)
    assert told["model"] == by_tag["model"] == "news"
    assert [(m["id"], m["task_type"], m["run_id"], m["accepted"]) for m in models] == [
        ("news", TAG, world.run.name, True)
    ]
    assert (elsewhere.status_code, elsewhere.json()["code"]) == (404, "not-found")
    assert code == 0


def test_what_is_being_answered_at_sigterm_is_answered(world: World) -> None:
    """A batch waits a second for company; the signal comes while it does."""
    with serving(world.desk, world.run, "--max-wait-ms", "900") as served:
        replies: list[httpx2.Response] = []
        asking = threading.Thread(
            target=lambda: replies.append(served.post("/v1/classify", {"model": TAG, "input": "a chip"}))
        )
        asking.start()
        time.sleep(0.3)
        code = served.end(signal.SIGTERM)
        asking.join(timeout=10)

    assert [reply.status_code for reply in replies] == [200]
    assert code == 0


def test_keys_are_asked_for_where_they_are_set_and_health_is_everybody_s(world: World) -> None:
    keys = world.desk.root / "keys"
    keys.write_text("an-older-key-0123456789\na-newer-key-0123456789\n")
    keys.chmod(0o600)
    with serving(world.desk, world.run, "--api-key-file", str(keys), key="a-newer-key-0123456789") as served:
        good = served.client.get("/v1/models")
        stranger = httpx2.get(f"{served.told['address']}/v1/models")
        wrong = served.client.get("/metrics", headers={"Authorization": "Bearer a-newer-key-012345678"})
        health = httpx2.get(f"{served.told['address']}/health")

    assert (good.status_code, health.status_code) == (200, 200)
    assert [(r.status_code, r.json()["error"]["type"]) for r in (stranger, wrong)] == [
        (401, "authentication_error")
    ] * 2
    assert stranger.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(
    ("flags", "environment", "why"),
    [
        (["--host", "0.0.0.0"], {}, "is not loopback"),
        (["--host", "0.0.0.0"], {"SWIFT_SUBMIT_SERVE_KEY": "short"}, "at least 16 characters"),
        (["--api-key-file", "train.jsonl"], {}, "can be read by others"),
    ],
)
def test_a_server_without_a_lock_does_not_open(
    world: World, flags: list[str], environment: dict[str, str], why: str
) -> None:
    (world.desk.root / "train.jsonl").chmod(0o644)

    done = world.desk.cli("--json", "serve", str(world.run), *flags, **environment)

    assert done.returncode == 6
    assert why in json.loads(done.stdout)["detail"]


def test_a_port_that_is_taken_is_said_before_a_model_loads(world: World) -> None:
    port = world.registry.settings.port

    done = world.desk.cli("--json", "serve", str(world.run), "--port", str(port))

    assert (done.returncode, json.loads(done.stdout)["code"]) == (6, "not-configured")
    assert "--port" in done.stdout


def test_a_run_that_missed_its_gate_is_not_served(world: World) -> None:
    done = world.desk.cli("--json", "serve", str(world.missed))

    problem = json.loads(done.stdout)
    assert (done.returncode, problem["code"], problem["verdict"]) == (11, "not-accepted", "fail")
    assert "--force REASON" in problem["detail"]


def test_force_takes_a_reason_and_is_on_record_before_it_answers(world: World) -> None:
    with serving(world.desk, world.missed, "--force", "a demo for the retail team") as served:
        models = served.client.get("/v1/models").json()["data"]
        metrics = served.client.get("/metrics").text

    (event,) = world.registry.events("run.forced")
    (line,) = (world.missed / "forced.jsonl").read_text().splitlines()
    assert (event.actor, event.run_id, event.reason) == ("user:li", world.missed.name, "a demo for the retail team")
    assert event.detail["use"] == "serve"
    assert json.loads(line)["reason"] == event.reason
    assert json.loads(line)["at_registry"] is True
    assert [model["accepted"] for model in models] == [served.told["accepted"]] == [False]
    assert 'accepted="false"' in metrics


def test_force_without_a_registry_is_on_record_here(world: World, tmp_path: Path) -> None:
    run = world.copy(world.run, tmp_path)
    away = f"http://127.0.0.1:{free_port()}"
    with serving(world.desk, run, "--force", "the registry is down", SWIFT_SUBMIT_SERVER=away):
        said = (world.desk.root / "serve.log").read_text()

    assert json.loads((run / "forced.jsonl").read_text())["at_registry"] is False
    assert "The registry does not answer" in said


def test_a_registry_that_refuses_the_record_is_heeded(world: World) -> None:
    stranger = world.registry.token("eve", "nobody", unit="search")

    done = world.desk.cli("--json", "serve", str(world.missed), "--force", "let me in", SWIFT_SUBMIT_TOKEN=stranger)

    assert (done.returncode, json.loads(done.stdout)["code"]) == (3, "not-permitted")


@pytest.mark.parametrize("flags", [[], ["--trust", "trust.json"], ["--force", "I want it all the same"]])
def test_a_model_that_was_changed_is_never_loaded(world: World, tmp_path: Path, flags: list[str]) -> None:
    run = world.copy(world.run, tmp_path)
    weights = run / "model" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)

    done = world.desk.cli("--json", "serve", str(run), *flags)

    problem = json.loads(done.stdout)
    assert (done.returncode, problem["code"], problem["step"]) == (8, "manifest-invalid", 7)
    assert "model/model.safetensors" in problem["detail"]


def test_a_verdict_of_one_s_own_counts_for_nothing(world: World, tmp_path: Path) -> None:
    """`verdict.json` is plain text, and a receipt by another key is no receipt."""
    run = world.copy(world.missed, tmp_path)
    (run / "verdict.json").write_text(json.dumps({"state": "finished", "verdict": "pass", "gates": []}))
    edited = world.desk.cli("--json", "serve", str(run))
    forge_receipt(run)
    forged = world.desk.cli("--json", "serve", str(run))

    assert json.loads(edited.stdout)["code"] == "not-accepted"
    assert (json.loads(forged.stdout)["code"], json.loads(forged.stdout)["step"]) == ("manifest-invalid", 8)


def forge_receipt(run: Path) -> None:
    """A receipt that says `pass`, signed by somebody who is no registry."""
    from datetime import UTC, datetime

    from enforcer import dsse, tickets
    from enforcer.keys import SigningKey

    envelope = (run / "manifest.json").read_bytes()
    claims = tickets.unverified_claims((run / "ticket.jwt").read_text().strip())
    genuine = Receipt.read(dsse.read((run / "receipt.json").read_bytes()).payload)
    forged = countersign(
        envelope,
        open_manifest(envelope, claims["cnf"]["jkt"]),
        issuer=genuine.predicate.verifier.id,
        policy_digest=f"sha256:{'0' * 64}",
        verdict="pass",
        event_id=genuine.predicate.event_id,
        at=datetime.now(UTC),
        key=SigningKey.generate(),
    )
    (run / "receipt.json").write_bytes(forged)


def test_with_a_trust_file_nothing_is_asked_of_the_registry(world: World) -> None:
    away = f"http://127.0.0.1:{free_port()}"
    with serving(world.desk, world.run, "--trust", "trust.json", SWIFT_SUBMIT_SERVER=away) as served:
        assert served.client.get("/health").json()["status"] == "ok"

    done = world.desk.cli("--json", "serve", str(world.run), SWIFT_SUBMIT_SERVER=away)
    assert (done.returncode, json.loads(done.stdout)["code"]) == (9, "registry-unreachable")
    assert "--trust FILE" in done.stdout
