"""`swift-submit serve`: the interface that the run's task type names, answered by the run's model."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from trainer.cli import serving
from trainer.cli.flags import Command
from trainer.cli.session import current

if TYPE_CHECKING:
    from trainer.cli.output import Output
    from trainer.serve.accepted import Servable


@click.command(cls=Command)
@serving.which_run
@click.option("--host", default="127.0.0.1", show_default=True, help="Where to listen; elsewhere a key is needed.")
@click.option("--port", type=click.IntRange(0, 65_535), default=8720, show_default=True, help="0 takes any.")
@click.option("--api-key-file", type=click.Path(dir_okay=False), metavar="FILE", help="0600; one key in each line.")
@click.option(
    "--name", "names", multiple=True, metavar="NAME", help="What requests may call the model, besides its tag."
)
@click.option("--base", metavar="MODEL", help="Where an adapter's base model lies, if not where it was.")
@click.option("--max-batch", type=click.IntRange(1, 1024), help="Inputs that the model reads at once (32; chat: 8).")
@click.option("--max-wait-ms", type=click.FloatRange(0, 1000), default=5.0, show_default=True, help="For company.")
@click.option("--max-queue", type=click.IntRange(1), default=1024, show_default=True, help="Inputs that may wait.")
@click.option("--max-inputs", type=click.IntRange(1), default=256, show_default=True, help="Texts of one request.")
@click.option("--max-body-kib", type=click.IntRange(1), default=1024, show_default=True, help="Size of a request.")
@click.option(
    "--max-new-tokens", type=click.IntRange(1), default=1024, show_default=True, help="Of one answer in chat."
)
def serve(
    run_dir: str,
    trust_file: str | None,
    without_log: bool,
    force: str | None,
    host: str,
    port: int,
    api_key_file: str | None,
    names: tuple[str, ...],
    base: str | None,
    max_batch: int | None,
    max_wait_ms: float,
    max_queue: int,
    max_inputs: int,
    max_body_kib: int,
    max_new_tokens: int,
) -> None:
    """Answer requests with an accepted run's model.

    The task type names the interface: /v1/embeddings, /v1/rerank, /v1/classify or /v1/chat/completions; beside it stand
    /v1/models, /health and /metrics. The proof chain is checked first, as `verify` does, and every file of the model
    with it. SIGTERM lets answers finish.
    """
    from trainer.serve import accepted, server
    from trainer.serve.limits import Batching, Limits

    session = current()
    where = server.place(host, port, Path(api_key_file) if api_key_file else None)
    run = serving.look(session, run_dir, trust_file, without_log, force, doing="serve")
    found = accepted.base_of(run, base)
    batch = max_batch or (8 if run.interface == "/v1/chat/completions" else 32)
    limits = Limits(
        max_body_bytes=max_body_kib * 1024,
        max_inputs=max_inputs,
        max_new_tokens=max_new_tokens,
        batching=Batching(batch, max_wait_ms / 1000, max_queue),
    )
    called = [*dict.fromkeys((*names, run.spec.task_type, run.spec.run_id))]
    server.serve(run, found, where, limits, called, lambda address: _tell(session.output, run, address, called[0]))


def _tell(output: "Output", run: "Servable", address: str, name: str) -> None:
    facts = {"address": address, "interface": run.interface, "model": name, "run_id": run.spec.run_id}
    output.event("serving", **facts, accepted=run.forced is None)
    if output.mode == "json":
        output.result(facts, ())
    output.talk(f"serving {name} (run {run.spec.run_id}) at {address}{run.interface}")
