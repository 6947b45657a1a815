"""The record: complete, by unit, provable, and itself watched."""

import csv
import io
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from conftest import Registry, ask, ticket_request
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from enforcer import canonical, ndjson, tlog, wire
from enforcer.keys import KeySet, SigningKey
from registry import audit, db, log
from registry.identity import Actor
from registry.settings import Settings


@pytest.fixture
def busy(registry: Registry) -> Registry:
    """A registry in which two units did things and were refused things."""
    for unit in ("retail", "search"):
        client = registry.as_(f"{unit}-trainer", "trainers", unit=unit)
        ask(client, ticket_request())
        ask(client, ticket_request("dpo", arguments={}))
    return registry


def keys_of(registry: Registry) -> KeySet:
    return KeySet.from_jwks(registry.anonymous().get("/tlog/jwks.json").json())


def export(registry: Registry, format_: str = "ndjson", **query: str):  # type: ignore[no-untyped-def]
    auditor = registry.as_("qiao", "auditors")
    return auditor.get("/v1/audit:export", params={"format": format_, **query})


def test_an_auditor_sees_their_own_unit(busy: Registry) -> None:
    page = busy.as_("qiao", "auditors").get("/v1/audit").json()

    assert {event["business_unit"] for event in page["items"]} == {"retail"}
    assert [event["kind"] for event in page["items"]][:2] == ["submit.refused", "ticket.issued"]


def test_an_auditor_is_refused_another_units_log_and_that_is_on_record(busy: Registry) -> None:
    reply = busy.as_("qiao", "auditors").get("/v1/audit", params={"business_unit": "search"})

    assert (reply.status_code, reply.json()["nearest"][0]) == (403, "auditors-read-their-own-unit")
    assert [event.actor for event in busy.events("audit-read.refused")] == ["user:qiao"]


def test_a_trainer_reads_no_audit_log(busy: Registry) -> None:
    assert busy.as_("wang", "trainers").get("/v1/audit").status_code == 403


def test_reading_and_exporting_are_events(busy: Registry) -> None:
    auditor = busy.as_("qiao", "auditors")
    auditor.get("/v1/audit", params={"task_type": "dpo"})
    auditor.get("/v1/audit:export", params={"format": "csv"})

    (read,), (exported,) = busy.events("audit.read"), busy.events("audit.exported")

    assert read.detail["filter"] == {"task_type": "dpo", "business_unit": "retail"}
    assert (read.detail["events"], read.detail["asked"]["action"]) == (1, "audit-read")
    assert exported.rule == "auditors-read-their-own-unit"


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def odd(request: pytest.FixtureRequest, tmp_path: Path) -> Registry:
    """Events with what two ways of writing JSON could disagree on, in either database."""
    url = request.getfixturevalue("postgresql") if request.param == "postgresql" else None
    registry = Registry(Settings(state_dir=tmp_path / "state", database_url=url))
    ask(registry.as_("wang", "trainers"), ticket_request())  # by the writer, which does without SQLAlchemy's types
    second = datetime(2026, 3, 1, 12, tzinfo=UTC)
    detail = {"scores": [0.1, 1e-7, 1e22, -3, 10**15], "nested": {"a": [None, True, {}], "b": []}}
    with db.writing(registry.books.engine) as session:
        for at in (second, second + timedelta(microseconds=120), second + timedelta(milliseconds=500)):
            audit.record(session, "test.odd", Actor("user:li", ("a", "b"), "retail"), at=at, detail=detail, version=3)
        text = 'Zürich \u2028 "quoted" \\ back\tslash / 雪 😀 \x1f'
        audit.record(session, text, Actor(text, (), "retail"), reason=text, detail={text: text}, outcome="refused")
    return registry


def test_a_page_written_by_the_database_is_what_the_model_writes(odd: Registry) -> None:
    page = odd.as_("qiao", "auditors").get("/v1/audit")

    events = [event for event in odd.events() if event.business_unit == "retail" and event.kind != "audit.read"]
    events.sort(key=lambda event: event.id, reverse=True)
    expected = wire.EventPage(items=[wire.Event.model_validate(event) for event in events], next_page_token=None)
    assert len(events) == 5
    assert page.json() == json.loads(expected.model_dump_json())
    assert page.headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    ("query", "kinds"),
    [
        ({"task_type": "dpo"}, ["submit.refused"]),
        ({"kind": "ticket.issued"}, ["ticket.issued"]),
        ({"actor": "user:retail-trainer", "outcome": "refused"}, ["submit.refused"]),
        ({"ticket_id": "no-such-ticket"}, []),
        ({"until": "2020-01-01T00:00:00Z"}, []),
        ({"since": "2020-01-01T00:00:00Z"}, ["submit.refused", "ticket.issued"]),
    ],
)
def test_the_log_is_filtered(busy: Registry, query: dict[str, str], kinds: list[str]) -> None:
    page = busy.as_("qiao", "auditors").get("/v1/audit", params=query).json()

    assert [event["kind"] for event in page["items"]] == kinds


def test_pages_lose_and_repeat_nothing(busy: Registry) -> None:
    auditor = busy.as_("boss", "group-auditors", unit="all")
    seen, token = [], None
    while True:
        query = {"page_size": 1, "kind": "ticket.issued"} | ({"page_token": token} if token else {})
        page = auditor.get("/v1/audit", params=query).json()
        assert len(page["items"]) <= 1
        seen += [event["id"] for event in page["items"]]
        token = page["next_page_token"]
        if token is None:
            break

    assert seen == [event.id for event in reversed(busy.events("ticket.issued"))]


