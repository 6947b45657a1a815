"""Every kind of change is drafted, edited and submitted alike; what cannot be meant is refused in words."""

from datetime import timedelta
from typing import Any

import pytest
import yaml
from conftest import Registry
from policy_folders import changed_policy
from sqlmodel import Session

from registry import db, proposals, tag_life
from registry.identity import Actor
from registry.settings import Settings
from registry.tables import Tag

IN_A_WEEK = (db.utc_now() + timedelta(days=7)).isoformat()
CHANGES: dict[str, dict[str, Any]] = {
    "new-tag": {"tag": "apple-sorting", "tag_kind": "business", "parent": "sequence-classification",
                "description": "Sorts fruit.", "overrides": {}},
    "new-version": {"tag": "review-sentiment", "overrides": {}},
    "deprecation": {"tag": "reranker", "sunset_at": IN_A_WEEK, "replaced_by": "embedding"},
    "restoration": {"tag": "kto"},
    "archival": {"tag": "orpo"},
    "alias": {"tag": "dpo", "alias": "choose-the-better"},
    "reserved-name": {"name": "moderation", "until": IN_A_WEEK},
    "policy": {},
    "exception": {"id": "wang-tries-sft", "who": ["user:wang"], "may": ["submit"], "tag": ["sft"], "until": IN_A_WEEK},
}  # fmt: skip


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    root = tmp_path_factory.mktemp("drafts")
    made = Registry(Settings(state_dir=root / "state", policies_dir=changed_policy(root), policy_source="registry"))
    with made.books.writing() as session:
        end(session, "kto", timedelta(days=30))
        end(session, "orpo", timedelta(milliseconds=1))
    return made


def end(session: Session, name: str, until: timedelta) -> None:
    sunset_at = db.utc_now() + until
    tag_life.deprecate(session, session.get_one(Tag, name), sunset_at, None, "few use it", Actor("user:li", (), "ai"))


def next_policy(registry: Registry) -> dict[str, str]:
    """The files that are live, and one rule more."""
    folder = registry.settings.policies_dir
    rule = {"id": "retail-tries-dpo", "effect": "allow", "who": ["group:retail-ds"], "may": ["submit"], "tag": ["dpo"]}
    more = {"owner": "platform-admins", "rules": [{**rule, "reason": "Everybody may try it."}]}
    names = ("model.conf", "directory.yaml", "quotas.yaml", "approvals.yaml", "rules/*.yaml", "tests/*.yaml")
    found = [file for name in names for file in folder.glob(name)]
    files = {file.relative_to(folder).as_posix(): file.read_text() for file in found}
    return files | {"rules/pilot.yaml": yaml.safe_dump(more)}


@pytest.mark.parametrize("kind", proposals.KINDS)
def test_a_draft_is_edited_and_then_submitted(registry: Registry, kind: str) -> None:
    author = registry.as_("author", "trainers", "tag-stewards", "platform-admins", unit="ai")
    change = {"kind": kind, **CHANGES[kind]}
    if kind == "policy":
        change["files"] = next_policy(registry)
    drafted = author.post("/v1/proposals", json={"change": change, "reason": "we need it", "draft": True})
    assert drafted.status_code == 201, drafted.text
    path = f"/v1/proposals/{drafted.json()['id']}"

    edited = author.patch(path, json={"reason": "we need it more"}, headers={"If-Match": "*"})
    submitted = author.post(f"{path}:submit", headers={"If-Match": "*"})

    assert (edited.status_code, submitted.status_code) == (200, 200), edited.text + submitted.text
    assert (edited.json()["round"], submitted.json()["state"]) == (2, "open")
    assert submitted.json()["change"] == drafted.json()["change"]
    assert edited.json()["digest"] != drafted.json()["digest"]


@pytest.mark.parametrize("moment", ["9999-12-31T23:59:59-14:00", "0001-01-01T00:00:00+14:00"])
@pytest.mark.parametrize("where", ["not_before", "until"])
def test_a_moment_outside_the_years_of_utc_is_refused(registry: Registry, where: str, moment: str) -> None:
    change = {"kind": "reserved-name", "name": "moderation"}
    body = {"change": change, "reason": "we need it"}
    (change if where == "until" else body)[where] = moment

    reply = registry.as_("author", "trainers").post("/v1/proposals", json=body)

    assert (reply.status_code, reply.json()["code"]) == (422, "malformed-request")
    assert f"/{where}" in reply.text
    assert "is no moment of UTC" in reply.text


def test_when_it_begins_is_part_of_what_is_agreed_to(registry: Registry) -> None:
    author = registry.as_("author", "trainers")
    change = {"kind": "alias", "tag": "sft", "alias": "follow-orders"}
    first = author.post("/v1/proposals", json={"change": change, "reason": "we need it", "not_before": IN_A_WEEK})
    path = f"/v1/proposals/{first.json()['id']}"

    edited = author.patch(path, json={"not_before": None}, headers={"If-Match": "*"}).json()

    assert edited["digest"] != first.json()["digest"]
    late = registry.review(registry.as_("li", "tag-stewards"), first.json())
    assert (late.status_code, late.json()["code"]) == (409, "stale-review")
