"""Versions: what changed between two, what the next one has to keep, and what a proposal of it would do."""

from typing import Any

import httpx2
import pytest
from conftest import Registry, ask, ticket_request
from fastapi.testclient import TestClient
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from enforcer.profiles import Profile
from registry import db, tag_versions, tags
from registry.tables import Run

ROOT = "sequence-classification"


def whole(client: TestClient, **changes: Any) -> dict[str, Any]:
    """The profile in force, with other values; `a__b` reaches into a field."""
    profile = client.get(f"/v1/tags/{ROOT}").json()["profile"]
    for path, value in changes.items():
        *way, last = path.split("__")
        at: Any = profile
        for step in way:
            at = at[int(step) if step.isdigit() else step]
        at[last] = value
    return dict(profile)


def propose(client: TestClient, profile: dict[str, Any], **change: Any) -> httpx2.Response:
    body = {"kind": "new-version", "tag": ROOT, "profile": profile, **change}
    return client.post("/v1/proposals", json={"change": body, "reason": "as agreed in May"})


def approve(registry: Registry, proposal: dict[str, Any]) -> list[httpx2.Response]:
    return [registry.review(registry.as_(name, "tag-stewards"), proposal) for name in ("li", "zhao")]


NARROWER, WIDER = {"parameters__max_length__maximum": 4096}, {"parameters__max_length__maximum": 65536}


def test_a_version_that_refuses_what_was_valid_is_neither_proposed_nor_applied(registry: Registry) -> None:
    wang = registry.as_("wang", "trainers")

    refused = propose(wang, whole(wang, **NARROWER))

    assert (refused.status_code, refused.json()["code"]) == (409, "compatibility-broken")
    assert refused.json()["mode"] == "BACKWARD"
    (lost,) = refused.json()["incompatibilities"]
    assert (lost["path"], lost["version"]) == ("parameters.max_length", 1)
    assert "`max_length=32768` was accepted, and is refused" in lost["sentence"]

    asked = {"profile": whole(wang, **NARROWER)}
    path = f"/v1/tags/{ROOT}/versions:check-compatibility"
    told = wang.post(path, params={"verbose": True}, json=asked).json()
    brief = wang.post(path, json={**asked, "compatibility": "FORWARD"}).json()
    assert (told["compatible"], told["change_class"], [c["path"] for c in told["changes"]]) == (
        False, "breaking", ["parameters.max_length.maximum"],
    )  # fmt: skip
    assert (brief["compatible"], brief["mode"], brief["changes"]) == (True, "FORWARD", None)

    # Agreed to under NONE, and the task type protects more by the time it would apply.
    with registry.books.engine.begin() as connection:
        connection.execute(text("update tag set compatibility = 'NONE' where name = :name"), {"name": ROOT})
    proposal = propose(wang, whole(wang, **NARROWER)).json()
    with registry.books.engine.begin() as connection:
        connection.execute(text("update tag set compatibility = 'FULL' where name = :name"), {"name": ROOT})
    assert [reply.json().get("code") for reply in approve(registry, proposal)] == [None, "stale-base"]
    assert wang.get(f"/v1/tags/{ROOT}").json()["version"] == 1


def test_another_mode_is_proposed_with_the_version_that_needs_it(registry: Registry) -> None:
    wang = registry.as_("wang", "trainers")
    proposal = propose(wang, whole(wang, **NARROWER), compatibility="FORWARD")

    replies = approve(registry, proposal.json())

    assert (proposal.status_code, replies[1].json()["state"]) == (201, "applied")
    tag = wang.get(f"/v1/tags/{ROOT}").json()
    assert (tag["version"], tag["compatibility"]) == (2, "FORWARD")
    (event,) = registry.events("tag.activated")
    assert event.detail["compatibility"] == "FORWARD"
    assert propose(wang, whole(wang, **WIDER)).json()["code"] == "compatibility-broken"


def test_two_versions_are_told_apart_field_by_field(registry: Registry) -> None:
    wang = registry.as_("wang", "trainers")
    raised = whole(wang, gates__0__value=0.7, **WIDER)
    approve(registry, propose(wang, raised).json())

    forth = wang.get(f"/v1/tags/{ROOT}/versions/2/diff").json()
    back = wang.get("/v1/tags/cls/versions/1/diff", params={"from": 2}).json()

    assert [(change["path"], change["change_class"]) for change in forth["changes"]] == [
        ("parameters.max_length.maximum", "loosening"),
        ("gates.macro_f1 >=.value", "tightening"),
    ]
    assert (forth["tag"], forth["from_version"], forth["change_class"]) == (ROOT, 1, "loosening")
    assert [change["change_class"] for change in back["changes"]] == ["breaking", "loosening"]
    for number, params in ((1, {}), (2, {"from": 7}), (9, {})):
        reply = wang.get(f"/v1/tags/{ROOT}/versions/{number}/diff", params=params)
        assert (reply.status_code, reply.json()["code"]) == (404, "not-found")


