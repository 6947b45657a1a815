"""Retention: what is personal in an event goes when its class says so. Classes: `policies/retention.yaml`."""

import logging
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import rfc8785
import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError
from sqlalchemy import Engine

from enforcer.policy.rules import PolicyInvalid
from enforcer.runspec import digest
from registry import audit, db, erasure
from registry.identity import Actor

log = logging.getLogger(__name__)
KEEPER = Actor("system:retention", (), "all")
EVERY_S = 86_400
DEFAULT = "*"  # the class that takes what no prefix fits

Prefix = Annotated[str, StringConstraints(pattern=r"^(\*|[a-z][a-z-]*\.([a-z-]+)?)$")]


class RetentionClass(BaseModel):
    """`kinds` are prefixes of event kinds (`tag.`) or whole ones (`audit.erased`); the longest that fits decides."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    days: int = Field(ge=1, le=36_525)
    kinds: list[Prefix] = Field(min_length=1)


class _RetentionFile(BaseModel):
    model_config = ConfigDict(extra="forbid")

    owner: str
    classes: dict[str, RetentionClass]


@dataclass(frozen=True)
class Retention:
    """All classes, linted. `revision` is their digest, as events name it."""

    classes: Mapping[str, RetentionClass]
    revision: str

    def class_of(self, kind: str) -> str:
        fits = [(len(prefix), name) for name, class_ in self.classes.items() for prefix in class_.kinds
                if prefix != DEFAULT and kind.startswith(prefix)]  # fmt: skip
        return max(fits)[1] if fits else next(n for n, class_ in self.classes.items() if DEFAULT in class_.kinds)


def load(folder: Path) -> Retention:
    """Read and lint `retention.yaml`.

    Raises:
        PolicyInvalid: missing or malformed, a prefix in two classes, or not exactly one class for everything else.
    """
    file = folder / "retention.yaml"
    try:
        content = _RetentionFile.model_validate(yaml.safe_load(file.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, ValidationError) as error:
        raise PolicyInvalid(f"{file}: {error}") from error
    counted = Counter(prefix for class_ in content.classes.values() for prefix in class_.kinds)
    twice = sorted(prefix for prefix, times in counted.items() if times > 1)
    if twice:
        raise PolicyInvalid(f"{file.name}: `{twice[0]}` stands in two classes; one has to decide")
    if DEFAULT not in counted:
        raise PolicyInvalid(f'{file.name}: no class has `kinds: ["*"]`, for what no other names')
    document: dict[str, Any] = {name: class_.model_dump() for name, class_ in content.classes.items()}
    return Retention(content.classes, digest(rfc8785.dumps(document)))


def run(engine: Engine, retention: Retention, *, now: datetime, dry_run: bool = False) -> dict[str, dict[str, int]]:
    """Erase what is past its class: for each class how many events were `erased` (or would be) and how many are `held`.

    On record as `audit.retained` in the transaction of the first erasure, and `audit.retention-finished` with the
    counts. Nothing to do writes nothing.
    """
    counts = {name: {"erased": 0, "held": 0} for name in retention.classes}
    recorded = False
    shortest = min(class_.days for class_ in retention.classes.values())
    for found in erasure.older_than(engine, now - timedelta(days=shortest)):
        due: dict[str, list[str]] = {}
        for event_id, kind, at in found:
            name = retention.class_of(kind)
            if at < now - timedelta(days=retention.classes[name].days):
                due.setdefault(name, []).append(event_id)
        if dry_run:
            for name, ids in due.items():
                with db.reading(engine) as session:
                    free = erasure.free_of_hold(session, ids)
                counts[name]["erased"] += len(free)
                counts[name]["held"] += len(ids) - len(free)
        elif due:
            with db.writing(engine) as session:
                for name, ids in due.items():
                    erased, _ = erasure.erase_events(session, ids)
                    counts[name]["erased"] += erased
                    counts[name]["held"] += len(ids) - erased
                if not recorded and any(count["erased"] for count in counts.values()):
                    audit.record(session, "audit.retained", KEEPER, policy_revision=retention.revision)
                    recorded = True
    if recorded:
        with db.writing(engine) as session:
            detail: dict[str, Any] = {"classes": counts}
            audit.record(session, "audit.retention-finished", KEEPER, policy_revision=retention.revision, detail=detail)
    return counts


def keep_running(engine: Engine, retention: Retention) -> None:
    """Once a day, from the start on. Several processes may: what one has erased, the next does not find."""
    while True:
        try:
            run(engine, retention, now=db.utc_now())
        except Exception:
            log.exception("retention did not finish; it is tried again tomorrow")
        time.sleep(EVERY_S)
