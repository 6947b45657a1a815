"""The life of proposals against what must hold of them, whoever does what in which order.

The rules of the machine are what people and time can do; mostly it does not foretell an answer, and reads the books
after each step instead: what ended, what took effect, by whom. Who may agree to what is known here from the steps
alone, by a few lines that share nothing with the product's.
"""

import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

import httpx2
from conftest import Registry
from fastapi.testclient import TestClient
from hypothesis import Phase, settings as hypothesis_settings, strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from sqlmodel import Session, col, delete, select

from registry import db, delegations, proposal_clock
from registry.settings import Settings
from registry.tables import ApiToken, Contributor, Delegation, Event, LostApproval, Proposal, Review, Tag, TagVersion

REAL_NOW = db.utc_now
ENDED = {"applied", "rejected", "withdrawn", "expired", "superseded"}
# name: (groups, unit)
PEOPLE = {
    "ann": (("trainers",), "retail"),
    "lee": (("trainers", "incident-leads"), "ai"),
    "sam": (("tag-stewards",), "retail"),
    "sue": (("tag-stewards", "trainers"), "ai"),
    "sid": (("tag-stewards", "incident-leads"), "search"),
    "dan": (("nlp",), "finance"),
}
NAMES = ["apple-sorting", "grape-sorting"]
KNOWN = "review-sentiment"
STEWARDS = ["sam", "sue", "sid"]
AUTHOR = st.sampled_from(["ann", "lee", "sue"])
WHICH = st.integers(0, 5)
VERDICT = st.sampled_from(["approve", "approve", "approve", "approve", "reject"])
DAYS = st.sampled_from([1, 29])


@dataclass
class World:
    """A registry with these people, and what was done to them."""

    root: Path
    ahead: timedelta = timedelta()
    groups: dict[str, tuple[str, ...]] = field(default_factory=lambda: {name: of for name, (of, _) in PEOPLE.items()})
    shut_out: set[str] = field(default_factory=set)
    clients: dict[str, TestClient] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.clock = patch.object(db, "utc_now", lambda: REAL_NOW() + self.ahead)
        self.clock.start()
        self.registry = Registry(Settings(state_dir=self.root / "state"))
        with self.registry.books.writing() as session:  # whose right is not followed here
            session.exec(delete(ApiToken))
        for name in PEOPLE:
            self.sign_in(name)
        self.root_user = self.registry.as_("root", "platform-admins", "security", unit="all")

    def close(self) -> None:
        self.registry.books.engine.dispose()
        self.clock.stop()
        shutil.rmtree(self.root)

    def sign_in(self, name: str) -> None:
        token = self.registry.token(name, *self.groups[name], unit=PEOPLE[name][1], days=90)
        self.clients[name] = self.registry.anonymous(headers={"Authorization": f"Bearer {token}"})

    def lose(self, name: str) -> None:
        with self.registry.books.writing() as session:
            session.exec(delete(ApiToken).where(col(ApiToken.actor) == f"user:{name}"))
        self.groups[name] = ("trainers",)
        self.sign_in(name)

    def shut(self, name: str, verb: str = "disable") -> None:
        path = f"/v1/principals/user:{name}:{verb}"
        assert self.root_user.post(path, json={"reason": "as asked"}, headers={"If-Match": "*"}).status_code == 200
        self.shut_out ^= {name}

    def regain(self, name: str) -> None:
        if name in self.shut_out:
            self.shut(name, "enable")
        self.groups[name] = PEOPLE[name][0]
        self.sign_in(name)

    def propose(self, name: str, change: dict[str, Any], **more: Any) -> httpx2.Response:
        return self.clients[name].post("/v1/proposals", json={"change": change, "reason": "we need it", **more})

    def review(self, name: str, proposal: Proposal, verdict: str = "approve", **more: Any) -> httpx2.Response:
        body = {"verdict": verdict, "digest": proposal.digest, "reason": "I read it", **more}
        return self.clients[name].post(f"/v1/proposals/{proposal.id}/reviews", json=body)

    def delegate(self, name: str, to: str, days: float = 7) -> httpx2.Response:
        until = (db.utc_now() + timedelta(days=days)).isoformat()
        body = {"to": f"user:{to}", "scope": {"actions": ["approve"]}, "not_after": until, "reason": "away"}
        return self.clients[name].post("/v1/delegations", json=body)

    def get(self, proposal_id: str) -> Proposal:
        with self.registry.books.reading() as session:
            found = session.get(Proposal, proposal_id)
            assert found is not None
            session.expunge(found)
            return found

    def tend(self) -> None:
        delegations.tend(self.registry.books)
        proposal_clock.tend(self.registry.books)

    def may_approve(self, name: str) -> bool:
        return name not in self.shut_out and "tag-stewards" in self.groups[name]


def new_tag(name: str) -> dict[str, Any]:
    kind = {"kind": "new-tag", "tag": name, "tag_kind": "business", "parent": "sequence-classification"}
    return {**kind, "description": "Sorts fruit.", "overrides": {}}


def new_version(bar: int, tag: str = KNOWN) -> dict[str, Any]:
    gate = {"metric": "macro_f1", "value": 0.9 + bar / 1_000, "min_n": 100, "confidence": 0.95}
    return {"kind": "new-version", "tag": tag, "overrides": {"gates": [gate]}}


def named(principal: str | None) -> str | None:
    return principal.removeprefix("user:") if principal else None


class ProposalLife(RuleBasedStateMachine):
    @initialize()
    def open_a_registry(self) -> None:
        self.world = World(Path(tempfile.mkdtemp()))
        self.seen: dict[str, dict[str, Any]] = {}
        self.before: dict[str, str | None] = {}  # what was in force when the glass was broken
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

    @rule(name=st.sampled_from(["lee", "sid", "ann"]), bar=st.integers(1, 9), tag=st.sampled_from([None, None, *NAMES]))
    def break_glass(self, name: str, bar: int, tag: str | None) -> None:
        before = self._in_force(tag or KNOWN)
        reason = {"incident": "INC-1", "reason": "it burns"}
        reply = self._answers(self.world.propose(name, new_tag(tag) if tag else new_version(bar), break_glass=reason))
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
        """By two stewards of two units, at the moment, on this content, none of whom wrote any of it."""
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
        assert votes >= 2, "two of those who may agree now"
        assert proposal.terms is not None
        assert len(units) >= proposal.terms["distinct_units"]

    def _is_as_it_was(self, session: Session, proposal: Proposal) -> None:
        tag = session.get_one(Tag, proposal.subject.removeprefix("tag:"))
        before = self.before[proposal.id]
        if before is None:
            assert tag.state == "archived"
        else:
            assert session.get_one(TagVersion, (tag.name, tag.version)).profile_digest == before

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
            assert proposal.state == "applied" or proposal.provisional is not None

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

    def _in_force(self, tag: str) -> str | None:
        with self.world.registry.books.reading() as session:
            found = session.get(Tag, tag)
            return session.get_one(TagVersion, (tag, found.version)).profile_digest if found else None


TestProposalLife = ProposalLife.TestCase
UNSHRUNK = [phase for phase in Phase if phase is not Phase.shrink]  # each step is a real request
TestProposalLife.settings = hypothesis_settings(max_examples=6, stateful_step_count=40, phases=UNSHRUNK)
