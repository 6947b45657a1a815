"""The end of a task type: warned of, then refused, then kept for the record; and nobody is surprised by the clock."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from unittest.mock import patch

import httpx2
import pytest
from conftest import ask, redeem, ticket_request
from fastapi.testclient import TestClient
from offices import Office
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlmodel import select

from enforcer import wire
from enforcer.keys import SigningKey
from enforcer.problems import TaskTypeSunset
from registry import db, server, tags, tickets
from registry.access import Matter, decide, granted
from registry.identity import Actor
from registry.settings import Settings
from registry.tables import Tag
from registry.writer import Draft

REAL_NOW = db.utc_now


class House(Office):
    """A registry where stewards end task types."""

    def change(self, kind: str, tag: str, by: str = "author", **terms: Any) -> httpx2.Response:
        self.welcome()
        if kind == "deprecation":
            terms = {"sunset_at": self.after(days=30).isoformat(), **terms}
        body = {"change": {"kind": kind, "tag": tag, **terms}, "reason": "few use it"}
        return self.as_(by, "tag-stewards").post("/v1/proposals", json=body)

    def decide(self, proposal: dict[str, Any]) -> httpx2.Response:
        """The answer to the last of two approvals, by stewards of two units who answer for them."""
        stewards = (self.as_(name, "tag-stewards", "unit-owners") for name in ("first", "second"))
        first, second = (self.review(steward, proposal) for steward in stewards)
        assert first.status_code == 201, first.text
        return second

    def end(self, kind: str, tag: str, **terms: Any) -> dict[str, Any]:
        proposed = self.change(kind, tag, **terms)
        assert proposed.status_code == 201, proposed.text
        decided = self.decide(proposed.json())
        assert decided.json()["state"] == "applied", decided.text
        answer: dict[str, Any] = decided.json()
        return answer

    def tag(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.as_("reader").get(f"/v1/tags/{name}").json()
        return found

    def trainer(self) -> TestClient:
        return self.as_("wang", "trainers")

    def ask(self, tag: str = "reranker", **changes: Any) -> httpx2.Response:
        return ask(self.trainer(), ticket_request(tag, arguments={}, **changes))

    def life(self) -> list[tuple[str, str | None]]:
        kinds = ("tag.deprecated", "tag.repointed", "tag.restored", "tag.sunset", "tag.archived")
        return [(event.kind, event.task_type) for event in self.events(*kinds)]


@contextmanager
def later(**time: float) -> Iterator[None]:
    with patch.object(db, "utc_now", lambda: REAL_NOW() + timedelta(**time)):
        yield


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(Settings(state_dir=tmp_path / "state"))


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def either(request: pytest.FixtureRequest, tmp_path: Path) -> House:
    url = request.getfixturevalue("postgresql") if request.param == "postgresql" else None
    return House(Settings(state_dir=tmp_path / "state", database_url=url))


def test_from_its_first_day_to_the_record(either: House) -> None:
    key = SigningKey.generate()
    running = either.ask(jkt=key.thumbprint).json()

    either.end("deprecation", "reranker", replaced_by="embedding")
    warned = either.ask()
    with later(days=31):
        refused = either.ask()
        either.end("archival", "reranker")
        over = either.ask()

        assert either.tag("reranker")["state"] == "archived"
        run = either.as_("wang", "trainers").get(f"/v1/runs/{running['run_id']}").json()
        assert (run["task_type"], run["version"]) == ("reranker", 1)
    assert warned.status_code == 201
    assert "use `embedding`" in warned.json()["warnings"][0]
    assert (refused.status_code, refused.json()["code"]) == (409, "task-type-sunset")
    assert (over.status_code, over.json()["code"]) == (409, "task-type-archived")
    assert either.life() == [("tag.deprecated", "reranker"), ("tag.sunset", "reranker"), ("tag.archived", "reranker")]
    assert redeem(either, running, key).status_code == 200


def test_whoever_asks_whether_they_may_is_told_of_the_end(house: House) -> None:
    """Before the sunset yes, with a warning; from then on no, as the ticket would be refused."""
    asked = {"resource": {"type": "task-type", "id": "reranker"}, "action": {"name": "submit"}}
    house.end("deprecation", "reranker", replaced_by="embedding")
    subject = {"type": "user", "id": "wang", "properties": {"groups": ["trainers"], "business_unit": "retail"}}

    def answers() -> list[tuple[Any, ...]]:
        own = house.as_("wang", "trainers").post("/access/v1/evaluation", json=asked).json()
        gateway = house.as_("gate", "gateways", unit="all")
        others = gateway.post("/access/v1/evaluation", json=asked | {"subject": subject}).json()
        return [(one["decision"], one["context"]["reason"], one["context"]["warnings"]) for one in (own, others)]

    before = answers()
    with later(days=31):
        after = answers()
        house.end("archival", "reranker")
        archived = answers()

    assert [answer[:2] for answer in before] == [(True, "allow")] * 2
    assert [answer[:2] for answer in after] == [(False, "task-type-sunset")] * 2
    assert [answer[:2] for answer in archived] == [(False, "task-type-archived")] * 2
    assert "takes no new runs from" in before[0][2][-1]
    assert "has taken no new runs since" in after[1][2][-1]
    assert "use `embedding`" in archived[0][2][-1]
    assert [event.outcome for event in house.events("evaluation.answered")] == ["done", "refused", "refused"]


def test_an_answer_about_a_deprecated_task_type_says_so_in_its_headers(house: House) -> None:
    house.end("deprecation", "reranker", replaced_by="embedding")

    answers = [
        house.as_("reader").get("/v1/tags/reranker"),
        house.ask(),
        ask(house.trainer(), ticket_request("reranker", arguments={}), validate_only="true"),
    ]

    told = house.tag("reranker")["deprecation"]
    since, sunset = (datetime.fromisoformat(told[name]) for name in ("since", "sunset_at"))
    assert [answer.status_code for answer in answers] == [200, 201, 200]
    for answer in answers:
        assert answer.headers["deprecation"] == f"@{int(since.timestamp())}"
        assert parsedate_to_datetime(answer.headers["sunset"]) == sunset
        assert answer.headers["link"] == '</v1/tags/embedding>; rel="successor-version"'
    assert "deprecation" not in house.ask("embedding").headers


def test_what_somebody_has_of_a_tag_is_stale_once_it_is_deprecated(house: House) -> None:
    before = house.as_("reader").get("/v1/tags/reranker")
    house.end("deprecation", "reranker")

    again = house.as_("reader").get("/v1/tags/reranker", headers={"If-None-Match": before.headers["etag"]})

    assert again.status_code == 200


def test_a_sunset_counts_to_the_second_on_both_ways_to_a_ticket(house: House) -> None:
    """What the express lane remembers is from before the end; no sweep runs here."""
    assert house.ask().status_code == 201
    sunset_at = house.after(days=30)
    house.end("deprecation", "reranker", sunset_at=sunset_at.isoformat())

    with patch.object(db, "utc_now", lambda: sunset_at - timedelta(microseconds=1)):
        before = house.ask()
    with patch.object(db, "utc_now", lambda: sunset_at):
        after = house.ask()
        planned = ask(house.trainer(), ticket_request("reranker", arguments={}), validate_only="true")
        listed = house.as_("reader").get("/v1/tags", params={"state": "sunset"}).json()["items"]
        bound = {"name": "reranker", "framework": "ms-swift", "framework_version": "4.6.0"}
        resolved = house.as_("reader").get("/v1/tags:resolve", params=bound).json()

    assert (before.status_code, after.status_code, planned.status_code) == (201, 409, 409)
    assert after.json()["sunset_at"] == f"{sunset_at:%Y-%m-%dT%H:%M:%SZ}"
    assert [(tag["name"], tag["state"]) for tag in listed] == [("reranker", "sunset")]
    assert resolved["state"] == "sunset"
    assert house.life() == [("tag.deprecated", "reranker")]


def test_what_was_remembered_from_before_the_sunset_makes_no_ticket(house: House) -> None:
    house.end("deprecation", "reranker")
    actor = Actor("user:wang", ("trainers",), "retail")
    request = wire.TicketRequest(**ticket_request("reranker", arguments={}))
    with house.books.reading() as session:
        task, gate, head = tags.in_force(session, "reranker"), house.books.gate(session), house.books.head(session)
    permit = granted(gate, actor, decide(gate, actor, "submit", Matter(tag="reranker", target="local", model="minilm")))

    def draft(task: tags.InForce) -> Draft:
        return tickets.draft(house.books, request, permit, task, stamp=1, idempotency_key="a" * 8, head=head)

    assert draft(task).answer
    assert task.deprecation is not None
    with pytest.raises(TaskTypeSunset):
        draft(replace(task, deprecation=task.deprecation.model_copy(update={"sunset_at": db.utc_now()})))


def test_whoever_may_not_run_it_at_all_is_told_that_and_not_of_its_end(house: House) -> None:
    house.end("deprecation", "dpo")

    with later(days=31):
        reply = house.ask("dpo")

    assert (reply.status_code, reply.json()["code"]) == (403, "not-permitted")


def test_the_clock_writes_one_event_however_many_look_at_once(either: House) -> None:
    either.end("deprecation", "reranker")

    early = server.let_sunsets_come(either.books)
    with later(days=31), ThreadPoolExecutor(4) as many:
        with either.books.writing() as session:  # so that all of them have seen it as due before one may write
            session.exec(select(Tag).where(Tag.name == "reranker").with_for_update()).one()
            looks = [many.submit(server.let_sunsets_come, either.books) for _ in range(4)]
            time.sleep(0.5)
        told = [look.result() for look in looks]

    assert (early, sorted(told)) == ([], [[], [], [], ["reranker"]])
    (event,) = either.events("tag.sunset")
    assert (event.actor, event.task_type, event.version) == ("system:registry", "reranker", 1)


def test_a_deprecated_task_type_can_go_on(house: House) -> None:
    house.end("deprecation", "reranker", replaced_by="embedding")

    house.end("restoration", "reranker")

    tag, reply = house.tag("reranker"), house.ask()
    assert (tag["state"], tag["deprecation"]) == ("active", None)
    assert (reply.json()["warnings"], "sunset" in reply.headers) == ([], False)
    with later(days=31):
        assert server.let_sunsets_come(house.books) == []


def test_new_terms_take_the_place_of_the_old(house: House) -> None:
    house.end("deprecation", "reranker")
    since = house.tag("reranker")["deprecation"]["since"]

    house.end("deprecation", "reranker", sunset_at=house.after(days=60).isoformat(), replaced_by="embedding")

    told = house.tag("reranker")["deprecation"]
    assert (told["since"], told["replaced_by"]) == (since, "embedding")
    with later(days=31):
        assert house.ask().status_code == 201


# --- what replaces what -----------------------------------------------------------------------------------------------


def test_what_replaces_others_hands_them_on_when_it_ends_itself(house: House) -> None:
    house.end("deprecation", "sft", replaced_by="dpo")
    house.end("deprecation", "reranker", replaced_by="dpo")
    alone = house.change("deprecation", "dpo")

    handed = house.end("deprecation", "dpo", replaced_by="embedding")

    assert (alone.status_code, alone.json()["code"], alone.json()["replaces"]) == (
        409,
        "still-replaces",
        ["reranker", "sft"],
    )
    assert handed["change"]["repointed"] == ["reranker", "sft"]
    assert {house.tag(name)["deprecation"]["replaced_by"] for name in ("sft", "reranker", "dpo")} == {"embedding"}
    assert house.life()[2:] == [("tag.repointed", "reranker"), ("tag.repointed", "sft"), ("tag.deprecated", "dpo")]


def test_what_is_archived_keeps_what_replaced_it_then(house: House) -> None:
    house.end("deprecation", "sft", replaced_by="dpo")
    with later(days=31):
        house.end("archival", "sft")

        house.end("deprecation", "dpo", sunset_at=house.after(days=30).isoformat())

        assert house.tag("sft")["deprecation"]["replaced_by"] == "dpo"


@pytest.mark.parametrize(
    ("terms", "status", "code", "says"),
    [
        ({"replaced_by": "reranker"}, 409, "replacement-invalid", "it is what ends"),
        ({"replaced_by": "sft"}, 409, "replacement-invalid", "it is deprecated"),
        ({"replaced_by": "nothing-like-it"}, 404, "unknown-task-type", "nothing-like-it"),
        ({"tag": "nothing-like-it"}, 404, "unknown-task-type", "nothing-like-it"),
        ({"sunset_at": "2026-01-01T00:00:00Z"}, 422, "sunset-invalid", "is not in the next ten years"),
        ({"sunset_at": "9999-12-31T23:59:59-14:00"}, 422, "malformed-request", "no moment of UTC"),
        ({"sunset_at": "9999-12-31T23:59:59Z"}, 422, "sunset-invalid", "is not in the next ten years"),
        ({"sunset_at": "2030-01-01T00:00:00"}, 422, "malformed-request", "timezone"),
        ({"sunset_at": None}, 422, "malformed-request", "sunset_at"),
        ({"repointed": []}, 422, "malformed-request", "repointed"),
    ],
)
def test_an_end_that_cannot_be_is_refused_before_anybody_reads_it(
    shared: House, terms: dict[str, Any], status: int, code: str, says: str
) -> None:
    reply = shared.change("deprecation", **{"tag": "reranker", **terms})

    assert (reply.status_code, reply.json()["code"]) == (status, code), reply.text
    assert says in reply.text


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> House:
    """One house for all that is refused: `sft` is deprecated there."""
    house = House(Settings(state_dir=tmp_path_factory.mktemp("house")))
    house.end("deprecation", "sft")
    return house


@pytest.mark.parametrize(
    ("kind", "tag", "state"),
    [("restoration", "dpo", "active"), ("archival", "dpo", "active"), ("archival", "sft", "deprecated")],
)
def test_a_life_goes_one_way(shared: House, kind: str, tag: str, state: str) -> None:
    reply = shared.change(kind, tag)

    assert (reply.status_code, reply.json()["code"], reply.json()["state"]) == (409, "wrong-life-state", state)


def test_nothing_new_goes_below_what_ends(shared: House) -> None:
    reply = shared.propose(shared.trainer(), "polite-answers", parent="sft")

    assert (reply.status_code, reply.json()["code"]) == (409, "task-type-not-active")


def test_only_stewards_end_a_task_type(shared: House) -> None:
    body = {"change": {"kind": "restoration", "tag": "sft"}, "reason": "we like it"}

    reply = shared.trainer().post("/v1/proposals", json=body)

    assert (reply.status_code, reply.json()["ask"]) == (403, ["tag-stewards"])


@pytest.mark.parametrize("state", ["deprecated", "active"])
def test_a_list_by_state(shared: House, state: str) -> None:
    items = shared.as_("reader").get("/v1/tags", params={"state": state}).json()["items"]

    assert {tag["state"] for tag in items} == {state}
    assert ("sft" in {tag["name"] for tag in items}) == (state == "deprecated")


# --- what was agreed to is what happens -------------------------------------------------------------------------------


def test_an_end_that_was_agreed_to_too_late_is_stale(house: House) -> None:
    proposal = house.change("deprecation", "reranker", sunset_at=house.after(days=5).isoformat()).json()

    with later(days=6):
        reply = house.decide(proposal)

    assert (reply.status_code, reply.json()["code"]) == (409, "stale-review")
    assert house.tag("reranker")["state"] == "active"


def test_an_end_that_would_take_along_others_than_agreed_is_stale(house: House) -> None:
    proposal = house.change("deprecation", "dpo", replaced_by="embedding").json()
    house.end("deprecation", "sft", replaced_by="dpo")

    reply = house.decide(proposal)

    assert (reply.status_code, reply.json()["code"]) == (409, "stale-review")
    assert house.tag("sft")["deprecation"]["replaced_by"] == "dpo"


def test_a_replacement_that_ended_meanwhile_replaces_nothing(house: House) -> None:
    proposal = house.change("deprecation", "sft", replaced_by="dpo").json()
    house.end("deprecation", "dpo")

    reply = house.decide(proposal)

    assert (reply.status_code, reply.json()["code"]) == (409, "replacement-invalid")


def test_a_restoration_comes_too_late_once_the_sunset_is_there(house: House) -> None:
    house.end("deprecation", "reranker", sunset_at=house.after(days=5).isoformat())
    proposal = house.change("restoration", "reranker").json()

    with later(days=6):
        reply = house.decide(proposal)

    assert (reply.status_code, reply.json()["code"]) == (409, "wrong-life-state")


def test_a_version_of_what_has_ended_is_refused(house: House) -> None:
    house.end("deprecation", "reranker", sunset_at=house.after(days=5).isoformat())
    profile = house.tag("reranker")["profile"]
    profile["limits"]["max_runtime_s"] -= 1
    body = {"change": {"kind": "new-version", "tag": "reranker", "profile": profile}, "reason": "a better one"}

    before = house.trainer().post("/v1/proposals", json=body)
    with later(days=6):
        late = house.decide(before.json())

    assert before.status_code == 201
    assert (late.status_code, late.json()["code"]) == (409, "task-type-not-active")


# --- an exception after the sunset ------------------------------------------------------------------------------------


def test_an_exception_for_what_has_ended_lets_a_run_through(house: House) -> None:
    house.end("deprecation", "reranker")

    with later(days=31):
        house.welcome()
        house.grant_exception(id="last-reranker", tag=["reranker"])
        granted = house.ask()
        other = ask(house.as_("chen", "trainers"), ticket_request("reranker", arguments={}))
        used = house.listed(unneeded=True)["items"]

    assert granted.status_code == 201, granted.text
    assert "has taken no new runs since" in granted.json()["warnings"][0]
    assert (other.status_code, other.json()["code"]) == (409, "task-type-sunset")
    (event,) = house.events("ticket.issued")
    assert event.detail["past_sunset"] == "last-reranker"
    assert used == []


@pytest.mark.parametrize(
    ("early", "terms"),
    [
        (True, {"tag": ["reranker"]}),  # granted before anybody knew that it ends
        (False, {"tag": ["any"]}),  # for all task types, so for none that has ended
    ],
)
def test_an_exception_for_something_else_does_not(house: House, early: bool, terms: dict[str, Any]) -> None:
    if early:
        house.grant_exception(until=house.after(days=80).isoformat(), **terms)
    house.end("deprecation", "reranker")

    with later(days=31):
        if not early:
            house.welcome()
            house.grant_exception(**terms)
        reply = house.ask()

    assert (reply.status_code, reply.json()["code"]) == (409, "task-type-sunset")


# --- the database itself ----------------------------------------------------------------------------------------------

TERMS = "deprecated_at = '2026-01-01', sunset_at = '2026-02-01', deprecation_reason = 'r'"
CLEARED = "deprecated_at = null, sunset_at = null, deprecation_reason = null, replaced_by = null"
TO_DEPRECATED, TO_SUNSET, TO_ARCHIVED = (
    f"update tag set state = 'deprecated', {TERMS} where name = 'sft'",
    "update tag set state = 'sunset' where name = 'sft'",
    "update tag set state = 'archived' where name = 'sft'",
)


@pytest.mark.parametrize(
    ("before", "refused", "says"),
    [
        ([], "update tag set state = 'gone' where name = 'sft'", "state|life"),
        ([], f"update tag set state = 'sunset', {TERMS} where name = 'sft'", "does not go that way"),
        ([], f"update tag set state = 'archived', {TERMS} where name = 'sft'", "does not go that way"),
        ([TO_DEPRECATED], TO_ARCHIVED, "does not go that way"),
        ([TO_DEPRECATED, TO_SUNSET], f"update tag set state = 'active', {CLEARED} where name = 'sft'", "that way"),
        ([TO_DEPRECATED, TO_SUNSET], "update tag set state = 'deprecated' where name = 'sft'", "that way"),
        (
            [TO_DEPRECATED, TO_SUNSET, TO_ARCHIVED],
            "update tag set description = 'x' where name = 'sft'",
            "archived task type is never changed",
        ),
        ([], "update tag set state = 'deprecated' where name = 'sft'", "terms_of_the_end"),
        ([], "update tag set deprecation_reason = 'r' where name = 'sft'", "terms_of_the_end"),
        ([], "update tag set replaced_by = 'dpo' where name = 'sft'", "replacement"),
        ([TO_DEPRECATED], "update tag set replaced_by = 'sft' where name = 'sft'", "replace"),
        (
            [TO_DEPRECATED, TO_DEPRECATED.replace("sft", "reranker")],
            "update tag set replaced_by = 'reranker' where name = 'sft'",
            "what replaces a task type is active",
        ),
        (
            [TO_DEPRECATED.replace("where", ", replaced_by = 'dpo' where")],
            TO_DEPRECATED.replace("sft", "dpo"),
            "does not end before they point elsewhere",
        ),
        ([], "delete from tag where name = 'product-classification'", "never deleted"),
        (
            [],
            "insert into tag (name, kind, description, state, version, created_at, deprecated_at, sunset_at, "
            "deprecation_reason) values ('new', 'business', 'd', 'deprecated', 1, '2026-01-01', '2026-01-01', "
            "'2026-01-01', 'r')",
            "begins as active",
        ),
    ],
)
def test_the_database_refuses_what_the_code_would(
    on_both: list[House], before: list[str], refused: str, says: str
) -> None:
    for house in on_both:
        with house.books.engine.connect() as connection:
            for statement in before:
                connection.execute(text(statement))

            with pytest.raises(DBAPIError, match=says):
                connection.execute(text(refused))
            connection.rollback()


@pytest.fixture(scope="module")
def on_both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[House]:
    """A house on SQLite, and one on PostgreSQL where there is a server."""
    from clusters import NoServer

    houses = [House(Settings(state_dir=tmp_path_factory.mktemp("sqlite")))]
    try:
        url = request.getfixturevalue("postgresql_server").fresh_database()
        houses.append(House(Settings(state_dir=tmp_path_factory.mktemp("postgresql"), database_url=url)))
    except (NoServer, pytest.skip.Exception):
        pass
    return houses


def test_utc_is_what_the_clock_of_a_sunset_shows(house: House) -> None:
    """Two in the afternoon in Shanghai is six in the morning in UTC; seconds are as fine as headers can tell."""
    local = house.after(days=9).astimezone(UTC).replace(hour=6, minute=0, second=0)

    house.end("deprecation", "reranker", sunset_at=f"{local:%Y-%m-%d}T14:00:00.75+08:00")

    assert datetime.fromisoformat(house.tag("reranker")["deprecation"]["sunset_at"]) == local
