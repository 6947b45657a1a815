"""`swift-submit serve` as a process: who may be served, who may ask, what is on record, and how it ends."""

import json
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import httpx2
import pytest
import yaml
from conftest import LiveRegistry, free_port
from served import Served, serving
from submitting import Desk
from tiny import LABELS

from enforcer import dsse, tickets
from enforcer.keys import SigningKey
from enforcer.manifest import Receipt, countersign, open_manifest
from registry.settings import Settings
from trainer import SwiftTrainer, TrainingArguments
from trainer.layout import RunFolder
from trainer.serve import accepted, forcing
from trainer.settings import Settings as Ours

TAG = "sequence-classification"


KEYS = ("an-older-key-0123456789", "a-newer-key-0123456789")


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
    """A run that passed its gate, and one of a single step that missed it. Trained in this process, which has torch."""
    root = tmp_path_factory.mktemp("serving")
    live = LiveRegistry(Settings(state_dir=root / "state", port=free_port()))
    live.start()
    desk = Desk(root, encoder, live.url, live.token("li", "retail-ds"))
    ours = Ours(server=live.url, issuer=live.url, token=desk.token)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(root / "home" / ".local" / "state"))
        runs = [SwiftTrainer(TrainingArguments(**desk.arguments(max_steps=steps)), settings=ours) for steps in (120, 1)]
        for swift in runs:
            swift.train()
    assert desk.cli("trust", "save", "trust.json").returncode == 0
    yield World(live, desk, runs[0].run_dir, runs[1].run_dir)
    live.stop()


@pytest.fixture(scope="module")
def served(world: World) -> Iterator[Served]:
    """Locked, by a trust file alone: no registry answers where this server would ask. Batches wait for company."""
    keys = world.desk.root / "keys"
    keys.write_text("\n".join(KEYS))
    keys.chmod(0o600)
    flags = ["--name", "news", "--trust", "trust.json", "--api-key-file", str(keys), "--max-wait-ms", "300"]
    away = f"http://127.0.0.1:{free_port()}"
    with serving(world.desk, world.run, *flags, key=KEYS[1], SWIFT_SUBMIT_SERVER=away) as running:
        yield running


def test_an_accepted_run_answers_by_its_tag_its_id_and_its_name(world: World, served: Served) -> None:
    told = served.post("/v1/classify", {"model": "news", "input": ["a chip", "the goal", "stock"]}).json()
    others = [served.post("/v1/classify", {"model": name, "input": "a"}) for name in (TAG, world.run.name)]
    models = served.client.get("/v1/models").json()["data"]
    elsewhere = served.post("/v1/embeddings", {"model": "news", "input": "a"})

    assert [item["label"] for item in told["data"]] == list(LABELS)
    assert [reply.json()["model"] for reply in others] == [told["model"]] * 2 == ["news"] * 2
    assert [(m["id"], m["task_type"], m["run_id"], m["accepted"]) for m in models] == [
        ("news", TAG, world.run.name, True)
    ]
    assert (elsewhere.status_code, elsewhere.json()["code"]) == (404, "not-found")


def test_a_key_is_asked_for_and_health_is_everybody_s(served: Served) -> None:
    address = served.told["address"]

    older = httpx2.get(f"{address}/v1/models", headers={"Authorization": f"Bearer {KEYS[0]}"})
    stranger = httpx2.post(f"{address}/v1/classify", json={"model": "news", "input": "a"})
    wrong = httpx2.get(f"{address}/metrics", headers={"Authorization": f"Bearer {KEYS[1][:-1]}"})
    health = httpx2.get(f"{address}/health")

    assert (older.status_code, health.status_code) == (200, 200)
    assert [(r.status_code, r.json()["error"]["type"]) for r in (stranger, wrong)] == [
        (401, "authentication_error")
    ] * 2
    assert stranger.headers["www-authenticate"] == "Bearer"


