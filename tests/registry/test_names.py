"""Names in the books: one meaning each, for ever; what comes near has to say why; aliases and reserved words by
proposal."""

import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import Registry, ask, ticket_request
from policy_folders import changed_policy
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlmodel import select

from enforcer import names
from enforcer.policy.rules import PolicyInvalid
from registry import db, server, spellings, tag_life, tags
from registry.identity import Actor
from registry.settings import Settings
from registry.tables import KnownName, Stamp, Tag

WHY = "another loss, on speech"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    """For those who ask and change nothing."""
    return Registry(Settings(state_dir=tmp_path_factory.mktemp("names") / "state"))


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def either(request: pytest.FixtureRequest, tmp_path: Path) -> Registry:
    url = request.getfixturevalue("postgresql") if request.param == "postgresql" else None
    return Registry(Settings(state_dir=tmp_path / "state", database_url=url))


def proposed(registry: Registry, change: dict[str, Any], reason: str = "we call it so") -> Any:
    return registry.as_("wang", "trainers").post("/v1/proposals", json={"change": change, "reason": reason})


def agreed(registry: Registry, change: dict[str, Any], reason: str = "we call it so") -> dict[str, Any]:
    """Proposed, and approved by as many stewards as it takes; the last answer."""
    proposal = proposed(registry, change, reason).json()
    for name, unit in (("li", "retail"), ("zhao", "search")):
        if proposal["state"] == "open":
            reply = registry.review(registry.as_(name, "tag-stewards", unit=unit), proposal)
            assert reply.status_code == 201, reply.text
            proposal = reply.json()
    assert proposal["state"] == "applied"
    return proposal


def checked(registry: Registry, name: str, **declared: Any) -> dict[str, Any]:
    reply = registry.as_("wang").post("/v1/tags:check-name", json={"name": name, **declared})
    assert reply.status_code == 200, reply.text
    return reply.json()


# --- the check --------------------------------------------------------------------------------------------------------


def test_a_check_says_verdict_matches_and_what_to_use_instead(shared: Registry) -> None:
    assert checked(shared, "dpo-final") == {
        "name": "dpo-final",
        "verdict": "block",
        "matches": [{"tag": "dpo", "rule": "noise", "evidence": "without its version and noise words it is `dpo`"}],
        "suggestion": "dpo",
    }
    assert checked(shared, "message-tone")["verdict"] == "ok"


@pytest.mark.parametrize("declared", [{"parent": "dpoo"}, {"distinct_from": [{"tag": "dpoo", "because": "of speech"}]}])
def test_a_check_that_declares_an_unknown_task_type_is_told_so(shared: Registry, declared: dict[str, Any]) -> None:
    reply = shared.as_("wang").post("/v1/tags:check-name", json={"name": "dpo-speech", **declared})

    assert (reply.status_code, reply.json()["code"]) == (404, "unknown-task-type")
    assert reply.json()["detail"].startswith("`dpoo` is not a task type")


@pytest.mark.parametrize(
    ("declared", "verdict"),
    [
        ({}, "justify"),
        ({"parent": "dpo"}, "ok"),
        ({"parent": "direct-preference-optimization"}, "ok"),
        ({"parent": "sft"}, "justify"),
        ({"distinct_from": [{"tag": "dpo", "because": WHY}]}, "ok"),
        ({"distinct_from": [{"tag": "direct-preference-optimization", "because": WHY}]}, "ok"),
        ({"distinct_from": [{"tag": "sft", "because": WHY}]}, "justify"),
    ],
)
def test_a_check_takes_what_the_proposal_would_declare(
    shared: Registry, declared: dict[str, Any], verdict: str
) -> None:
    assert checked(shared, "dpo-speech", **declared)["verdict"] == verdict


def test_what_nobody_may_be_called_gets_an_answer_too(shared: Registry) -> None:
    for odd in ("ＤＰＯ", "分类", "💥", "-", "../etc", "a" * 200):
        assert checked(shared, odd)["verdict"] == "block"


# --- what comes near has to say why -----------------------------------------------------------------------------------


