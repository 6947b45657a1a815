"""`swift-submit deploy`: the manifest by which a larger engine serves an accepted run."""

import re
from pathlib import Path

import click

from trainer.cli import serving
from trainer.cli.flags import Command
from trainer.cli.session import current

DNS_LABEL = re.compile(r"[a-z]([a-z0-9-]{0,45}[a-z0-9])?")  # RFC 1035, with room for what is put behind it


@click.command(cls=Command)
@serving.which_run
@click.option(
    "--render", "engine", required=True, type=click.Choice(["vllm", "tei", "kserve"]), help="For which engine."
)
@click.option("--storage", required=True, metavar="URI", help="Where the cluster finds the model: pvc://CLAIM/PATH.")
@click.option("--name", metavar="NAME", help="Of the objects (the task type).")
@click.option("--image", metavar="IMAGE", help="Instead of the release that this was written for.")
@click.option("--gpus", type=click.IntRange(0, 16), default=1, show_default=True, help="0 renders for CPUs.")
@click.option("--replicas", type=click.IntRange(1, 1000), default=1, show_default=True)
@click.option("--dtype", type=click.Choice(["float32", "bfloat16", "float16"]), default="float32", show_default=True,
              help="Below float32 answers differ in the third digit.")  # fmt: skip
@click.option("--api-key-secret", metavar="SECRET", help="A Secret whose `api-key` clients must bring.")
@click.option("-o", "--output", type=click.Path(dir_okay=False), help="A file that is not there yet (stdout).")
def deploy(
    run_dir: str,
    trust_file: str | None,
    without_log: bool,
    force: str | None,
    engine: str,
    storage: str,
    name: str | None,
    image: str | None,
    gpus: int,
    replicas: int,
    dtype: str,
    api_key_secret: str | None,
    output: str | None,
) -> None:
    """Write the manifest by which a larger engine serves an accepted run.

    Nothing is applied: `kubectl apply -f FILE` does that. Copy the model folder to URI first; a Deployment checks each
    of its files before the engine starts.
    """
    import yaml

    from trainer.serve import render

    session = current()
    run = serving.look(session, run_dir, trust_file, without_log, force, doing="deploy")
    asked = render.Deployed(
        run=run,
        model=render.model_of(run),
        storage=storage,
        name=_name(name or run.spec.task_type),
        served_names=(run.spec.task_type, run.spec.run_id),
        image=image,
        gpus=gpus,
        replicas=replicas,
        dtype=dtype,
        key_secret=api_key_secret,
    )
    objects = render.render(asked, engine)
    text = yaml.safe_dump_all(objects, sort_keys=False, allow_unicode=True, width=120, explicit_start=True)
    if output is not None:
        _write(Path(output), text)
    if api_key_secret is None:
        session.output.warn("whoever reaches the service may ask it; `--api-key-secret` names a Secret with a key")
    session.output.talk(f"the model is `{asked.model}`; it is expected at {storage}")
    session.output.result(objects, [output or text.rstrip()])


def _name(name: str) -> str:
    from trainer.serve.problems import NotServable

    if not DNS_LABEL.fullmatch(name):
        raise NotServable(f"`{name}` is no name for Kubernetes objects (RFC 1035: `a-z`, digits, `-`, at most 47)")
    return name


def _write(path: Path, text: str) -> None:
    from enforcer.problems import OutputInvalid

    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise OutputInvalid(f"`{path}` cannot be written: {(error.strerror or str(error)).lower()}") from error
