"""Proposals: others agree to exactly what was proposed, and then it takes effect at once."""

from pathlib import Path

import pytest
from conftest import Registry
from policy_folders import changed_policy
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from registry import db
from registry.settings import Settings


def test_two_stewards_make_a_tag(registry: Registry) -> None:
    proposal = registry.propose(registry.as_("wang", "trainers")).json()

    first = registry.review(registry.as_("li", "tag-stewards"), proposal)
    second = registry.review(registry.as_("zhao", "tag-stewards"), proposal)

    assert (first.json()["state"], second.json()["state"], second.json()["version"]) == ("open", "applied", 1)
    tag = registry.as_("wang", "trainers").get("/v1/tags/message-tone").json()
    assert (tag["version"], tag["parent"], tag["profile"]["recipe"]) == (
        1,
        "sequence-classification",
        "sequence-classification",
    )
    assert [event.kind for event in registry.events() if event.proposal_id] == [
        "proposal.opened",
        "proposal.reviewed",
        "proposal.reviewed",
        "proposal.approved",
        "tag.activated",
        "proposal.applied",
    ]


def test_nobody_approves_their_own_proposal(registry: Registry) -> None:
    both = registry.as_("wang", "trainers", "tag-stewards")
    proposal = registry.propose(both).json()

    reply = registry.review(both, proposal)

    assert (reply.status_code, reply.json()["code"]) == (403, "self-approval")
    (event,) = registry.events("approve.refused")
    assert (event.actor, event.proposal_id, event.detail["problem"]) == ("user:wang", proposal["id"], "self-approval")


def test_the_database_itself_refuses_the_author_as_reviewer(registry: Registry) -> None:
    proposal = registry.propose(registry.as_("wang", "trainers")).json()
    insert = text(
        "insert into review (proposal_id, reviewer, verdict, digest, reason, at) "
        "values (:id, 'user:wang', 'approve', 'd', 'r', '2026-01-01')"
    )

    with pytest.raises(IntegrityError, match="nobody reviews their own"), registry.books.engine.begin() as connection:
        connection.execute(insert, {"id": proposal["id"]})


def test_one_reviewer_counts_once(registry: Registry) -> None:
    proposal = registry.propose(registry.as_("wang", "trainers")).json()
    li = registry.as_("li", "tag-stewards")
    registry.review(li, proposal)

    again = registry.review(li, proposal)

    assert (again.status_code, again.json()["code"]) == (409, "already-reviewed")


def test_only_stewards_approve(registry: Registry) -> None:
    proposal = registry.propose(registry.as_("wang", "trainers")).json()

    reply = registry.review(registry.as_("chen", "trainers"), proposal)

    assert (reply.status_code, reply.json()["ask"]) == (403, ["tag-stewards"])


def test_a_review_of_something_else_is_stale(registry: Registry) -> None:
    proposal = registry.propose(registry.as_("wang", "trainers")).json()

    reply = registry.review(registry.as_("li", "tag-stewards"), {**proposal, "digest": "sha256:" + "0" * 64})

    assert (reply.status_code, reply.json()["code"]) == (409, "stale-review")


def test_a_decided_proposal_never_changes_again(registry: Registry) -> None:
    proposal = registry.propose(registry.as_("wang", "trainers")).json()
    registry.review(registry.as_("li", "tag-stewards"), proposal, "reject")

    late = registry.review(registry.as_("zhao", "tag-stewards"), proposal)

    assert (late.status_code, late.json()["code"]) == (409, "already-decided")
    with pytest.raises(IntegrityError, match="never changed"), registry.books.engine.begin() as connection:
        connection.execute(text("update proposal set state = 'open'"))


def test_only_its_author_withdraws_a_proposal(registry: Registry) -> None:
    wang = registry.as_("wang", "trainers")
    proposal = registry.propose(wang).json()

    other = registry.as_("chen", "trainers").post(f"/v1/proposals/{proposal['id']}:withdraw", headers={"If-Match": "*"})
    seen = wang.get(f"/v1/proposals/{proposal['id']}").headers["etag"]
    own = wang.post(f"/v1/proposals/{proposal['id']}:withdraw", headers={"If-Match": seen})

    assert (other.status_code, own.json()["state"]) == (403, "withdrawn")


def test_of_two_proposals_for_one_name_the_second_is_superseded_at_once(registry: Registry) -> None:
    first = registry.propose(registry.as_("wang", "trainers")).json()
    second = registry.propose(registry.as_("chen", "trainers"), description="something else").json()
    stewards = [registry.as_(name, "tag-stewards") for name in ("li", "zhao")]

    for steward in stewards:
        registry.review(steward, first)

    assert stewards[0].get(f"/v1/proposals/{second['id']}").json()["state"] == "superseded"
    (told,) = registry.events("proposal.superseded")
    assert (told.proposal_id, told.detail["by"]) == (second["id"], first["id"])
    assert registry.review(stewards[0], second).json()["code"] == "already-decided"