def test_a_name_that_extends_a_tag_is_refused_until_it_says_why(registry: Registry) -> None:
    wang = registry.as_("wang", "trainers")
    distinct = [{"tag": "dpo", "because": WHY}]

    silent = registry.propose(wang, "dpo-speech")
    said = registry.propose(wang, "dpo-speech", distinct_from=distinct)

    assert (silent.status_code, silent.json()["code"]) == (422, "name-needs-reason")
    assert [(match["tag"], match["rule"]) for match in silent.json()["matches"]] == [("dpo", "extends")]
    assert said.status_code == 201
    seen = registry.as_("li", "tag-stewards").get(f"/v1/proposals/{said.json()['id']}").json()
    assert seen["change"]["distinct_from"] == distinct
    assert seen["name_matches"] == [
        {"tag": "dpo", "rule": "extends", "evidence": f"it extends `dpo`; said to be distinct: {WHY}"}
    ]


def test_a_child_named_after_its_parent_needs_no_more(registry: Registry) -> None:
    reply = registry.propose(registry.as_("wang", "trainers"), "sequence-classification-legal")

    assert (reply.status_code, reply.json()["name_matches"][0]["tag"]) == (201, "sequence-classification")


def test_an_alias_of_a_new_tag_is_held_to_the_same(registry: Registry) -> None:
    reply = registry.propose(registry.as_("wang", "trainers"), aliases=["dpo-for-reviews"])

    assert (reply.status_code, reply.json()["code"]) == (422, "name-needs-reason")


def test_a_typo_says_that_it_could_be_another_thing(registry: Registry) -> None:
    reply = registry.propose(registry.as_("wang", "trainers"), "rerankre")

    assert (reply.status_code, reply.json()["code"], reply.json()["suggestion"]) == (409, "name-is-variant", "reranker")
    assert reply.json()["detail"].endswith("use `reranker`, or say in `distinct_from` why it is another")


# --- aliases ----------------------------------------------------------------------------------------------------------


def test_an_alias_that_was_agreed_on_resolves(registry: Registry) -> None:
    done = agreed(registry, {"kind": "alias", "tag": "cls", "alias": "document-labelling"})

    assert (done["state"], done["subject"], done["version"]) == ("applied", "alias:document-labelling", None)
    assert done["change"]["tag"] == "sequence-classification"
    wang = registry.as_("wang", "trainers")
    assert wang.get("/v1/tags/document-labelling").json()["name"] == "sequence-classification"
    assert "document-labelling" in wang.get("/v1/tags/cls").json()["aliases"]
    assert ask(wang, ticket_request("document-labelling")).status_code == 201
    (event,) = registry.events("tag.alias-added")
    assert (event.actor, event.task_type, event.detail["alias"], event.proposal_id) == (
        done["reviews"][-1]["reviewer"],
        "sequence-classification",
        "document-labelling",
        done["id"],
    )


@pytest.mark.parametrize(
    ("alias", "tag", "code"),
    [
        ("dpo", "sft", "name-is-variant"),
        ("cross-encoder", "sft", "name-is-variant"),
        ("cross-encoder", "reranker", "name-is-variant"),
        ("dpo-v2", "sft", "name-is-variant"),
        ("dpo-speech", "sft", "name-needs-reason"),
        ("default", "sft", "name-invalid"),
        ("Not_A_Name", "sft", "name-invalid"),
        ("preference-pairs", "nothing-like-it", "unknown-task-type"),
    ],
)
def test_an_alias_that_means_something_else_is_refused(shared: Registry, alias: str, tag: str, code: str) -> None:
    reply = proposed(shared, {"kind": "alias", "tag": tag, "alias": alias})

    assert reply.json()["code"] == code


@pytest.mark.parametrize("alias", ["dpo-v2", "dpo-pairs", "dp0", "direct-preferense-optimization"])
def test_an_alias_may_come_near_its_own_tag(shared: Registry, alias: str) -> None:
    assert proposed(shared, {"kind": "alias", "tag": "dpo", "alias": alias}).status_code == 201


