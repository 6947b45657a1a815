"""Exports of the audit log: four formats, one stream.

Events go out oldest first, read in short sessions of `CHUNK` rows: what is sequenced under a
checkpoint never changes any more (but for erasure, which no proof notices), so a slow reader needs no long transaction
and a long export no memory. That it was asked for is on record before the first byte leaves, and what was sent, with
its count and hash, before the last. The last record is the signed manifest (`enforcer.exports`).
"""

import csv
import hashlib
import io
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlmodel import Session, col, select

from enforcer import exports, ndjson, tlog
from enforcer.exports import Format, Manifest
from registry import audit, db, event_kinds, log
from registry.books import Books
from registry.identity import Actor
from registry.paging import Filter
from registry.tables import Event, LogEntry

CHUNK = 1_000
OCSF_VERSION = "1.8.0"
_TOKEN = "MANIFEST"  # stands where the token goes, until what stands before it was hashed


@dataclass(frozen=True)
class Entry:
    """An event as it stands on the wire, its place in the log, and what its proof adds, in a format that has proofs."""

    event: dict[str, Any]
    index: int | None = None
    proof: list[bytes] | None = None


@dataclass(frozen=True)
class Form:
    """How one format writes. `head` takes the checkpoint."""

    media_type: str
    file_name: str
    line: Callable[[Entry], str]
    head: Callable[[str], str] = lambda _note: ""


def stream(
    books: Books, format_: Format, wanted: Filter, auditor: Actor, unit: str, provenance: dict[str, Any]
) -> Iterator[bytes]:
    """All matching events under one checkpoint, then the manifest. Nothing is read before the first `next`."""
    form, filter_ = FORMS[format_], {name: str(value) for name, value in wanted.wanted.items()}
    log.integrate(books)
    with books.reading() as session:
        note = books.head(session)
    head = tlog.open_checkpoint(note, books.log_keys)
    size = head.size
    with books.writing() as session:
        detail = {"format": format_, "filter": filter_, "log_size": size}
        began = audit.record(session, "audit.exported", auditor, business_unit=unit, detail=detail, **provenance)
        export_id, made_at = began.id, audit.moment(began.at)

    sha256, count, first, last = hashlib.sha256(), 0, None, None
    piece = form.head(note).encode()
    for entries in _chunks(books, wanted, size, proven=format_ == "ndjson"):
        if piece:
            sha256.update(piece)
            yield piece
        piece = "".join(map(form.line, entries)).encode()
        if entries:
            count, first, last = count + len(entries), first or entries[0].event["id"], entries[-1].event["id"]

    before, after = _last_record(form, export_id, made_at, auditor, unit)
    piece += before
    sha256.update(piece)
    manifest = Manifest(
        v=1, export_id=export_id, format=format_, filter=filter_, origin=head.origin, checkpoint=note,
        first=first, last=last, count=count, sha256=sha256.hexdigest(), made_at=made_at, made_by=auditor.id,
    )  # fmt: skip
    with books.writing() as session:
        facts: dict[str, Any] = {
            "digest": f"sha256:{manifest.sha256}",
            "detail": {"export": export_id, "events": count},
        }
        audit.record(session, "audit.export-finished", auditor, business_unit=unit, **facts, **provenance)
    yield piece + exports.sign(manifest, books.attestation_key).encode() + after


def _chunks(books: Books, wanted: Filter, size: int, *, proven: bool) -> Iterator[list[Entry]]:
    """What the first `size` places of the log hold. All of it comes in the log's order, from which a verifier computes
    the log again; a part comes by id, in which the filter has an index."""
    page = _by_id if wanted.wanted else _by_place
    walk = ndjson.Walk(size)
    after: Any = None
    while True:
        with books.reading() as session:
            found, after, more = page(session, wanted, size, after)
            tree = log.tiles_of(session, size)
            entries = [
                Entry(audit.document(row), at, [tree.node(*place) for place in walk.to(at)[0]] if proven else None)
                for at, row in found
            ]
        yield entries
        if not more:
            return


_Page = tuple[list[tuple[int, Any]], Any, bool]  # places with rows, the key of the last row, whether there are more


def _by_place(session: Session, _everything: Filter, size: int, after: int | None) -> _Page:
    columns = Event.__table__.columns  # type: ignore[attr-defined]
    place = col(LogEntry.index)
    query = select(place.label("place"), *columns).join(Event, col(Event.id) == LogEntry.event_id)
    query = query.where(place < size, place > (-1 if after is None else after)).order_by(place).limit(CHUNK)
    rows = session.connection().execute(query).mappings().all()
    return [(row["place"], row) for row in rows], rows[-1]["place"] if rows else after, len(rows) == CHUNK


