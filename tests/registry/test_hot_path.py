"""Fast tickets: written in groups, issued on the express lane, and not one promise weaker for it."""

import asyncio
import json
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from clusters import Cluster, NoServer
from conftest import Registry, ask, free_port, ticket_request
from fastapi import FastAPI
from hypothesis import HealthCheck, given, settings, strategies as st
from sqlalchemy import event, text
from sqlalchemy.exc import IntegrityError
from sqlmodel import Session, select

from enforcer import tlog, wire
from enforcer.runspec import RunSpec, canonical_bytes
from enforcer.tickets import Claims, unverified_claims
from registry import audit, db, identity, log, tags, tickets
from registry.access import Matter, Permit, decide
from registry.app import create_app
from registry.routes.express import Express
from registry.settings import Settings
from registry.tables import ApiToken, IdempotentAnswer, LogEntry, PendingEntry, Run, Stamp, Ticket
from registry.writer import Draft, Stale

TABLES = ("ticket", "run", "idempotent_answer")
OVER = "state = 'deprecated', deprecated_at = '2026-01-01', sunset_at = '2026-02-01', deprecation_reason = 'few use it'"


def count(registry: Registry, table: str) -> int:
    with registry.books.reading() as session:
        return int(session.execute(text(f"select count(*) from {table}")).scalar_one())


def whole(registry: Registry) -> int:
    """How many tickets there are; every one with its run, its event and its kept answer, and none of those without."""
    counts = {count(registry, table) for table in TABLES} | {len(registry.events("ticket.issued"))}
    assert len(counts) == 1, counts
    return counts.pop()


def all_at_once(app: FastAPI, requests: list[dict[str, Any]]) -> list[httpx2.Response]:
    """Every request in flight in one loop, as in one server process."""

    async def send() -> list[httpx2.Response]:
        transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
        async with httpx2.AsyncClient(transport=transport, base_url=app.state.books.settings.issuer) as client:
            return list(await asyncio.gather(*(client.post("/v1/tickets", **request) for request in requests)))

    return asyncio.run(send())


def post(token: str, key: str, **changes: Any) -> dict[str, Any]:
    return {
        "json": ticket_request(**changes),
        "headers": {"Authorization": f"Bearer {token}", "Idempotency-Key": key},
    }


def drafts(registry: Registry, number: int) -> list[Draft]:
    """Tickets that are signed and not written."""
    with registry.books.reading() as session:
        stamp = session.exec(select(Stamp.value)).one()
        task = tags.in_force(session, "sequence-classification")
        gate = registry.books.gate(session)
        head = registry.books.head(session)
    actor = identity.Actor("user:wang", ("trainers",), "retail")
    decision = decide(gate, actor, "submit", Matter(tag=task.tag, target="local", model="minilm"))
    permit = Permit(actor, "retail", decision)
    request = wire.TicketRequest(**ticket_request())
    return [
        tickets.draft(registry.books, request, permit, task, stamp=stamp, idempotency_key=f"draft-{at:05}", head=head)
        for at in range(number)
    ]


def written(registry: Registry, made: list[Draft]) -> list[bool | BaseException]:
    async def write() -> list[bool | BaseException]:
        return await asyncio.gather(*map(registry.books.writer.write, made), return_exceptions=True)

    return asyncio.run(write())


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(Settings(state_dir=tmp_path / "state", tickets_per_minute=0))


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def either(request: pytest.FixtureRequest, tmp_path: Path) -> Registry:
    """The registry on either database, nobody else's."""
    url = request.getfixturevalue("postgresql") if request.param == "postgresql" else None
    return Registry(Settings(state_dir=tmp_path / "state", database_url=url, tickets_per_minute=0))


# --- the group --------------------------------------------------------------------------------------------------------


def test_tickets_asked_for_at_once_are_written_whole_and_in_few_commits(either: Registry) -> None:
    token, commits = either.token("wang", "trainers"), []
    event.listen(either.books.engine, "commit", lambda _: commits.append(1))

    replies = all_at_once(either.app, [post(token, f"key-{at:05}") for at in range(64)])

    assert {reply.status_code for reply in replies} == {201}
    assert len({reply.json()["jti"] for reply in replies}) == 64
    assert whole(either) == 64
    assert len(commits) < 32


