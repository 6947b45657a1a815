"""A finished run as it lies on disk, made ready to be exported (`export.py`) by whoever has its folder.

1. Files    those of `model/` are what the run's manifest says, and the manifest is of this ticket (`enforcer.chain`,
            steps 4 to 7). Who issued the ticket is not asked: `swift-submit verify` proves that
2. End      a run that was stopped left no final model
3. Base     an adapter's base model by its digest, where the format reads it
4. Rows     training and evaluation rows by their digests, where the format is made of them or tried on them

Relative paths in the specification start at the working directory, as they did then.
"""

from dataclasses import replace

from enforcer import chain
from enforcer.runspec import RunSpec
from trainer import preflight, reproduce
from trainer.export import ExportRefused, refuse_impossible
from trainer.inputs.cleaning import Cleaned
from trainer.job import Job, Outcome
from trainer.layout import RunFolder
from trainer.run import evidence
from trainer.run.lease import Watch
from trainer.serve import accepted
from trainer.serve.accepted import Servable

FROM_THE_FOLDER_ALONE = ("hugging-face", "adapter")


def read(folder: RunFolder, format: str, base: str | None = None) -> tuple[Job, Outcome]:
    """The run for `export`. It has neither scores nor a live model: what is exported are its files.

    Raises:
        ManifestInvalid: the folder is not one of a run that signed for its files, or a file is not as it was signed.
        ExportRefused: a run that was stopped or that cannot have this format; data that changed or are gone.
        ModelInvalid: so of its base model; `base` says where that lies now.
    """
    manifest, spec = chain.check_outputs(evidence.bundle(folder))
    if not any(name == "model" or name.startswith("model/") for name in manifest.outputs):
        raise ExportRefused(f"run `{spec.run_id}` was stopped and left no final model; run it to the end")
    nobody = Watch(float("inf"))
    job = Job(spec.task_type, spec.run_id, spec.arguments, folder.model, (), (), folder, nobody, spec.profile.loss_mask)
    refuse_impossible(job, format)
    if format not in FROM_THE_FOLDER_ALONE:
        base_dir = accepted.base_of(Servable(folder, spec), base)
        rows = _rows(folder, spec, format)
        job = replace(job, model_dir=base_dir or folder.model, train_rows=rows.train, eval_rows=rows.eval)
    return job, Outcome(scores={}, steps=0, train_seconds=0.0, peak_memory_bytes=0)


def _rows(folder: RunFolder, spec: RunSpec, format: str) -> Cleaned:
    again = reproduce.read(folder)
    changed = [f"{one.what} was {one.then}, and is now {one.now}" for one in reproduce.data_differences(again)]
    if changed:
        raise ExportRefused(
            f"`{format}` needs the rows of run `{spec.run_id}`, and they are not at hand: {'; '.join(changed)}. "
            f"{' and '.join(f'`{name}`' for name in FROM_THE_FOLDER_ALONE)} need the run folder alone"
        )
    inputs = spec.inputs
    return preflight.rows_of(
        preflight.read_sources(again.arguments), spec.profile, inputs.columns, spec.arguments, inputs.eval_fraction,
        inputs.allow_row_loss,
    )  # fmt: skip
