"""What `serve` and `deploy` share: which run, by whose keys, and what it takes to go on without the registry's yes."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from trainer.cli.session import Session

if TYPE_CHECKING:
    from enforcer.chain import Trust
    from trainer.layout import RunFolder
    from trainer.serve.accepted import Servable


def which_run(command: Callable[..., Any]) -> Callable[..., Any]:
    for decorate in (
        click.option("--force", metavar="REASON", help="Although it is not accepted; goes on record."),
        click.option("--without-log", is_flag=True, help="Leave the log out, as `verify --without-log` does."),
        click.option("--trust", "trust_file", type=click.Path(dir_okay=False), metavar="FILE",
                     help="What you trust, from `trust save`; left out, the registry is asked for its keys."),
        click.argument("run_dir", metavar="RUN_DIR", type=click.Path(file_okay=False, exists=True)),
    ):  # fmt: skip
        command = decorate(command)
    return command


def look(
    session: Session, run_dir: str, trust_file: str | None, without_log: bool, force: str | None, *, doing: str
) -> "Servable":
    """The run, checked. Forced, it is put on record what is done, by whom and why, before it is done.

    Raises:
        ManifestInvalid: its proof chain does not hold; forced: its files are not those of its manifest.
        NotAccepted: the registry did not let it pass.
        Problem: the registry is away, and no trust file was named; or it does not take the record.
    """
    from trainer.layout import RunFolder
    from trainer.serve import accepted, forcing

    folder = RunFolder(Path(run_dir).absolute())
    if force is None:
        return accepted.accepted(folder, _trust(session, folder, trust_file), without_log=without_log)
    run = accepted.forced(folder, force)
    run.interface  # noqa: B018 -- raises, before anything is put on record that will not happen
    told = forcing.record(session.settings, run, doing)
    session.output.warn(f"this run is not accepted; it is used because: {force}. {told}")
    return run


def _trust(session: Session, folder: "RunFolder", trust_file: str | None) -> "Trust":
    """Named by file, nothing is asked of the network. Else the registry's own word for its keys, as `trust save` takes
    it, and what the folder lacks of its proofs."""
    from enforcer.problems import RegistryUnreachable
    from trainer import trusted
    from trainer.cli.verify import read_trust
    from trainer.run import evidence

    if trust_file is not None:
        return read_trust(trust_file)
    try:
        with session.registry() as registry:
            found = trusted.gather(registry)
            if not all(path.exists() for path in (folder.receipt, folder.issued_proof, folder.manifest_proof)):
                evidence.complete(registry, folder)
    except RegistryUnreachable as away:
        raise RegistryUnreachable(
            f"{away.detail}; without it, name what you trust with `--trust FILE`", server=session.settings.server
        ) from away
    return found
