"""A registry with a few people who propose, agree, and are let in no longer; and its clock."""

import shutil
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

import httpx2
from conftest import Registry
from fastapi.testclient import TestClient
from sqlmodel import col, delete

from registry import db, delegations, proposal_clock
from registry.settings import Settings
from registry.tables import ApiToken, Proposal

REAL_NOW = db.utc_now
KNOWN = "message-tone"
STEWARDS = ["sam", "sue", "sid"]
# name: (groups, unit)
PEOPLE = {
    "ann": (("trainers",), "retail"),
    "lee": (("trainers", "incident-leads"), "ai"),
    "sam": (("tag-stewards",), "retail"),
    "sue": (("tag-stewards", "trainers"), "ai"),
    "sid": (("tag-stewards", "incident-leads"), "search"),
    "dan": (("nlp",), "finance"),
}


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


def new_version(bar: int, tag: str = KNOWN, compatibility: str | None = None) -> dict[str, Any]:
    gate = {"metric": "macro_f1", "value": 0.9 + bar / 1_000, "min_n": 100, "confidence": 0.95}
    return {"kind": "new-version", "tag": tag, "overrides": {"gates": [gate]}, "compatibility": compatibility}


def named(principal: str | None) -> str | None:
    return principal.removeprefix("user:") if principal else None