def test_the_database_knows_the_modes_and_no_tag_is_its_own_parent(registry: Registry) -> None:
    for statement in ("update tag set compatibility = 'SOMETIMES'", "update tag set parent = name"):
        with pytest.raises(IntegrityError), registry.books.engine.begin() as connection:
            connection.execute(text(statement))

    reply = registry.propose(registry.as_("wang", "trainers"), "red-sorting", parent="red-sorting")
    assert (reply.status_code, reply.json()["code"]) == (422, "parent-cycle")
    alias = registry.propose(registry.as_("wang", "trainers"), "red-sorting", parent="rojo", aliases=["rojo"])
    assert alias.json()["code"] == "parent-cycle"


def test_a_profile_is_remembered_only_as_what_its_digest_says(registry: Registry) -> None:
    with db.reading(registry.books.engine) as session:
        row = tags.version(session, ROOT)
        genuine = tag_versions.parsed(row)
        forged = row.model_copy(update={"profile": {**row.profile, "pool": "a100"}, "profile_digest": "sha256:0"})

        assert tag_versions.parsed(row) is genuine is tag_versions.known(row.profile_digest)
        assert tag_versions.parsed(forged).profile.pool == "a100"
        assert tag_versions.known("sha256:0") is None
    assert genuine.canonical == Profile.model_validate(row.profile).canonical()


def entered(registry: Registry, score: float, *, tag: str = ROOT, unit: str = "retail", n: int = 500) -> str:
    """A run that ended with this macro F1 and was accepted then. Returns its id."""
    granted = ask(registry.as_("chen", "trainers"), ticket_request(ROOT)).json()["run_id"]
    with db.writing(registry.books.engine) as session:
        run = session.get(Run, granted)
        assert run is not None
        run.task_type, run.business_unit, run.state, run.verdict = tag, unit, "finished", "pass"
        run.scores = {"macro_f1": {"value": score, "n": n, "low": score, "high": score, "confidence": 0.95}}
        session.add(run)
    return granted


def test_the_impact_tells_who_decides_what_the_proposal_would_do(registry: Registry) -> None:
    registry.approve_tag("message-tone")
    wang, steward = registry.as_("wang", "trainers"), registry.as_("li", "tag-stewards")
    runs = [entered(registry, score) for score in (0.95, 0.65)]
    runs.append(entered(registry, 0.8, tag="message-tone", unit="search", n=50))
    entered(registry, 0.1, tag="embedding")  # another task type, which is not concerned
    ask(registry.as_("chen", "trainers"), ticket_request(ROOT))  # in flight
    ask(registry.as_("chen", "trainers"), ticket_request("embedding", arguments={}))  # not concerned, either
    proposal = propose(wang, whole(wang, gates__0__value=0.7)).json()

    told = steward.get(f"/v1/proposals/{proposal['id']}/impact")

    impact = told.json()
    assert (impact["digest"], impact["compared_with"]) == (proposal["digest"], f"{ROOT}@1")
    assert [change["change_class"] for change in impact["changes"]] == ["tightening"]
    assert impact["compatibility"]["compatible"]
    assert (impact["gates"]["judged"], impact["gates"]["would_not_pass"]) == (3, 2)
    assert [(run["run_id"], run["verdict"]) for run in impact["gates"]["runs"]] == [
        (runs[2], "inconclusive"), (runs[1], "fail"),
    ]  # fmt: skip
    assert impact["in_flight"] == [{"business_unit": "retail", "runs": 1}]
    assert impact["units"] == [{"business_unit": "retail", "runs": 3}, {"business_unit": "search", "runs": 1}]
    assert (impact["days"], impact["complete"]) == (90, True)

    assert wang.get(f"/v1/proposals/{proposal['id']}/impact").status_code == 200  # the author
    other = registry.as_("chen", "trainers").get(f"/v1/proposals/{proposal['id']}/impact")
    assert (other.status_code, other.json()["code"]) == (403, "not-permitted")


def test_the_impact_of_a_new_name_is_what_comes_near_it(registry: Registry) -> None:
    wang = registry.as_("wang", "trainers")
    child = registry.propose(wang, "hotel-review", overrides={"limits": {"max_gpus": 1, "max_runtime_s": 3600}}).json()

    impact = wang.get(f"/v1/proposals/{child['id']}/impact").json()

    assert [check["name"] for check in impact["names"]] == ["hotel-review"]
    assert impact["compared_with"] == f"{ROOT}@1"
    assert [change["path"] for change in impact["changes"]] == ["limits.max_gpus", "limits.max_runtime_s"]
    assert (impact["gates"], impact["compatibility"], impact["units"]) == (None, None, [])
