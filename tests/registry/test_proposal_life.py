"""The life of proposals against what must hold of them, whoever does what in which order.

The rules of the machine are what people and time can do; mostly it does not foretell an answer, and reads the books
after each step instead: what ended, what took effect, by whom. Who may agree to what is known here from the steps
alone, by a few lines that share nothing with the product's.
"""

import tempfile
from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest
from hypothesis import Phase, settings as hypothesis_settings, strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from mutants import mutant
from sqlalchemy.exc import SQLAlchemyError
from sqlmodel import Session, col, select
from stewards import KNOWN, PEOPLE, STEWARDS, World, named, new_tag, new_version

from registry import approvals, db, glass, proposals
from registry.tables import Contributor, Delegation, Event, LostApproval, Proposal, Review, Tag, TagVersion

ENDED = {"applied", "rejected", "withdrawn", "expired", "superseded"}
NAMES = ["apple-sorting", "grape-sorting"]
AUTHOR = st.sampled_from(["ann", "lee", "sue"])
WHICH = st.integers(0, 5)
VERDICT = st.sampled_from(["approve", "approve", "approve", "approve", "reject"])
MODE = st.sampled_from([None, "BACKWARD"])
DAYS = st.sampled_from([1, 29])


class ProposalLife(RuleBasedStateMachine):
    @initialize()
    def open_a_registry(self) -> None:
        self.world = World(Path(tempfile.mkdtemp()))
        self.seen: dict[str, dict[str, Any]] = {}
        self.before: dict[str, tuple[str, str] | None] = {}  # what was in force when the glass was broken
        self.editors: dict[str, set[str]] = {}
        self.lent: list[tuple[str, str]] = []  # who holds whose
        self.ends: dict[str, datetime] = {}  # of delegations that nobody ended before
        proposal = self.world.propose("ann", new_tag(KNOWN)).json()["id"]
        for steward in ("sam", "sue"):
            assert self.world.review(steward, self.world.get(proposal)).status_code == 201

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.close()

    # --- what people do: few rules with many ways, since each example leaves some out ---------------------------------

    @rule(
        name=AUTHOR, bar=st.integers(1, 9), tag=st.sampled_from([None, *NAMES]), how=st.sampled_from(["open", "draft"])
    )
    def propose(self, name: str, bar: int, tag: str | None, how: str) -> None:
        change = new_tag(tag) if tag else new_version(bar)
        self._answers(self.world.propose(name, change, draft=how == "draft"))

    @rule(
        name=st.sampled_from(["lee", "sid", "ann"]),
        bar=st.integers(1, 9),
        tag=st.sampled_from([None, None, *NAMES]),
        mode=MODE,
    )
    def break_glass(self, name: str, bar: int, tag: str | None, mode: str | None) -> None:
        before = self._in_force(tag or KNOWN)
        reason = {"incident": "INC-1", "reason": "it burns"}
        change = new_tag(tag) if tag else new_version(bar, compatibility=mode)
        reply = self._answers(self.world.propose(name, change, break_glass=reason))
        if reply.status_code == 201:
            assert "incident-leads" in self.world.groups[name]
            assert name not in self.world.shut_out
            self.before[reply.json()["id"]] = before

    @precondition(lambda self: self._pending())
    @rule(which=WHICH, name=st.sampled_from([*STEWARDS, *STEWARDS, *PEOPLE]), verdict=VERDICT)
    def review(self, which: int, name: str, verdict: str) -> None:
        self._answers(self.world.review(name, self._pick(which), verdict))

    @precondition(lambda self: self._pending())
    @rule(which=WHICH)
    def all_stewards_approve(self, which: int) -> None:
        proposal = self._pick(which)
        for steward in STEWARDS:
            self._answers(self.world.review(steward, proposal))

    @precondition(lambda self: self._pending())
    @rule(which=WHICH, hand=st.sampled_from([*STEWARDS, "dan", "ann"]), whom=st.sampled_from(STEWARDS))
    def review_for(self, which: int, hand: str, whom: str) -> None:
        if (hand, whom) not in self.lent:
            self.delegate(whom, hand, 1)
        self._answers(self.world.review(hand, self._pick(which), on_behalf_of=f"user:{whom}"))

    @precondition(lambda self: self._pending())
    @rule(which=WHICH, name=st.sampled_from(STEWARDS))
    def review_what_was_there_before(self, which: int, name: str) -> None:
        proposal = self._pick(which)
        proposal.digest = "sha256:" + "0" * 64
        assert self._answers(self.world.review(name, proposal)).status_code in (401, 403, 409)

    @precondition(lambda self: self._pending())
    @rule(which=WHICH, name=AUTHOR, what=st.sampled_from(["edit", "edit", "submit", "withdraw"]))
    def change_or_withdraw(self, which: int, name: str, what: str) -> None:
        proposal = self._pick(which)
        name = name if what == "edit" else str(named(proposal.author))
        path, headers = f"/v1/proposals/{proposal.id}", {"If-Match": "*"}
        if what != "edit":
            self._answers(self.world.clients[name].post(f"{path}:{what}", headers=headers))
        elif self._answers(self.world.clients[name].patch(path, json={"reason": "better"}, headers=headers)).is_success:
            self.editors.setdefault(proposal.id, set()).add(name)

    @rule(name=st.sampled_from([*STEWARDS, "ann"]), to=st.sampled_from([*STEWARDS, "dan", "ann"]), days=DAYS)
    def delegate(self, name: str, to: str, days: int) -> None:
        reply = self._answers(self.world.delegate(name, to, days))
        assert not reply.is_success or self.world.may_approve(name)
        if reply.is_success:
            self.ends[reply.json()["id"]] = datetime.fromisoformat(reply.json()["not_after"])
            self.lent.append((to, name))

    @precondition(lambda self: self.ends)
    @rule(which=WHICH)
    def revoke(self, which: int) -> None:
        one = sorted(self.ends)[which % len(self.ends)]
        path = f"/v1/delegations/{one}:revoke"
        if self._answers(self.world.root_user.post(path, json={"reason": "back"})).is_success:
            self.ends[one] = db.utc_now()

    @rule(name=st.sampled_from(["sam", "sue", "sid", "dan"]), how=st.sampled_from(["shut out", "group"]))
    def lose_or_regain(self, name: str, how: str) -> None:
        """One at a time, so that enough are left to agree."""
        for other in PEOPLE:
            if other in self.world.shut_out or self.world.groups[other] != PEOPLE[other][0]:
                self.world.regain(other)
                return
        if how == "group":
            self.world.lose(name)
        else:
            self.world.shut(name)

    @rule(hours=st.sampled_from([2, 30, 73]), look=st.booleans())
    def time_passes(self, hours: int, look: bool) -> None:
        if self.world.ahead < timedelta(days=70):  # their tokens end after 90
            self.world.ahead += timedelta(hours=hours)
            self.world.root_user = self.world.registry.as_("root", "platform-admins", "security", unit="all")
        if look:
            self.world.tend()
            for row in self._rows():
                assert row["provisional"] != "in-effect" or row["provisional_until"] > db.utc_now()
                assert row["state"] != "open" or row["expires_at"] > db.utc_now()

    # --- what must hold -----------------------------------------------------------------------------------------------

    @invariant()
    def what_must_hold(self) -> None:
        if not hasattr(self, "world"):
            return
        with self.world.registry.books.reading() as session:
            events = list(session.exec(select(Event).where(col(Event.outcome) == "done")))
            alarms = Counter(event.proposal_id for event in session.exec(select(Event)) if "not-reverted" in event.kind)
            for proposal in session.exec(select(Proposal)).all():
                row, before = proposal.model_dump(), self.seen.get(proposal.id)
                if before is not None and before["state"] in ENDED:
                    assert row == before, "what has ended is never changed"
                elif proposal.state == "applied":
                    self._was_agreed_to(session, proposal)
                if proposal.provisional == "reverted" and (before is None or before["provisional"] != "reverted"):
                    self._is_as_it_was(session, proposal)
                told = Counter(event.kind for event in events if event.proposal_id == proposal.id)
                self._is_told_once(session, proposal, told, alarms[proposal.id])
                self.seen[proposal.id] = row
            self._delegations_are_told_once(session, events)
            self._nothing_else_is_in_force(session)

    def _was_agreed_to(self, session: Session, proposal: Proposal) -> None:
        """By as many stewards and units as were asked when it was opened, at the moment, on this content, none of whom
        wrote any of it."""
        wrote = {named(proposal.author), *self.editors.get(proposal.id, ())}
        people: list[str] = []
        units: set[str] = set()
        votes = 0
        lost = set(session.exec(select(LostApproval.reviewer).where(LostApproval.proposal_id == proposal.id)))
        for review in session.exec(select(Review).where(Review.proposal_id == proposal.id)):
            if (review.round, review.verdict) != (proposal.round, "approve") or review.reviewer in lost:
                continue
            hand, voice = named(review.reviewer), named(review.on_behalf_of or review.reviewer)
            assert hand is not None
            assert voice is not None
            if review.delegation_id and self.ends[review.delegation_id] <= db.utc_now():
                continue
            if self.world.may_approve(voice) and hand not in self.world.shut_out:
                assert review.digest == proposal.digest, "on the exact content"
                assert not {hand, voice} & wrote, "by nobody who had a part in it"
                votes += 1
                people += {hand, voice}
                units.add(PEOPLE[voice][1])
        assert len(people) == len(set(people)), "each person once"
        assert proposal.terms is not None
        assert votes >= proposal.terms["approvals"] >= 1, "as many as were asked of those who may agree now"
        assert len(units) >= proposal.terms["distinct_units"]

    def _is_as_it_was(self, session: Session, proposal: Proposal) -> None:
        tag = session.get_one(Tag, proposal.subject.removeprefix("tag:"))
        before = self.before[proposal.id]
        if before is None:
            assert tag.state == "archived"
        else:
            assert (session.get_one(TagVersion, (tag.name, tag.version)).profile_digest, tag.compatibility) == before

    def _is_told_once(self, session: Session, proposal: Proposal, told: Counter[str], alarms: int) -> None:
        def rows(table: Any) -> int:
            return len(session.exec(select(table).where(table.proposal_id == proposal.id)).all())

        ends = {f"proposal.{end}": int(proposal.state == end) for end in ENDED}
        ratified = int(proposal.provisional == "ratified")
        expected = ends | {
            "proposal.ratified": ratified,
            "proposal.applied": int(proposal.state == "applied") - ratified,
            "proposal.approved": int(proposal.state in ("approved", "applied")),
            "proposal.opened": int(proposal.terms is not None),
            "proposal.reviewed": rows(Review),
            "proposal.approval-lost": rows(LostApproval),
            "proposal.edited": proposal.round - 1,
            "proposal.broke-glass": int(proposal.incident is not None),
            "proposal.reverted": int(proposal.provisional == "reverted"),
            "tag.activated": int(proposal.state == "applied" or proposal.incident is not None),
        }
        assert {kind: told[kind] for kind in expected} == expected
        assert alarms == int(proposal.provisional == "not-reverted")
        assert rows(Contributor) == len(self.editors.get(proposal.id, set()) - {named(proposal.author)})

    def _delegations_are_told_once(self, session: Session, events: list[Event]) -> None:
        told = Counter((event.kind, event.detail["delegation"]) for event in events if event.kind[:10] == "delegation")
        for row in session.exec(select(Delegation)):
            assert told["delegation.made", row.id] == 1
            assert told["delegation.ended", row.id] == int(row.ended_at is not None)
            if row.ended_at is not None:
                self.ends[row.id] = min(self.ends[row.id], row.ended_at)

    def _nothing_else_is_in_force(self, session: Session) -> None:
        """Every version came with a proposal that was agreed to, or is in effect or was undone for an incident."""
        for version in session.exec(select(TagVersion).where(col(TagVersion.tag).in_([KNOWN, *NAMES]))):
            assert version.proposal_id is not None
            proposal = session.get_one(Proposal, version.proposal_id)
            assert proposal.state == "applied" or proposal.provisional in ("in-effect", "reverted")

    # --- what stands in the books -------------------------------------------------------------------------------------

    def _answers(self, reply: httpx2.Response) -> httpx2.Response:
        assert reply.status_code < 500, reply.text
        return reply

    def _rows(self) -> Iterator[dict[str, Any]]:
        with self.world.registry.books.reading() as session:
            yield from [row.model_dump() for row in session.exec(select(Proposal).order_by(col(Proposal.id)))]

    def _pending(self) -> bool:
        return any(row["state"] not in ENDED for row in self.seen.values())

    def _pick(self, which: int) -> Proposal:
        """One that is pending; the newest that is open for 0."""
        pending = [one for one, row in self.seen.items() if row["state"] not in ENDED]
        pending.sort(key=lambda one: self.seen[one]["state"] != "draft")  # which nobody reviews
        return self.world.get(pending[-1 - which % len(pending)])

    def _in_force(self, tag: str) -> tuple[str, str] | None:
        with self.world.registry.books.reading() as session:
            found = session.get(Tag, tag)
            if found is None:
                return None
            return session.get_one(TagVersion, (tag, found.version)).profile_digest, found.compatibility


TestProposalLife = ProposalLife.TestCase
UNSHRUNK = [phase for phase in Phase if phase is not Phase.shrink]  # each step is a real request
TestProposalLife.settings = hypothesis_settings(max_examples=6, stateful_step_count=40, phases=UNSHRUNK)


@pytest.mark.slow
def test_the_life_of_proposals_at_length() -> None:
    run_state_machine_as_test(ProposalLife, settings=hypothesis_settings(max_examples=100, stateful_step_count=50))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "name", "old", "new"),
    [
        (proposals, "review", "if verdict.digest != proposal.digest:", "if False:"),
        (approvals, "excluded", "*others", "*[]"),
        (approvals, "approvals", "review.round == proposal.round and", ""),
        (glass, "undo", "kind.revert(session, proposal, by)", "pass"),
    ],
)
def test_a_mutant_of_a_rule_does_not_live_long(module: Any, name: str, old: str, new: str) -> None:
    many = hypothesis_settings(max_examples=100, stateful_step_count=50, phases=UNSHRUNK)

    with mutant(module, name, old, new), pytest.raises((AssertionError, SQLAlchemyError, ExceptionGroup)):
        run_state_machine_as_test(ProposalLife, settings=many)
