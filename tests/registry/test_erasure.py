"""Erasure, legal hold and retention: a name goes, the proof stays, and what must be kept is kept."""

import hashlib
import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from conftest import Registry, ask, redeem, ticket_request
from hypothesis import given, strategies as st
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from enforcer import ndjson, proofs, wire
from enforcer.keys import KeySet, SigningKey
from enforcer.policy.rules import PolicyInvalid
from enforcer.problems import ErasureRefused, Held
from registry import db, erasure, principals, retention, revocations, runs
from registry.cli import main
from registry.identity import Actor
from registry.settings import Settings
from registry.tables import Principal

OPERATOR = Actor("system:operator", (), "all")
REASON = "request 4711 of the data subject"


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def registry(request: pytest.FixtureRequest, tmp_path: Path) -> Registry:
    url = request.getfixturevalue("postgresql") if request.param == "postgresql" else None
    return Registry(Settings(state_dir=tmp_path / "state", database_url=url))


@pytest.fixture
def person(registry: Registry) -> str:
    """Somebody of retail whose run has ended, and whom others have named. A name of their own in a shared database."""
    name = f"p-{db.uuid7()[-12:]}"
    key = SigningKey.generate()
    client = registry.as_(name, "trainers")
    grant = ask(client, ticket_request(jkt=key.thumbprint)).json()
    ask(client, ticket_request("dpo", arguments={}))
    lease = redeem(registry, grant, key).json()
    holder = registry.anonymous(headers={"Authorization": f"Bearer {lease['lease_token']}"})
    holder.post(f"/v1/runs/{lease['run_id']}/report", json={"state": "failed", "error": f"no disk for user:{name}"})
    registry.as_("qiao", "auditors").get("/v1/audit", params={"actor": f"user:{name}"})
    ask(registry.as_(f"{name}y", "trainers", unit="search"), ticket_request())  # another, with a longer name
    return f"user:{name}"


def whole_log(registry: Registry) -> list[str]:
    auditor = registry.as_("boss", "group-auditors", unit="all")
    content = auditor.get("/v1/audit:export", params={"format": "ndjson"}).content
    keys = KeySet.from_jwks(registry.anonymous().get("/tlog/jwks.json").json())
    assert ndjson.verify(content.splitlines(), keys).whole
    return content.decode().split("\n")


def naming(registry: Registry, person: str) -> list[str]:
    """Kinds of the events whose text holds the person's name."""
    word = f'{person}"'
    return sorted(e.kind for e in registry.events() if word in json.dumps([f"{e.actor}", e.reason, e.detail]))


def erase(registry: Registry, person: str, unit: str = "all") -> wire.ErasureReceipt:
    return erasure.erase(registry.books.engine, wire.ErasureRequest(actor=person, reason=REASON), OPERATOR, unit, {})


# --- erasure ----------------------------------------------------------------------------------------------------------


def test_a_person_is_erased_and_the_whole_log_still_holds(registry: Registry, person: str) -> None:
    before = len(whole_log(registry))
    assert len(naming(registry, person)) == 5  # issued, redeemed, refused, run.failed, and who read of them

    receipt = erase(registry, person)

    lines = whole_log(registry)
    assert naming(registry, person) == []
    assert not [line for line in lines if f'{person}"' in line]
    assert [line for line in lines if f'{person}y"' in line], "somebody else's name is left alone"
    assert len(lines) > before
    assert (receipt.events, receipt.runs, receipt.answers) == (5, 1, 1)


def test_erasure_is_on_record_without_the_name_and_the_receipt_opens_it(registry: Registry, person: str) -> None:
    receipt = erase(registry, person)

    began, finished = registry.events("audit.erased", "audit.erasure-finished")[-2:]
    expected = hashlib.sha256(bytes.fromhex(receipt.salt) + person.encode()).hexdigest()
    assert began.digest == finished.digest == receipt.person_digest == f"sha256:{expected}"
    assert (began.actor, began.reason, finished.detail["events"]) == ("system:operator", REASON, 5)
    assert receipt.salt not in json.dumps([began.detail, finished.detail])


