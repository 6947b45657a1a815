"""A registry with people who answer for its policy, and what they do with exceptions and overrides."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

import httpx2
from conftest import Registry
from fastapi.testclient import TestClient
from policy_folders import changed_policy

from registry import db, server
from registry.settings import Settings

RULES = [
    {
        "id": "managers-override",
        "effect": "allow",
        "who": ["group:project-managers"],
        "may": ["override"],
        "when": {"own_unit": True},
        "reason": "Whoever is on call at night.",
    },
    {
        "id": "retrieval-freeze",
        "effect": "deny",
        "who": ["group:trainers"],
        "may": ["submit"],
        "tag": ["embedding"],
        "overridable": True,
        "reason": "No new index before the sale.",
    },
    {
        "id": "reranker-freeze",
        "effect": "deny",
        "who": ["group:trainers"],
        "may": ["submit"],
        "tag": ["reranker"],
        "reason": "No new ranking before the sale.",
    },
]


class Office(Registry):
    def after(self, **time: float) -> datetime:
        return (db.utc_now() + timedelta(**time)).replace(microsecond=0)

    def admin(self, name: str) -> TestClient:
        return self.as_(name, "platform-admins", unit="ai")

    def propose_exception(self, client: TestClient, **change: Any) -> httpx2.Response:
        body = {
            "kind": "exception",
            "id": "retail-tries-dpo",
            "who": ["user:wang"],
            "may": ["submit"],
            "tag": ["dpo"],
            "unit": ["retail"],
            "until": self.after(days=10).isoformat(),
            **change,
        }
        return client.post("/v1/proposals", json={"change": body, "reason": "a pilot that legal has agreed to"})

    def grant_exception(self, **change: Any) -> dict[str, Any]:
        """Propose one and have two admins approve it."""
        proposal = self.propose_exception(self.as_("wang", "trainers"), **change).json()
        replies = [self.review(self.admin(name), proposal) for name in ("li", "zhao")]
        assert [reply.status_code for reply in replies] == [201, 201], replies[-1].text
        applied: dict[str, Any] = replies[-1].json()
        return applied

    def override(self, client: TestClient, **changes: Any) -> httpx2.Response:
        body = {
            "rule": "retrieval-freeze",
            "who": ["user:wang"],
            "may": ["submit"],
            "tag": "embedding",
            "unit": "retail",
            "target": "local",
            "reason": "the index is broken",
            "until": self.after(hours=8).isoformat(),
            **changes,
        }
        return client.post("/v1/policies:override", json=body)

    def revoke(self, client: TestClient, name: str) -> httpx2.Response:
        return client.post(f"/v1/exceptions/{name}:revoke", json={"reason": "the pilot is over"})

    def tell(self) -> None:
        server.tell_of_exceptions(self.books)

    def listed(self, **query: Any) -> dict[str, Any]:
        reply = self.admin("reader").get("/v1/exceptions", params=query)
        assert reply.status_code == 200, reply.text
        found: dict[str, Any] = reply.json()
        return found


@dataclass
class OfficeInTime(Office):
    """Whose clock can be put ahead."""

    ahead: timedelta = timedelta()


@contextmanager
def an_office(folder: Path) -> Iterator[OfficeInTime]:
    made = OfficeInTime(Settings(state_dir=folder / "state", policies_dir=changed_policy(folder, rules=RULES)))
    real = db.utc_now
    with patch.object(db, "utc_now", lambda: real() + made.ahead):
        yield made