def test_an_alias_that_became_a_tag_meanwhile_is_not_applied(registry: Registry) -> None:
    alias = proposed(registry, {"kind": "alias", "tag": "dpo", "alias": "message-tone"}).json()
    registry.approve_tag("message-tone")

    replies = [registry.review(registry.as_(name, "tag-stewards"), alias) for name in ("li", "zhao")]

    assert (replies[-1].status_code, replies[-1].json()["code"]) == (409, "name-is-variant")
    assert registry.as_("wang").get("/v1/tags/message-tone").json()["name"] == "message-tone"


# --- reserved words ---------------------------------------------------------------------------------------------------


def test_a_reserved_word_is_taken_until_it_is_released(registry: Registry) -> None:
    agreed(registry, {"kind": "reserved-name", "name": "moderation"}, "legal wants to name it first")

    refused = registry.propose(registry.as_("wang", "trainers"), "moderation")
    agreed(registry, {"kind": "reserved-name", "name": "moderation", "action": "release"}, "they did not want it")
    allowed = registry.propose(registry.as_("wang", "trainers"), "moderation")

    assert (refused.status_code, refused.json()["code"]) == (422, "name-invalid")
    assert "the word is reserved: legal wants to name it first" in refused.json()["detail"]
    assert allowed.status_code == 201
    assert [(e.kind, e.detail["name"]) for e in registry.events("tag.name-reserved", "tag.name-released")] == [
        ("tag.name-reserved", "moderation"),
        ("tag.name-released", "moderation"),
    ]


def test_a_reservation_that_has_ended_makes_room(registry: Registry) -> None:
    with db.writing(registry.books.engine) as session:
        for word in ("message-tone", "speech-pairs"):
            spellings.reserve(session, word, "for a while", db.utc_now())

    registry.approve_tag("message-tone")
    agreed(registry, {"kind": "alias", "tag": "dpo", "alias": "speech-pairs"})

    wang = registry.as_("wang")
    assert wang.get("/v1/tags/message-tone").json()["version"] == 1
    assert wang.get("/v1/tags/speech-pairs").json()["name"] == "dpo"


def test_a_word_is_freed_sooner_by_as_many_as_release_it(registry: Registry) -> None:
    long, longer = ((db.utc_now() + timedelta(days=days)).isoformat() for days in (7, 8))
    word = {"kind": "reserved-name", "name": "moderation"}
    agreed(registry, word)
    sooner = proposed(registry, {**word, "until": long}).json()
    assert (sooner["terms"]["change_class"], sooner["terms"]["distinct_units"]) == ("loosening", 2)

    agreed(registry, {**word, "until": long})

    classes = [proposed(registry, {**word, **more}).json()["terms"]["change_class"] for more in ({"until": longer}, {})]
    assert classes == ["tightening", "tightening"]


def test_what_has_ended_gets_no_other_spelling(registry: Registry) -> None:
    alias = {"kind": "alias", "tag": "dpo", "alias": "choose-the-better"}
    waiting = proposed(registry, alias).json()
    with registry.books.writing() as session:
        by = Actor("user:li", (), "ai")
        tag = session.get_one(Tag, "dpo")
        tag_life.deprecate(session, tag, db.utc_now() + timedelta(milliseconds=1), None, "few use it", by)

    late = registry.review(registry.as_("li", "tag-stewards"), waiting)
    anew = proposed(registry, {**alias, "alias": "take-the-better"})

    assert [(reply.status_code, reply.json()["code"]) for reply in (late, anew)] == [(409, "task-type-not-active")] * 2


def test_nobody_is_excepted_for_what_is_archived(registry: Registry) -> None:
    with registry.books.writing() as session:
        tag_life.take_back(session, session.get_one(Tag, "dpo"), Actor("user:li", (), "ai"))
    until = (db.utc_now() + timedelta(days=7)).isoformat()
    change = {"kind": "exception", "id": "wang-tries-dpo", "who": ["user:wang"], "may": ["submit"], "tag": ["dpo"]}

    reply = proposed(registry, {**change, "until": until})

    assert (reply.status_code, reply.json()["code"]) == (409, "task-type-archived")


