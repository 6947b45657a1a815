"""A whole story with its failures, then a search for its secrets in logs, events, argv and environments."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import pytest
from conftest import ask, free_port, ticket_request
from sqlmodel import select
from submitting import Desk

from enforcer import proofs
from enforcer.keys import SigningKey
from registry import db
from registry.settings import Settings
from registry.tables import Event


@dataclass
class Watch:
    """What `ps` and `/proc` showed of this test's children, read again and again while they lived."""

    argv: set[str] = field(default_factory=set)
    environments: dict[str, str] = field(default_factory=dict)  # of workers and services, by command
    _stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> "Watch":
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._stop.wait(0.02):
            todo = [os.getpid()]
            while todo:
                pid = todo.pop()
                try:
                    for task in Path(f"/proc/{pid}/task").iterdir():
                        todo += map(int, (task / "children").read_text().split())
                    if pid != os.getpid():
                        argv = Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
                        self.argv.add(argv)
                        self.environments[argv] = Path(f"/proc/{pid}/environ").read_text()
                except (OSError, UnicodeDecodeError):
                    continue  # it ended while we looked


@dataclass
class Service:
    url: str
    environment: dict[str, str]
    log: Path
    state: Path

    def tagwarden(self, *arguments: str) -> str:
        command = [sys.executable, "-m", "registry", *arguments]
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture(params=["text", "json"])
def service(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Service]:
    port, log, state = free_port(), tmp_path / "service.log", tmp_path / "state"
    environment = {
        **os.environ,
        "TAGWARDEN_STATE_DIR": str(state),
        "TAGWARDEN_LOG_FORMAT": request.param,
        "XDG_RUNTIME_DIR": str(tmp_path / "runtime"),
    }
    with log.open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "registry", "serve", "--port", str(port)], env=environment, stderr=stderr
        )
    url = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + 30
    while True:
        try:
            if httpx2.get(f"{url}/readyz").status_code == 200:
                break
        except httpx2.TransportError:
            pass
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)
    yield Service(url, environment, log, state)
    process.send_signal(signal.SIGINT)
    process.wait(timeout=20)


def test_no_secret_of_a_whole_story_is_anywhere_it_should_not_be(
    service: Service, tmp_path: Path, encoder: Path
) -> None:
    secrets: dict[str, str] = {}
    with Watch() as watch:
        token = service.tagwarden("token", "create", "wang", "--group", "trainers", "--unit", "retail")
        local = (tmp_path / "runtime/tagwarden/token").read_text()
        secrets |= {"token": token.strip()[-30:], "local token": local.strip()[-30:]}  # a secret may hold a `_` itself
        wang = Desk(tmp_path, encoder, service.url, token)
        said = [wang.cli("run", wang.config()), wang.cli("run", wang.config(task_type="no-such-task"))]
        assert [done.returncode for done in said] == [0, 6], said[0].stderr
        (run_dir,) = wang.run_dirs
        secrets["ticket"] = (run_dir / "ticket.jwt").read_text().split(".")[2]
        secrets |= failing_on_purpose(service, token)
    for file in service.state.glob("keys/*.pem"):
        secrets[file.name] = file.read_text().splitlines()[1][-40:]

    engine = db.open_engine(Settings(state_dir=service.state))
    with db.reading(engine) as session:
        events = "\n".join(event.model_dump_json() for event in session.exec(select(Event)))
    worker = next(argv for argv in watch.argv if "trainer.launch.worker" in argv)
    serving = next(argv for argv in watch.argv if "registry serve" in argv)
    places = {
        "service log": service.log.read_text(),
        "audit log": events,
        "training log": (run_dir / "train.log").read_text(),
        "what the client said": "".join(done.stdout + done.stderr for done in said),
        "run folder": "".join(
            file.read_text("utf-8", "replace")
            for file in run_dir.rglob("*")
            if file.is_file() and file.name != "ticket.jwt"
        ),
        "argv": "\n".join(watch.argv),
        "environment of the worker": watch.environments[worker],
        "environment of the service": watch.environments[serving],
    }

    assert {"ticket.issued", "ticket.redeemed", "redeem.refused"} <= set(re.findall(r'"kind":"([^"]+)"', events))
    assert "unauthenticated" in places["service log"], "failures are told"
    assert [(what, where) for what, secret in secrets.items() for where, text in places.items() if secret in text] == []
    assert len(secrets) == 12, sorted(secrets)
    lines = places["service log"].splitlines()
    assert not [line for line in lines if line.startswith("forged")], "no caller writes a line of their own"


def failing_on_purpose(service: Service, token: str) -> dict[str, str]:
    """Guesses, a used ticket, a replayed proof, a thief's key, hostile paths: returns what must not leak."""
    key, thief = SigningKey.generate(), SigningKey.generate()
    with httpx2.Client(base_url=service.url) as client:
        client.headers["Authorization"] = f"Bearer {token}"
        grant = ask(client, ticket_request(jkt=key.thumbprint)).json()  # type: ignore[arg-type]
        url = f"{service.url}/v1/tickets/{grant['jti']}:redeem"
        proof, theft = (proofs.prove(k, method="POST", url=url, ticket=grant["ticket"]) for k in (key, thief))

        def redeem(proof: str, redemption_id: str) -> httpx2.Response:
            headers = {"Authorization": f"DPoP {grant['ticket']}", "DPoP": proof}
            return client.post(url, json={"redemption_id": redemption_id}, headers=headers)

        redeemed = redeem(proof, db.uuid7())
        again = [redeem(proof, db.uuid7()), redeem(theft, db.uuid7())]
        assert [redeemed.status_code, *(reply.status_code for reply in again)] == [200, 401, 401]
        lease = redeemed.json()["lease_token"]
        beat = f"/v1/runs/{grant['run_id']}/heartbeats"
        guess, nearly = "g" * 43, lease[:-1] + ("A" if lease[-1] != "A" else "B")
        for credential in (f"Bearer {guess}", f"Bearer {nearly}", f"Basic {token}", f"Bearer {token[:-1]}"):
            assert client.post(beat, json={}, headers={"Authorization": credential}).status_code == 401
        for path in ("/v1/tags/%0aforged%20line", "/v1/tags/%1b%5b2Kforged", f"/v1/tags/x%0Aforged%20{token}"):
            assert client.get(path, headers={"Authorization": "Bearer x"}).status_code == 401
        client.get("/v1/tags", headers={"Host": "forged\tname", "User-Agent": "a\tforged"})
    return {
        "second ticket": grant["ticket"].split(".")[2],
        "proof": proof.split(".")[2],
        "thief's proof": theft.split(".")[2],
        "lease": lease[:-1],
        "guess": guess,
    }
