"""The log in the database: what it hands out, what it refuses to go on with, and what an auditor notices."""

import base64
import contextlib
import shutil
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from conftest import Registry, ask, redeem, ticket_request
from hypothesis import HealthCheck, given, settings, strategies as st
from sqlalchemy import Connection, text
from sqlmodel import Session, select
from trees import definition

from enforcer import tiles, tlog
from enforcer.keys import KeySet, SigningKey
from enforcer.notes import Note
from enforcer.problems import LogInconsistent
from enforcer.runspec import digest
from enforcer.tlog import LogInvalid, Proof
from registry import audit, db, log
from registry.identity import Actor
from registry.settings import Settings
from registry.tables import Event, LogEntry, LogTile
from registry.verifying import verify_database

EVE = Actor("user:eve", (), "retail")


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Registry:
    url = request.getfixturevalue("postgresql") if request.param == "postgresql" else None
    return Registry(Settings(state_dir=tmp_path / "state", database_url=url))


def happen(registry: Registry, count: int = 1) -> list[str]:
    """Events on record, not sequenced yet; their ids."""
    with registry.books.writing() as session:
        return [audit.record(session, "test.happened", EVE).id for _ in range(count)]


def head_of(registry: Registry) -> tlog.Head:
    note = registry.anonymous().get("/tlog/checkpoint").text
    return tlog.open_checkpoint(note, registry.books.log_keys)


def leaves_of(registry: Registry) -> list[bytes]:
    with registry.books.engine.connect() as connection:
        return list(connection.execute(text('select leaf_hash from log_entry order by "index"')).scalars())


def fetch(registry: Registry, path: str, **headers: str) -> Any:
    return registry.as_("wang", "trainers").get(path, headers=headers)


def test_heads_tiles_and_proofs_are_those_of_the_definition(world: Registry) -> None:
    for count in (1, 300, 1, 240, 2):
        happen(world, count)
        log.integrate(world.books)
    head, leaves = head_of(world), leaves_of(world)

    def tile(level: int, index: int, width: int) -> bytes:
        reply = world.anonymous().get(f"/tlog/tile/{level}/{tiles.tile_path(index, width)}")
        assert reply.headers["content-type"] == "application/octet-stream"
        return reply.content

    assert (head.size, head.root) == (len(leaves), definition(leaves))
    assert tiles.Tiles(head.size, tile).root == head.root
    assert tile(0, 0, 256) == b"".join(leaves[:256])


def test_what_the_log_has_not_is_not_served(registry: Registry) -> None:
    log.integrate(registry.books)
    size = head_of(registry).size

    for path in (f"0/000.p/{size + 1}", "0/000", "0/001", "1/000", "0/x000/000", "9/000.p/1"):
        reply = registry.anonymous().get(f"/tlog/tile/{path}")
        assert (reply.status_code, reply.json()["code"]) == (404, "not-found"), path
    assert [registry.anonymous().get(f"/tlog/tile/{level}/000").status_code for level in ("64", "-1", "x")] == [422] * 3


def test_entries_are_for_auditors_of_all_units_and_hold_nothing_personal(registry: Registry) -> None:
    happen(registry)
    log.integrate(registry.books)
    size = head_of(registry).size

    mine = registry.as_("boss", "group-auditors", unit="all").get(f"/tlog/tile/entries/000.p/{size}")
    refused = registry.as_("qiao", "auditors").get(f"/tlog/tile/entries/000.p/{size}")

    assert [tlog.leaf_hash(entry) for entry in tiles.unbundle(mine.content)] == leaves_of(registry)
    assert b"user:eve" not in mine.content
    assert refused.status_code == 403


