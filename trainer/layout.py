"""Where a run leaves its traces: `<output_dir>/task-type=<tag>/<run>/`, readable by its owner alone.

run-spec.json    the run specification, byte for byte as the registry signed it
ticket.jwt       the run ticket
jwks.json        the registry's public keys as seen at submission, for offline checks
checkpoint.txt   the signed head of the registry's log at submission: the log must always continue it
preflight.json   what was seen before the ticket was asked for: findings, lengths, labels, dropped rows, memory estimate
metrics.json     scores with intervals, confusion matrix, peak memory, times
confusion-matrix.json, confusion-matrix.png    of a classifier of single labels
redemption.json  of an offline run: that it redeemed its ticket, signed by the run's key
README.md        model card
manifest.json    what the run read, stood on and left, signed by its own key (DSSE, in-toto); nothing it names changes
                 after it
report.json      what the registry is told at the end; `report.pending` stands beside it until it has been told
verdict.json     how the registry judged the gates
receipt.json     the registry's countersignature on the manifest (DSSE, in-toto SVR)
proofs/          `issued.tlog-proof`, `manifest.tlog-proof`: that the ticket's issuance and the manifest are in the log
judgements.jsonl of a run that was judged: prompts, both models' answers, both verdicts
judgement.json   win rate and Elo that follow from them
model/           the trained model (or adapter)
checkpoints/     while it trains, and of a run that stopped: the newest checkpoint, whole once `SHA256SUMS` stands in it
ms-swift/        of a run by `backend: ms-swift`: its own `args.json` and `logging.jsonl`
tensorboard/     event files; the text summary `task` says `task=<tag>`
merged/          `save_model(format="merged")`; other exports lie beside it under their formats' names
forced.jsonl     who served the model or wrote a manifest for it although it was not accepted, and why
train.log        everything the training libraries had to say
worker.pid       while it runs: the process that trains, should its launcher be gone
"""

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class RunFolder:
    """The paths of one run. Nothing is created before `create`."""

    root: Path

    @classmethod
    def of(cls, output_dir: Path, task_type: str, run_id: str) -> "RunFolder":
        return cls(output_dir.expanduser().absolute() / f"task-type={task_type}" / run_id)

    def create(self) -> "RunFolder":
        """Make the folder; raises `OSError` when the place cannot be written or the run already has one."""
        self.root.mkdir(mode=0o700, parents=True, exist_ok=False)
        return self

    @property
    def run_spec(self) -> Path:
        return self.root / "run-spec.json"

    @property
    def ticket(self) -> Path:
        return self.root / "ticket.jwt"

    @property
    def jwks(self) -> Path:
        return self.root / "jwks.json"

    @property
    def checkpoint(self) -> Path:
        return self.root / "checkpoint.txt"

    @property
    def issued_proof(self) -> Path:
        return self.root / "proofs" / "issued.tlog-proof"

    @property
    def preflight(self) -> Path:
        return self.root / "preflight.json"

    @property
    def metrics(self) -> Path:
        return self.root / "metrics.json"

    @property
    def redemption(self) -> Path:
        return self.root / "redemption.json"

    @property
    def report(self) -> Path:
        return self.root / "report.json"

    @property
    def report_pending(self) -> Path:
        return self.root / "report.pending"

    @property
    def verdict(self) -> Path:
        return self.root / "verdict.json"

    @property
    def manifest(self) -> Path:
        return self.root / "manifest.json"

    @property
    def receipt(self) -> Path:
        return self.root / "receipt.json"

    @property
    def manifest_proof(self) -> Path:
        return self.root / "proofs" / "manifest.tlog-proof"

    @property
    def card(self) -> Path:
        return self.root / "README.md"

    @property
    def judgements(self) -> Path:
        return self.root / "judgements.jsonl"

    @property
    def judgement(self) -> Path:
        return self.root / "judgement.json"

    @property
    def model(self) -> Path:
        return self.root / "model"

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    @property
    def tensorboard(self) -> Path:
        return self.root / "tensorboard"

    @property
    def log(self) -> Path:
        return self.root / "train.log"

    @property
    def worker_pid(self) -> Path:
        return self.root / "worker.pid"


def write_private(path: Path, content: bytes) -> None:
    """Write a file only its owner can read. Refuses to follow a link or to overwrite."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