@pytest.mark.parametrize(
    ("name", "code", "suggestion"),
    [
        ("dpo-v2-new", "name-is-variant", "dpo"),
        ("dpo-final", "name-is-variant", "dpo"),
        ("CLS", "name-is-variant", "sequence-classification"),
        ("DpoTask", "name-is-variant", "dpo"),
        ("seq-classification", "name-is-variant", "sequence-classification"),
        ("Sentiment", "name-invalid", "sentiment"),
        ("any", "name-invalid", None),
        ("sentiment-new", "name-invalid", "sentiment"),
    ],
)
def test_a_bad_name_is_refused_with_a_suggestion(
    registry: Registry, name: str, code: str, suggestion: str | None
) -> None:
    reply = registry.propose(registry.as_("wang", "trainers"), name)

    assert reply.json()["code"] == code
    assert reply.json().get("suggestion") == suggestion


@pytest.mark.parametrize(
    ("overrides", "code"),
    [
        ({"gates": [{"metric": "macro_f1", "value": 0.5, "min_n": 100, "confidence": 0.95}]}, "profile-widens"),
        ({"gates": [{"metric": "macro_f1", "value": 0.9, "min_n": 10, "confidence": 0.95}]}, "profile-widens"),
        ({"gates": [{"metric": "macro_f1", "value": 0.9, "min_n": 100, "confidence": 0.9}]}, "profile-widens"),
        ({"limits": {"max_gpus": 4, "max_runtime_s": 3600}}, "profile-widens"),
        ({"parameters": {"max_length": {"maximum": 100000}}}, "profile-widens"),
        ({"parameters": {"lr_scheduler_type": {"choices": ["linear", "polynomial"]}}}, "profile-widens"),
        ({"parameters": {"label_names": {"required": False}}}, "profile-widens"),
        ({"parameters": {"beta": {"default": 0.1}}}, "profile-widens"),
        ({"pool": "a100"}, "profile-widens"),
        ({"gates": [{"metric": "macro_f1", "value": 0.9}]}, "gate-without-min-n"),
        ({"gates": [{"metric": "map", "value": 0.9, "min_n": 100}]}, "metric-unknown"),
        ({"gates": [{"metric": "accuracy", "value": v, "min_n": 9} for v in (0.9, 0.1)]}, "bounds-contradict"),
        ({"parameters": {"lr_scheduler_type": {"choices": ["polynomial"]}}}, "bounds-contradict"),
        ({"parameters": {"learning_rate": {"default": 10**400}}}, "bounds-contradict"),
        ({"parameters": {"max_length": {"minimum": 400, "maximum": 300}}}, "bounds-contradict"),
        (
            {"parameters": {"num_labels": {"default": 3, "locked": True},
                            "label_names": {"default": ["bad", "good"], "locked": True}}},
            "bounds-contradict",
        ),
    ],
)  # fmt: skip
def test_a_child_that_widens_its_parent_or_cannot_be_meant_is_refused(
    registry: Registry, overrides: dict[str, object], code: str
) -> None:
    reply = registry.propose(registry.as_("wang", "trainers"), overrides=overrides)

    assert (reply.status_code, reply.json()["code"]) == (422, code), reply.text


def test_a_new_version_narrows_further_and_new_runs_get_it(registry: Registry) -> None:
    registry.approve_tag()
    change = {
        "kind": "new-version",
        "tag": "message-tone",
        "overrides": {"parameters": {"label_names": {"default": ["neg", "pos"], "locked": True}}},
    }
    proposal = (
        registry.as_("wang", "trainers").post("/v1/proposals", json={"change": change, "reason": "lock the labels"})
    ).json()

    for steward in ("li", "zhao"):
        registry.review(registry.as_(steward, "tag-stewards"), proposal)

    versions = registry.as_("wang", "trainers").get("/v1/tags/message-tone/versions").json()["items"]
    assert [version["version"] for version in versions] == [1, 2]
    assert versions[1]["profile"]["parameters"]["label_names"]["locked"]


def test_a_grandchild_does_not_release_what_its_parent_locked(registry: Registry) -> None:
    lock = {"label_names": {"default": ["neg", "pos"], "locked": True}}
    registry.approve_tag(overrides={"parameters": lock})

    reply = registry.propose(
        registry.as_("wang", "trainers"),
        "hotel-message-tone",
        parent="message-tone",
        overrides={"parameters": {"label_names": {"locked": False}}},
    )

    assert (reply.status_code, reply.json()["code"]) == (422, "profile-widens")