def test_a_ticket_comes_with_a_head_and_its_issuance_can_be_proven(registry: Registry) -> None:
    key = SigningKey.generate()
    wang = registry.as_("wang", "trainers")
    grant = ask(wang, ticket_request(jkt=key.thumbprint)).json()
    (event,) = registry.events("ticket.issued")

    early = wang.get(f"/v1/audit/{event.id}/proof")
    reply = wang.get(f"/v1/audit/{event.id}/proof", headers={"Prefer": "wait=2"})
    logged = Proof.parse(reply.text).verify(registry.books.log_keys, origin=registry.settings.log_origin)

    assert (early.status_code, early.json()["code"]) == (503, "not-logged-yet")
    assert logged.entry["digest"] == digest(grant["ticket"].encode())
    assert (logged.entry["ticket_id"], logged.entry["run_id"]) == (grant["jti"], grant["run_id"])
    assert tlog.open_checkpoint(grant["checkpoint"], registry.books.log_keys).size == 0
    lease = redeem(registry, grant, key).json()
    assert tlog.open_checkpoint(lease["checkpoint"], registry.books.log_keys).size > 0
    held = registry.anonymous(headers={"Authorization": f"Bearer {lease['lease_token']}"})
    assert held.get(f"/v1/audit/{event.id}/proof").status_code == 200
    (other,) = happen(registry)
    assert held.get(f"/v1/audit/{other}/proof").status_code == 401


def test_consistency_is_for_anybody_and_never_from_nothing(registry: Registry) -> None:
    log.integrate(registry.books)
    old = head_of(registry)
    happen(registry, 20)
    log.integrate(registry.books)
    new = head_of(registry)
    stranger = registry.anonymous()

    proof = stranger.get("/tlog/consistency", params={"from": old.size, "to": new.size}).json()["proof"]
    statuses = [
        stranger.get("/tlog/consistency", params={"from": a, "to": b}).status_code
        for a, b in ((0, new.size), (new.size, old.size), (1, new.size + 1), ("x", 1))
    ]

    tlog.check_consistency(old.size, old.root, new.size, new.root, [base64.b64decode(node) for node in proof])
    assert statuses == [422, 422, 404, 422]


def test_many_sequencers_at_once_are_harmless(world: Registry) -> None:
    for _ in range(3):
        happen(world, 40)
        threads = [threading.Thread(target=log.integrate, args=(world.books,)) for _ in range(4)]
        threads += [threading.Thread(target=log._append_batch, args=(world.books,)) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    head, leaves = head_of(world), leaves_of(world)
    assert (head.size, head.root) == (len(leaves), definition(leaves))
    assert len(leaves) == len(world.events())


def test_batches_are_bounded_and_all_of_them_are_run(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "BATCH", 7)
    happen(registry, 30)

    log.integrate(registry.books)

    assert len(leaves_of(registry)) == len(registry.events())


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, 40), min_size=1, max_size=5))
def test_every_head_ever_handed_out_is_a_prefix_of_the_log(registry: Registry, batches: list[int]) -> None:
    heads = []
    for count in batches:
        happen(registry, count)
        log.integrate(registry.books)
        heads.append(head_of(registry))

    leaves = leaves_of(registry)
    assert all(head.root == definition(leaves[: head.size]) for head in heads)
    kept = log.kept_outside(registry.books.settings.checkpoint_dir)
    assert kept is not None
    assert tlog.open_checkpoint(kept, registry.books.log_keys) == heads[-1]


# --- it is not continued --------------------------------------------------------------------------------------------


def test_a_database_put_back_is_not_continued(registry: Registry, tmp_path: Path) -> None:
    log.integrate(registry.books)
    database = registry.books.settings.state_dir / "registry.db"
    with contextlib.closing(sqlite3.connect(database)) as live:
        live.execute("vacuum into ?", [str(tmp_path / "backup.db")])
    happen(registry, 5)
    log.integrate(registry.books)
    given = head_of(registry)
    registry.books.engine.dispose()
    for file in database.parent.glob("registry.db*"):
        file.unlink()
    shutil.copy(tmp_path / "backup.db", database)
    restored = Registry(registry.settings)
    happen(restored)

    with pytest.raises(LogInconsistent, match=f"went backwards: .* and a checkpoint over {given.size} was given out"):
        log.integrate(restored.books)
    asked = ask(restored.as_("wang", "trainers"), ticket_request())
    assert (asked.status_code, asked.json()["code"]) == (503, "log-inconsistent")
    assert restored.anonymous().get("/readyz").status_code == 503
    with pytest.raises(LogInconsistent):
        log.check(restored.books)