def test_a_reservation_whose_end_came_before_it_was_agreed_on_is_none(registry: Registry) -> None:
    until = db.utc_now() + timedelta(seconds=1)
    change = {"kind": "reserved-name", "name": "moderation", "until": until.isoformat()}
    proposal = proposed(registry, change).json()
    time.sleep(max(0.0, (until - db.utc_now()).total_seconds()))

    replies = [registry.review(registry.as_(name, "tag-stewards"), proposal) for name in ("li", "zhao")]

    assert (replies[-1].status_code, replies[-1].json()["code"]) == (409, "stale-review")
    assert checked(registry, "moderation")["verdict"] == "ok"


def test_a_word_is_reserved_until_its_moment(registry: Registry) -> None:
    until = "2126-01-01T00:00:00Z"
    agreed(registry, {"kind": "reserved-name", "name": "moderation", "until": until}, "legal names it first")

    with registry.books.reading() as session:
        row = session.get(KnownName, "moderation")
    assert (row.kind, row.reason, row.until.isoformat()) == (
        "reserved",
        "legal names it first",
        "2126-01-01T00:00:00+00:00",
    )
    assert checked(registry, "moderation")["verdict"] == "block"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"name": "dpo"}, "name-is-variant"),
        ({"name": "cls"}, "name-is-variant"),
        ({"name": "dpo", "action": "release"}, "name-not-reserved"),
        ({"name": "unheard-of", "action": "release"}, "name-not-reserved"),
        ({"name": "default", "action": "release", "until": "2126-01-01T00:00:00Z"}, "name-invalid"),
        ({"name": "moderation", "until": "2020-01-01T00:00:00Z"}, "name-invalid"),
        ({"name": "Moderation Task"}, "name-invalid"),
        ({"name": "moderation", "until": "2126-01-01"}, "malformed-request"),
    ],
)
def test_a_word_that_cannot_be_reserved_or_released_is_refused(
    shared: Registry, change: dict[str, Any], code: str
) -> None:
    reply = proposed(shared, {"kind": "reserved-name", **change})

    assert (reply.status_code in (404, 409, 422), reply.json()["code"]) == (True, code)


# --- the index --------------------------------------------------------------------------------------------------------


FORBIDDEN = [
    "update known_name set tag = 'dpo' where spelling = 'cls'",
    "update known_name set kind = 'reserved', tag = null where spelling = 'cls'",
    "delete from known_name where spelling = 'cls'",
    "delete from known_name where spelling = 'dpo'",
    "insert into known_name (spelling, kind, tag) values ('cls', 'alias', 'dpo')",
    "insert into known_name (spelling, kind, tag) values ('other-name', 'tag', 'dpo')",
    "insert into known_name (spelling, kind) values ('of-nothing', 'alias')",
    "insert into known_name (spelling, kind, tag) values ('default-of', 'reserved', 'dpo')",
    "insert into tag (name, kind, parent, description, state, version, created_at, compatibility) "
    "values ('cls', 'head', null, 'd', 'active', 1, '2026-01-01', 'NONE')",
    "insert into tag (name, kind, parent, description, state, version, created_at, compatibility) "
    "values ('default', 'head', null, 'd', 'active', 1, '2026-01-01', 'NONE')",
    "delete from name_rules",
]


def test_the_database_itself_keeps_what_names_mean(either: Registry) -> None:
    for statement in FORBIDDEN:
        with pytest.raises(DBAPIError), either.books.engine.begin() as connection:
            connection.execute(text(statement))


def test_every_tag_stands_in_the_index_whoever_writes_it(either: Registry) -> None:
    with either.books.engine.begin() as connection:
        connection.execute(
            text(
                "insert into tag (name, kind, parent, description, state, version, created_at, compatibility) "
                "values ('by-hand', 'head', null, 'd', 'active', 0, '2026-01-01', 'NONE')"
            )
        )

    with either.books.reading() as session:
        assert session.get(KnownName, "by-hand").tag == "by-hand"
    assert checked(either, "by-hand-v2")["suggestion"] == "by-hand"


