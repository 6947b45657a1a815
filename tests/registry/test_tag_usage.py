"""Who trains under a task type, counted from runs; and whether it can end without surprising anybody."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from conftest import Registry, ask, ticket_request
from sqlalchemy import event

from registry import db, tag_usage
from registry.settings import Settings
from registry.tables import Run


def permitted(
    registry: Registry, days_ago: float, unit: str = "retail", actor: str = "user:wang", **changes: Any
) -> None:
    """A run of `reranker` that was permitted then."""
    at, jti = db.utc_now() - timedelta(days=days_ago), db.uuid7()
    run = Run(
        id=f"run-{db.uuid7(at)}",
        jti=jti,
        task_type="reranker",
        version=changes.pop("version", 1),
        business_unit=unit,
        actor=actor,
        state=changes.pop("state", "finished"),
        target="local",
        pool="gpu",
        policy_rule="trainers-train-retrieval",
        run_spec_digest="sha256:" + "0" * 64,
        created_at=at,
        logs={},
        scores={},
        gates=[],
        **changes,
    )
    with registry.books.writing() as session:
        session.add(run)


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    """`reranker` by wang (9 in 30 days, 10 in 90), chen (89 days ago), li of another unit, and who is long gone."""
    registry = Registry(Settings(state_dir=tmp_path_factory.mktemp("used")))
    for at in range(9):
        permitted(registry, at + 0.5, version=2 if at < 3 else 1)
    permitted(registry, 31)
    permitted(registry, 89, actor="user:chen")
    permitted(registry, 2, unit="ai", actor="user:li")
    permitted(registry, 200, unit="ai", actor="user:old")
    permitted(registry, 366, unit="ai", actor="user:forgotten")
    return registry


def test_usage_of_one_s_own_unit(used: Registry) -> None:
    told = used.as_("wang", "trainers").get("/v1/tags/reranker/usage").json()

    assert (told["business_unit"], told["last_30_days"], told["last_90_days"]) == ("retail", 9, 11)
    assert [(one["version"], one["last_90_days"]) for one in told["by_version"]] == [(2, 3), (1, 8)]
    assert [(one["actor"], one["standing"]) for one in told["consumers"]] == [
        ("user:wang", "active"),
        ("user:chen", "stale"),
    ]


def test_usage_of_all_units_for_whoever_may_read_them(used: Registry) -> None:
    told = used.as_("boss", "group-auditors").get("/v1/tags/reranker/usage", params={"business_unit": "all"}).json()

    assert [(one["business_unit"], one["last_30_days"]) for one in told["by_unit"]] == [("retail", 9), ("ai", 1)]
    assert {one["actor"]: one["standing"] for one in told["consumers"]} == {
        "user:wang": "active",
        "user:li": "active",
        "user:chen": "stale",
        "user:old": "dead",
    }


@pytest.mark.parametrize("unit", ["ai", "all", "nowhere"])
def test_nobody_counts_the_runs_of_a_unit_that_they_may_not_read(used: Registry, unit: str) -> None:
    reply = used.as_("wang", "trainers").get("/v1/tags/reranker/usage", params={"business_unit": unit})

    assert (reply.status_code, reply.json()["code"]) == (403, "not-permitted")


def test_an_unused_task_type_has_no_consumers(used: Registry) -> None:
    told = used.as_("wang", "trainers").get("/v1/tags/embedding/usage").json()

    assert (told["last_90_days"], told["last_seen"], told["consumers"]) == (0, None, [])


def test_of_many_consumers_some_are_named(used: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tag_usage, "NAMED", 1)

    told = used.as_("wang", "trainers").get("/v1/tags/reranker/usage").json()

    assert ([one["actor"] for one in told["consumers"]], told["consumers_unnamed"]) == (["user:wang"], 1)


@pytest.mark.parametrize(
    ("who", "named"),
    [
        (("boss", "tag-stewards"), {"user:wang", "user:li"}),  # who answers for its end sees whom it concerns
        (("chen", "auditors"), {"user:wang"}),
        (("somebody", "gateways"), set()),
    ],
)
def test_readiness_counts_everybody_and_names_whom_one_may_see(
    used: Registry, who: tuple[str, str], named: set[str]
) -> None:
    told = used.as_(*who).get("/v1/tags/reranker/deprecation-readiness").json()

    assert (told["active_consumers"], told["stale"], told["dead"]) == (2, 1, 1)
    assert {one["actor"] for one in told["consumers"]} == named
    assert told["safe_to_deprecate"] is False
    assert told["reasons"] == ["2 consumers had a run permitted in the last 30 days"]


def test_what_nobody_uses_is_safe_to_deprecate(used: Registry) -> None:
    told = used.as_("boss", "tag-stewards").get("/v1/tags/embedding/deprecation-readiness").json()

    assert (told["state"], told["safe_to_deprecate"], told["reasons"]) == ("active", True, [])


def test_everything_that_rests_on_a_task_type_is_a_reason(tmp_path: Path) -> None:
    registry = Registry(Settings(state_dir=tmp_path / "state"))
    steward = registry.as_("author", "tag-stewards")
    assert ask(registry.as_("wang", "trainers"), ticket_request()).status_code == 201
    waiting = registry.propose(registry.as_("wang", "trainers"), parent="cls").json()["id"]
    child = {"kind": "new-tag", "tag": "apple-sorting", "tag_kind": "business", "parent": "cls", "overrides": {}}
    body = {"change": {**child, "description": "Sorts fruit."}, "reason": "from next week on"}
    body["not_before"] = (db.utc_now() + timedelta(days=7)).isoformat()
    agreed = registry.as_("wang", "trainers").post("/v1/proposals", json=body).json()
    for name in ("first", "second"):
        state = registry.review(registry.as_(name, "tag-stewards"), agreed).json()["state"]
    assert state == "approved"
    sunset_at = (db.utc_now() + timedelta(days=30)).isoformat()
    end = {"kind": "deprecation", "tag": "reranker", "sunset_at": sunset_at, "replaced_by": "sequence-classification"}
    proposal = steward.post("/v1/proposals", json={"change": end, "reason": "few use it"}).json()
    for name in ("first", "second"):
        assert registry.review(registry.as_(name, "tag-stewards"), proposal).status_code == 201

    told = steward.get("/v1/tags/cls/deprecation-readiness").json()

    assert told["tag"] == "sequence-classification"
    assert (told["children"], told["replaced_by_of"]) == (
        ["intent-recognition", "product-classification", "review-sentiment"],
        ["reranker"],
    )
    assert (told["open_proposals"], told["runs_in_flight"]) == ([waiting, agreed["id"]], 1)
    assert len(told["reasons"]) == 5
    again = steward.get("/v1/tags/reranker/deprecation-readiness").json()
    assert again["reasons"] == ["`reranker` is deprecated already"]


@pytest.mark.parametrize("what", ["usage", "deprecation-readiness"])
def test_usage_of_what_does_not_exist_is_not_found(used: Registry, what: str) -> None:
    reply = used.as_("boss", "group-auditors").get(f"/v1/tags/nothing-like-it/{what}")

    assert (reply.status_code, reply.json()["code"]) == (404, "unknown-task-type")


def test_both_questions_are_answered_by_an_index(used: Registry) -> None:
    statements: list[tuple[str, Any]] = []
    event.listen(used.books.engine, "before_cursor_execute", lambda *a: statements.append((a[2], a[3])))
    used.as_("boss", "tag-stewards").get("/v1/tags/reranker/deprecation-readiness")

    of_runs = [(sql, given) for sql, given in statements if "FROM run" in sql]
    assert len(of_runs) == 2
    with used.books.engine.connect() as connection:
        plans = [
            " ".join(row[3] for row in connection.exec_driver_sql(f"explain query plan {sql}", given))
            for sql, given in of_runs
        ]
    assert "run_by_tag (task_type=? AND id>?)" in plans[0]
    assert "runs_alive" in plans[1]


def test_reviewers_of_an_end_see_whom_it_meets(used: Registry) -> None:
    end = {"kind": "deprecation", "tag": "reranker", "sunset_at": (db.utc_now() + timedelta(days=30)).isoformat()}
    steward = used.as_("author", "tag-stewards")
    proposal = steward.post("/v1/proposals", json={"change": end, "reason": "few use it"}).json()

    impact = steward.get(f"/v1/proposals/{proposal['id']}/impact").json()

    assert {one["business_unit"] for one in impact["units"]} == {"ai", "retail"}
    steward.post(f"/v1/proposals/{proposal['id']}:withdraw", headers={"If-Match": "*"})
