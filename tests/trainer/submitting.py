"""A trainer's desk: a model, data and config in a folder, and `swift-submit` as a child process against a registry."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from tiny import LABELS, labelled_rows

from trainer import contract
from trainer.arguments import TrainingArguments
from trainer.client import Registry
from trainer.run import permit
from trainer.run.permit import Permit
from trainer.settings import Settings

SWIFT_SUBMIT = [sys.executable, "-P", "-m", "trainer.cli"]


@dataclass
class Desk:
    """`server` may be the address of a live registry, or of none."""

    root: Path
    model: Path
    server: str
    token: str

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("SWIFT_SUBMIT_", "XDG_"))}
        return {
            **kept,
            "HOME": str(self.root / "home"),
            "XDG_RUNTIME_DIR": str(self.root / "runtime"),
            "SWIFT_SUBMIT_SERVER": self.server,
            "SWIFT_SUBMIT_TOKEN": self.token,
            "OMP_NUM_THREADS": "1",
        }

    def data(self, rows: list[Any], name: str = "train.jsonl") -> Path:
        path = self.root / name
        path.write_text("".join(json.dumps(dict(row), ensure_ascii=False) + "\n" for row in rows), "utf-8")
        return path

    def arguments(self, **changes: Any) -> dict[str, Any]:
        """A run that the shipped policy grants to any trainer and that passes the gate in a second of training."""
        data = self.root / "train.jsonl"
        if not data.exists():
            self.data(labelled_rows(600, 1))
        return {
            "task_type": "sequence-classification",
            "model_name_or_path": str(self.model),
            "dataset": str(data),
            "eval_fraction": 0.3,
            "label_names": list(LABELS),
            "max_length": 32,
            "learning_rate": 1e-3,
            "max_steps": 120,
            "logging_steps": 1,
            "output_dir": str(self.root / "output"),
            **changes,
        }

    def config(self, **changes: Any) -> str:
        path = self.root / "config.yaml"
        path.write_text(yaml.safe_dump(self.arguments(**changes), allow_unicode=True), "utf-8")
        return str(path)

    def cli(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*SWIFT_SUBMIT, *arguments],
            env={**self.environment, **environment},
            cwd=self.root,
            capture_output=True,
            text=True,
            timeout=240,
            stdin=subprocess.DEVNULL,
        )

    def json(self, *arguments: str) -> Any:
        return json.loads(self.cli("--json", *arguments).stdout)

    @contextlib.contextmanager
    def start(self, *arguments: str) -> Iterator["subprocess.Popen[str]"]:
        """A command in the background; it and the worker it started are gone when the block ends, whatever happened."""
        process = subprocess.Popen(
            [*SWIFT_SUBMIT, "--format", "ndjson", *arguments],
            env=self.environment,
            cwd=self.root,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # a terminal of its own, so to speak: Ctrl-C goes to its whole group
        )
        try:
            yield process
        finally:
            for left in {*_children(process.pid), *self.workers, process.pid}:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(left, signal.SIGKILL)
            process.wait()

    def permitted(self, **changes: Any) -> Permit:
        """A permit as `run` gets it, before anything is launched."""
        args = TrainingArguments(**self.arguments(**changes))
        with Registry(Settings(server=self.server, issuer=self.server, token=self.token)) as registry:
            found, checked = contract.look(registry, args)
            return permit.obtain(registry, args, found, checked)

    @property
    def workers(self) -> list[int]:
        """Process ids of the workers that are running here."""
        return [int(file.read_text()) for file in (self.root / "output").glob("task-type=*/run-*/worker.pid")]

    @property
    def run_dirs(self) -> list[Path]:
        return sorted((self.root / "output").glob("task-type=*/run-*"))


def _children(pid: int) -> list[int]:
    """A worker that has not said yet which process it is; none of a launcher that is gone."""
    with contextlib.suppress(OSError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def events(process: "subprocess.Popen[str]") -> Iterator[dict[str, Any]]:
    """The ndjson of a child as it comes; stderr is drained beside it."""
    assert process.stdout is not None
    threading.Thread(target=process.stderr.read, daemon=True).start()  # type: ignore[union-attr]
    for line in process.stdout:
        yield json.loads(line)
