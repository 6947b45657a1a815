"""The schema: what the migrations make is what the tables say; and the same service on PostgreSQL."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import manifests
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from conftest import Registry, ask, free_port, redeem, ticket_request
from fastapi.testclient import TestClient
from sqlalchemy import create_engine, text
from sqlalchemy.exc import DBAPIError
from sqlmodel import SQLModel

from enforcer import ndjson
from enforcer.keys import KeySet, SigningKey
from registry import db
from registry.settings import Settings


def drift(registry: Registry) -> list[object]:
    with registry.books.engine.connect() as connection:
        return list(compare_metadata(MigrationContext.configure(connection), SQLModel.metadata))


def test_the_migrations_make_what_the_tables_say(registry: Registry) -> None:
    assert drift(registry) == []


def test_migrating_twice_is_harmless(registry: Registry) -> None:
    db.migrate(registry.books.engine)

    assert drift(registry) == []


def test_sqlite_survives_a_power_cut(registry: Registry) -> None:
    with registry.books.engine.connect() as connection:
        settings = [connection.execute(text(f"pragma {name}")).scalar() for name in ("journal_mode", "synchronous")]

    assert settings == ["wal", 2]


@pytest.mark.postgresql
def test_the_whole_service_runs_on_postgresql(empty_postgresql: str, tmp_path: Path) -> None:
    registry = Registry(Settings(state_dir=tmp_path / "state", database_url=empty_postgresql))
    assert drift(registry) == []

    registry.approve_tag()
    key = SigningKey.generate()
    grant = ask(registry.as_("wang", "trainers"), ticket_request("message-tone", jkt=key.thumbprint)).json()
    statuses = [redeem(registry, grant, key).status_code for _ in range(2)]
    refused = ask(registry.as_("chen", "search-ml"), ticket_request("dpo", arguments={}))

    assert statuses == [200, 409]
    assert refused.status_code == 403
    auditor = registry.as_("boss", "group-auditors", unit="all")
    lines = auditor.get("/v1/audit:export", params={"format": "ndjson"}).content.splitlines()
    keys = KeySet.from_jwks(registry.anonymous().get("/tlog/jwks.json").json())
    assert ndjson.verify(lines, keys).whole
    for statement in ("update event set actor = 'x'", "delete from tag_version"):
        with pytest.raises(DBAPIError, match="never changed"), registry.books.engine.begin() as connection:
            connection.execute(text(statement))


@pytest.fixture
def on_postgresql(postgresql: str, tmp_path: Path) -> Registry:
    return Registry(Settings(state_dir=tmp_path / "state", database_url=postgresql))


def at_once(count: int, act: Callable[[int], int]) -> list[int]:
    """What each of several threads got, all of them started together."""
    gate = threading.Barrier(count)

    def go(number: int) -> int:
        gate.wait()
        return act(number)

    with ThreadPoolExecutor(count) as pool:
        return sorted(pool.map(go, range(count)))


@pytest.mark.postgresql
def test_racing_reports_get_one_verdict(on_postgresql: Registry) -> None:
    for _ in range(4):
        key = SigningKey.generate()
        grant = ask(on_postgresql.as_("wang", "trainers"), ticket_request(jkt=key.thumbprint)).json()
        lease = redeem(on_postgresql, grant, key).json()
        clients = [
            on_postgresql.anonymous(headers={"Authorization": f"Bearer {lease['lease_token']}"}) for _ in range(3)
        ]

        told = [manifests.finished(on_postgresql, grant, key, steps=number) for number in range(3)]

        def tell(number: int, clients: list[TestClient] = clients, told: Any = told, grant: Any = grant) -> int:
            return clients[number].post(f"/v1/runs/{grant['run_id']}/report", json=told[number]).status_code

        assert at_once(3, tell) == [200, 409, 409]


@pytest.mark.postgresql
def test_of_rivals_that_are_agreed_to_at_once_one_takes_effect(on_postgresql: Registry) -> None:
    li = on_postgresql.as_("li", "tag-stewards")
    for tag in ("apple-sorting", "grape-sorting", "peach-sorting"):
        rivals = [on_postgresql.propose(on_postgresql.as_(f"author{n}", "trainers"), tag).json() for n in range(3)]
        for rival in rivals:
            assert on_postgresql.review(li, rival).status_code == 201
        others = [on_postgresql.as_(f"other{n}", "tag-stewards") for n in range(3)]

        statuses = at_once(3, lambda n: on_postgresql.review(others[n], rivals[n]).status_code)  # noqa: B023

        assert statuses == [201, 409, 409]
        states = sorted(li.get(f"/v1/proposals/{rival['id']}").json()["state"] for rival in rivals)
        assert states == ["applied", "superseded", "superseded"]


@pytest.mark.postgresql
def test_a_proposal_that_has_ended_takes_neither_change_nor_review(on_postgresql: Registry) -> None:
    review = (
        "insert into review (proposal_id, round, reviewer, business_unit, verdict, digest, reason, at) "
        "values (:id, 1, 'user:x', 'ai', 'approve', 'd', 'r', now())"
    )
    for state in ("applied", "rejected", "withdrawn", "expired", "superseded"):
        proposal = on_postgresql.propose(on_postgresql.as_("wang", "trainers"), f"{state}-sorting").json()
        with on_postgresql.books.engine.begin() as connection:
            connection.execute(text("update proposal set state = :s where id = :id"), {"s": state, **only_id(proposal)})
        for statement, says in (
            ("update proposal set state = 'open' where id = :id", "never changed"),
            (review, "open"),
        ):
            with pytest.raises(DBAPIError, match=says), on_postgresql.books.engine.begin() as connection:
                connection.execute(text(statement), only_id(proposal))


def only_id(proposal: dict[str, Any]) -> dict[str, Any]:
    return {"id": proposal["id"]}


@pytest.mark.postgresql
def test_a_retry_that_races_its_own_request_gets_the_same_ticket(on_postgresql: Registry) -> None:
    for number in range(4):
        clients = [on_postgresql.as_("wang", "trainers") for _ in range(3)]

        statuses = at_once(
            3,
            lambda at: ask(clients[at], ticket_request(), key=f"the-same-key-{number}").status_code,  # noqa: B023
        )

        assert statuses == [201, 201, 201]
    assert len({event.run_id for event in on_postgresql.events("ticket.issued")}) >= 4


@pytest.mark.postgresql
def test_racing_redemptions_start_one_run(on_postgresql: Registry) -> None:
    key = SigningKey.generate()
    grant = ask(on_postgresql.as_("wang", "trainers"), ticket_request(jkt=key.thumbprint)).json()

    assert at_once(6, lambda _: redeem(on_postgresql, grant, key).status_code) == [200, 409, 409, 409, 409, 409]


def test_a_database_that_is_away_is_a_503_with_the_way_on(tmp_path: Path) -> None:
    registry = Registry(Settings(state_dir=tmp_path / "state"))
    client = registry.as_("wang", "trainers")
    registry.books.engine.dispose()
    registry.books.engine = create_engine(f"postgresql+pg8000://nobody@127.0.0.1:{free_port()}/none")

    reply = client.get("/v1/tags")

    assert (reply.status_code, reply.json()["code"]) == (503, "unavailable")
    assert reply.headers["retry-after"] == "5"


def test_the_database_file_is_private_even_in_a_folder_that_is_not(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir(mode=0o755)

    Registry(Settings(state_dir=state))

    assert {file.stat().st_mode & 0o077 for file in state.glob("registry.db*")} == {0}