def test_nothing_beside_the_log_names_the_person_either(registry: Registry, person: str) -> None:
    client = registry.as_(person.removeprefix("user:"), "trainers")
    run = ask(client, ticket_request()).json()["run_id"]
    assert client.post(f"/v1/runs/{run}:cancel", headers={"Idempotency-Key": "cancel-it-once"}).status_code == 200

    receipt = erase(registry, person)

    assert receipt.answers == 3  # of two tickets and of cancelling
    with registry.books.engine.connect() as connection:
        for table in ("run", "idempotent_answer", "stored_answer", "api_token", "event"):
            rows = connection.execute(text(f'select * from "{table}"')).all()
            assert not [row for row in rows if f"'{person}'" in str(row) or f"by {person}'" in str(row)], table


def test_a_token_of_the_erased_signs_in_no_more(registry: Registry, person: str) -> None:
    client = registry.as_(person.removeprefix("user:"), "trainers")
    assert client.get("/v1/tags").status_code == 200

    erase(registry, person)

    assert client.get("/v1/tags").status_code == 401


def test_a_lost_run_has_not_ended_so_its_user_is_not_erased_yet(registry: Registry, person: str) -> None:
    key = SigningKey.generate()
    client = registry.as_(person.removeprefix("user:"), "trainers")
    grant = ask(client, ticket_request(jkt=key.thumbprint)).json()
    redeem(registry, grant, key)
    with registry.books.engine.begin() as connection:
        connection.execute(text("update run set state = 'lost' where id = :id"), {"id": grant["run_id"]})

    with pytest.raises(ErasureRefused, match="has not ended"):
        erase(registry, person)


def test_whoever_took_back_a_ticket_is_erased_from_its_run(registry: Registry, person: str) -> None:
    grant = ask(registry.as_("wang", "trainers"), ticket_request()).json()
    with registry.books.writing() as session:
        revocations.revoke(session, grant["jti"], Actor(person, (), "retail"), f"{person} says so")

    erase(registry, person)

    with registry.books.reading() as session:
        assert runs.get(session, grant["run_id"]).stop == "revoked"


def test_whoever_disabled_somebody_is_erased_and_the_other_stays_out(registry: Registry, person: str) -> None:
    other = f"user:o-{db.uuid7()[-12:]}"
    with registry.books.writing() as session:
        principals.disable(session, other, Actor(person, (), "all"), f"told by {person}")

    erase(registry, person)

    with registry.books.reading() as session:
        row = session.get(Principal, other)
        assert row is not None
        assert (row.disabled_by, row.reason) == ("erased", "erased")


def test_who_has_a_run_going_on_is_not_erased_yet(registry: Registry, person: str) -> None:
    ask(registry.as_(person.removeprefix("user:"), "trainers"), ticket_request())
    officer = registry.as_("xu", "privacy-officers")

    reply = officer.post("/v1/audit:erase", json={"actor": person, "reason": REASON})

    assert (reply.status_code, reply.json()["code"]) == (409, "erasure-refused")
    assert len(naming(registry, person)) == 6


def test_a_privacy_officer_erases_in_their_unit_and_in_no_other(registry: Registry, person: str) -> None:
    stranger, officer = registry.as_("mo", "privacy-officers", unit="search"), registry.as_("xu", "privacy-officers")
    asked = {"actor": person, "reason": REASON}

    elsewhere = stranger.post("/v1/audit:erase", json=asked)
    foreign = stranger.post("/v1/audit:erase", json={**asked, "business_unit": "retail"})
    everywhere = stranger.post("/v1/audit:erase", json={**asked, "business_unit": "all"})
    by_an_auditor = registry.as_("qiao", "auditors").post("/v1/audit:erase", json=asked)

    assert (elsewhere.status_code, elsewhere.json()["events"], elsewhere.json()["runs"]) == (200, 0, 0)
    assert [reply.status_code for reply in (foreign, everywhere, by_an_auditor)] == [403, 403, 403]
    assert len(naming(registry, person)) == 5
    assert officer.post("/v1/audit:erase", json=asked).json()["events"] == 5
    assert registry.events("audit.erased")[-1].rule == "privacy-officers-erase-in-their-unit"
    assert naming(registry, person) == []


