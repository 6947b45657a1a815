"""What ms-swift says of a run: `logging.jsonl`, a line for each logged step and one with the sum of it at the end."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

STEP = "global_step/max_steps"
_ROWS = re.compile(r"size=(\d+)")


@dataclass(frozen=True)
class Step:
    number: int
    total: int
    logs: Mapping[str, float]


@dataclass
class Log:
    """A file that grows. `steps` yields what is new and whole; half a line waits for its other half."""

    path: Path
    history: list[dict[str, float]] = field(default_factory=list)
    summary: Mapping[str, Any] = field(default_factory=dict)
    _read: int = 0

    def steps(self) -> Iterator[Step]:
        for line in self._lines():
            try:
                document = json.loads(line)
            except ValueError:
                continue
            if "loss" in document and STEP in document:
                yield self._step(document)
            elif "train_dataset" in document or "last_model_checkpoint" in document:
                self.summary = document

    @property
    def rows(self) -> int | None:
        """How many rows it trained on, as it counts them at the end. It drops rows without failing."""
        found = _ROWS.search(str(self.summary.get("train_dataset", "")))
        return int(found[1]) if found else None

    def _lines(self) -> list[bytes]:
        try:
            with self.path.open("rb") as file:
                file.seek(self._read)
                new = file.read()
        except FileNotFoundError:
            return []
        whole = new[: new.rfind(b"\n") + 1]
        self._read += len(whole)
        return whole.splitlines()

    def _step(self, document: Mapping[str, Any]) -> Step:
        number, _, total = str(document[STEP]).partition("/")
        logs = {
            name: float(value)
            for name, value in document.items()
            if isinstance(value, int | float) and not isinstance(value, bool)
        }
        self.history.append({**logs, "step": float(number)})
        return Step(int(number), int(total), logs)
