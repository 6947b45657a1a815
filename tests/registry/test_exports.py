"""Exports: four formats, each read by a reader of its own, each with a manifest that holds or is refused."""

import ast
import csv
import io
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
from click.testing import CliRunner
from conftest import Registry, ask, ticket_request
from hypothesis import example, given, strategies as st
from jsonschema import Draft202012Validator
from ocsf_json_schema import OcsfJsonSchemaEmbedded, get_ocsf_schema
from sqlmodel import SQLModel

from enforcer import exports as manifests, ndjson, wire
from enforcer.exports import ExportInvalid, Manifest
from enforcer.gates import Verdict
from enforcer.keys import KeySet, SigningKey
from registry import audit, db, event_kinds, exports, key_life, log
from registry.audit import COLUMNS
from registry.cli import main
from registry.exports import Entry
from registry.identity import Actor
from registry.paging import Filter

FORMATS = ["ndjson", "csv", "cef", "ocsf"]
HOSTILE = 'a|b outcome=success \\c=d\n"e\r\tCEF:0|x|y \u2028 \x85 {"manifest": "x"} =1+1'


@pytest.fixture
def busy(registry: Registry) -> Registry:
    """Two units did things, one of them with a text that tries to break out of every format."""
    for unit in ("retail", "search"):
        client = registry.as_(f"{unit}-trainer", "trainers", unit=unit)
        ask(client, ticket_request())
        ask(client, ticket_request("dpo", arguments={}))
    with db.writing(registry.books.engine) as session:
        audit.record(
            session, "test.hostile", Actor("user:eve", ("a|b",), "retail"), reason=HOSTILE, detail={"x": HOSTILE}
        )
    return registry


def export(registry: Registry, format_: str, *, user: str = "qiao", group: str = "auditors", **query: str) -> bytes:
    reply = registry.as_(user, group).get("/v1/audit:export", params={"format": format_, **query})
    assert reply.status_code == 200, reply.text
    return reply.content


def lines(content: bytes) -> list[bytes]:
    return content.splitlines(keepends=True)


def keys_of(registry: Registry) -> KeySet:
    return KeySet.from_jwks(registry.anonymous().get("/.well-known/attestation-jwks.json").json())


def event(**facts: Any) -> dict[str, Any]:
    at = db.utc_now()
    usual = {
        "id": db.uuid7(at),
        "at": audit.moment(at),
        "kind": "ticket.issued",
        "outcome": "done",
        "actor": "user:li",
        "groups": ["trainers"],
        "business_unit": "retail",
        "groups_digest": "sha256:" + "0" * 64,
        "detail": {},
    }
    return {**dict.fromkeys(COLUMNS), **usual, **facts}


# --- the manifest -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format_", FORMATS)
def test_the_manifest_says_what_an_export_holds(busy: Registry, format_: str) -> None:
    content = export(busy, format_, outcome="done", kind="ticket.issued")

    manifest = manifests.verify(lines(content), keys_of(busy))

    (issued,) = [found for found in busy.events("ticket.issued") if found.business_unit == "retail"]
    assert (manifest.format, manifest.count, manifest.made_by) == (format_, 1, "user:qiao")
    assert (manifest.first, manifest.last) == (issued.id, issued.id)
    assert manifest.filter == {"kind": "ticket.issued", "outcome": "done", "business_unit": "retail"}
    assert manifest.origin == busy.settings.log_origin == manifest.checkpoint.splitlines()[0]


@pytest.mark.parametrize("format_", FORMATS)
def test_an_export_is_on_record_before_and_after(busy: Registry, format_: str) -> None:
    manifest = manifests.verify(lines(export(busy, format_)), keys_of(busy))

    (began,), (finished,) = busy.events("audit.exported"), busy.events("audit.export-finished")
    assert (began.id, began.rule) == (manifest.export_id, "auditors-read-their-own-unit")
    assert (began.detail["format"], began.detail["filter"]) == (format_, {"business_unit": "retail"})
    assert finished.digest == f"sha256:{manifest.sha256}"
    assert (finished.detail["export"], finished.detail["events"]) == (began.id, manifest.count)