@pytest.mark.parametrize("moment", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "2026-01-01T00:00:00"])
def test_a_moment_that_no_database_can_compare_is_refused(busy: Registry, moment: str) -> None:
    reply = busy.as_("qiao", "auditors").get("/v1/audit", params={"since": moment})

    assert (reply.status_code, reply.json()["code"]) == (422, "malformed-request")


def test_a_page_token_belongs_to_its_query(busy: Registry) -> None:
    auditor = busy.as_("boss", "group-auditors", unit="all")
    token = auditor.get("/v1/audit", params={"page_size": 1}).json()["next_page_token"]

    reply = auditor.get("/v1/audit", params={"page_size": 1, "page_token": token, "kind": "ticket.issued"})

    assert (reply.status_code, reply.json()["code"]) == (400, "page-token-invalid")


def test_an_export_is_verified_offline(busy: Registry) -> None:
    found = ndjson.verify(export(busy).content.splitlines(), keys_of(busy))

    assert (found.events, found.whole) == (2, False)
    assert found.head.size > 2


def test_the_whole_log_is_known_to_be_whole(busy: Registry) -> None:
    auditor = busy.as_("boss", "group-auditors", unit="all")

    lines = auditor.get("/v1/audit:export", params={"format": "ndjson"}).content.splitlines()

    assert ndjson.verify(lines, keys_of(busy)).whole


@pytest.mark.parametrize("field", ["actor", "at", "rule", "detail", "outcome"])
def test_a_changed_event_is_noticed(busy: Registry, field: str) -> None:
    lines = export(busy).content.splitlines()
    record = json.loads(lines[1])
    record["event"][field] = "changed"
    lines[1] = canonical.dumps(record)

    with pytest.raises(tlog.LogInvalid, match="line 2"):
        ndjson.verify(lines, keys_of(busy))


def test_a_row_changed_in_the_database_is_noticed(busy: Registry) -> None:
    """The triggers are taken away first, as whoever owns the database could."""
    log.integrate(busy.books)
    with busy.books.engine.begin() as connection:
        connection.execute(text("drop trigger event_only_erased"))
        connection.execute(text("update event set actor = 'user:nobody' where kind = 'ticket.issued'"))

    with pytest.raises(tlog.LogInvalid, match="its personal part is not what was logged"):
        ndjson.verify(export(busy).content.splitlines(), keys_of(busy))


def test_a_row_changed_before_it_was_sequenced_is_noticed_too(busy: Registry) -> None:
    with busy.books.engine.begin() as connection:
        connection.execute(text("drop trigger event_only_erased"))
        connection.execute(text("update event set actor = 'user:nobody' where kind = 'ticket.issued'"))

    with pytest.raises(tlog.LogInvalid, match="its personal part is not what was logged"):
        ndjson.verify(export(busy).content.splitlines(), keys_of(busy))


def test_what_is_personal_can_be_erased_and_the_log_still_holds(busy: Registry) -> None:
    with busy.books.engine.begin() as connection:
        connection.execute(
            text("update event set actor = 'erased', reason = null, groups = '[]', detail = '{}', salt = null")
        )

    lines = export(busy).content.splitlines()

    assert ndjson.verify(lines, keys_of(busy)).events >= 2
    assert b"user:retail-trainer" not in b"".join(lines)


def test_a_checkpoint_by_another_key_is_refused(busy: Registry) -> None:
    with pytest.raises(tlog.LogInvalid, match="no key that this verifier knows"):
        ndjson.verify(export(busy).content.splitlines(), KeySet.of(SigningKey.generate()))


@pytest.mark.parametrize(
    "statement",
    [
        "update event set actor = 'x'",
        "update event set actor = 'erased', reason = null, groups = '[]', detail = '{}', salt = null, rule = 'x'",
        "delete from event",
        "delete from log_entry",
    ],
)
def test_the_database_refuses_to_change_the_record(busy: Registry, statement: str) -> None:
    log.integrate(busy.books)

    with pytest.raises(IntegrityError, match="never changed"), busy.books.engine.begin() as connection:
        connection.execute(text(statement))


def test_a_csv_export_is_complete_and_runs_no_formula(busy: Registry) -> None:
    with db.writing(busy.books.engine) as session:
        audit.record(session, "test.formula", Actor("user:eve", (), "retail"), reason="=cmd|' /C calc'!A0")

    rows = list(csv.DictReader(io.StringIO(export(busy, "csv").text)))

    assert [row["kind"] for row in rows] == ["ticket.issued", "submit.refused", "test.formula", "audit.manifest"]
    assert rows[2]["reason"] == "'=cmd|' /C calc'!A0"


def test_places_in_the_log_have_no_gaps(busy: Registry) -> None:
    for _ in range(3):
        log.integrate(busy.books)
        ask(busy.as_("wang", "trainers"), ticket_request())
    log.integrate(busy.books)

    with busy.books.engine.connect() as connection:
        indices = connection.execute(text('select "index" from log_entry order by 1')).scalars().all()
        pending = connection.execute(text("select count(*) from pending_entry")).scalar_one()

    assert indices == list(range(len(indices)))
    assert pending == 0


def test_the_command_line_verifies_an_export(busy: Registry, tmp_path: Path) -> None:
    from click.testing import CliRunner

    from registry.cli import main

    file, keys = tmp_path / "audit.ndjson", tmp_path / "keys.json"
    file.write_text(export(busy).text)
    keys.write_text(busy.anonymous().get("/tlog/jwks.json").text)

    good = CliRunner().invoke(main, ["audit", "verify", str(file), "--keys", str(keys)])
    file.write_text(file.read_text().replace("retail-trainer", "somebody-else", 1))
    bad = CliRunner().invoke(main, ["audit", "verify", str(file), "--keys", str(keys)])

    assert (good.exit_code, bad.exit_code) == (0, 1)
    assert "2 events" in good.output
    assert "does not hold: line 2" in bad.output