def test_what_is_being_answered_at_sigterm_is_answered_and_the_end_is_peaceful(served: Served) -> None:
    """A batch waits 0.3 s for company; the signal comes while it does. The last test of this server."""
    replies: list[httpx2.Response] = []
    asking = threading.Thread(
        target=lambda: replies.append(served.post("/v1/classify", {"model": "news", "input": "a chip"}))
    )
    asking.start()
    time.sleep(0.1)

    code = served.end(signal.SIGTERM)

    asking.join(timeout=10)
    assert [reply.status_code for reply in replies] == [200]
    assert code == 0


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


def test_force_takes_a_reason_and_is_on_record_before_anything_is_done(world: World) -> None:
    where = ["--render", "vllm", "--storage", "pvc://models/news"]
    done = world.desk.cli("--json", "deploy", str(world.missed), "--force", "a demo for the retail team", *where)

    assert done.returncode == 0, done.stderr
    (event,) = world.registry.events("run.forced")
    (line,) = (world.missed / "forced.jsonl").read_text().splitlines()
    assert (event.actor, event.run_id, event.reason) == ("user:li", world.missed.name, "a demo for the retail team")
    assert event.detail.items() >= {"use": "deploy", "state": "finished", "verdict": "fail"}.items()
    assert json.loads(line)["reason"] == event.reason
    assert json.loads(line)["at_registry"] is True
    annotations = json.loads(done.stdout)[1]["metadata"]["annotations"]
    assert (annotations["tagwarden/accepted"], annotations["tagwarden/forced"]) == ("false", event.reason)


@pytest.mark.parametrize("reason", ["", "  x ", "x" * 1_001])
def test_force_with_no_reason_worth_the_record_says_what_one_is(world: World, tmp_path: Path, reason: str) -> None:
    where = ["--render", "vllm", "--storage", "pvc://models/news"]
    done = world.desk.cli("--json", "deploy", str(world.copy(world.run, tmp_path)), "--force", reason, *where)

    problem = json.loads(done.stdout)
    assert problem["code"] == "argument-invalid"
    assert "3 to 1,000" in problem["detail"]
    assert not (tmp_path / world.run.name / "forced.jsonl").exists()


def test_force_without_a_registry_is_on_record_here(world: World, tmp_path: Path) -> None:
    run = accepted.forced(RunFolder(world.copy(world.run, tmp_path)), "the registry is down")
    away = f"http://127.0.0.1:{free_port()}"

    said = forcing.record(Ours(server=away, issuer=away), run, "deploy")

    (line,) = (run.folder.root / "forced.jsonl").read_text().splitlines()
    assert {name: json.loads(line)[name] for name in ("use", "reason", "at_registry")} == {
        "use": "deploy",
        "reason": "the registry is down",
        "at_registry": False,
    }
    assert "does not answer" in said


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


def test_without_a_trust_file_a_registry_that_is_away_is_named(world: World) -> None:
    away = f"http://127.0.0.1:{free_port()}"

    done = world.desk.cli("--json", "serve", str(world.run), SWIFT_SUBMIT_SERVER=away)

    assert (done.returncode, json.loads(done.stdout)["code"]) == (9, "registry-unreachable")
    assert "--trust FILE" in done.stdout


def test_deploy_writes_what_the_command_line_asked_for(world: World) -> None:
    flags = ["--render", "tei", "--storage", "pvc://models/news", "--gpus", "0", "-o", "news.yaml"]
    done = world.desk.cli("deploy", str(world.run), "--trust", "trust.json", *flags)
    again = world.desk.cli("--json", "deploy", str(world.run), "--trust", "trust.json", *flags)
    refused = world.desk.cli("--json", "deploy", str(world.missed), "--trust", "trust.json", *flags)

    assert done.returncode == 0, done.stderr
    objects = list(yaml.safe_load_all((world.desk.root / "news.yaml").read_text("utf-8")))
    assert [one["kind"] for one in objects] == ["ConfigMap", "Deployment", "Service"]
    assert objects[1]["metadata"]["labels"]["tagwarden/run-id"] == world.run.name
    assert (again.returncode, json.loads(again.stdout)["code"]) == (6, "output-invalid")
    assert (refused.returncode, json.loads(refused.stdout)["code"]) == (11, "not-accepted")


def forge_receipt(run: Path) -> None:
    """A receipt that says `pass`, signed by somebody who is no registry."""
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
