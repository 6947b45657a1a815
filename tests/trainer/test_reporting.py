"""The end of a run: whatever the network or the disk does, the registry hears of it now or finds it waiting."""

import json
from pathlib import Path
from typing import Any

import httpx2
import pytest
from submitting import Desk

from enforcer import wire
from enforcer.problems import (
    InternalError,
    Problem,
    RegistryUnreachable,
    RunClosed,
    Unauthenticated,
    Unavailable,
    UnknownRun,
)
from trainer.client import Registry
from trainer.layout import RunFolder
from trainer.run import reporting
from trainer.settings import Settings

LEASE = wire.Lease.model_validate(
    {
        "run_id": "r",
        "lease_token": "twl_t",
        "expires_at": "2026-11-24T00:00:00Z",
        "heartbeat_s": 1,
        "lease_s": 600,
        "grace_s": 600,
        "on_lease_loss": "checkpoint-and-stop",
        "checkpoint": "",
    }
)
REPORT = wire.Report(state="failed", error="it fell over")
RUN = {
    "id": "r", "task_type": "dpo", "version": 1, "business_unit": "retail", "actor": "user:li", "state": "failed",
    "target": "local", "pool": "cpu", "policy_rule": "x", "run_spec_digest": "sha256:" + "a" * 64,
    "created_at": "2026-11-24T00:00:00Z", "started_at": None, "ended_at": None, "step": 0, "total_steps": 0,
    "logs": {}, "scores": {}, "gates": [], "verdict": None, "receipt": None,
}  # fmt: skip


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reporting, "PAUSES_S", (0.0, 0.0, 0.0))


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder.of(tmp_path, "dpo", "r").create()


def send(folder: RunFolder, answer: Any) -> wire.Run | None:
    """Report to a registry that always gives this answer."""

    def handle(_request: httpx2.Request) -> httpx2.Response:
        if isinstance(answer, Problem):
            return httpx2.Response(answer.status, json=answer.document())
        if isinstance(answer, Exception):
            raise answer
        return httpx2.Response(200, json=answer)

    with Registry(Settings(), transport=httpx2.MockTransport(handle)) as registry:
        return reporting.send(registry, folder, REPORT, LEASE)


def test_a_report_that_was_taken_waits_no_longer(folder: RunFolder) -> None:
    assert send(folder, RUN) == wire.ReportedRun.model_validate(RUN)
    assert not folder.report_pending.exists()


@pytest.mark.parametrize("fault", [InternalError("x"), Unavailable("x"), httpx2.ConnectError("refused")], ids=repr)
def test_a_report_that_the_registry_could_not_take_waits(folder: RunFolder, fault: Exception) -> None:
    assert send(folder, fault) is None

    assert json.loads(folder.report_pending.read_text())["lease_token"] == "twl_t"
    assert json.loads(folder.report.read_text())["error"] == "it fell over"


@pytest.mark.parametrize("refusal", [RunClosed("x"), UnknownRun("x"), Unauthenticated("x")], ids=repr)
def test_a_report_that_the_registry_will_never_take_is_given_up(folder: RunFolder, refusal: Problem) -> None:
    with pytest.raises(type(refusal)):
        send(folder, refusal)

    assert not folder.report_pending.exists()


def test_a_disk_that_takes_nothing_keeps_no_registry_from_hearing_the_end(tmp_path: Path) -> None:
    gone = RunFolder(tmp_path / "gone")

    assert send(gone, RUN) is not None
    with pytest.raises(RegistryUnreachable):  # neither sent nor kept: nobody may be told that it waits
        send(gone, httpx2.ConnectError("refused"))


def test_what_signs_a_person_in_goes_to_no_registry_but_theirs(tmp_path: Path) -> None:
    mine = Settings(server="https://registry.example", token="twp_mine", session=tmp_path / "session")

    same = reporting.at(mine, "https://registry.example", "https://registry.example")
    other = reporting.at(mine, "https://else.example", "https://registry.example")

    assert (same.token, same.session) == ("twp_mine", tmp_path / "session")
    assert (other.token, other.session, other.server) == (None, None, "https://else.example")


def test_metrics_are_json_even_when_a_gradient_was_not_a_number(
    tmp_path: Path, encoder: Path, live_registry: Any
) -> None:
    given = Desk(tmp_path, encoder, live_registry.url, live_registry.token("li", "retail-ds")).permitted()
    details = {"log_history": [{"loss": 0.5, "grad_norm": float("nan")}], "peaks": (float("inf"), 1.0)}

    reporting.write_metrics(given.folder, given.verify().spec, REPORT, details)

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    told = json.loads(given.folder.metrics.read_text(), parse_constant=refuse)
    assert told["details"] == {"log_history": [{"loss": 0.5, "grad_norm": None}], "peaks": [None, 1.0]}
