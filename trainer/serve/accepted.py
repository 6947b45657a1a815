"""May this run be served? The proof chain, the registry's verdict in it, and the files that will be loaded.

1. Chain    all of `enforcer.chain.verify`, by what the caller trusts; step 7 hashes every file of the model
2. Verdict  the registry's countersignature says that it finished and passed, or that an approved waiver stands for it;
            `verdict.json` is nobody's word
3. Base     an adapter's base model is the one that the run specification names by digest

Forced, 1 shrinks to the files and 2 goes: a changed file is never loaded, for whatever reason.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from enforcer import chain
from enforcer.chain import Trust
from enforcer.manifest import Receipt
from enforcer.problems import ModelInvalid
from enforcer.runspec import RunSpec
from trainer.inputs import folders
from trainer.layout import RunFolder
from trainer.run import evidence
from trainer.serve.problems import NotAccepted, NotServable

FINISHED, GATES = "TAGWARDEN_RUN_FINISHED", "TAGWARDEN_GATES_"
ACCEPTED = ("pass", "waived")


@dataclass(frozen=True)
class Servable:
    """A run whose model may be loaded. `forced` is the reason why, where nobody accepted it."""

    folder: RunFolder
    spec: RunSpec
    forced: str | None = None

    @property
    def arguments(self) -> Mapping[str, Any]:
        return self.spec.arguments

    @property
    def interface(self) -> str:
        """The path that the task type names.

        Raises:
            NotServable: it names none.
        """
        if self.spec.profile.serving is None:
            raise NotServable(f"`{self.spec.task_type}` names no interface (`serving`), so its models are not served")
        return self.spec.profile.serving

    @property
    def is_adapter(self) -> bool:
        return (self.folder.model / "adapter_config.json").is_file()

    @property
    def digest(self) -> str:
        """Of the model folder, as `sha256sum` over `sha256sum` (`inputs/folders.py`)."""
        return folders.folder_digest(self.folder.model)


def accepted(folder: RunFolder, trust: Trust, *, without_log: bool = False) -> Servable:
    """A run that the registry accepted.

    Raises:
        ManifestInvalid: the chain does not hold.
        NotAccepted: it holds, and the registry did not let it pass.
    """
    run = chain.verify(evidence.bundle(folder), trust, without_log=without_log)
    said = _verdict(run.receipt)
    if FINISHED not in run.receipt.predicate.properties:
        raise NotAccepted(f"run `{run.spec.run_id}` did not train to its end; run it again", verdict=said)
    if said not in ACCEPTED:
        raise NotAccepted(
            f"the registry judged the gates of run `{run.spec.run_id}`: {said or 'not at all'}; train one that passes, "
            "or serve it all the same with `--force REASON`, which is put on record",
            verdict=said,
        )
    return Servable(folder, run.spec)


def forced(folder: RunFolder, reason: str) -> Servable:
    """A run that is served whatever the registry said. Its files still are those of its manifest.

    Raises:
        ManifestInvalid: they are not, or there is no manifest.
    """
    _, spec = chain.check_outputs(evidence.bundle(folder))
    return Servable(folder, spec, reason)


def base_of(run: Servable, said: str | None = None) -> Path | None:
    """Where the base model of an adapter lies; None when the run trained every weight.

    Raises:
        ModelInvalid: it is not on this machine, or not the one that the adapter was trained on.
    """
    if not run.is_adapter:
        return None
    wanted = run.spec.inputs.model
    base = folders.model_folder(said or wanted.name)
    if (found := folders.folder_digest(base)) != wanted.digest:
        raise ModelInvalid(
            f"`{base}` is not the model that the adapter was trained on: its digest is {found[:19]}…, the run "
            f"specification says {wanted.digest[:19]}…; name the right one with `--base FOLDER`",
            model=str(base),
        )
    return base


def _verdict(receipt: Receipt) -> str | None:
    found = [name for name in receipt.predicate.properties if name.startswith(GATES)]
    return found[0].removeprefix(GATES).lower() if found else None
