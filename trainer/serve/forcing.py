"""Whoever uses a model that nobody accepted says why, and it is on record before it happens.

At the registry, as an event of the run, when it answers: what it refuses (a run that the caller may not see, a token
that is over) does not happen. When it does not answer, only here, in `forced.jsonl` of the run folder, where it always
stands.
"""

import getpass
import json
import os
from datetime import UTC, datetime

from pydantic import ValidationError

from enforcer import wire
from enforcer.problems import ArgumentInvalid, OutputInvalid, Unavailable
from trainer.client import Registry
from trainer.serve.accepted import Servable
from trainer.settings import Settings


def record(settings: Settings, run: Servable, doing: str) -> str:
    """Put it on record; returns where it stands, for people.

    Raises:
        ArgumentInvalid: the reason is none that goes on record.
        Problem: the registry refuses, or the run folder cannot be written.
    """
    assert run.forced is not None
    asked = _asked(doing, run.forced)
    try:
        with Registry(settings) as registry:
            registry.force(run.spec.run_id, asked)
        told = True
    except Unavailable:
        told = False
    line = {"at": datetime.now(UTC).isoformat(), "by": getpass.getuser(), **asked.model_dump(), "at_registry": told}
    path = run.folder.root / "forced.jsonl"
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "a", encoding="utf-8") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
    except OSError as error:
        raise OutputInvalid(f"`{path}` cannot be written, so it would not be on record: {error.strerror}") from error
    return "The registry has it on record" if told else f"The registry does not answer: it stands in `{path}` only"


def _asked(doing: str, reason: str) -> wire.ForcedUse:
    try:
        return wire.ForcedUse.model_validate({"use": doing, "reason": reason})
    except ValidationError as error:
        raise ArgumentInvalid(
            f"the reason after `--force` has {len(reason.strip()):,} characters, and one that goes on record has 3 to "
            "1,000, none of them NUL; say in a sentence why this model is used",
            pointer="/force",
        ) from error