def test_what_was_rolled_back_is_never_taken_for_what_came_after(either: Registry) -> None:
    """The second word is written under the same number of changes as the first, which never was."""
    for word, stays in (("first-word", False), ("second-word", True)):
        with db.writing(either.books.engine) as session:
            spellings.reserve(session, word, "a trial", None)
            assert spellings.check(session, word).verdict is names.Verdict.BLOCK
            if not stays:
                session.rollback()

    assert [checked(either, word)["verdict"] for word in ("first-word", "second-word")] == ["ok", "block"]


def test_the_index_is_built_once_for_a_state_of_the_books(registry: Registry) -> None:
    with registry.books.reading() as session:
        first, second = spellings.known(session), spellings.known(session)
    registry.token("wang")  # a change that is none of names
    with registry.books.reading() as session:
        third = spellings.known(session)

    assert first is second is third


# --- the words of the folder ------------------------------------------------------------------------------------------


def with_words(folder: Path, **words: Any) -> Settings:
    file = folder / "names.yaml"
    file.write_text(yaml.safe_dump({**yaml.safe_load(file.read_text()), **words}))
    return Settings(state_dir=folder.parent / "state", policies_dir=folder)


def test_the_words_of_the_folder_count_after_a_start(tmp_path: Path) -> None:
    registry = Registry(Settings(state_dir=tmp_path / "state"))
    before = checked(registry, "sqs")["verdict"]
    words = with_words(
        changed_policy(tmp_path),
        abbreviations={"sqs": "embedding"},
        reserved={"moderation": {"reason": "legal names it"}, "cls": {"reason": "it is an alias already"}},
    )
    again = Registry(words)

    assert (before, checked(again, "sqs")["suggestion"]) == ("ok", "embedding")
    assert checked(again, "moderation")["matches"][0]["rule"] == "reserved"
    assert checked(again, "cls")["matches"][0]["rule"] == "alias"
    assert (
        checked(again, "default")["verdict"] == "block"
    )  # what stood there before stays reserved until it is released
    assert len(again.events("tag.name-rules-published")) == 2
    server.prepare(words)
    assert len(again.events("tag.name-rules-published")) == 2


def test_a_released_word_does_not_come_back_with_the_next_start(tmp_path: Path) -> None:
    registry = Registry(Settings(state_dir=tmp_path / "state"))
    agreed(registry, {"kind": "reserved-name", "name": "default", "action": "release"})

    again = Registry(with_words(changed_policy(tmp_path), noise=["v2"[0]]))

    assert checked(again, "default")["verdict"] == "ok"


@pytest.mark.parametrize(
    "wrong", ["words: [x]", "noise: [yes]", "- a", "owner: x\nreserved: {All: {reason: abc}}", ":"]
)
def test_words_that_cannot_be_used_stop_the_start(tmp_path: Path, wrong: str) -> None:
    folder = changed_policy(tmp_path)
    (folder / "names.yaml").write_text(wrong)

    with pytest.raises(PolicyInvalid, match=r"names\.yaml"):
        server.prepare(Settings(state_dir=tmp_path / "state", policies_dir=folder))


def test_a_folder_without_the_words_stops_the_start(tmp_path: Path) -> None:
    folder = changed_policy(tmp_path)
    (folder / "names.yaml").unlink()

    with pytest.raises(PolicyInvalid, match=r"names\.yaml"):
        server.prepare(Settings(state_dir=tmp_path / "state", policies_dir=folder))


def test_the_seed_is_held_to_the_same_rules(tmp_path: Path) -> None:
    folder = changed_policy(tmp_path)
    more = {"name": "dpo-speech", "kind": "business", "description": "d", "parent": "sft", "overrides": {}}
    (folder / "vocabulary" / "9-more.yaml").write_text(yaml.safe_dump({"tags": [more]}))
    with pytest.raises(Exception, match="extends `dpo`"):
        server.prepare(Settings(state_dir=tmp_path / "silent", policies_dir=folder))

    more["distinct_from"] = [{"tag": "dpo", "because": WHY}]
    (folder / "vocabulary" / "9-more.yaml").write_text(yaml.safe_dump({"tags": [more]}))
    registry = Registry(Settings(state_dir=tmp_path / "state", policies_dir=folder))

    with registry.books.reading() as session:
        assert tags.find(session, "dpo-speech").parent == "sft"
        assert session.exec(select(Stamp.names)).one()