def test_a_child_agreed_to_before_its_parent_tightened_does_not_go_live_wider(registry: Registry) -> None:
    registry.approve_tag()
    child = registry.propose(registry.as_("wang", "trainers"), "hotel-review", parent="message-tone").json()
    bar = {"gates": [{"metric": "macro_f1", "value": 0.95, "min_n": 100, "confidence": 0.95}]}
    change = {"kind": "new-version", "tag": "message-tone", "overrides": bar}
    parent = registry.as_("wang", "trainers").post("/v1/proposals", json={"change": change, "reason": "higher bar"})
    stewards = [registry.as_(name, "tag-stewards") for name in ("li", "zhao")]
    for steward in stewards:
        assert registry.review(steward, parent.json()).status_code == 201

    replies = [registry.review(steward, child) for steward in stewards]

    assert [reply.status_code for reply in replies] == [201, 409]
    assert replies[1].json()["code"] == "stale-review"
    assert registry.as_("wang", "trainers").get("/v1/tags/hotel-review").status_code == 404


def test_an_approved_name_that_was_taken_meanwhile_is_not_applied(registry: Registry) -> None:
    wang, stewards = registry.as_("wang", "trainers"), [registry.as_(n, "tag-stewards") for n in ("li", "zhao")]
    rivals = [registry.propose(wang, name).json() for name in ("red-sorting", "sorting-red")]
    for steward in stewards:
        registry.review(steward, rivals[0])

    replies = [registry.review(steward, rivals[1]) for steward in stewards]

    assert (replies[1].status_code, replies[1].json()["code"]) == (409, "name-is-variant")


@pytest.mark.parametrize(
    "aliases", [["choco", "choco"], ["message-tone"], ["dpo"], ["dpo-v2-new"], ["sequence-classifier"], ["CLS"]]
)
def test_an_alias_that_says_something_else_or_twice_is_refused(registry: Registry, aliases: list[str]) -> None:
    reply = registry.propose(registry.as_("wang", "trainers"), aliases=aliases)

    assert reply.json()["code"] in {"name-invalid", "name-is-variant"}


def test_a_rule_about_a_tag_holds_for_its_aliases_too(tmp_path: Path) -> None:
    freeze = {
        "id": "freeze-classifiers",
        "effect": "deny",
        "who": "group:trainers",
        "may": ["propose"],
        "tag": ["sequence-classification"],
        "reason": "a freeze",
    }
    registry = Registry(Settings(state_dir=tmp_path / "state", policies_dir=changed_policy(tmp_path, rules=[freeze])))
    wang = registry.as_("wang", "trainers")

    replies = [registry.propose(wang, "hotel-review", parent=name) for name in ("sequence-classification", "cls")]

    assert [reply.json()["rule"] for reply in replies] == ["freeze-classifiers"] * 2


def test_nobody_edits_a_proposal_into_one_that_they_may_not_make(tmp_path: Path) -> None:
    freeze = {
        "id": "freeze-classifiers",
        "effect": "deny",
        "who": "group:trainers",
        "may": ["propose"],
        "tag": ["sequence-classification"],
        "reason": "a freeze",
    }
    registry = Registry(Settings(state_dir=tmp_path / "state", policies_dir=changed_policy(tmp_path, rules=[freeze])))
    wang = registry.as_("wang", "trainers")
    proposal = registry.propose(wang, "hotel-review", parent="embedding").json()

    reply = wang.patch(
        f"/v1/proposals/{proposal['id']}",
        json={"change": {**proposal["change"], "parent": "cls"}},
        headers={"If-Match": "*"},
    )

    assert (reply.status_code, reply.json()["rule"]) == (403, "freeze-classifiers")
    (refused,) = registry.events("propose.refused")
    assert (refused.proposal_id, refused.rule) == (proposal["id"], "freeze-classifiers")


def test_a_version_is_never_changed_or_deleted(registry: Registry) -> None:
    for statement in ("update tag_version set version = 9", "delete from tag_version"):
        with pytest.raises(IntegrityError, match="never changed"), registry.books.engine.begin() as connection:
            connection.execute(text(statement))


def test_proposals_are_listed_newest_first_and_by_state(registry: Registry) -> None:
    wang = registry.as_("wang", "trainers")
    for name in ("apple-sorting", "grape-sorting", "peach-sorting"):
        registry.propose(wang, name)

    first = wang.get("/v1/proposals", params={"state": "open", "page_size": 2}).json()
    rest = wang.get(
        "/v1/proposals", params={"state": "open", "page_size": 2, "page_token": first["next_page_token"]}
    ).json()

    assert [item["change"]["tag"] for item in first["items"] + rest["items"]] == [
        "peach-sorting",
        "grape-sorting",
        "apple-sorting",
    ]
    assert rest["next_page_token"] is None


def test_a_commit_that_fails_is_not_answered_with_success(registry: Registry) -> None:
    """The answer must not leave before the commit: with plain `Depends` this would be a 201."""
    with registry.books.engine.begin() as connection:
        connection.execute(text("create table poison (e text references event(id) deferrable initially deferred)"))
        connection.execute(
            text("create trigger spoil after insert on proposal begin insert into poison values ('no-such-event'); end")
        )

    reply = registry.propose(registry.as_("wang", "trainers"))

    assert reply.status_code == 500
    with db.reading(registry.books.engine) as session:
        assert session.connection().execute(text("select count(*) from proposal")).scalar_one() == 0
