"""The demo's world: a registry on loopback, the people who use its commands, and somebody who copies a permit."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
from telling import OUT, check, say, step

BIN = Path(sys.executable).parent


class World:
    """A registry on a free port of loopback, and the people who use it."""

    def __init__(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.tokens: dict[str, str] = {}
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("TAGWARDEN_", "SWIFT_"))},
            "TAGWARDEN_STATE_DIR": str(OUT / "registry"),
            "XDG_STATE_HOME": str(OUT / "state"),  # what a trainer remembers of this registry goes with it
            "XDG_RUNTIME_DIR": str(OUT / "runtime"),
            "HF_HUB_OFFLINE": "1",
            "PYTHONUNBUFFERED": "1",
        }
        self.service: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        log = (OUT / "registry.log").open("w")
        command = [BIN / "tagwarden", "serve", "--port", str(self.port)]
        self.service = subprocess.Popen(command, env=self.environment, stderr=log)
        deadline = time.monotonic() + 60
        while True:
            check(self.service.poll() is None, f"the registry runs (see {OUT.name}/registry.log)", aloud=False)
            try:
                if httpx2.get(f"{self.url}/readyz").status_code == 200:
                    return
            except httpx2.TransportError:
                pass
            check(time.monotonic() < deadline, "the registry gets ready within a minute", aloud=False)
            time.sleep(0.1)

    def stop(self) -> None:
        if self.service is not None:
            self.service.send_signal(signal.SIGINT)
            self.service.wait(timeout=30)
            self.service = None

    def make_token(self, name: str, unit: str, groups: list[str]) -> None:
        wanted = [argument for group in groups for argument in ("--group", group)]
        told = self.tagwarden("token", "create", name, "--unit", unit, *wanted, quiet=True)
        self.tokens[name] = told.strip()

    def tagwarden(self, *arguments: str, **expectations: Any) -> str:
        return self._run("", [str(BIN / "tagwarden"), *arguments], self.environment, **expectations)

    def swift_submit(self, who: str, *arguments: str, **expectations: Any) -> str:
        return self._run(who, [str(BIN / "swift-submit"), *arguments], self._as(who), **expectations)

    def worker(self, permit: Path) -> dict[str, Any]:
        """Start the training process with a permit; returns the refusal it must end with."""
        command = [sys.executable, "-P", "-m", "trainer.launch.worker", str(permit)]
        say(f"somebody $ python -m trainer.launch.worker {permit.relative_to(OUT.parent)}")
        done = subprocess.run(command, env=self._as(None), capture_output=True, text=True, check=False)
        check(done.returncode == 8, f"the worker refuses (it ended with {done.returncode}){done.stderr}", aloud=False)
        problem: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])["problem"]
        say(f"{problem['code']}: {problem['detail']}")
        return problem

    def python(self, who: str, program: str) -> str:
        for line in program.strip().splitlines():
            say(f"│ {line}")
        command = [sys.executable, "-c", program]
        done = subprocess.run(command, env=self._as(who), capture_output=True, text=True, check=False)
        check(
            done.returncode == 0, f"the program ends well{done.stderr[-2000:] if done.returncode else ''}", aloud=False
        )
        return done.stdout

    def get(self, who: str, path: str, **query: Any) -> httpx2.Response:
        say(f"{who} $ GET {httpx2.URL(path, params=query) if query else path}")
        headers = {"Authorization": f"Bearer {self.tokens[who]}"}
        return httpx2.get(f"{self.url}{path}", params=query, headers=headers)

    def _as(self, who: str | None) -> dict[str, str]:
        environment = {**self.environment, "SWIFT_SUBMIT_SERVER": self.url}
        if who is not None:
            environment["SWIFT_SUBMIT_TOKEN"] = self.tokens[who]
        return environment

    def _run(
        self, who: str, command: list[str], environment: dict[str, str], *,
        exit_code: int = 0, expect: str = "", quiet: bool = False, live: bool = False,
    ) -> str:  # fmt: skip
        """Run, show what it said, and hold it to its exit code and to a phrase it must say."""
        shown = " ".join([Path(command[0]).name, *command[1:]]).replace(f"{OUT}/", f"{OUT.name}/")
        if not quiet:
            say(f"{who} $ {shown}".strip())
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert process.stdout is not None
        told = ""
        for line in process.stdout:
            told += line
            if not quiet and (live or exit_code or expect):
                say(line.rstrip())
        code = process.wait()
        check(code == exit_code, f"`{shown}` ends with {exit_code} (it was {code}){told if quiet else ''}", aloud=False)
        check(expect in told, f"`{shown}` says `{expect}`", aloud=False)
        return told


@contextmanager
def a_registry() -> Iterator[World]:
    world = World()
    try:
        with step("The registry starts: migrated, seeded from policies/, on loopback"):
            world.start()
            say(f"{world.url}, SQLite in {OUT.name}/registry")
        yield world
    finally:
        world.stop()


class Thief:
    """Copies the first permit file that appears: what a curious process of the same user could do."""

    def __init__(self, runs: Path) -> None:
        self.permit = OUT / "stolen-permit.json"
        self._runs, self._over = runs, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    @property
    def folder(self) -> Path:
        check(self.permit.exists(), "the permit was there to be copied", aloud=False)
        return Path(json.loads(self.permit.read_text())["run_folder"])

    def with_edited_arguments(self) -> Path:
        """The same permit over a copy of the run folder in which one argument was changed."""
        edited = OUT / "edited-run"
        shutil.copytree(self.folder, edited, ignore=shutil.ignore_patterns("model", "checkpoints", "tensorboard"))
        spec = edited / "run-spec.json"
        spec.write_text(spec.read_text().replace('"num_train_epochs":1', '"num_train_epochs":9'))
        permit = OUT / "edited-permit.json"
        write_private(permit, json.dumps({**json.loads(self.permit.read_text()), "run_folder": str(edited)}))
        return permit

    def _watch(self) -> None:
        while not self._over.wait(0.005):
            for permit in self._runs.glob("*/permit.json"):
                try:
                    content = permit.read_text()
                    json.loads(content)
                except (OSError, ValueError):
                    continue
                write_private(self.permit, content)
                return


def write_private(file: Path, content: str) -> None:
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as handle:
        handle.write(content)
