"""A registry with webhooks, and a receiver in the place of the network."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from conftest import Registry
from fastapi.testclient import TestClient

from registry import audit, db, log, webhook_delivery
from registry.identity import Actor
from registry.webhook_guard import Allowed, Answered, Unreachable

EVE = Actor("user:eve", ("trainers",), "retail")
URL = "https://hooks.example/in"


@dataclass
class Receiver:
    """Takes the place of the network: answers by `script`, then 204, and remembers what it got."""

    script: list[int | Answered] = field(default_factory=list)
    got: list[tuple[Mapping[str, str], bytes]] = field(default_factory=list)
    meanwhile: Callable[[], object] = lambda: None
    down: bool = False

    def __call__(self, url: str, headers: Mapping[str, str], body: bytes, allowed: Allowed) -> Answered:
        if self.down:
            raise Unreachable("no answer: ConnectError")
        self.got.append((headers, body))
        self.meanwhile()
        answer = self.script.pop(0) if self.script else 204
        return answer if isinstance(answer, Answered) else Answered(answer, None)

    @property
    def ids(self) -> list[str]:
        return [headers["webhook-id"] for headers, _ in self.got]

    @property
    def bodies(self) -> list[dict[str, Any]]:
        return [json.loads(body) for _, body in self.got]


@dataclass
class House:
    registry: Registry
    admin: TestClient
    at: datetime = field(default_factory=db.utc_now)
    receiver: Receiver = field(default_factory=Receiver)

    def hook(self, **change: Any) -> dict[str, Any]:
        body = {"url": URL, "kinds": ["test.*"], "business_unit": "all", **change}
        reply = self.admin.post("/v1/webhooks", json=body)
        assert reply.status_code == 201, reply.text
        made: dict[str, Any] = reply.json()
        self.at = db.utc_now()
        return made

    def happen(self, *kinds: str, unit: str = "retail", **facts: Any) -> list[str]:
        with self.registry.books.writing() as session:
            ids = [audit.record(session, kind, EVE, business_unit=unit, **facts).id for kind in kinds]
        log.integrate(self.registry.books)
        with self.registry.books.reading() as session:
            order = [json.loads(entry)["id"] for entry in log.entries(session, 0, 1_000_000)]
        return sorted(ids, key=order.index)

    def turn(self, **later: float) -> int:
        self.at += timedelta(**later)
        books = self.registry.books
        return sum(
            webhook_delivery.deliver(books, hook, now=lambda: self.at, post=self.receiver)
            for hook in webhook_delivery.due(books, self.at)
        )

    def state(self, hook: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = self.admin.get(f"/v1/webhooks/{hook['id']}").json()
        return found

    def deliveries(self, hook: dict[str, Any]) -> dict[str, str]:
        reply = self.admin.get(f"/v1/webhooks/{hook['id']}/deliveries")
        return {one["id"]: one["state"] for one in reply.json()["items"]}
