"""The life of an exception against a model of it: any order of proposals, reviews, revocations and time."""

import shutil
import tempfile
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from unittest.mock import patch

from hypothesis import Phase, settings as hypothesis_settings, strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule
from offices import RULES, Office
from policy_folders import changed_policy

from enforcer.policy.conditions import Context
from enforcer.policy.decision import Request
from registry import db
from registry.settings import Settings

REAL_NOW = db.utc_now
GROUPS = {"wang": "trainers", "li": "platform-admins", "zhao": "platform-admins", "chen": "platform-admins"}
ADMINS = ["li", "zhao", "chen"]
WHO = {
    "user:wang": {"wang"},
    "user:li": {"li"},
    "group:trainers": {"wang"},
    "group:platform-admins": {"li", "zhao", "chen"},
    "group:tag-stewards": {"li", "zhao", "chen"},  # admins belong to them
}


@dataclass
class Asked:
    """What the model knows of one exception."""

    proposal: dict[str, object]
    author: str
    who: str
    until: datetime
    approvals: set[str] = field(default_factory=set)
    granted_at: datetime | None = None
    revoked: bool = False

    @property
    def open_until(self) -> datetime:
        return datetime.fromisoformat(str(self.proposal["expires_at"]))

    def live(self, now: datetime) -> bool:
        return self.granted_at is not None and not self.revoked and self.granted_at <= now < self.until


class ExceptionLife(RuleBasedStateMachine):
    exceptions: Bundle[Asked] = Bundle("exceptions")

    @initialize()
    def open_an_office(self) -> None:
        self.root = Path(tempfile.mkdtemp())
        self.ahead = timedelta()
        self.clock = patch.object(db, "utc_now", lambda: REAL_NOW() + self.ahead)
        self.clock.start()
        policies = changed_policy(self.root, rules=RULES)
        self.office = Office(Settings(state_dir=self.root / "state", policies_dir=policies))
        self.known: list[Asked] = []

    def teardown(self) -> None:
        if hasattr(self, "office"):
            self.office.books.engine.dispose()
            self.clock.stop()
            shutil.rmtree(self.root)

    @rule(
        target=exceptions,
        author=st.sampled_from(["wang", "li"]),
        who=st.sampled_from(sorted(WHO)),
        days=st.sampled_from([1, 10, 90]),
    )
    def propose(self, author: str, who: str, days: int) -> Asked:
        until = (db.utc_now() + timedelta(days=days)).replace(microsecond=0)
        client = self.office.as_(author, "trainers", GROUPS[author])
        self.office.welcome()  # tokens are for a day, and days go by
        reply = self.office.propose_exception(client, id=f"x{len(self.known)}", who=[who], until=until.isoformat())
        assert reply.status_code == 201, reply.text
        self.known.append(Asked(reply.json(), author, who, until))
        return self.known[-1]

    @rule()
    def propose_for_too_long(self) -> None:
        until = db.utc_now() + timedelta(days=90, minutes=1)
        reply = self.office.propose_exception(self.office.as_("wang", "trainers"), id="long", until=until.isoformat())
        assert reply.status_code == 422

    @rule(asked=exceptions, reviewer=st.sampled_from(ADMINS))
    def approve(self, asked: Asked, reviewer: str) -> None:
        reply = self.office.review(self.office.admin(reviewer), asked.proposal)

        may = reviewer != asked.author and reviewer not in WHO[asked.who] | asked.approvals
        last = len(asked.approvals) == 1
        open_still = asked.granted_at is None and db.utc_now() < asked.open_until
        possible = may and open_still and not (last and asked.until <= db.utc_now())
        assert (reply.status_code == 201) == possible, (asked, reply.text)
        if possible:
            asked.approvals.add(reviewer)
            asked.granted_at = db.utc_now() if last else None

    @rule(asked=exceptions)
    def revoke(self, asked: Asked) -> None:
        reply = self.office.revoke(self.office.admin("li"), f"x{self.known.index(asked)}")

        assert (reply.status_code == 200) == asked.live(db.utc_now()), (asked, reply.text)
        asked.revoked = asked.revoked or reply.status_code == 200

    @rule(days=st.sampled_from([0.5, 4, 40]))
    def time_passes(self, days: float) -> None:
        self.ahead += timedelta(days=days)

    @rule(asked=exceptions)
    def time_comes_to_the_end(self, asked: Asked) -> None:
        self.ahead = max(self.ahead, asked.until - REAL_NOW())

    @rule()
    def tell(self) -> None:
        self.office.tell()
        told = self.office.events("exception.expiring", "exception.ended")
        once = {(event.kind, event.detail["exception"]) for event in told}
        assert len(once) == len(told)
        over = {f"x{at}" for at, asked in enumerate(self.known) if self._ended(asked)}
        assert {name for kind, name in once if kind == "exception.ended"} == over

    @invariant()
    def the_gate_lets_whom_the_model_lets(self) -> None:
        if not hasattr(self, "office"):
            return
        with self.office.books.reading() as session:
            gate = self.office.books.gate(session)
        now = db.utc_now()
        for name, group in GROUPS.items():
            context = Context(now=now, unit="retail", own_units=frozenset(["retail"]))
            principals = (f"user:{name}", f"group:{group}")
            decision = gate.decide(Request(principals, "submit", context, tag="dpo", unit="retail", target="local"))
            assert decision.allowed == any(name in WHO[asked.who] for asked in self.known if asked.live(now))
        for exception in gate.policy.exceptions:
            assert exception.until - exception.granted_at <= timedelta(days=90)
            assert len(set(exception.approved_by)) == 2

    def _ended(self, asked: Asked) -> bool:
        return asked.granted_at is not None and not asked.revoked and asked.until <= db.utc_now()


TestExceptionLife = ExceptionLife.TestCase
UNSHRUNK = [phase for phase in Phase if phase is not Phase.shrink]  # each step is a real request
TestExceptionLife.settings = hypothesis_settings(max_examples=12, stateful_step_count=25, phases=UNSHRUNK)