@pytest.mark.parametrize(
    ("statement", "says"),
    [
        ("update log_tile set hashes = zeroblob(32 * width) where level = 0", "the tiles are not those"),
        ("delete from log_checkpoint", "the checkpoint that signs for them is gone"),
        ("update log_checkpoint set note = replace(note, '\u2014', '-')", "a signature line of the note is malformed"),
    ],
)
def test_tiles_that_are_not_as_signed_are_not_continued(registry: Registry, statement: str, says: str) -> None:
    log.integrate(registry.books)
    happen(registry)
    with registry.books.engine.begin() as connection:
        take_away_triggers(connection)
        connection.exec_driver_sql(statement)

    with pytest.raises(LogInconsistent, match=says):
        log.integrate(registry.books)


def test_the_newest_head_outside_only_ever_grows(registry: Registry) -> None:
    folder = registry.books.settings.checkpoint_dir
    log.integrate(registry.books)
    old = log.kept_outside(folder)
    happen(registry)
    log.integrate(registry.books)
    new = log.kept_outside(folder)
    assert old is not None

    log.keep_outside(folder, old)

    assert log.kept_outside(folder) == new


# --- who tampers, and who notices -----------------------------------------------------------------------------------


def take_away_triggers(connection: Connection) -> None:
    """As whoever owns the database can."""
    if connection.dialect.name == "sqlite":
        for name in connection.exec_driver_sql("select name from sqlite_master where type = 'trigger'").scalars().all():
            connection.exec_driver_sql(f"drop trigger {name}")
        connection.exec_driver_sql("pragma foreign_keys = off")
    else:
        for table in ("event", "log_entry", "log_tile"):
            connection.exec_driver_sql(f"alter table {table} disable trigger all")