def _by_id(session: Session, wanted: Filter, size: int, after: str | None) -> _Page:
    """The place is looked up apart: joined, a planner may start from the log and sort all of it for each chunk."""
    columns = Event.__table__.columns  # type: ignore[attr-defined]
    query = wanted.apply(select(*columns), Event).where(col(Event.id) > (after or "")).order_by(col(Event.id))
    rows = session.connection().execute(query.limit(CHUNK)).mappings().all()
    ids = [row["id"] for row in rows]
    places = select(LogEntry.event_id, LogEntry.index).where(col(LogEntry.event_id).in_(ids), LogEntry.index < size)
    place_of = dict(session.exec(places).all())
    found = [(place_of[row["id"]], row) for row in rows if row["id"] in place_of]
    return found, ids[-1] if ids else after, len(rows) == CHUNK


def _last_record(form: Form, export_id: str, made_at: str, auditor: Actor, unit: str) -> tuple[bytes, bytes]:
    """What stands before and after the manifest's token: an event's form, but no event of the log."""
    event = dict.fromkeys(audit.COLUMNS) | {
        "id": export_id,
        "at": made_at,
        "kind": "audit.manifest",
        "outcome": "done",
        "actor": auditor.id,
        "groups": [],
        "business_unit": unit,
        "detail": {"manifest": _TOKEN},
    }
    before, _, after = form.line(Entry(event)).rpartition(_TOKEN)
    return before.encode(), after.encode()


# --- NDJSON -----------------------------------------------------------------------------------------------------------


def ndjson_line(entry: Entry) -> str:
    """The event with its place and what its proof adds, for `tagwarden audit verify`."""
    if entry.index is None or entry.proof is None:
        return ndjson.manifest_line(entry.event["detail"]["manifest"]).decode()
    return ndjson.event_line(entry.index, entry.event, entry.proof).decode()


# --- CSV --------------------------------------------------------------------------------------------------------------


def csv_line(entry: Entry) -> str:
    """One row by `wire.Event`'s fields. Cells that a spreadsheet would run as a formula are quoted."""
    return _csv_line([_cell(entry.event[name]) for name in audit.COLUMNS])


def _cell(value: object) -> str:
    written = "" if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    # A leading = + - @ tab or return makes Excel and its kin evaluate the cell (OWASP "CSV injection").
    return f"'{written}" if written.startswith(("=", "+", "-", "@", "\t", "\r")) else written


def _csv_line(cells: Any) -> str:
    line = io.StringIO()
    csv.writer(line).writerow(cells)
    return line.getvalue()


# --- ArcSight Common Event Format, version 0 (implementation standard, revision 26) -----------------------------------

_CEF_SEVERITY = {"done": 3, "refused": 6}
# Controls and Unicode's line ends, which no escape of the standard covers; a reader could take one for the next event.
_CONTROLS = {code: " " for code in (*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029) if code not in (0x0A, 0x0D)}


def cef_line(entry: Entry) -> str:
    """`CEF:0|tagwarden|registry|1|<kind>|<kind in words>|<severity>|<extension>`, in standard keys where there are some
    and in `tagwarden...` keys where not (registry/README.md has the table). Salt and personal hash stay out: a SIEM
    proves nothing with them."""
    event = entry.event
    header = [event["kind"], event["kind"].replace(".", " "), str(_CEF_SEVERITY[event["outcome"]])]
    done = {"done": "success", "refused": "failure"}
    extension = {
        "rt": _milliseconds(event["at"]),
        "externalId": event["id"],
        "cat": event["kind"].partition(".")[0],
        "outcome": done[event["outcome"]],
        "suser": event["actor"],
        "reason": event["reason"],
        **_labelled("cs", 1, "businessUnit", event["business_unit"]),
        **_labelled("cs", 2, "taskType", event["task_type"]),
        **_labelled("cs", 3, "rule", event["rule"]),
        **_labelled("cs", 4, "policyRevision", event["policy_revision"]),
        **_labelled("cs", 5, "runId", event["run_id"]),
        **_labelled("cs", 6, "ticketId", event["ticket_id"]),
        **_labelled("cn", 1, "version", event["version"]),
        **_labelled("cn", 2, "logIndex", entry.index),
        "tagwardenProposalId": event["proposal_id"],
        "tagwardenDigest": event["digest"],
        "tagwardenGroups": ",".join(event["groups"]) or None,
        "tagwardenGroupsDigest": event["groups_digest"],
        "tagwardenDetail": json.dumps(event["detail"], ensure_ascii=False) if event["detail"] else None,
    }
    prefix = "|".join(["CEF:0", "tagwarden", "registry", "1", *map(_cef_header, header)])
    pairs = " ".join(f"{key}={_cef_value(value)}" for key, value in extension.items() if value is not None)
    return f"{prefix}|{pairs}\n"


def _labelled(kind: str, number: int, label: str, value: object) -> dict[str, object]:
    return {} if value is None else {f"{kind}{number}Label": label, f"{kind}{number}": value}


def _cef_header(text: str) -> str:
    """Backslash and pipe are escaped; a header has no line ends."""
    return re.sub(r"[\r\n]", " ", text.translate(_CONTROLS)).replace("\\", "\\\\").replace("|", "\\|")


