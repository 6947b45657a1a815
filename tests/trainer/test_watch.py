"""`swift-submit runs watch`: a run is followed from anywhere, by what the registry knows of it."""

import json
import signal
import uuid
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update
from submitting import Desk

from enforcer import wire
from enforcer.problems import RegistryUnreachable, UnknownRun
from registry import db, server
from registry.tables import Run
from trainer.cli import watch
from trainer.cli.output import Output
from trainer.client import Registry
from trainer.run import work
from trainer.run.permit import Permit
from trainer.settings import Settings


@pytest.fixture
def desk(tmp_path: Path, encoder: Path, live_registry: Any) -> Desk:
    return Desk(tmp_path, encoder, live_registry.url, live_registry.token("li", "retail-ds"))


class Meanwhile:
    """Sleeps for nobody: each sleep is what happens to the run before the next question."""

    def __init__(self, *happens: Callable[[], object]) -> None:
        self.happens, self.slept = list(happens), list[float]()

    def __call__(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.happens.pop(0)()


def redeemed(given: Permit) -> wire.Lease:
    with Registry(given.settings) as registry:
        ticket = given.verify()
        return registry.redeem(ticket.token, ticket.claims.jti, given.key, str(uuid.uuid4()))


def beat(given: Permit, lease: wire.Lease, step: int, **logs: float) -> Callable[[], object]:
    told = wire.Heartbeat(step=step, total_steps=10, logs={name.replace("__", "/"): logs[name] for name in logs})
    return lambda: _as_run(given, lambda registry: registry.heartbeat(lease.run_id, lease.lease_token, told))


def end(given: Permit, lease: wire.Lease, state: Any) -> Callable[[], object]:
    report = wire.Report(state=state, steps=3, error="so it is")
    return lambda: _as_run(given, lambda registry: registry.report(lease.run_id, lease.lease_token, report))


def _as_run(given: Permit, does: Callable[[Registry], object]) -> None:
    with Registry(given.settings) as registry:
        does(registry)


def followed(desk: Desk, run_id: str, meanwhile: Meanwhile, form: str = "ndjson") -> int:
    with Registry(Settings(server=desk.server, issuer=desk.server, token=desk.token)) as registry:
        return watch.follow(Output({"format": form}), registry, run_id, 5, meanwhile)


@pytest.mark.parametrize(("state", "code"), [("failed", 10), ("interrupted", 130)])
def test_a_run_is_followed_to_its_end(state: str, code: int, desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    given = desk.permitted()
    lease = redeemed(given)
    meanwhile = Meanwhile(
        beat(given, lease, 2, loss=0.5, pace__eta_s=8.0), lambda: None, beat(given, lease, 3, loss=0.25),
        end(given, lease, state),
    )  # fmt: skip

    assert followed(desk, lease.run_id, meanwhile) == code

    *told, last = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [event["state"] for event in told if event["event"] == "state"] == ["running", state]
    steps = [event for event in told if event["event"] == "step"]
    assert [(step["step"], step["total"], step["loss"]) for step in steps] == [(2, 10, 0.5), (3, 10, 0.25)]
    assert steps[0]["pace/eta_s"] == 8.0
    assert last["result"]["state"] == state
    assert meanwhile.slept == [5, 5, 5, 5]


def test_a_finished_run_exits_as_run_would_have(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    given = desk.permitted(max_steps=2)  # too few to pass its gate

    code = followed(desk, given.folder.root.name, Meanwhile(lambda: work.execute(given)), "human")

    told = capsys.readouterr()
    assert code == 11
    assert "is permitted and has not been started" in told.err
    assert "an acceptance gate was missed" in told.err
    assert "finished, gates: fail" in told.out


def test_a_lost_run_is_no_longer_waited_for(desk: Desk, live_registry: Any, capsys: pytest.CaptureFixture[str]) -> None:
    lease = redeemed(desk.permitted())

    assert followed(desk, lease.run_id, Meanwhile(lambda: _lose(live_registry)), "human") == 9

    told = capsys.readouterr()
    assert "is lost: nothing has been heard of it" in told.err
    assert "swift-submit run --resume" in told.out


def test_a_registry_that_is_away_for_a_while_is_asked_again_less_and_less_often(
    desk: Desk, live_registry: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    given = desk.permitted()
    lease = redeemed(given)
    meanwhile = Meanwhile(live_registry.stop, lambda: None, live_registry.start, end(given, lease, "failed"))

    assert followed(desk, lease.run_id, meanwhile) == 10

    assert meanwhile.slept == [5, 10, 20, 5]
    assert capsys.readouterr().err.count("the registry does not answer (`registry-unreachable`)") == 1


def test_a_registry_that_stays_away_is_given_up(
    desk: Desk, live_registry: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "GIVE_UP_S", 30.0)
    lease = redeemed(desk.permitted())

    with pytest.raises(RegistryUnreachable):
        followed(desk, lease.run_id, Meanwhile(live_registry.stop, lambda: None, lambda: None))


def test_a_run_that_nobody_knows_is_told_at_once(desk: Desk) -> None:
    with pytest.raises(UnknownRun):
        followed(desk, "run-nobody-knows", Meanwhile())


def test_ctrl_c_leaves_the_run_alone_and_says_so(desk: Desk, live_registry: Any) -> None:
    lease = redeemed(desk.permitted())

    with desk.start("runs", "watch", lease.run_id, "--interval", "1") as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["state"] == "running"
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)

    assert process.returncode == 130
    assert f"run `{lease.run_id}` goes on without you" in said
    assert desk.json("runs", "show", lease.run_id)["state"] == "running"


def _lose(live_registry: Any) -> None:
    books = live_registry.app.state.books
    with books.writing() as session:
        session.connection().execute(update(Run).values(lease_expires_at=db.utc_now() - timedelta(days=1)))
    assert server.mark_lost(books) == 1