def rebuild(registry: Registry, connection: Connection) -> None:
    """Make everything fit again, as far as the database goes: leaves, places, tiles, nothing pending."""
    with Session(bind=connection) as session:
        places = {row.event_id: row.index for row in session.exec(select(LogEntry)).all()}
        events = sorted(session.exec(select(Event)).all(), key=lambda event: (places.get(event.id, 3.5), event.id))
        leaves = {}
        for event in events:
            document = log.as_document(event)
            document["personal_hash"] = tlog.personal_hash(document["salt"], document)
            event.personal_hash = document["personal_hash"]
            leaves[event.id] = tlog.leaf_hash(tlog.entry(document))
        session.exec(text("delete from log_entry"))  # type: ignore[call-overload]
        session.exec(text("delete from log_tile"))  # type: ignore[call-overload]
        session.exec(text("delete from pending_entry"))  # type: ignore[call-overload]
        session.expire_all()
        for index, (event_id, leaf) in enumerate(leaves.items()):
            session.add(LogEntry(index=index, event_id=event_id, leaf_hash=leaf))
        for (level, index), hashes in tiles.Tiles(0, lambda *_: None).grown(list(leaves.values())).items():
            session.add(LogTile(level=level, index=index, width=len(hashes) // 32, hashes=hashes))
        session.flush()
        connection.exec_driver_sql(f"update log_checkpoint set size = {len(leaves)}")


def resign(registry: Registry, connection: Connection) -> None:
    """With the log's key, too."""
    leaves = list(connection.execute(text('select leaf_hash from log_entry order by "index"')).scalars())
    note = tlog.sign_checkpoint(registry.settings.log_origin, len(leaves), definition(leaves), registry.books.log_key)
    connection.execute(
        text("update log_checkpoint set note = :note, size = :size"), {"note": note, "size": len(leaves)}
    )


def edit(connection: Connection, ids: list[str]) -> None:
    connection.execute(text("update event set rule = 'another' where id = :id"), {"id": ids[2]})


def delete(connection: Connection, ids: list[str]) -> None:
    connection.execute(text("delete from log_entry where event_id = :id"), {"id": ids[2]})
    connection.execute(text("delete from event where id = :id"), {"id": ids[2]})


def swap(connection: Connection, ids: list[str]) -> None:
    at = [
        connection.execute(text('select "index", leaf_hash from log_entry where event_id = :id'), {"id": id_}).one()
        for id_ in ids[1:3]
    ]
    connection.execute(text("delete from log_entry where event_id in (:a, :b)"), {"a": ids[1], "b": ids[2]})
    for id_, (index, _), (_, leaf) in ((ids[1], at[1], at[0]), (ids[2], at[0], at[1])):
        connection.execute(
            text('insert into log_entry ("index", event_id, leaf_hash) values (:i, :e, :l)'),
            {"i": index, "e": id_, "l": leaf},
        )


def insert(connection: Connection, ids: list[str]) -> None:
    columns = [column.name for column in Event.__table__.columns if column.name != "id"]  # type: ignore[attr-defined]
    names = ", ".join(f'"{column}"' for column in columns)
    connection.execute(
        text(f"insert into event (id, {names}) select :new, {names} from event where id = :old"),
        {"new": db.uuid7(), "old": ids[2]},
    )


def truncate(connection: Connection, ids: list[str]) -> None:
    for id_ in ids[-2:]:
        connection.execute(text("delete from log_entry where event_id = :id"), {"id": id_})
        connection.execute(text("delete from event where id = :id"), {"id": id_})


def truncate_and_go_on(connection: Connection, ids: list[str]) -> None:
    """Two events gone, two others in their place."""
    rows = [db.uuid7(), db.uuid7()]
    for new, old in zip(rows, ids[-2:], strict=True):
        index = connection.execute(text('select "index" from log_entry where event_id = :id'), {"id": old}).scalar_one()
        insert(connection, [old, old, old])
        copied = connection.execute(text("select max(id) from event")).scalar_one()
        connection.execute(text("update event set id = :new where id = :copied"), {"new": new, "copied": copied})
        connection.execute(text("delete from log_entry where event_id = :id"), {"id": old})
        connection.execute(text("delete from event where id = :id"), {"id": old})
        connection.execute(
            text('insert into log_entry ("index", event_id, leaf_hash) values (:i, :e, :l)'),
            {"i": index, "e": new, "l": b"?" * 32},
        )


def restore(connection: Connection, ids: list[str]) -> None:
    """The state of an earlier moment: as `truncate`, with the head that was true then."""
    truncate(connection, ids)


ATTACKS = (edit, delete, swap, insert, truncate, truncate_and_go_on, restore)


@pytest.mark.parametrize("holds_the_key", [False, True], ids=["database", "database-and-key"])
@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_the_auditor_notices(world: Registry, attack: Callable[..., None], holds_the_key: bool) -> None:
    happen(world, 3)
    log.integrate(world.books)
    early = world.anonymous().get("/tlog/checkpoint").text
    ids = happen(world, 5)
    log.integrate(world.books)
    late = world.anonymous().get("/tlog/checkpoint").text
    outside = [tlog.open_checkpoint(note, world.books.log_keys) for note in (early, late)]
    with world.books.reading() as session:
        assert verify_database(session, world.books.log_keys, outside).whole

    with world.books.engine.begin() as connection:
        take_away_triggers(connection)
        attack(connection, ids)
        if holds_the_key or attack is restore:
            rebuild(world, connection)
            resign(world, connection)  # for `restore` this is the head that was signed at that time

    with world.books.reading() as session, pytest.raises(LogInvalid):
        verify_database(session, world.books.log_keys, outside)
    if holds_the_key:  # all of it was written anew, and fits: nothing inside tells
        with world.books.reading() as session:
            assert verify_database(session, world.books.log_keys, []).whole


def test_the_command_line_compares_with_what_the_auditor_brings(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from registry.cli import main

    monkeypatch.setenv("TAGWARDEN_STATE_DIR", str(registry.settings.state_dir))
    happen(registry, 3)
    log.integrate(registry.books)
    old, keys, export = tmp_path / "old", tmp_path / "keys.json", tmp_path / "audit.ndjson"
    old.write_text(registry.anonymous().get("/tlog/checkpoint").text)
    keys.write_text(registry.anonymous().get("/tlog/jwks.json").text)
    happen(registry, 3)
    auditor = registry.as_("boss", "group-auditors", unit="all")
    export.write_text(auditor.get("/v1/audit:export", params={"format": "ndjson"}).text)
    part = tmp_path / "part.ndjson"
    part.write_text("".join(export.read_text().splitlines(keepends=True)[:3]))

    def verify(*arguments: object) -> tuple[int, str]:
        done = CliRunner().invoke(main, ["audit", "verify", *map(str, arguments), "--keys", str(keys)])
        return done.exit_code, done.output

    forged = tmp_path / "forged"
    forged.write_text(tlog.sign_checkpoint(registry.settings.log_origin, 2, b"x" * 32, registry.books.log_key))
    assert verify("--database", "--checkpoint", old) == (0, verify(export, "--checkpoint", old)[1])
    assert "it begins with the checkpoint you brought" in verify(export, "--checkpoint", old)[1]
    assert "compared with no checkpoint" in verify(export)[1]
    for arguments in (("--database",), (export,)):
        code, output = verify(*arguments, "--checkpoint", forged)
        assert (code, "first 2 entries are not those of the checkpoint" in output) == (1, True)
    assert "not of the whole log" in verify(part, "--checkpoint", old)[1]
    assert verify()[0] == verify(export, "--database")[0] == 2


@pytest.fixture
def public(tmp_path: Path) -> Registry:
    """A registry with a name, and a log that has begun."""
    named = Registry(Settings(state_dir=tmp_path / "state", public_url="https://registry.example"))
    log.integrate(named.books)
    return named


def test_commands_beside_the_service_sign_under_its_name_without_its_settings(
    public: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from registry.cli import main

    monkeypatch.setenv("TAGWARDEN_STATE_DIR", str(public.settings.state_dir))
    out, keys = tmp_path / "audit.ndjson", tmp_path / "keys.json"
    keys.write_text(public.anonymous().get("/tlog/jwks.json").text)
    happen(public, 3)

    def tagwarden(*arguments: object) -> str:
        done = CliRunner().invoke(main, list(map(str, arguments)))
        assert done.exit_code == 0, done.output
        return done.output

    rotated = tagwarden("keys", "rotate", "ticket")
    tagwarden("audit", "export", "--format", "ndjson", "--out", out)

    assert "under a checkpoint of registry.example/tlog by" in tagwarden("audit", "verify", out, "--keys", keys)
    assert tagwarden("audit", "vkey").startswith("registry.example/tlog+")
    assert head_of(public).origin == "registry.example/tlog"
    assert not rotated.startswith("dev-"), "verifiers elsewhere would refuse all that it signs"


def test_a_log_that_leaves_loopback_takes_its_public_name_with_the_next_head(registry: Registry) -> None:
    log.integrate(registry.books)
    before = head_of(registry)

    public = Registry(Settings(state_dir=registry.settings.state_dir, public_url="https://registry.example"))
    log.integrate(public.books)

    assert (before.origin, head_of(public).origin) == (tlog.LOCAL, "registry.example/tlog")


def test_a_head_cosigned_is_kept_beside_a_newer_one(registry: Registry) -> None:
    from enforcer import notes

    (event,) = happen(registry)
    log.integrate(registry.books)
    note = registry.anonymous().get("/tlog/checkpoint").text
    happen(registry)
    log.integrate(registry.books)
    witness = SigningKey.generate()

    log.add_cosignatures(registry.books, note, [notes.cosign(Note.parse(note).text, "w.example", witness, 1)])
    happen(registry)
    log.integrate(registry.books)

    proof = Proof.parse(fetch(registry, f"/v1/audit/{event}/proof").text)
    policy = notes.Witnesses((notes.NoteKey.of(witness, "w.example", notes.COSIGNATURE),), 1)
    assert proof.verify(KeySet.of(registry.books.log_key), origin=registry.settings.log_origin, witnesses=policy)
    assert head_of(registry).size == len(leaves_of(registry))