def test_the_record_of_an_erasure_never_names_whom(registry: Registry, person: str) -> None:
    officer = registry.as_("xu", "privacy-officers")

    named = officer.post("/v1/audit:erase", json={"actor": person, "reason": f"{person} asked for it"})
    own = officer.post("/v1/audit:erase", json={"actor": "user:xu", "reason": REASON})
    hostile = officer.post("/v1/audit:erase", json={"actor": "user:%\u0000", "reason": REASON})

    assert [reply.json()["code"] for reply in (named, own, hostile)] == [
        "erasure-refused", "erasure-refused", "malformed-request",
    ]  # fmt: skip
    assert len(naming(registry, person)) == 5


def test_more_than_a_batch_is_erased(registry: Registry, person: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(erasure, "BATCH", 2)

    assert erase(registry, person).events == 5
    assert naming(registry, person) == []


@pytest.mark.parametrize(
    "statement",
    [
        "update event set actor = 'erased' where kind = 'ticket.issued'",
        "update event set salt = null where kind = 'ticket.issued'",
        "update event set actor = 'erased', reason = null, groups = '[]', detail = '{}' where kind = 'ticket.issued'",
        "update event set {erased}, kind = 'x' where kind = 'ticket.issued'",
        "update event set {erased}, at = '2020-01-01' where kind = 'ticket.issued'",
        "update event set {erased}, personal_hash = 'x' where kind = 'ticket.issued'",
        "update event set {erased}, run_id = null where kind = 'ticket.issued'",
        "update event set actor = 'erased', reason = 'x', groups = '[]', detail = '{}', salt = null",
        "update event set actor = 'x', reason = null, groups = '[]', detail = '{}', salt = null",
        "update event set actor = 'erased', reason = null, groups = '[\"x\"]', detail = '{}', salt = null",
        "delete from event where kind = 'ticket.issued'",
    ],
)
def test_only_erasure_passes_the_triggers(registry: Registry, person: str, statement: str) -> None:
    erased = "actor = 'erased', reason = null, groups = '[]', detail = '{}', salt = null"

    with pytest.raises(DBAPIError, match="never changed"), registry.books.engine.begin() as connection:
        connection.execute(text(statement.replace("{erased}", erased)))
    with registry.books.engine.begin() as connection:
        connection.execute(text(f"update event set {erased} where kind = 'ticket.issued'"))
    with pytest.raises(DBAPIError, match="never changed"), registry.books.engine.begin() as connection:
        connection.execute(text("update event set actor = 'user:again' where kind = 'ticket.issued'"))


@given(
    st.from_regex(r"[a-z][a-z0-9._-]{0,8}[a-z0-9]", fullmatch=True),
    st.sampled_from(["y", "-2", ".b", "@x", "/x", ":x", "~x"]),
)
def test_a_longer_name_is_another_name(name: str, more: str) -> None:
    person = f"user:{name}"

    assert all(erasure._names(person, around.format(person)) for around in ("{}", '"{}"', "by {}.", "({}),", "{}\n"))
    assert not erasure._names(person, f"cancelled by {person}{more}")
    assert not erasure._names(person, f"super{person}")


# --- legal hold -------------------------------------------------------------------------------------------------------


def place(registry: Registry, **covers: str | None) -> str:
    nothing: dict[str, Any] = {"business_unit": None, "actor": None, "run_id": None}
    with db.writing(registry.books.engine) as session:
        return erasure.place_hold(session, "case 12", OPERATOR, **nothing | covers).id


def release(registry: Registry, hold_id: str) -> None:
    with db.writing(registry.books.engine) as session:
        erasure.release_hold(session, hold_id, "case closed", OPERATOR)


@pytest.mark.parametrize("covers", ["actor", "unit", "run", "everything", "actor and unit"])
def test_a_legal_hold_refuses_the_erasure_of_what_it_covers(registry: Registry, person: str, covers: str) -> None:
    (run_id, *_) = [event.run_id for event in registry.events("ticket.issued") if event.actor == person]
    filters: dict[str, dict[str, str | None]] = {
        "actor": {"actor": person}, "unit": {"business_unit": "retail"}, "run": {"run_id": run_id}, "everything": {},
        "actor and unit": {"actor": person, "business_unit": "retail"},
    }  # fmt: skip
    hold_id = place(registry, **filters[covers])
    officer = registry.as_("xu", "privacy-officers")

    refused = officer.post("/v1/audit:erase", json={"actor": person, "reason": REASON})
    kept = naming(registry, person)
    release(registry, hold_id)
    done = officer.post("/v1/audit:erase", json={"actor": person, "reason": REASON})

    assert (refused.status_code, refused.json()["code"], refused.json()["holds"]) == (409, "legal-hold", [hold_id])
    assert len([kind for kind in kept if not kind.startswith("hold.")]) == 5
    assert done.status_code == 200
    assert not [kind for kind in naming(registry, person) if not kind.startswith("hold.")]  # that of all units
    assert [event.kind for event in registry.events("hold.placed", "hold.released")][-2:] == [
        "hold.placed", "hold.released",
    ]  # fmt: skip


def test_a_hold_on_something_else_holds_nothing_here(registry: Registry, person: str) -> None:
    holds = [place(registry, actor=f"{person}y"), place(registry, business_unit="finance", actor=person)]

    with pytest.raises(Held):  # in `all` units, finance is one of them
        erase(registry, person)
    assert erase(registry, person, unit="retail").events == 5
    for hold_id in holds:
        release(registry, hold_id)


def test_a_hold_placed_while_erasing_stops_it(registry: Registry, person: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(erasure, "BATCH", 2)
    end_tokens, placed = erasure._end_tokens, []

    def hold_now(*arguments: Any) -> None:
        end_tokens(*arguments)
        arguments[0].commit()
        placed.append(place(registry, business_unit="retail"))

    monkeypatch.setattr(erasure, "_end_tokens", hold_now)

    with pytest.raises(Held):
        erase(registry, person)

    release(registry, placed[0])
    assert len(naming(registry, person)) == 5


# --- retention --------------------------------------------------------------------------------------------------------


def keep(registry: Registry, days: int, *, dry_run: bool = False) -> dict[str, dict[str, int]]:
    classes = retention.load(registry.settings.policies_dir)
    return retention.run(registry.books.engine, classes, now=db.utc_now() + timedelta(days=days), dry_run=dry_run)


def test_what_is_past_its_class_is_erased_and_the_log_still_holds(registry: Registry, person: str) -> None:
    registry.approve_tag("garden-planning")
    assert keep(registry, 399) == {name: {"erased": 0, "held": 0} for name in ("change", "access", "decision")}

    would = keep(registry, 401, dry_run=True)
    assert naming(registry, person) != []
    done = keep(registry, 401)

    assert would == done
    assert done["decision"]["erased"] >= 4
    assert done["access"]["erased"] >= 1
    assert done["change"]["erased"] == 0
    assert naming(registry, person) == []
    assert {event.actor for event in registry.events("proposal.reviewed")} > {"user:first"}
    (finished,) = registry.events("audit.retention-finished")[-1:]
    assert finished.detail == {"classes": done}
    whole_log(registry)


def test_a_legal_hold_outlives_retention(registry: Registry, person: str) -> None:
    hold_id = place(registry, actor=person)

    held = keep(registry, 401, dry_run=True)
    done = keep(registry, 401)
    kept = naming(registry, person)
    release(registry, hold_id)

    assert held == done
    assert done["decision"]["held"] + done["access"]["held"] == 5
    assert len([kind for kind in kept if kind != "hold.placed"]) == 5


def test_changes_go_after_seven_years(registry: Registry, person: str) -> None:
    registry.approve_tag("kitchen-cleaning")

    keep(registry, 2_556)
    assert "user:first" in {event.actor for event in registry.events("proposal.reviewed")}
    keep(registry, 2_558)

    assert {event.actor for event in registry.events("proposal.reviewed")} == {"erased"}
    whole_log(registry)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("owner: a\nclasses: {x: {days: 1, kinds: [tag.]}}", "no class has"),
        ('owner: a\nclasses: {x: {days: 1, kinds: ["*", tag.]}, y: {days: 2, kinds: [tag.]}}', "stands in two classes"),
        ('owner: a\nclasses: {x: {days: 0, kinds: ["*"]}}', "greater than or equal to 1"),
        ('owner: a\nclasses: {x: {days: 1, kind: ["*"]}}', "Extra inputs"),
        ('owner: a\nclasses: {x: {days: 1, kinds: ["Tag"]}}', "should match pattern"),
        ("[", "while parsing"),
        (None, "No such file"),
    ],
)
def test_classes_that_cannot_be_meant_are_refused(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "retention.yaml").write_text(content)

    with pytest.raises(PolicyInvalid, match=message):
        retention.load(tmp_path)