@pytest.mark.parametrize("format_", FORMATS)
def test_every_changed_byte_and_every_cut_is_noticed(busy: Registry, format_: str) -> None:
    content, keys = export(busy, format_), keys_of(busy)
    token = re.search(rb"[\w-]+\.[\w-]+\.[\w-]{86}", content)
    assert token is not None

    for position in range(0, token.end(), max(1, token.end() // 60)):
        changed = bytearray(content)
        changed[position] ^= 1
        with pytest.raises(ExportInvalid):
            manifests.verify(lines(bytes(changed)), keys)
    for broken in (content[:-200], b"".join(lines(content)[:-1]), b"".join(lines(content)[1:]), b"", content + b"x\n"):
        with pytest.raises(ExportInvalid):
            manifests.verify(lines(broken), keys)


def test_a_manifest_by_another_key_or_of_another_kind_is_refused(busy: Registry) -> None:
    content = export(busy, "csv")

    with pytest.raises(ExportInvalid, match="no key that this verifier knows"):
        manifests.verify(lines(content), KeySet.of(SigningKey.generate()))
    with pytest.raises(ExportInvalid, match="no key that this verifier knows"):  # a key has one purpose
        manifests.verify(lines(content), KeySet.of(busy.books.log_key, busy.books.ticket_key))


def test_nothing_of_another_unit_leaves(busy: Registry) -> None:
    for format_ in FORMATS:
        assert b"search-trainer" not in export(busy, format_)
        reply = busy.as_("qiao", "auditors").get(
            "/v1/audit:export", params={"format": format_, "business_unit": "search"}
        )
        assert (reply.status_code, reply.json()["nearest"][0]) == (403, "auditors-read-their-own-unit")
    assert len(busy.events("audit-read.refused")) == len(FORMATS)


def test_an_export_of_many_chunks_holds_each_event_once(busy: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exports, "CHUNK", 3)
    auditor = Actor("user:boss", (), "all")

    content = b"".join(exports.stream(busy.books, "ndjson", Filter(), auditor, "all", {}))

    found = ndjson.verify(lines(content), KeySet.from_jwks(busy.anonymous().get("/tlog/jwks.json").json()))
    assert found.whole
    assert manifests.verify(lines(content), keys_of(busy)).count == found.events > 9


def test_what_happens_while_an_export_runs_is_not_in_it(busy: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exports, "CHUNK", 3)
    body = exports.stream(busy.books, "ndjson", Filter(), Actor("user:boss", (), "all"), "all", {})
    head = next(body)

    ask(busy.as_("wang", "trainers"), ticket_request())
    busy.as_("qiao", "auditors").get("/tlog/checkpoint")  # sequences it
    content = head + b"".join(body)

    assert manifests.verify(lines(content), keys_of(busy)).count == int(content.splitlines()[0].split(rb"\n")[1])
    assert b"user:wang" not in content


# --- the formats ------------------------------------------------------------------------------------------------------


def test_a_row_is_the_event_as_it_stands_on_the_wire(busy: Registry) -> None:
    records = [json.loads(line) for line in export(busy, "ndjson").split(b"\n")[1:-2]]

    with db.reading(busy.books.engine) as session:
        rows = {found.id: log.as_document(session.get(type(found), found.id)) for found in busy.events()}
    assert len(records) == 3
    assert all(record["event"] == rows[record["event"]["id"]] for record in records)


def test_csv_reads_back(busy: Registry) -> None:
    rows = list(csv.DictReader(io.StringIO(export(busy, "csv").decode(), newline="")))

    assert [row["kind"] for row in rows] == ["ticket.issued", "submit.refused", "test.hostile", "audit.manifest"]
    assert (rows[2]["reason"], json.loads(rows[2]["detail"])) == (HOSTILE, {"x": HOSTILE})


def read_cef(line: str) -> tuple[list[str], dict[str, str]]:
    """Header fields and extension of one CEF event, by the standard and not by our writer: seven fields of anything
    but bare pipes and backslashes, then pairs; a key is a word before an equals sign without a backslash."""
    match = re.fullmatch(r"((?:[^\\|]|\\[\\|])*)\|" * 7 + "(.*)", line)
    assert match is not None
    header = [re.sub(r"\\([\\|])", r"\1", part) for part in match.groups()[:7]]
    keys = list(re.finditer(r"(?:^| )([A-Za-z0-9_]+)=", match[8]))
    undo = {"\\\\": "\\", "\\=": "=", "\\n": "\n", "\\r": "\r"}
    extension = {}
    for key, following in zip(keys, [*keys[1:], None], strict=True):
        value = match[8][key.end() : following.start() if following else None]
        extension[key[1]] = re.sub(r"\\[\\=nr]", lambda found: undo[found[0]], value)
    return header, extension


def test_cef_reads_back(busy: Registry) -> None:
    content = export(busy, "cef").decode()
    assert len(content.splitlines()) == content.count("\n") == 4  # no text starts an event of its own

    events = [read_cef(line) for line in content.splitlines()]

    (header, refused), (_, hostile) = events[1], events[2]
    assert header == ["CEF:0", "tagwarden", "registry", "1", "submit.refused", "submit refused", "6"]
    assert (refused["outcome"], refused["suser"], refused["cs2Label"], refused["cs2"]) == (
        "failure", "user:retail-trainer", "taskType", "dpo",
    )  # fmt: skip
    assert hostile["outcome"] == "success"
    assert hostile["reason"] == HOSTILE.replace("\t", " ").replace("\u2028", " ").replace("\x85", " ")
    assert json.loads(hostile["tagwardenDetail"])["x"].startswith("a|b outcome=success \\c=d\n")


letters = st.characters(exclude_categories=["Cs"], exclude_characters="\x00")
texts = st.text(st.sampled_from("\\|=\n\r\u2028 ab") | letters, max_size=40)


@example(reason=" suser=user:root", actor="user:li\\", kind="a|b\\", group="a\nCEF:0|")
@given(reason=texts, actor=texts, kind=texts, group=texts)
def test_no_text_breaks_out_of_cef(reason: str, actor: str, kind: str, group: str) -> None:
    line = exports.cef_line(
        Entry(event(reason=reason, actor=actor, kind=kind, groups=[group], detail={"x": reason}), 7)
    )

    header, extension = read_cef(line.removesuffix("\n"))

    assert len(line.splitlines()) == 1
    assert header[6] == "3"
    assert set(extension) >= {"rt", "externalId", "suser", "tagwardenDetail"}
    assert extension["cn2"] == "7"
    assert (extension["suser"], extension["reason"]) == (_flat(actor), _flat(reason))


def _flat(text: str) -> str:
    return "".join(
        " " if (character < " " or "\x7f" <= character <= "\x9f" or character in "\u2028\u2029")
        and character not in "\r\n" else character
        for character in text
    )  # fmt: skip


OCSF = OcsfJsonSchemaEmbedded(get_ocsf_schema(version=exports.OCSF_VERSION))
CLASSES: dict[int, Draft202012Validator] = {}


def check_ocsf(record: dict[str, Any]) -> None:
    """Against the published schema of its class; what the schema does not know is refused."""
    uid = record["class_uid"]
    if uid not in CLASSES:
        schema = OCSF.get_class_schema(class_name=OCSF.lookup_class_name_from_uid(uid), profiles=[])
        CLASSES[uid] = Draft202012Validator(schema)
    CLASSES[uid].validate(record)


def test_ocsf_holds_against_the_published_schema(busy: Registry) -> None:
    busy.approve_tag()
    records = [
        json.loads(line) for line in export(busy, "ocsf", group="group-auditors", business_unit="all").split(b"\n")[:-1]
    ]

    for record in records:
        check_ocsf(record)

    classes = {record["message"]: (record["class_uid"], record["activity_id"]) for record in records}
    assert classes["tag.activated"] == (3004, 10)
    assert classes["proposal.opened"] == (3004, 1)
    assert classes["ticket.issued"] == (6003, 1)
    assert classes["submit.refused"] == (6003, 99)


@pytest.mark.parametrize(
    ("kind", "detail", "class_uid", "activity"),
    [
        ("token.created", {"user": "user:li", "groups": ["nlp"]}, 3002, 3),
        ("token.revoked", {"user": "user:li", "token": "abc"}, 3002, 2),
        ("token.refused", {}, 3002, 99),
        ("principal.disabled", {"principal": "user:li"}, 3001, 5),
        ("delegation.made", {"to": "user:li", "actions": ["approve"]}, 3005, 1),
        ("delegation.ended", {}, 3005, 2),
        ("webhook.paused", {"webhook": "whk-1"}, 3004, 12),
        ("key.published", {"kid": "abc"}, 3004, 1),
        ("policy.published", {}, 3004, 1),
        ("approve.refused", {}, 6003, 99),
        ("hold.released", {"hold": "hld-1"}, 3004, 4),
        ("audit.read", {"events": 3}, 6003, 2),
        ("nothing", {}, 6003, 99),
    ],
)
@pytest.mark.parametrize("outcome", ["done", "refused"])
def test_each_kind_of_event_has_its_class(
    kind: str, detail: dict[str, Any], class_uid: int, activity: int, outcome: str
) -> None:
    facts = {"kind": kind, "detail": detail, "outcome": outcome, "rule": "a-rule", "policy_revision": "sha256:1"}

    record = json.loads(exports.ocsf_line(Entry(event(**facts, version=2, reason="because"), 5)))

    check_ocsf(record)
    assert (record["class_uid"], record["activity_id"]) == (class_uid, activity)
    assert record["type_uid"] == class_uid * 100 + activity
    assert record["status_id"] == (1 if outcome == "done" else 2)
    assert record["actor"]["authorizations"][0]["policy"]["uid"] == "a-rule"
    assert record["unmapped"]["log_index"] == 5


def _texts(nodes: Iterable[ast.AST]) -> set[str]:
    return {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}


def written() -> set[str]:
    """The kinds in the source: what is spelled out there, and what is put together of the words of the wire."""
    nouns = "|".join({kind.partition(".")[0] for kind in event_kinds.ACTIVITIES})
    columns = {f"{table.name}.{column.name}" for table in SQLModel.metadata.sorted_tables for column in table.columns}
    files = {*Path("registry").rglob("*.py"), Path("enforcer/problems.py")} - {Path("registry/event_kinds.py")}
    nodes = [node for file in files for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))]
    calls = [node for node in nodes if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("record")]
    found = {text for text in _texts(nodes) if re.fullmatch(rf"(?:{nouns})\.[a-z-]+", text)}
    found |= {text for call in calls for text in _texts(call.args) if re.fullmatch(r"[a-z-]+\.[a-z-]+", text)}
    ends = {"approved", "applied", "ratified", "rejected", "withdrawn", "expired", "superseded"}
    assert ends - {"ratified"} == set(get_args(wire.ProposalState)) - {"draft", "open"}
    put_together = {
        *(f"proposal.{end}" for end in ends),
        *(f"exception.{state}" for state in ("expiring", "ended", "revoked")),
        *(f"run.{state}" for state in get_args(wire.Report.model_fields["state"].annotation)),
        *(f"gate.{verdict}" for verdict in set(Verdict) - {Verdict.WAIVED}),
        *(f"key.{kind}" for kind in get_type_hints(key_life.Step)["kind"].__args__),
    }
    no_kinds = {"token.create", "token.revoke", "token.exchange"}  # actions, whose refusals alone are events
    return (found | put_together) - columns - no_kinds


