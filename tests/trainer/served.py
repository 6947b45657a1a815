"""A world to serve from: a registry that permitted a run and accepted it, and `swift-submit serve` as a process."""

import contextlib
import json
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
from forging import PROFILE, SPEC
from submitting import SWIFT_SUBMIT, Desk

from enforcer.runspec import RunSpec
from trainer.layout import RunFolder
from trainer.serve.accepted import Servable


@dataclass
class Served:
    """A server that answers, until the block ends."""

    process: "subprocess.Popen[str]"
    told: dict[str, Any]
    client: httpx2.Client

    def post(self, path: str, body: Any, **how: Any) -> httpx2.Response:
        return self.client.post(path, json=body, **how)

    def end(self, sent: int = signal.SIGTERM) -> int:
        self.process.send_signal(sent)
        return self.process.wait(timeout=30)


@contextlib.contextmanager
def serving(desk: Desk, run: Path, *flags: str, key: str | None = None, **environment: str) -> Iterator[Served]:
    """`swift-submit serve RUN` on a port of its own. stderr is in `serve.log` beside the run's desk."""
    with (desk.root / "serve.log").open("w") as log:
        process = subprocess.Popen(
            [*SWIFT_SUBMIT, "--format", "ndjson", "serve", str(run), "--port", "0", *flags],
            env={**desk.environment, **environment},
            cwd=desk.root,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line, (desk.root / "serve.log").read_text()
            told = json.loads(line)
            assert told["event"] == "serving", told
            headers = {"Authorization": f"Bearer {key}"} if key else {}
            with httpx2.Client(base_url=told["address"], headers=headers, timeout=60) as client:
                yield Served(process, told, client)
        finally:
            process.kill()
            process.wait()


def servable(model: Path, interface: str, recipe: str = "sft", **arguments: Any) -> Servable:
    """A run whose model lies in this folder; who accepted it is told elsewhere (test_serve)."""
    assert model.name == "model", "as training leaves it"
    (model.parent / "run-spec.json").write_bytes(SPEC)
    profile = PROFILE.model_copy(update={"serving": interface, "recipe": recipe})
    spec = RunSpec.model_validate_json(SPEC)
    return Servable(RunFolder(model.parent), spec.model_copy(update={"profile": profile, "arguments": arguments}))