def test_one_key_asked_for_at_once_is_one_ticket(either: Registry) -> None:
    token = either.token("wang", "trainers")

    replies = all_at_once(either.app, [post(token, "the-same-key") for _ in range(64)])

    assert {reply.content for reply in replies} == {replies[0].content}
    assert replies[0].status_code == 201
    assert whole(either) == 1


def test_one_key_with_two_requests_at_once_is_one_ticket_and_a_conflict(either: Registry) -> None:
    token = either.token("wang", "trainers")

    replies = all_at_once(either.app, [post(token, "the-same-key", gpus=at % 2) for at in range(16)])

    granted = [reply for reply in replies if reply.status_code == 201]
    refused = [reply for reply in replies if reply.status_code != 201]
    assert len({reply.content for reply in granted}) == 1
    assert {(reply.status_code, reply.json()["code"]) for reply in refused} == {(422, "idempotency-key-reused")}
    assert len(refused) == 8
    assert whole(either) == 1


def test_a_row_that_the_database_refuses_harms_nobody_else(either: Registry) -> None:
    made = drafts(either, 12)
    written(either, made[:1])
    made[5].rows[0]["jti"] = made[0].rows[0]["jti"]

    outcomes = written(either, made[1:])

    assert isinstance(outcomes.pop(4), IntegrityError)
    assert outcomes == [True] * 10
    assert whole(either) == 11


def test_what_is_written_is_what_the_tables_read(either: Registry) -> None:
    (draft,) = drafts(either, 1)

    written(either, [draft])

    with either.books.reading() as session:
        rows = [
            session.exec(select(Ticket)).one(),
            session.exec(select(Run)).one(),
            *either.events("ticket.issued"),
            session.exec(select(PendingEntry).where(PendingEntry.event_id == draft.rows[2]["id"])).one(),
            session.exec(select(IdempotentAnswer)).one(),
        ]
    for row, told in zip(rows, draft.rows, strict=True):
        assert {name: value for name, value in row.model_dump().items() if value is not None} == {
            name: value for name, value in told.items() if value is not None
        }
    assert audit.leaf_of(draft.rows[2]) == tlog.leaf_hash(tlog.entry(log.as_document(rows[2])))
    spec = draft.rows[0]["run_spec"]
    assert canonical_bytes(RunSpec.model_validate_json(spec)) == spec


def test_what_is_made_without_a_model_is_what_the_models_say(registry: Registry) -> None:
    (draft,) = drafts(registry, 1)

    claims = unverified_claims(draft.rows[4]["ticket"])
    assert list(claims) == list(Claims.model_fields)
    assert Claims.model_validate(claims).model_dump() == claims
    assert wire.TicketGrant.model_validate_json(draft.answer).model_dump_json().encode() == draft.answer


def test_a_retry_is_answered_from_the_books_with_the_same_bytes(either: Registry) -> None:
    token = either.token("wang", "trainers")
    first, other, again = (all_at_once(either.app, [post(token, f"key-{at:05}")])[0] for at in (1, 2, 1))

    assert again.content == first.content != other.content
    assert (again.status_code, again.headers["content-type"]) == (201, first.headers["content-type"])
    assert whole(either) == 2


def test_every_event_of_a_group_gets_its_place_in_the_log(either: Registry) -> None:
    written(either, drafts(either, 20))

    assert log.integrate(either.books)

    with either.books.reading() as session:
        places = session.exec(select(LogEntry.index).order_by(LogEntry.index)).all()
        assert places == list(range(len(either.events())))
        assert session.exec(select(PendingEntry)).all() == []


def test_nobody_is_answered_before_the_commit(registry: Registry) -> None:
    client = registry.as_("wang", "trainers")
    ask(client, ticket_request())
    seen: list[tuple[int, int]] = []

    def asking() -> None:
        status = ask(client, ticket_request()).status_code
        seen.append((status, count(registry, "ticket")))

    with holding_the_write_lock(registry):
        waiting = threading.Thread(target=asking)
        waiting.start()
        time.sleep(0.4)
        assert seen == []
    waiting.join()

    assert seen == [(201, 2)]


