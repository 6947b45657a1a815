"""`swift-submit` and the end of a task type: who asks is told when it ends, and what to use instead."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import LiveRegistry
from submitting import Desk

from registry import db


@pytest.fixture
def desk(tmp_path: Path, encoder: Path, live_registry: LiveRegistry) -> Desk:
    return Desk(tmp_path, encoder, live_registry.url, live_registry.token("li", "retail-ds"))


def end(desk: Desk, registry: LiveRegistry, kind: str, **terms: Any) -> str:
    """Propose it from a file and have two units approve it; what the last approval prints."""
    mine, review = desk.token, ["--reason", "read it"]
    change = {"kind": kind, "tag": "sequence-classification", **terms}
    (desk.root / "end.yaml").write_text(yaml.safe_dump({"change": change, "reason": "few use it"}))
    desk.token = registry.token("author", "tag-stewards")
    opened = desk.json("requests", "propose", "end.yaml")
    for name, unit in (("ana", "retail"), ("bo", "ai")):
        desk.token = registry.token(name, "tag-stewards", unit=unit)
        done = desk.cli("requests", "approve", opened["id"], "--digest", opened["digest"], *review)
    desk.token = mine
    return done.stdout


def test_the_end_of_a_task_type_is_told_wherever_one_looks(
    desk: Desk, live_registry: LiveRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = desk.config(task_type="cls")
    sunset_at = (db.utc_now() + timedelta(days=30)).replace(microsecond=0)

    done = end(desk, live_registry, "deprecation", sunset_at=sunset_at.isoformat(), replaced_by="embedding")
    listed, shown = desk.cli("tags", "list", "--state", "deprecated").stdout, desk.cli("tags", "show", "cls").stdout
    planned = desk.cli("plan", config)
    with_clock = db.utc_now
    monkeypatch.setattr(db, "utc_now", lambda: with_clock() + timedelta(days=31))
    desk.token = live_registry.token("li", "retail-ds")
    refused = desk.cli("run", desk.config(task_type="cls", max_length=1))  # nobody mends that for what has ended

    assert "`sequence-classification` is deprecated" in done
    assert "deprecated, use embedding" in listed
    assert "dpo" not in listed
    assert f"sunset {sunset_at:%Y-%m-%dT%H:%M:%SZ}; use `embedding`" in shown
    assert (planned.returncode, "use `embedding`" in planned.stderr) == (0, True)
    assert refused.returncode == 6, refused.stderr
    assert "has taken no new runs since" in refused.stderr
    assert "use `embedding`" in refused.stderr
    assert [event.detail["problem"] for event in live_registry.events("submit.refused")] == ["task-type-sunset"]


def test_usage_and_readiness_are_asked_for_by_name(desk: Desk, live_registry: LiveRegistry) -> None:
    desk.permitted()

    usage, ready, unready = (
        desk.cli("tags", *question) for question in (["usage", "cls"], ["readiness", "reranker"], ["readiness", "cls"])
    )
    quiet = desk.cli("tags", "readiness", "cls", "-q")
    elsewhere = desk.cli("tags", "usage", "cls", "--bu", "all")

    assert "sequence-classification in retail: 1 runs in 30 days, 1 in 90" in usage.stdout
    assert "user:li" in usage.stdout
    assert (ready.returncode, ready.stdout.splitlines()[0]) == (0, "reranker: safe to deprecate")
    assert (unready.returncode, unready.stdout.splitlines()[0]) == (8, "sequence-classification: not safe to deprecate")
    assert "consumers: 1 active, 0 stale, 0 dead" in unready.stdout
    assert (quiet.returncode, quiet.stdout) == (8, "unsafe\n")
    assert (elsewhere.returncode, "may not run-read" in elsewhere.stderr) == (3, True)
