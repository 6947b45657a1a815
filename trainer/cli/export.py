"""`swift-submit export`."""

import importlib
import warnings
from pathlib import Path

import click

from trainer.cli.flags import Command
from trainer.cli.session import current

FORMATS = ("hugging-face", "adapter", "merged", "faiss", "onnx")


@click.command(cls=Command)
@click.argument("run_dir", metavar="RUN_DIR", type=click.Path(file_okay=False, exists=True))
@click.option("--format", type=click.Choice(FORMATS), required=True, help="What it is to become.")
@click.option("--output", metavar="DIR", help="Where; it must not be there yet (RUN_DIR/FORMAT).")
@click.option("--base", metavar="MODEL", help="Where an adapter's base model lies now; its digest is compared.")
def export(run_dir: str, format: str, output: str | None, base: str | None) -> None:
    """Write a finished run's model as somebody else needs it.

    \b
    hugging-face  the model folder with its card
    adapter       the LoRA weights alone
    merged        the adapter added into its base, compared with it
    faiss         of embedding: model, documents and index in one pack
    onnx          of classification, embedding, reranker: one graph, compared with the model

    The model has to be what the run signed for; for `merged`, `faiss` and `onnx` its data, and an adapter's base model,
    have to be at hand, unchanged. The run folder's own files stay as they are. Nothing is asked of the registry: what
    proves to others that this model was accepted is `swift-submit verify`.
    """
    from trainer.layout import RunFolder

    session = current()
    exporting = importlib.import_module("trainer.exporting")  # numpy and faiss stand behind it
    if format not in exporting.FROM_THE_FOLDER_ALONE and not session.output.verbose:
        _hush()
    folder = RunFolder(Path(run_dir).absolute())
    target = Path(output).expanduser().absolute() if output else None
    job, outcome = exporting.read(folder, format, base)
    written = importlib.import_module("trainer.export").export(job, outcome, format, target)
    document = {"run_id": job.run_id, "task_type": job.task_type, "export": format, "path": str(written)}
    session.output.result(document, [f"{job.run_id}  {format}", str(written)], brief=[str(written)])


def _hush() -> None:
    """Loading a base without the head that its adapter brings, libraries warn of weights that are missing."""
    said = importlib.import_module("transformers.utils.logging")
    said.set_verbosity_error()
    said.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning)
