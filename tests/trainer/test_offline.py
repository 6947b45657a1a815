"""A run where no registry answers: used up once by the replay cache, on record for later, never on a warning."""

import json
import os
import shutil
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from conftest import LiveRegistry, free_port
from policy_folders import changed_policy
from submitting import Desk, events

from enforcer.problems import NotConfigured, TicketInvalid, TicketUsed
from registry.settings import Settings
from trainer.run import offline, work
from trainer.settings import HERE, local_audience, replay_folder

JTI, OTHER = "0199e3f0-0000-7000-8000-000000000001", "0199e3f0-0000-7000-8000-000000000002"


@pytest.fixture
def isolating_registry(tmp_path: Path) -> Any:
    """A registry whose policy lets runs on this machine redeem offline."""
    policies = changed_policy(tmp_path, offline=["local"])
    live = LiveRegistry(Settings(state_dir=tmp_path / "state", policies_dir=policies, port=free_port()))
    live.start()
    yield live
    live.stop()


@pytest.fixture
def desk(tmp_path: Path, encoder: Path, isolating_registry: LiveRegistry, monkeypatch: pytest.MonkeyPatch) -> Desk:
    monkeypatch.setenv(HERE["replay_dir"], str(tmp_path / "replay"))
    return Desk(tmp_path, encoder, isolating_registry.url, isolating_registry.token("li", "retail-ds"))


def permit(desk: Desk, **changes: Any) -> Path:
    """`run --redeem offline --permit-only`, as on a login node; the run folder."""
    done = desk.cli("--json", "run", desk.config(**changes), "--redeem", "offline", "--permit-only")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["redeem"], Path(told["permit"]).stat().st_mode & 0o077) == ("offline", 0)
    return Path(told["run_dir"])


def happened(registry: LiveRegistry) -> list[str]:
    """What became of tickets and runs, in order."""
    return [event.kind for event in registry.events() if event.kind.startswith(("ticket.", "run.", "gate."))]


# --- the replay cache -------------------------------------------------------------------------------------------------


def test_a_ticket_is_used_up_once_and_remembered_until_nobody_would_take_it(tmp_path: Path) -> None:
    cache = tmp_path / "replay"

    offline.use_up(cache, JTI, exp=1_000, now=lambda: 900.0)
    with pytest.raises(TicketUsed, match="was used here before"):
        offline.use_up(cache, JTI, exp=1_000, now=lambda: 1_059.0)
    offline.use_up(cache, OTHER, exp=2_000, now=lambda: 1_061.0)

    assert cache.stat().st_mode & 0o777 == 0o700
    assert [name.name for name in cache.iterdir()] == [f"2000.{OTHER}"], "the old one was swept"


def test_of_many_processes_that_use_one_ticket_up_one_wins(tmp_path: Path) -> None:
    gate = threading.Barrier(32)

    def use(_: int) -> bool:
        gate.wait()
        try:
            offline.use_up(tmp_path / "replay", JTI, exp=1_000, now=lambda: 900.0)
        except TicketUsed:
            return False
        return True

    with ThreadPoolExecutor(32) as pool:
        assert sum(pool.map(use, range(32))) == 1