def test_the_longest_start_of_a_kind_decides() -> None:
    class_of = retention.load(Settings().policies_dir).class_of

    found = {
        kind: class_of(kind) for kind in ("audit.read", "audit.erased", "tag.activated", "ticket.issued", "tagging")
    }

    assert found == {
        "audit.read": "access", "audit.erased": "change", "tag.activated": "change", "ticket.issued": "decision",
        "tagging": "decision",
    }  # fmt: skip


# --- the command line -------------------------------------------------------------------------------------------------


def test_the_command_line_holds_erases_and_retains(
    registry: Registry, person: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TAGWARDEN_STATE_DIR", str(registry.settings.state_dir))
    if registry.settings.database_url:
        monkeypatch.setenv("TAGWARDEN_DATABASE_URL", registry.settings.database_url)

    def cli(*arguments: str) -> Any:
        return CliRunner().invoke(main, ["audit", *arguments])

    hold_id = cli("hold", "place", "--reason", "case 12", "--actor", person).output.strip()
    listed = cli("hold", "list").output
    refused = cli("erase", "--actor", person, "--reason", REASON)
    released = cli("hold", "release", hold_id, "--reason", "closed")
    again = cli("hold", "release", hold_id, "--reason", "closed")
    receipt = cli("erase", "--actor", person, "--reason", REASON)

    assert f"{hold_id}  " in listed
    assert f"actor={person}  case 12" in listed
    assert (refused.exit_code, released.exit_code, again.exit_code) == (1, 0, 1)
    assert f"legal hold `{hold_id}` keeps this" in refused.output
    assert json.loads(receipt.output)["events"] == 7  # the hold's two events named the person, too
    assert naming(registry, person) == []
    assert "decision: 0 would be erased, 0 on legal hold" in cli("retain", "--dry-run").output
    assert cli("hold", "place", "--reason", "no filter").exit_code == 2
    assert cli("hold", "place", "--reason", "typo", "--unit", "reatil").exit_code == 1
    assert cli("erase", "--actor", "li", "--reason", REASON).exit_code == 2
    assert cli("erase", "--actor", person, "--reason", REASON, "--unit", "reatil").exit_code == 1


# --- what comes after -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [":redeem", ":refuse", ":upload"])
def test_a_ticket_shown_after_the_erasure_brings_no_name_back(registry: Registry, path: str) -> None:
    """The ticket still bears its `sub`: what is refused, and what is noted, is on record without it."""
    name, key = f"p-{db.uuid7()[-12:]}", SigningKey.generate()
    grant = ask(registry.as_(name, "trainers"), ticket_request(jkt=key.thumbprint)).json()
    lease = redeem(registry, grant, key).json()
    holder = registry.anonymous(headers={"Authorization": f"Bearer {lease['lease_token']}"})
    holder.post(f"/v1/runs/{lease['run_id']}/report", json={"state": "failed"})
    erase(registry, f"user:{name}")
    path = f"/v1/tickets/{grant['jti']}{path}"
    proof = proofs.prove(key, method="POST", url=f"{registry.settings.issuer}{path}", ticket=grant["ticket"])
    scheme, body = "DPoP", {"redemption_id": db.uuid7()}
    if path.endswith(":refuse"):
        body = {"step": 16, "reason": "dataset `reviews.csv` changed"}
    elif path.endswith(":upload"):
        scheme, body = "Ticket", {"record": "x"}
    before = len(registry.events())

    headers = {"Authorization": f"{scheme} {grant['ticket']}", "DPoP": proof}
    registry.anonymous(headers=headers).post(path, json=body)

    (event,) = registry.events()[before:]
    assert (event.outcome, event.actor, event.run_id) == ("refused", "erased", grant["run_id"])
    assert naming(registry, f"user:{name}") == []
