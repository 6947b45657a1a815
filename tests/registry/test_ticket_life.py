"""The life of a ticket and its run against a model of it: any order of what people, runs and time can do."""

import shutil
import tempfile
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

import manifests
import pytest
from conftest import Registry, ask, redeem, ticket_request
from hypothesis import Phase, settings as hypothesis_settings, strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from policy_folders import changed_policy

from enforcer.keys import SigningKey
from registry import db, server
from registry.settings import Settings
from registry.tables import Run, Ticket

REAL_NOW = db.utc_now


@dataclass
class Permit:
    """What the model knows of one ticket."""

    grant: dict[str, Any]
    key: SigningKey
    issued_at: datetime
    state: str = "issued"
    run: str = "permitted"
    told_to_stop: bool = False
    lease: dict[str, Any] | None = None
    redemption_id: str | None = None
    lease_ends: datetime | None = None
    events: list[str] = field(default_factory=lambda: ["ticket.issued"])


class TicketLife(RuleBasedStateMachine):
    permits: Bundle[Permit] = Bundle("permits")

    @initialize()
    def open_a_registry(self) -> None:
        self.root = Path(tempfile.mkdtemp())
        self.ahead = timedelta()
        self.clock = patch.object(db, "utc_now", lambda: REAL_NOW() + self.ahead)
        self.clock.start()
        policies = changed_policy(self.root)
        self.settings = Settings(state_dir=self.root / "state", policies_dir=policies)
        self.registry = Registry(self.settings)
        self.wang = self.registry.as_("wang", "trainers")
        self.known: list[Permit] = []

    def teardown(self) -> None:
        if hasattr(self, "registry"):
            self.registry.books.engine.dispose()
            self.clock.stop()
            shutil.rmtree(self.root)

    @rule(target=permits)
    def issue(self) -> Permit:
        key = SigningKey.generate()
        reply = ask(self.wang, ticket_request(jkt=key.thumbprint))
        assert reply.status_code == 201, reply.text
        self.known.append(Permit(reply.json(), key, db.utc_now()))
        return self.known[-1]

    @rule(target=permits)
    def start(self) -> Permit:
        permit = self.issue()
        self.redeem(permit, False)
        return permit

    @rule(permit=permits, again=st.booleans())
    def redeem(self, permit: Permit, again: bool) -> None:
        redemption_id = permit.redemption_id if again and permit.redemption_id else db.uuid7()
        fresh = db.utc_now() < permit.issued_at + timedelta(seconds=self.settings.ticket_ttl_s)
        reply = redeem(self.registry, permit.grant, permit.key, redemption_id)

        first = permit.state == "issued" and fresh
        repeated = permit.state == "redeemed" and redemption_id == permit.redemption_id and permit.run == "running"
        repeated = repeated and not permit.told_to_stop
        assert (reply.status_code == 200) == (first or repeated), (permit, reply.text)
        if reply.status_code == 200:
            permit.lease, permit.redemption_id = reply.json(), redemption_id
            self._renew(permit)
        if first:
            permit.state, permit.run = "redeemed", "running"
            permit.events.append("ticket.redeemed")

    @rule(permit=permits)
    def revoke(self, permit: Permit) -> None:
        reply = self.wang.post(f"/v1/tickets/{permit.grant['jti']}:revoke", json={"reason": "wrong data"})

        possible = permit.state != "revoked" and permit.run in ("permitted", "running", "lost")
        assert (reply.status_code == 200) == possible, (permit, reply.text)
        if possible:
            permit.state, permit.told_to_stop = "revoked", True
            permit.run = "interrupted" if permit.run == "permitted" else permit.run
            permit.events.append("ticket.revoked")

    @rule(permit=permits)
    def cancel(self, permit: Permit) -> None:
        reply = self.wang.post(f"/v1/runs/{permit.grant['run_id']}:cancel")

        possible = permit.run in ("permitted", "running", "lost")
        assert (reply.status_code == 200) == possible, (permit, reply.text)
        if possible:
            permit.told_to_stop = True
            permit.state = "revoked" if permit.run == "permitted" else permit.state
            permit.run = permit.run if permit.run == "running" else "interrupted"  # nobody waits for one that is lost
            permit.events.append("run.cancelled")

    @rule(permit=permits)
    def heartbeat(self, permit: Permit) -> None:
        if permit.lease is None:
            return
        reply = self._as_run(permit).post(self._path(permit, "heartbeats"), json={"step": 1, "total_steps": 9})

        assert (reply.status_code == 200) == (permit.run in ("running", "lost")), (permit, reply.text)
        if reply.status_code != 200:
            return
        assert (reply.json()["stop"] is not None) == permit.told_to_stop
        if permit.told_to_stop:
            return
        self._renew(permit)
        if permit.run == "lost":
            permit.run = "running"
            permit.events.append("run.found")

    @rule(permit=permits, state=st.sampled_from(["finished", "failed", "interrupted"]))
    def report(self, permit: Permit, state: str) -> None:
        if permit.lease is None:
            return
        told = {"state": state, "steps": 1}
        if state == "finished":
            told = manifests.finished(self.registry, permit.grant, permit.key)
        reply = self._as_run(permit).post(self._path(permit, "report"), json=told)

        same_again = permit.run == state and f"run.{state}" in permit.events  # the end was its own, not a cancellation
        assert (reply.status_code == 200) == (permit.run in ("running", "lost") or same_again), (permit, reply.text)
        if permit.run in ("running", "lost"):
            permit.run = state
            permit.events += [f"run.{state}", *(["gate.fail", "run.manifest"] if state == "finished" else [])]

    @rule(seconds=st.sampled_from([30, 901, 1300]))
    def time_passes(self, seconds: int) -> None:
        self.ahead += timedelta(seconds=seconds)
        for permit in self.known:  # a proof is judged by the wall clock, a ticket's signature by nothing here
            silent = permit.lease_ends and db.utc_now() > permit.lease_ends + timedelta(
                seconds=self.settings.lease_grace_s
            )
            if permit.run == "running" and silent:
                permit.run = "lost"
                permit.events.append("run.lost")
        server.mark_lost(self.registry.books)

    @invariant()
    def the_books_say_what_the_model_says(self) -> None:
        if not hasattr(self, "registry"):
            return
        happened: dict[str, list[str]] = {}
        for event in self.registry.events():
            if event.ticket_id and event.outcome == "done":
                happened.setdefault(event.ticket_id, []).append(event.kind)
            if event.kind == "run.cancelled":
                happened.setdefault(str(event.run_id), []).append(event.kind)
        with self.registry.books.reading() as session:
            for permit in self.known:
                jti, run_id = permit.grant["jti"], permit.grant["run_id"]
                ticket, run = session.get(Ticket, jti), session.get(Run, run_id)
                assert ticket is not None
                assert run is not None
                assert (ticket.state, run.state) == (permit.state, permit.run)
                assert (run.stop is not None) == permit.told_to_stop
                events = [*happened[jti], *happened.get(run_id, [])]
                assert sorted(events) == sorted(permit.events)
                assert events.count("ticket.redeemed") <= 1
                assert (ticket.redeemed_at is not None) == ("ticket.redeemed" in events)
                assert (ticket.revoked_at is not None) == (ticket.state == "revoked")

    def _renew(self, permit: Permit) -> None:
        permit.lease_ends = db.utc_now() + timedelta(seconds=self.settings.lease_ttl_s)

    def _as_run(self, permit: Permit) -> Any:
        assert permit.lease is not None
        return self.registry.anonymous(headers={"Authorization": f"Bearer {permit.lease['lease_token']}"})

    def _path(self, permit: Permit, what: str) -> str:
        return f"/v1/runs/{permit.grant['run_id']}/{what}"


TestTicketLife = TicketLife.TestCase
UNSHRUNK = [
    phase for phase in Phase if phase is not Phase.shrink
]  # each step is a real request: shrinking takes minutes
TestTicketLife.settings = hypothesis_settings(max_examples=20, stateful_step_count=30, phases=UNSHRUNK)


@pytest.mark.slow
def test_the_life_of_a_ticket_at_length() -> None:
    run_state_machine_as_test(TicketLife, settings=hypothesis_settings(max_examples=150, stateful_step_count=40))