def test_an_answer_waits_for_the_commit_itself(registry: Registry) -> None:
    """The moment before COMMIT the rows are there and the answer is not."""
    answered, at_commit = threading.Event(), []
    made = drafts(registry, 1)

    @event.listens_for(registry.books.engine, "commit")
    def slowly(_connection: Any) -> None:
        at_commit.append(answered.wait(0.3))

    assert written(registry, made) == [True]
    answered.set()
    assert at_commit == [False]


class holding_the_write_lock:  # noqa: N801 reads as a word of the test
    """Another process that is writing."""

    def __init__(self, registry: Registry) -> None:
        self._file = registry.settings.state_dir / "registry.db"

    def __enter__(self) -> sqlite3.Connection:
        self._connection = sqlite3.connect(self._file, isolation_level=None, check_same_thread=False)
        self._connection.execute("begin immediate")
        return self._connection

    def __exit__(self, *_: object) -> None:
        self._connection.execute("commit")
        self._connection.close()


@pytest.mark.parametrize("crash", [RuntimeError, SystemExit, MemoryError])
def test_a_writer_that_fails_fails_aloud_and_goes_on(
    registry: Registry, crash: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    wang = registry.as_("wang", "trainers")

    def fail(*_: object) -> None:
        raise crash("in the middle of a batch")

    with monkeypatch.context() as broken:
        broken.setattr(registry.books.writer._store, "insert", fail)
        reply = ask(wang, ticket_request())

    assert (reply.status_code, reply.json()["code"]) == (500, "internal-error")
    assert ask(wang, ticket_request()).status_code == 201
    assert whole(registry) == 1


def test_a_writer_that_is_closed_has_written_everything_and_can_begin_again(registry: Registry) -> None:
    made = drafts(registry, 100)

    async def write_and_close() -> list[bool | BaseException]:
        waiting = [asyncio.ensure_future(registry.books.writer.write(draft)) for draft in made]
        await asyncio.sleep(0.001)
        await asyncio.to_thread(registry.books.writer.close)
        assert count(registry, "ticket") == 100
        return await asyncio.gather(*waiting)

    assert asyncio.run(write_and_close()) == [True] * 100
    assert whole(registry) == 100
    assert ask(registry.as_("wang", "trainers"), ticket_request()).status_code == 201


def test_a_full_disk_is_a_503_and_leaves_nothing_half_written(registry: Registry) -> None:
    token = registry.token("wang", "trainers")
    limit = {"pages": 0}

    @event.listens_for(registry.books.engine, "begin")
    def small_disk(connection: Any) -> None:
        pages = connection.exec_driver_sql("pragma page_count").scalar_one()
        connection.exec_driver_sql(f"pragma max_page_count = {limit['pages'] or pages + 100_000}")

    all_at_once(registry.app, [post(token, "the-first-key")])
    limit["pages"] = 1  # not below what there is: no page more

    replies = all_at_once(registry.app, [post(token, f"key-{at:05}") for at in range(32)])

    full = [reply for reply in replies if reply.status_code == 503]
    assert full
    assert {(reply.status_code, reply.json()["code"]) for reply in full} == {(503, "unavailable")}
    assert whole(registry) == 1 + len(replies) - len(full)
    limit["pages"] = 0
    again = all_at_once(registry.app, [post(token, f"key-{at:05}") for at in range(32)])
    assert {reply.status_code for reply in again} == {201}
    assert whole(registry) == 33


# --- PostgreSQL -------------------------------------------------------------------------------------------------------


@pytest.fixture
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A server of one test's own, to be killed."""
    try:
        own = Cluster(tmp_path_factory.mktemp("own"), free_port())
    except NoServer as missing:
        pytest.skip(str(missing))
    own.start()
    yield own
    own.stop()


@pytest.mark.postgresql
def test_a_database_that_goes_away_in_the_middle_of_a_batch_is_a_503_and_a_retry_finds_one_ticket(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = Registry(Settings(state_dir=tmp_path / "state", database_url=cluster.url, tickets_per_minute=0))
    token = registry.token("wang", "trainers")
    store = registry.books.writer._store
    insert = store.insert

    killed: list[int] = []

    def insert_and_lose(*arguments: Any) -> None:
        insert(*arguments)
        if not killed:
            killed.append(1)
            cluster.kill()

    with monkeypatch.context() as broken:
        broken.setattr(store, "insert", insert_and_lose)
        lost = all_at_once(registry.app, [post(token, f"key-{at:05}") for at in range(8)])
    cluster.start()
    found = all_at_once(registry.app, [post(token, f"key-{at:05}") for at in range(8)])

    assert {(reply.status_code, reply.json()["code"]) for reply in lost} == {(503, "unavailable")}
    assert {reply.status_code for reply in found} == {201}
    assert whole(registry) == 8


@pytest.mark.postgresql
def test_a_database_that_was_started_again_between_two_batches_fails_none(cluster: Cluster, tmp_path: Path) -> None:
    registry = Registry(Settings(state_dir=tmp_path / "state", database_url=cluster.url, tickets_per_minute=0))
    made = drafts(registry, 3)
    assert written(registry, made[:1]) == [True]

    cluster.kill()
    cluster.start()

    assert written(registry, made[1:]) == [True, True]
    assert whole(registry) == 3


@pytest.mark.postgresql
def test_two_processes_asked_with_the_same_keys_issue_each_ticket_once(postgresql: str, tmp_path: Path) -> None:
    one, other = (
        Registry(Settings(state_dir=tmp_path / "state", database_url=postgresql, tickets_per_minute=0))
        for _ in range(2)
    )
    token, run = one.token("wang", "trainers"), db.uuid7()
    keys = [f"{run}-{at:02}" for at in range(24)]
    replies: dict[int, list[httpx2.Response]] = {}

    def ask_all(at: int, registry: Registry, ordered: list[str]) -> None:
        replies[at] = all_at_once(registry.app, [post(token, key) for key in ordered])

    threads = [
        threading.Thread(target=ask_all, args=(0, one, keys)),
        threading.Thread(target=ask_all, args=(1, other, keys[::-1])),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert {reply.status_code for reply in replies[0] + replies[1]} == {201}
    assert [reply.json()["jti"] for reply in replies[0]] == [reply.json()["jti"] for reply in reversed(replies[1])]


@pytest.mark.postgresql
def test_a_batch_that_is_not_committed_yet_keeps_no_other_process_waiting(postgresql: str, tmp_path: Path) -> None:
    one, other = (
        Registry(Settings(state_dir=tmp_path / "state", database_url=postgresql, tickets_per_minute=0))
        for _ in range(2)
    )
    made, store, run = drafts(one, 2), one.books.writer._store, db.uuid7()
    for at, draft in enumerate(made):
        draft.rows[-1]["key"] = f"{run}-{at}"

    with one.books.engine.begin() as connection:
        store.look_up(connection, [made[0].key])
        store.insert(connection, made[:1])

        outcomes = written(other, made[1:])

    assert outcomes == [True]


# --- what is known for a moment ---------------------------------------------------------------------------------------


def by(registry: Registry, change: Callable[[Session], object]) -> None:
    """A change by another process beside the service (`tagwarden token revoke`, another web process)."""
    engine = db.open_engine(registry.settings)
    with db.writing(engine) as session:
        change(session)
    engine.dispose()


def revoke_all(session: Session) -> None:
    for token in session.exec(select(ApiToken)):
        identity.revoke_token(session, token.id)


def test_a_token_revoked_by_another_process_gets_no_ticket_more(either: Registry) -> None:
    wang = either.as_("wang", "trainers")
    before = ask(wang, ticket_request()).status_code

    by(either, revoke_all)

    assert (before, ask(wang, ticket_request()).status_code) == (201, 401)


def test_a_token_revoked_while_its_ticket_waits_to_be_written_gets_none(registry: Registry) -> None:
    wang = registry.as_("wang", "trainers")
    ask(wang, ticket_request())
    replies: list[httpx2.Response] = []

    with holding_the_write_lock(registry) as somebody:
        waiting = threading.Thread(target=lambda: replies.append(ask(wang, ticket_request())))
        waiting.start()
        time.sleep(0.4)
        somebody.execute("delete from api_token")
    waiting.join()

    assert replies[0].status_code == 401
    assert whole(registry) == 1


def test_an_expired_token_gets_no_ticket_more(registry: Registry) -> None:
    token = registry.token("wang", "trainers", days=1.2 / 86_400)
    client = registry.anonymous(headers={"Authorization": f"Bearer {token}"})
    before = ask(client, ticket_request()).status_code
    time.sleep(1.3)

    assert (before, ask(client, ticket_request()).status_code) == (201, 401)


def test_a_task_type_taken_out_of_use_by_another_process_gets_no_ticket_more(either: Registry) -> None:
    either.approve_tag(tag := f"sentiment-of-{'a' if 'postgresql' in str(either.books.engine.url) else 'b'}")
    wang, asked = either.as_("wang", "trainers"), ticket_request(tag)
    before = ask(wang, asked).status_code

    by(either, lambda session: session.execute(text(f"update tag set {OVER} where name = :it"), {"it": tag}))

    reply = ask(wang, asked)
    assert (before, reply.status_code, reply.json()["code"]) == (201, 409, "task-type-sunset")


def test_a_version_that_takes_effect_is_the_version_of_the_next_ticket(registry: Registry) -> None:
    registry.approve_tag()
    wang = registry.as_("wang", "trainers")
    before = ask(wang, ticket_request("message-tone"))
    change = {"kind": "new-version", "tag": "message-tone", "overrides": {"parameters": {"seed": {"maximum": 99}}}}
    proposal = wang.post("/v1/proposals", json={"change": change, "reason": "fewer seeds"}).json()
    for steward, unit in (
        ("li", "retail"),
        ("zhao", "search"),
    ):  # fewer seeds break runs: units agree, and retail's owner
        reply = registry.review(registry.as_(steward, "tag-stewards", "unit-owners", unit=unit), proposal)
        assert reply.status_code == 201, reply.text

    after = ask(wang, ticket_request("message-tone"))

    assert [json.loads(reply.json()["run_spec"])["version"] for reply in (before, after)] == [1, 2]


def test_a_draft_whose_stamp_has_moved_is_not_written(either: Registry) -> None:
    (draft,) = drafts(either, 1)

    by(either, lambda session: session.execute(text("update tag set description = 'x' where name = 'dpo'")))

    assert isinstance(written(either, [draft])[0], Stale)
    assert whole(either) == 0


@pytest.mark.parametrize(
    "change",
    [
        f"update tag set {OVER} where name = 'dpo'",
        "delete from api_token",
        "update api_token set business_unit = 'search'",
    ],
)
def test_the_stamp_moves_with_whatever_a_ticket_rests_on(either: Registry, change: str) -> None:
    either.token("wang", "trainers")

    def stamp() -> int:
        with either.books.reading() as session:
            return session.exec(select(Stamp.value)).one()

    before = stamp()
    with either.books.engine.connect() as connection, connection.begin() as transaction:
        connection.execute(text(change))
        moved = connection.execute(text("select value from stamp")).scalar_one()
        transaction.rollback()

    assert moved > before
    assert stamp() == before


def test_old_answers_and_proofs_are_swept(registry: Registry) -> None:
    ask(registry.as_("wang", "trainers"), ticket_request())
    with registry.books.writing() as session:
        session.execute(text("update idempotent_answer set created_at = '2020-01-01 00:00:00.000000'"))
        session.execute(text("insert into used_proof values ('old', '2020-01-01 00:00:00.000000')"))

    with registry.books.writing() as session:
        tickets.sweep(session)

    assert (count(registry, "idempotent_answer"), count(registry, "used_proof"), count(registry, "ticket")) == (0, 0, 1)


# --- the express lane says what the documented route says -------------------------------------------------------------


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Registry, FastAPI]:
    """One registry, and the same without its express lane."""
    registry = Registry(Settings(state_dir=tmp_path_factory.mktemp("both"), tickets_per_minute=0))
    documented = create_app(registry.settings)
    documented.user_middleware = [each for each in documented.user_middleware if each.cls is not Express]
    assert len(documented.user_middleware) == len(registry.app.user_middleware) - 1
    return registry, documented


def told(reply: httpx2.Response) -> tuple[int, str | None, Any]:
    """An answer without what is new each time."""
    document = reply.json()
    document.pop("decision_id", None)
    if reply.status_code == 201:
        spec = json.loads(document["run_spec"])
        assert spec.pop("run_id") == document["run_id"]
        document = {"members": list(document), "rule": document["policy_rule"], "spec": spec}
    return reply.status_code, reply.headers.get("content-type"), document


BODY = json.dumps(ticket_request())
JSON = {"Content-Type": "application/json"}
PLAIN = {**JSON, "Idempotency-Key": "{fresh}"}
REQUESTS: dict[str, tuple[str | bytes, dict[str, str], str]] = {
    "plain": (BODY, PLAIN, ""),
    "alias": (json.dumps(ticket_request("seq-cls")), PLAIN, ""),
    "version": (json.dumps(ticket_request(version=1)), PLAIN, ""),
    "another version": (json.dumps(ticket_request(version=7)), PLAIN, ""),
    "charset": (BODY, {**PLAIN, "Content-Type": "application/json; charset=utf-8"}, ""),
    "no content type": (BODY, {"Idempotency-Key": "{fresh}"}, ""),
    "other content type": (BODY, {**PLAIN, "Content-Type": "text/plain"}, ""),
    "no key": (BODY, JSON, ""),
    "short key": (BODY, {**JSON, "Idempotency-Key": "short"}, ""),
    "long key": (BODY, {**JSON, "Idempotency-Key": "k" * 81}, ""),
    "validate only": (BODY, PLAIN, "?validate_only=true"),
    "unknown parameter": (BODY, PLAIN, "?validate=true"),
    "empty": ("", PLAIN, ""),
    "no json": ("{", PLAIN, ""),
    "not an object": ("[1]", PLAIN, ""),
    "utf-16": (BODY.encode("utf-16"), PLAIN, ""),
    "byte-order mark": (b"\xef\xbb\xbf" + BODY.encode(), PLAIN, ""),
    "not utf-8": (BODY.encode().replace(b"minilm", b"\xff\xfe"), PLAIN, ""),
    "member twice": (BODY[:-1] + ', "gpus": 0, "gpus": 1}', PLAIN, ""),
    "unknown member": (BODY[:-1] + ', "gpu": 1}', PLAIN, ""),
    "whole float": (BODY[:-1] + ', "gpus": 1.0}', PLAIN, ""),
    "number as text": (BODY[:-1] + ', "gpus": "1"}', PLAIN, ""),
    "true as number": (BODY[:-1] + ', "gpus": true}', PLAIN, ""),
    "nan": (BODY.replace("0.1", "NaN"), PLAIN, ""),
    "huge": (BODY.replace("100", "1" + "0" * 400), PLAIN, ""),
    "surrogate": (BODY.replace("minilm", "\\ud800"), PLAIN, ""),
    "nul": (BODY.replace("minilm", "\\u0000"), PLAIN, ""),
    "deep": (BODY.replace('["bad", "good"]', "[" * 900 + "]" * 900), PLAIN, ""),
    "chinese labels": (json.dumps(ticket_request(arguments={"label_names": ["好", "坏"]})), PLAIN, ""),
    "unknown task type": (json.dumps(ticket_request("nothing-like-it")), PLAIN, ""),
    "argument": (json.dumps(ticket_request(arguments={"label_names": ["a", "a"]})), PLAIN, ""),
    "columns": (BODY.replace('"columns": {}', '"columns": {"x": "y"}'), PLAIN, ""),
    "not permitted": (json.dumps(ticket_request("dpo", arguments={})), PLAIN, ""),
    "unknown unit": (json.dumps(ticket_request(business_unit="nowhere")), PLAIN, ""),
    "another unit": (json.dumps(ticket_request(business_unit="search")), PLAIN, ""),
    "wide target": (json.dumps(ticket_request(target="any")), PLAIN, ""),
    "too many gpus": (json.dumps(ticket_request(gpus=64)), PLAIN, ""),
    "large": (BODY.replace("minilm", "x" * 70_000), PLAIN, ""),
}


def asked_of(app: FastAPI, token: str, content: str | bytes, headers: dict[str, str], query: str = "") -> Any:
    fresh = {name: value.replace("{fresh}", db.uuid7()) for name, value in headers.items()}

    async def send() -> httpx2.Response:
        transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
        async with httpx2.AsyncClient(transport=transport, base_url=app.state.books.settings.issuer) as client:
            authorized = {"Authorization": f"Bearer {token}", **fresh}
            return await client.post(f"/v1/tickets{query}", content=content, headers=authorized)

    return told(asyncio.run(send()))


@pytest.mark.parametrize("name", REQUESTS)
def test_what_is_served_is_what_is_documented(both: tuple[Registry, FastAPI], name: str) -> None:
    registry, documented = both
    token = registry.token("wang", "trainers")

    assert asked_of(registry.app, token, *REQUESTS[name]) == asked_of(documented, token, *REQUESTS[name])


def test_a_budget_that_is_used_up_is_refused_in_words_and_on_record(tmp_path: Path) -> None:
    registry = Registry(Settings(state_dir=tmp_path / "state", tickets_per_minute=3))
    token = registry.token("wang", "trainers")

    replies = all_at_once(registry.app, [post(token, f"key-{at:05}") for at in range(6)])

    assert sorted(reply.status_code for reply in replies) == [201] * 3 + [429] * 3
    assert all(int(reply.headers["retry-after"]) > 0 for reply in replies if reply.status_code == 429)
    assert len(registry.events("rate-limit.refused")) == 1


def test_the_express_lane_grants_what_is_plain(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    async def not_me(*_: object, **__: object) -> None:
        raise AssertionError("the documented route was asked")

    monkeypatch.setattr(tickets, "issue", not_me)

    assert ask(registry.as_("wang", "trainers"), ticket_request()).status_code == 201


def test_of_all_that_need_the_newest_head_one_reads_it(registry: Registry) -> None:
    token, read = registry.token("wang", "trainers"), []
    all_at_once(registry.app, [post(token, "the-first-key")])
    registry.books.forget_head()

    @event.listens_for(registry.books.engine, "before_cursor_execute")
    def count_reads(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        read.extend([1] * ("log_checkpoint" in statement))

    replies = all_at_once(registry.app, [post(token, f"key-{at:05}") for at in range(32)])

    assert {reply.status_code for reply in replies} == {201}
    assert len(read) == 1


TOKENS: dict[int, str] = {}
values = (
    st.none()
    | st.booleans()
    | st.integers(-3, 9)
    | st.sampled_from([2e-5, 0.5, 1e300, "", "1", "true", "local", [], {}])
)


@settings(max_examples=120, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    changes=st.dictionaries(st.sampled_from([*ticket_request(), "version", "gpus", "target", "x"]), values, max_size=3),
    arguments=st.dictionaries(
        st.sampled_from(["label_names", "learning_rate", "seed", "use_lora", "num_labels", "y"]),
        values | st.just(["a", "b"]),
        max_size=4,
    ),
)
def test_any_request_is_answered_as_documented(
    both: tuple[Registry, FastAPI], changes: dict[str, Any], arguments: dict[str, Any]
) -> None:
    registry, documented = both
    token = TOKENS.setdefault(id(registry), registry.token("wang", "trainers"))
    body = json.dumps({**ticket_request(arguments={"label_names": ["a", "b"], **arguments}), **changes})

    assert asked_of(registry.app, token, body, PLAIN) == asked_of(documented, token, body, PLAIN)
