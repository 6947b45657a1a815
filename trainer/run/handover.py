"""The permit file: how a permit reaches the process that will run, without a command line or an environment.

It holds the run's private key, is readable by its owner only, and is deleted as soon as the ticket is redeemed.
"""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from enforcer.keys import SigningKey
from enforcer.problems import OutputInvalid, TicketInvalid
from trainer.layout import RunFolder, write_private
from trainer.run.permit import Permit
from trainer.settings import Settings, log_settings, read_secret

NAME = "permit.json"
RANKS = "ranks.json"  # the same for the other processes of a run, without its key
LOG_SETTINGS = ("log_proof", "log_keys", "log_witnesses", "log_quorum")


def document(permit: Permit) -> dict[str, Any]:
    """Where everything lies, and the run's key."""
    return {
        "run_folder": str(permit.folder.root),
        "key": permit.key.to_pem().decode(),
        "server": permit.settings.server,
        "issuer": permit.settings.issuer,
        "timeout_s": permit.settings.timeout_s,
        **{name: getattr(permit.settings, name) for name in LOG_SETTINGS},
        "allow_http": permit.settings.allow_http,
        "model": str(permit.model),
        "train_files": list(permit.train_files),
        "eval_files": list(permit.eval_files),
        "checkpoint": permit.checkpoint and str(permit.checkpoint),
        "save_steps": permit.save_steps,
        "teacher": permit.teacher and str(permit.teacher),
    }


def write(permit: Permit) -> Permit:
    """Put the permit beside the files it speaks of."""
    path = permit.folder.root / NAME
    try:
        write_private(path, json.dumps(document(permit)).encode())
    except OSError as error:
        raise OutputInvalid(f"`{path}` cannot be written: {(error.strerror or '').lower()}") from error
    return replace(permit, file=path)


def read(path: Path) -> Permit:
    """Take up a permit.

    Raises:
        TicketInvalid: no permit file of ours: it is missing (redeemed already?), somebody else's, or broken.
    """
    if not os.path.lexists(path):
        raise TicketInvalid(f"there is no permit file `{path}`: a permit is deleted once its ticket is redeemed")
    try:
        return restored(json.loads(read_secret(path)), path)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise TicketInvalid(f"`{path}` is not a permit file: {error}") from error


def restored(said: dict[str, Any], path: Path) -> Permit:
    """The permit that a `document` speaks of, which lies at `path`."""
    return Permit(
        # It lies in its run folder, which may have been carried to another machine.
        folder=RunFolder(path.parent if path.name in (NAME, RANKS) else Path(said["run_folder"])),
        key=SigningKey.from_pkcs8(said["key"].encode()),
        settings=_settings(said),
        model=Path(said["model"]),
        train_files=tuple(said["train_files"]),
        eval_files=tuple(said["eval_files"]),
        file=path,
        checkpoint=said["checkpoint"] and Path(said["checkpoint"]),
        save_steps=said["save_steps"],
        teacher=said["teacher"] and Path(said["teacher"]),
    )


def _settings(document: dict[str, Any]) -> Settings:
    """As the submitter had them; what this worker itself requires of a proof is for its own settings to say."""
    given = {name: document[name] for name in ("server", "issuer", "timeout_s", "allow_http", *LOG_SETTINGS)}
    required_here = log_settings()
    return Settings(**{**given, **(required_here if required_here["log_proof"] == "required" else {})})


def delete(permit: Permit) -> None:
    if permit.file is not None:
        permit.file.unlink(missing_ok=True)