def test_a_cache_that_cannot_be_relied_on_starts_nothing(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir(mode=0o755)
    (tmp_path / "open").chmod(0o755)
    (tmp_path / "link").symlink_to(tmp_path)
    (tmp_path / "file").write_text("")

    for cache in (tmp_path / "open", tmp_path / "link", tmp_path / "file" / "below"):
        with pytest.raises(TicketInvalid) as refused:
            offline.use_up(cache, JTI, exp=1_000, now=lambda: 900.0)
        assert refused.value.facts["step"] == 14


def test_a_cluster_needs_a_cache_that_its_hosts_share(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(HERE["cluster"], "a100-north")

    assert local_audience() == "urn:swift:exec:a100-north"
    with pytest.raises(NotConfigured, match="SWIFT_SUBMIT_REPLAY_DIR"):
        replay_folder()
    monkeypatch.setenv(HERE["replay_dir"], str(tmp_path))
    assert replay_folder() == tmp_path
    monkeypatch.setenv(HERE["cluster"], "a:b")
    with pytest.raises(NotConfigured, match="is no name"):
        local_audience()


# --- whole runs -------------------------------------------------------------------------------------------------------


def test_a_run_without_a_registry_trains_to_its_end_and_is_uploaded_later(
    desk: Desk, isolating_registry: LiveRegistry
) -> None:
    folder = permit(desk)
    isolating_registry.stop()

    trained, again = desk.cli("--json", "work", str(folder)), desk.cli("--json", "work", str(folder))
    away = desk.cli("runs", "report", str(folder))
    isolating_registry.start()
    sent = desk.cli("--json", "runs", "report", str(folder))

    assert trained.returncode == 9, trained.stderr  # trained, and the report waits
    assert (json.loads(trained.stdout)["report"], (folder / "model").is_dir()) == ("waiting", True)
    assert not (folder / "permit.json").exists(), "the key is gone with the redemption"
    assert (again.returncode, json.loads(again.stdout)["code"]) == (8, "ticket-invalid")
    assert away.returncode == 9
    assert (sent.returncode, json.loads(sent.stdout)["verdict"]) == (0, "pass"), sent.stderr
    kinds = happened(isolating_registry)
    assert kinds == ["ticket.issued", "ticket.redeemed", "run.finished", "gate.pass", "run.manifest"]
    assert (folder / "receipt.json").exists(), "the manifest came with the report, and was countersigned"


def test_an_offline_run_is_proven_once_it_was_sent_and_says_before_what_is_missing(
    desk: Desk, isolating_registry: LiveRegistry
) -> None:
    folder = permit(desk)
    assert desk.cli("trust", "save", "trust.json").returncode == 0
    isolating_registry.stop()
    assert desk.cli("work", str(folder)).returncode == 9  # trained, and the report waits
    verify = ("verify", str(folder), "--trust", "trust.json")

    before, without_log = desk.cli(*verify), desk.cli("--json", *verify, "--without-log")
    isolating_registry.start()
    sent, after = desk.cli("runs", "report", str(folder)), desk.cli(*verify)

    assert before.returncode == 8
    assert f"send it first with `swift-submit runs report {folder}`" in before.stderr
    assert "there is no proof that `ticket.issued` stands in the log" in before.stderr
    told = json.loads(without_log.stdout)
    assert (without_log.returncode, told["step"]) == (8, 8), "the run's own part holds: permit, manifest, outputs"
    assert "there is no countersignature" in told["detail"]
    assert (sent.returncode, after.returncode) == (0, 0), after.stderr
    assert [line.split()[:2] for line in after.stdout.splitlines()[:8]] == [["✓", str(n)] for n in range(1, 9)]
    assert "was not sent yet" not in after.stderr


def test_a_copied_permit_is_refused_by_the_same_cache_and_given_away_by_another(
    desk: Desk, isolating_registry: LiveRegistry, tmp_path: Path
) -> None:
    folder = permit(desk, max_steps=2)
    same, elsewhere = (Path(shutil.copytree(folder, tmp_path / name)) for name in ("same", "elsewhere"))

    first, second = desk.cli("--json", "work", str(folder)), desk.cli("--json", "work", str(same))
    third = desk.cli("--json", "work", str(elsewhere), **{HERE["replay_dir"]: str(tmp_path / "another-replay")})

    assert first.returncode in (0, 11), first.stderr  # two steps pass no gate
    assert (second.returncode, json.loads(second.stdout)["code"]) == (8, "ticket-used")
    assert (third.returncode, json.loads(third.stdout)["code"]) == (8, "ticket-used-twice")
    kinds = happened(isolating_registry)
    assert kinds[:2] == ["ticket.issued", "ticket.redeemed"]
    assert [kind for kind in kinds if kind.startswith("ticket.")][2:] == ["ticket.refused", "ticket.used-twice"]
    assert not (elsewhere / "model").exists(), "a registry that answers stops the second run before it trains"


def test_two_runs_of_one_permit_that_nobody_heard_of_are_an_alarm_when_both_are_uploaded(
    desk: Desk, isolating_registry: LiveRegistry, tmp_path: Path
) -> None:
    folder = permit(desk, max_steps=2)
    elsewhere = Path(shutil.copytree(folder, tmp_path / "elsewhere"))
    isolating_registry.stop()
    trained = [
        desk.cli("work", str(place), **{HERE["replay_dir"]: str(tmp_path / f"replay-{number}")}).returncode
        for number, place in enumerate((folder, elsewhere))
    ]
    isolating_registry.start()

    uploads = [desk.cli("--json", "runs", "report", str(place)) for place in (folder, elsewhere)]

    assert trained == [9, 9]
    assert uploads[0].returncode == 11, "taken, and two steps pass no gate"
    assert (uploads[1].returncode, json.loads(uploads[1].stdout)["code"]) == (8, "ticket-used-twice")
    assert happened(isolating_registry)[-1] == "ticket.used-twice"


def test_a_worker_that_heeds_a_list_starts_no_revoked_ticket_and_none_without_a_fresh_list(
    desk: Desk, isolating_registry: LiveRegistry, tmp_path: Path
) -> None:
    folder, mirror = permit(desk, max_steps=2), tmp_path / "revoked.json"
    revoked = desk.cli("ticket", "revoke", str(folder), "--reason", "wrong data")
    mirror.write_bytes(isolating_registry.anonymous().get("/.well-known/revoked.json").content)
    isolating_registry.stop()
    heeding = {HERE["revoked"]: str(mirror)}

    refused, checked = (
        desk.cli("--json", *command, **heeding)
        for command in (["work", str(folder)], ["ticket", "verify", str(folder), "--revoked", str(mirror)])
    )
    mirror.unlink()
    blind = desk.cli("--json", "work", str(folder), **heeding)

    assert revoked.returncode == 0, revoked.stderr
    assert "nobody can redeem it" in revoked.stdout
    for done in (refused, checked, blind):
        assert (done.returncode, json.loads(done.stdout)["step"]) == (8, 14), done.stderr
    assert (folder / "permit.json").exists(), "a permit that was not used may be tried again"


def test_a_killed_offline_run_is_signed_off_by_its_launcher(desk: Desk, isolating_registry: LiveRegistry) -> None:
    with desk.start("run", desk.config(max_steps=100_000), "--redeem", "offline") as process:
        assert any(event["event"] == "step" for event in events(process))
        (worker,) = desk.workers
        os.kill(worker, signal.SIGKILL)
        *_, last = events(process)
        code = process.wait(timeout=120)

    assert (code, last["problem"]["code"]) == (10, "training-failed")
    assert happened(isolating_registry) == ["ticket.issued", "ticket.redeemed", "run.failed"]


def test_an_offline_run_is_asked_for_where_the_policy_forbids_it(
    tmp_path: Path, encoder: Path, live_registry: LiveRegistry
) -> None:
    desk = Desk(tmp_path, encoder, live_registry.url, live_registry.token("li", "retail-ds"))

    done = desk.cli("--json", "run", desk.config(), "--redeem", "offline")

    assert (done.returncode, json.loads(done.stdout)["code"]) == (3, "offline-not-permitted")


def test_python_runs_offline_too(desk: Desk, isolating_registry: LiveRegistry) -> None:
    given = desk.permitted(max_steps=2, redeem="offline")
    isolating_registry.stop()

    done = work.execute(given)

    assert (done.run, done.outcome.stopped) == (None, None)
    assert given.folder.report_pending.exists()


# --- an outage that lasts ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("on_lease_loss", "stopped"), [("checkpoint-and-stop", True), ("finish", False)])
def test_a_registry_that_stays_away_longer_than_the_grace(
    tmp_path: Path, encoder: Path, live_registry: LiveRegistry, on_lease_loss: str, stopped: bool
) -> None:
    """A lease of 3 s and a grace of 3 s: after 4 s nothing has happened, after 6 s the organisation's choice does."""
    short = {"lease_ttl_s": 3, "lease_grace_s": 3, "on_lease_loss": on_lease_loss}
    object.__setattr__(live_registry.books, "settings", live_registry.settings.model_copy(update=short))
    desk = Desk(tmp_path, encoder, live_registry.url, live_registry.token("li", "retail-ds"))
    with desk.start("run", desk.config(max_steps=1_000_000)) as process:
        assert any(event["event"] == "step" for event in events(process))
        live_registry.stop()
        time.sleep(4)
        assert process.poll() is None, "an outage within the grace stops nothing"
        if not stopped:
            time.sleep(8)
            assert process.poll() is None, "the organisation says: finish"
            return
        *_, last = events(process)
        code = process.wait(timeout=120)
    (folder,) = desk.run_dirs
    assert code == 130
    assert last["result"]["stopped"].startswith("lease-lost: the registry has not answered for")
    assert list((folder / "checkpoints").glob("checkpoint-*/model.safetensors"))
    assert (folder / "report.pending").exists()

    live_registry.start()
    sent = desk.cli("--json", "runs", "report", str(folder))

    assert (sent.returncode, json.loads(sent.stdout)["state"]) == (0, "interrupted"), sent.stderr
    assert live_registry.events("run.interrupted")[0].reason.startswith("stopped: lease-lost")
