"""The life of task types against a model of it: any order of proposals, reviews, the service's looks, and time."""

import shutil
import tempfile
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

from conftest import Registry, ask, ticket_request
from hypothesis import Phase, settings as hypothesis_settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from sqlmodel import select

from registry import db, server
from registry.settings import Settings
from registry.tables import Tag

REAL_NOW = db.utc_now
TAGS = ["reranker", "embedding"]
LEGAL = {
    ("active", "deprecated"),
    ("deprecated", "deprecated"),  # other terms
    ("deprecated", "active"),
    ("deprecated", "sunset"),
    ("sunset", "archived"),
}
LEADS_TO = {"deprecation": "deprecated", "restoration": "active", "archival": "archived"}


@dataclass
class Life:
    """What the model knows of one task type: as it was last told, and how it ends."""

    told: str = "active"
    sunset_at: datetime | None = None
    replaced_by: str | None = None

    def state(self, now: datetime) -> str:
        over = self.told == "deprecated" and self.sunset_at is not None and self.sunset_at <= now
        return "sunset" if over else self.told


class TagLife(RuleBasedStateMachine):
    @initialize()
    def open_a_registry(self) -> None:
        self.root = Path(tempfile.mkdtemp())
        self.ahead = timedelta()
        self.clock = patch.object(db, "utc_now", lambda: REAL_NOW() + self.ahead)
        self.clock.start()
        self.registry = Registry(Settings(state_dir=self.root / "state"))
        self.lives = {name: Life() for name in TAGS}
        self.open: list[dict[str, Any]] = []

    def teardown(self) -> None:
        if hasattr(self, "registry"):
            self.registry.books.writer.close()
            self.registry.books.engine.dispose()
            self.clock.stop()
            shutil.rmtree(self.root)

    @rule(tag=st.sampled_from(TAGS), days=st.sampled_from([1, 20]), other=st.sampled_from([None, *TAGS]))
    def propose_an_end(self, tag: str, days: int, other: str | None) -> None:
        sunset_at = (db.utc_now() + timedelta(days=days)).replace(microsecond=0)
        self.propose("deprecation", tag, sunset_at=sunset_at.isoformat(), replaced_by=other)

    @rule(tag=st.sampled_from(TAGS), kind=st.sampled_from(["restoration", "archival"]))
    def propose_another_step(self, tag: str, kind: str) -> None:
        self.propose(kind, tag)

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def agree(self, data: st.DataObject) -> None:
        self.decide(data.draw(st.sampled_from(self.open), label="proposal"))

    def decide(self, proposal: dict[str, Any]) -> None:
        self.registry.review(self.steward("first"), proposal)

        reply = self.registry.review(self.steward("second"), proposal)

        terms = proposal["change"]
        in_time = db.utc_now() < datetime.fromisoformat(proposal["expires_at"])
        possible = in_time and self.possible(terms) and self.as_agreed(terms)
        assert (reply.status_code == 201) == possible, (terms, self.lives, reply.text)
        self.open.remove(proposal)
        if possible:
            self.take(terms)
            same = terms["kind"], terms["tag"]  # the first that is agreed to supersedes the others
            self.open = [one for one in self.open if (one["change"]["kind"], one["change"]["tag"]) != same]
        else:
            assert reply.status_code == 409, reply.text

    @rule(tag=st.sampled_from(TAGS), kind=st.sampled_from(sorted(LEADS_TO)))
    def take_a_step(self, tag: str, kind: str) -> None:
        """Proposed and agreed to at once, so that lives get somewhere."""
        if kind == "deprecation":
            self.propose_an_end(tag, 1, None)
        else:
            self.propose(kind, tag)
        if self.open and self.open[-1]["change"]["tag"] == tag:
            self.decide(self.open[-1])

    @rule()
    def look_at_the_clock(self) -> None:
        now = db.utc_now()
        due = sorted(name for name, life in self.lives.items() if life.state(now) != life.told)

        assert server.let_sunsets_come(self.registry.books) == due
        for name in due:
            self.lives[name].told = "sunset"

    @rule(days=st.sampled_from([0.5, 2, 25]))
    def time_passes(self, days: float) -> None:
        self.ahead += timedelta(days=days)

    @rule(tag=st.sampled_from(TAGS))
    def time_comes_to_the_end(self, tag: str) -> None:
        if (sunset_at := self.lives[tag].sunset_at) is not None:
            self.ahead = max(self.ahead, sunset_at - REAL_NOW())

    @rule(tag=st.sampled_from(TAGS))
    def ask_for_a_run(self, tag: str) -> None:
        reply = ask(self.registry.as_("wang", "trainers"), ticket_request(tag, arguments={}))

        state = self.lives[tag].state(db.utc_now())
        assert (reply.status_code == 201) == (state in ("active", "deprecated")), (state, reply.text)
        if reply.status_code == 201:
            assert bool(reply.json()["warnings"]) == (state == "deprecated")
        else:
            assert reply.json()["code"] == f"task-type-{state}"

    @invariant()
    def the_books_say_what_the_model_says(self) -> None:
        if not hasattr(self, "registry"):
            return
        with self.registry.books.reading() as session:
            rows = {tag.name: tag for tag in session.exec(select(Tag)) if tag.name in TAGS}
        for name, life in self.lives.items():
            assert (rows[name].state, rows[name].replaced_by) == (life.told, life.replaced_by), name
            if rows[name].replaced_by is not None and life.told != "archived":
                assert rows[str(rows[name].replaced_by)].state == "active"

    @invariant()
    def every_step_is_legal_and_has_one_event(self) -> None:
        if not hasattr(self, "registry"):
            return
        was = dict.fromkeys(TAGS, "active")
        for event in self.registry.events("tag.deprecated", "tag.restored", "tag.sunset", "tag.archived"):
            becomes = event.kind.removeprefix("tag.").replace("restored", "active")
            assert (was[str(event.task_type)], becomes) in LEGAL
            was[str(event.task_type)] = becomes
        assert was == {name: life.told for name, life in self.lives.items()}

    def propose(self, kind: str, tag: str, **terms: Any) -> None:
        change = {"kind": kind, "tag": tag, **terms}
        self.registry.welcome()

        reply = self.steward("author").post("/v1/proposals", json={"change": change, "reason": "few use it"})

        possible = self.possible(change)
        assert (reply.status_code == 201) == possible, (change, self.lives, reply.text)
        if possible:
            self.open.append(reply.json())
        else:
            assert reply.status_code == 409, reply.text

    def possible(self, change: dict[str, Any]) -> bool:
        now = db.utc_now()
        if (self.lives[change["tag"]].state(now), LEADS_TO[change["kind"]]) not in LEGAL:
            return False
        if change["kind"] != "deprecation":
            return True
        other = change["replaced_by"]
        if other is None:
            return not self.replaced_by(change["tag"])
        return bool(other != change["tag"] and self.lives[other].told == "active")

    def as_agreed(self, terms: dict[str, Any]) -> bool:
        if terms["kind"] != "deprecation":
            return True
        in_time = datetime.fromisoformat(terms["sunset_at"]) > db.utc_now()
        return in_time and terms["repointed"] == self.replaced_by(terms["tag"])

    def take(self, terms: dict[str, Any]) -> None:
        life = self.lives[terms["tag"]]
        if terms["kind"] == "deprecation":
            for other in self.replaced_by(terms["tag"]):
                self.lives[other].replaced_by = terms["replaced_by"]
            life.sunset_at, life.replaced_by = datetime.fromisoformat(terms["sunset_at"]), terms["replaced_by"]
        if terms["kind"] == "restoration":
            life.sunset_at = life.replaced_by = None
        life.told = LEADS_TO[terms["kind"]]

    def replaced_by(self, tag: str) -> list[str]:
        over = ("deprecated", "sunset")
        return sorted(name for name, life in self.lives.items() if life.replaced_by == tag and life.told in over)

    def steward(self, name: str) -> Any:
        return self.registry.as_(name, "tag-stewards", "unit-owners")


TestTagLife = TagLife.TestCase
UNSHRUNK = [phase for phase in Phase if phase is not Phase.shrink]  # each step is a real request
TestTagLife.settings = hypothesis_settings(max_examples=12, stateful_step_count=25, phases=UNSHRUNK)