def test_every_kind_of_event_that_is_written_has_an_activity_and_none_is_left_over() -> None:
    files = {"audit.ndjson", "audit.csv", "audit.cef"}

    assert written() - files == set(event_kinds.ACTIVITIES)


@pytest.mark.parametrize("kind", sorted(event_kinds.ACTIVITIES))
def test_the_schema_knows_the_activity_of_each_kind(kind: str) -> None:
    check_ocsf(json.loads(exports.ocsf_line(Entry(event(kind=kind)))))


def test_the_ocsf_check_refuses_what_the_schema_does_not_know() -> None:
    record = json.loads(exports.ocsf_line(Entry(event())))

    for changed in (
        {**record, "activity_id": 55},
        {**record, "no_such": 1},
        {k: record[k] for k in record if k != "api"},
    ):
        with pytest.raises(Exception, match=r"55|no_such|api"):
            check_ocsf(changed)


# --- the command line -------------------------------------------------------------------------------------------------


@pytest.fixture
def cli(busy: Registry, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    monkeypatch.setenv("TAGWARDEN_STATE_DIR", str(busy.settings.state_dir))
    (tmp_path / "log-keys.json").write_text(busy.anonymous().get("/tlog/jwks.json").text)
    (tmp_path / "keys.json").write_text(busy.anonymous().get("/.well-known/attestation-jwks.json").text)
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: CliRunner().invoke(main, ["audit", *arguments])


@pytest.mark.parametrize("format_", FORMATS)
def test_the_command_line_exports_and_verifies(cli: Any, tmp_path: Path, format_: str) -> None:
    made = cli("export", "--format", format_, "--out", "audit.out", "--unit", "retail")
    good = cli("verify", "audit.out", "--manifest-keys", "keys.json", "--keys", "log-keys.json")
    again = cli("export", "--format", format_, "--out", "audit.out")
    file = tmp_path / "audit.out"
    file.write_bytes(file.read_bytes().replace(b"retail-trainer", b"retail-nobody!", 1))
    bad = cli("verify", "audit.out", "--manifest-keys", "keys.json")

    assert (made.exit_code, good.exit_code, again.exit_code, bad.exit_code) == (0, 0, 1, 1)
    assert f"ok: 3 events in {format_}, as system:operator got them" in good.output
    assert ("under a checkpoint of" in good.output) == (format_ == "ndjson")
    assert "not those that the manifest was signed for" in bad.output
    assert file.stat().st_mode & 0o077 == 0


def test_the_command_line_says_what_it_was_not_given(cli: Any) -> None:
    cli("export", "--format", "ndjson", "--out", "audit.out")

    assert cli("verify", "audit.out").exit_code == 2
    assert "proofs were not checked" in cli("verify", "audit.out", "--manifest-keys", "keys.json").output
    assert cli("export", "--format", "csv", "--out", "x", "--since", "yesterday").exit_code == 2


def test_a_manifest_round_trip() -> None:
    key = SigningKey.generate()
    manifest = Manifest(
        v=1, export_id="e", format="csv", filter={}, origin="o", checkpoint="c", first=None, last=None, count=0,
        sha256="0" * 64, made_at="t", made_by="user:li",
    )  # fmt: skip
    token = manifests.sign(manifest, key).encode()

    with pytest.raises(ExportInvalid, match="its bytes"):
        manifests.verify([b"body\n", token + b"\n"], KeySet.of(key))
