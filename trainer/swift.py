"""`SwiftTrainer`: the same permit and the same work as `swift-submit run`, in this process."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from enforcer import wire
from enforcer.problems import Conflict
from trainer import contract, settings, telemetry
from trainer.arguments import TrainingArguments
from trainer.client import Registry
from trainer.http import skew_in_words
from trainer.run import permit, work
from trainer.run.lease import INTERRUPTED
from trainer.run.work import Done
from trainer.settings import Settings


class NotTrained(Conflict):
    """There is no model to save yet."""

    code, title = "not-trained", "there is no model yet"


class SwiftTrainer:
    """Train one model under one task type.

        trainer = SwiftTrainer(TrainingArguments(task_type="embedding", ...), train_dataset=rows)
        trainer.train()
        trainer.save_model(format="faiss")

    `train_dataset` and `eval_dataset` are rows (dictionaries, `datasets.Dataset`) or paths; left out, those that the
    arguments name. Each `train()` asks for a ticket of its own: one ticket, one run.
    """

    def __init__(
        self,
        args: TrainingArguments,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        settings: Settings | None = None,
    ) -> None:
        self.args = args
        self._train, self._eval = train_dataset, eval_dataset
        self._settings = settings
        self._done: Done | None = None

    def train(self) -> Done:
        """Ask for a permit, train, evaluate, report.

        A run that is cancelled, or that reaches its `max_runtime_s`, saves a checkpoint, is reported interrupted, and
        comes back with the reason in `outcome.stopped` (`cancelled by ...`, `runtime-limit`); it has no model to save.
        One whose lease is lost (`lease-lost: ...`) saves its checkpoint too, but its report is refused.

        Raises:
            Problem: whatever forbids the run, before anything heavy is loaded; or the registry's refusal of the report,
                after which what was trained can still be saved.
            TrainingFailed: the recipe raised; the run is reported failed.
            KeyboardInterrupt: Ctrl-C, after a checkpoint was saved and the run was reported interrupted; a second one,
                without a checkpoint.
        """
        chosen = self._settings or settings.load()
        with Registry(chosen) as registry, telemetry.span("swift-submit run"):
            with telemetry.span("permit"):
                args, train, held_out = self._args_and_rows()
                found, checked = contract.look(registry, args, train, held_out)
                for finding in [*checked.findings, skew_in_words(registry.skew_s)]:
                    if finding:
                        print(f"! {finding}", file=sys.stderr)
                given = permit.obtain(registry, args, found, checked)
                for warning in given.warnings:
                    print(f"! {warning}", file=sys.stderr)
            with telemetry.span("launch", target=self.args.target):
                self._done = work.execute(given, in_memory=checked.sources)
        if self._done.refused is not None:
            raise self._done.refused
        if self._done.outcome.stopped == INTERRUPTED:
            raise KeyboardInterrupt
        return self._done

    def save_model(self, format: str = "hugging-face", path: str | Path | None = None) -> Path:
        """Hand the trained model over as `hugging-face`, `adapter`, `merged`, `faiss` or `onnx`; returns where it lies.

        Raises:
            NotTrained: before `train()`.
            ExportRefused: this run cannot have that format, or the target exists.
        """
        import importlib

        done = self._finished()
        export = importlib.import_module("trainer.export").export  # numpy and faiss live behind it
        written: Path = export(done.job, done.outcome, format, None if path is None else Path(path))
        return written

    @property
    def run(self) -> wire.Run | None:
        """The run as the registry judged it; None before `train()`, while its report waits, and when it was refused."""
        return self._done.run if self._done else None

    @property
    def run_dir(self) -> Path:
        return self._finished().job.folder.root

    @property
    def metrics(self) -> Mapping[str, float]:
        """Score values by name."""
        return {name: score.value for name, score in self._finished().outcome.scores.items()}

    def _finished(self) -> Done:
        if self._done is None:
            raise NotTrained("there is no model yet; call `train()` first")
        return self._done

    def _args_and_rows(self) -> tuple[TrainingArguments, Any, Any]:
        """Paths given as datasets are files like those of the arguments, and are read again before the run."""
        changes: dict[str, list[str] | None] = {}
        train, held_out = self._train, self._eval
        if (files := _files(train)) is not None:
            changes["dataset"], train = files, None
        if (files := _files(held_out)) is not None:
            changes["eval_dataset"], held_out = files, None
        if train is not None:
            changes["dataset"] = None  # the article names a dataset and gives its rows: the rows win
        if held_out is not None:
            changes["eval_dataset"] = None
        return self.args.model_copy(update=changes), train, held_out


def _files(given: Any) -> list[str] | None:
    if isinstance(given, str | Path):
        return [str(given)]
    if isinstance(given, list | tuple) and given and all(isinstance(item, str | Path) for item in given):
        return [str(item) for item in given]
    return None