def _cef_value(value: object) -> str:
    r"""Backslash, equals sign and line ends are escaped (`\\`, `\=`, `\n`, `\r`); a pipe is not."""
    text = str(value).translate(_CONTROLS).replace("\\", "\\\\").replace("=", "\\=")
    return text.replace("\n", "\\n").replace("\r", "\\r")


# --- Open Cybersecurity Schema Framework ------------------------------------------------------------------------------

_UNMAPPED = ("kind", "business_unit", "task_type", "version", "run_id", "ticket_id", "proposal_id", "digest",
             "groups_digest")  # fmt: skip


def ocsf_line(entry: Entry) -> str:
    """One JSON object of the class that the kind falls in. What the class has no attribute for stands in `unmapped`."""
    event = entry.event
    noun, _, verb = event["kind"].partition(".")
    class_uid, activity = event_kinds.of(event["kind"])
    refused = event["outcome"] == "refused"
    record = {
        "class_uid": class_uid,
        "category_uid": class_uid // 1_000,
        "activity_id": activity,
        **({"activity_name": verb or noun} if activity == event_kinds.OTHER else {}),
        "type_uid": class_uid * 100 + activity,
        "time": _milliseconds(event["at"]),
        "severity_id": 2 if refused else 1,
        "status_id": 2 if refused else 1,
        **({"status_detail": event["reason"]} if event["reason"] else {}),
        "message": event["kind"],
        "metadata": {
            "version": OCSF_VERSION,
            "product": {"name": "tagwarden registry", "vendor_name": "tagwarden"},
            "uid": event["id"],
            "log_name": "audit",
            "original_time": event["at"],
        },
        "actor": _ocsf_actor(event),
        **_ocsf_object(class_uid, noun, event),
        "unmapped": {
            **{name: event[name] for name in _UNMAPPED if event[name] is not None},
            **({} if entry.index is None else {"log_index": entry.index}),
            "detail": event["detail"],
        },
    }
    return json.dumps(record, ensure_ascii=False, separators=(",", ":")) + "\n"


def _ocsf_actor(event: dict[str, Any]) -> dict[str, Any]:
    actor: dict[str, Any] = {"user": _ocsf_user(event["actor"])}
    if event["groups"]:
        actor["user"]["groups"] = [{"name": group} for group in event["groups"]]
    if event["rule"] is not None:
        policy = {"uid": event["rule"]} | ({"version": event["policy_revision"]} if event["policy_revision"] else {})
        decision = "denied" if event["outcome"] == "refused" else "allowed"
        actor["authorizations"] = [{"decision": decision, "policy": policy}]
    return actor


def _ocsf_object(class_uid: int, noun: str, event: dict[str, Any]) -> dict[str, Any]:
    """What it was done to, in the attributes that the class requires."""
    detail = event["detail"]
    match class_uid:
        case event_kinds.ENTITY:
            entity = {"type": noun, "name": event["task_type"] or str(detail.get("name") or noun)}
            uid = event["proposal_id"] or detail.get("hold") or detail.get("kid") or detail.get("webhook")
            version = {} if event["version"] is None else {"version": str(event["version"])}
            return {"entity": entity | ({"uid": str(uid)} if uid else {}) | version}
        case event_kinds.AUTHENTICATION:
            return {"user": _ocsf_user(detail.get("user") or event["actor"]), "service": {"name": "tagwarden registry"}}
        case event_kinds.ACCOUNT:
            return {"user": _ocsf_user(detail.get("principal") or event["actor"])}
        case event_kinds.ACCESS:
            privileges = detail.get("actions") or ["not recorded"]
            return {"user": _ocsf_user(detail.get("to") or event["actor"]), "privileges": [*map(str, privileges)]}
        case _:
            response = {"code": 0} if event["outcome"] == "done" else {"error": str(detail.get("problem", "refused"))}
            api = {"operation": event["kind"], "service": {"name": "tagwarden registry"}, "response": response}
            if event["outcome"] == "refused" and event["reason"]:
                api["response"] = response | {"error_message": event["reason"]}
            return {"api": api, "src_endpoint": {"name": "not recorded"}}


def _ocsf_user(name: object) -> dict[str, Any]:
    return {"uid": str(name), "name": str(name).partition(":")[2] or str(name)}


def _milliseconds(at: str) -> int:
    return db.milliseconds(datetime.fromisoformat(at))


FORMS: dict[Format, Form] = {
    "ndjson": Form("application/x-ndjson", "audit.ndjson", ndjson_line, lambda note: ndjson.head_line(note).decode()),
    "csv": Form("text/csv; charset=utf-8", "audit.csv", csv_line, lambda _note: _csv_line(audit.COLUMNS)),
    "cef": Form("text/plain; charset=utf-8", "audit.cef", cef_line),
    "ocsf": Form("application/x-ndjson", "audit.ocsf.ndjson", ocsf_line),
}
