"""Changes: made once for a key, to what the caller saw, or not at all and only tried."""

import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from conftest import Registry, ask, ticket_request
from sqlmodel import select

from registry import db, idempotency, openapi, principals
from registry.settings import Settings
from registry.tables import PolicyPublication, Stamp, StoredAnswer

KEY = {"Idempotency-Key": '"8e03978e-40d5-43dd-bc93-6894a57f9324"'}
CANCELLED = {"run.cancelled", "cancel.refused"}


@pytest.fixture(scope="module")
def books(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    unlimited = {name: 0 for name in Settings.model_fields if name.endswith("_per_minute")}
    return Registry(Settings(state_dir=tmp_path_factory.mktemp("changes"), **unlimited))


@pytest.fixture
def trainer(books: Registry) -> Any:
    """Somebody new each time: keys belong to people."""
    return books.as_(f"u{db.uuid7()[-12:]}", "trainers")


@pytest.fixture
def admin(books: Registry) -> Any:
    return books.as_(f"a{db.uuid7()[-12:]}", "platform-admins", "security", unit="all")


def cancel(client: Any, run: str, key: dict[str, str] | None = None, **more: str) -> Any:
    return client.post(f"/v1/runs/{run}:cancel", headers={**(key or {}), **more})


def permitted_run(client: Any) -> str:
    return str(ask(client, ticket_request()).json()["run_id"])


def events_about(books: Registry, run: str) -> Counter[str]:
    return Counter(event.kind for event in books.events() if event.run_id == run and event.kind in CANCELLED)


# --- Idempotency-Key --------------------------------------------------------------------------------------------------


def test_the_same_key_gets_the_same_answer_to_the_byte_and_no_second_effect(books: Registry, trainer: Any) -> None:
    run = permitted_run(trainer)

    first, again = cancel(trainer, run, KEY), cancel(trainer, run, KEY)

    assert (first.status_code, first.content, first.headers["etag"]) == (200, again.content, again.headers["etag"])
    assert again.status_code == 200
    assert events_about(books, run) == {"run.cancelled": 1}


def test_without_a_key_every_request_is_a_new_one(trainer: Any) -> None:
    run = permitted_run(trainer)

    assert [cancel(trainer, run).status_code for _ in range(2)] == [200, 409]


def test_the_same_key_with_another_request_is_refused(books: Registry, trainer: Any) -> None:
    run, other = permitted_run(trainer), permitted_run(trainer)
    cancel(trainer, run, KEY)

    replies = [cancel(trainer, other, KEY), cancel(trainer, run, KEY, **{"If-Match": "*"})]

    assert [(reply.status_code, reply.json()["code"]) for reply in replies] == [(422, "idempotency-key-reused")] * 2
    assert events_about(books, other) == {"cancel.refused": 1}


def test_a_key_is_its_owners_alone(books: Registry, trainer: Any) -> None:
    mine, theirs = permitted_run(trainer), permitted_run(other := books.as_("somebody-else", "trainers"))

    assert [cancel(trainer, mine, KEY).status_code, cancel(other, theirs, KEY).status_code] == [200, 200]


def test_a_refusal_is_not_kept_and_the_key_may_try_again(books: Registry, trainer: Any, admin: Any) -> None:
    """Of an exception: it is revoked while it is not there, then it is there."""
    path, body = "/v1/exceptions/pilot-again:revoke", {"reason": "not needed any more"}

    before = admin.post(path, json=body, headers=KEY)
    asked = {"change": {"kind": "exception", "id": "pilot-again", "who": ["user:wang"], "may": ["submit"],
             "tag": ["dpo"], "until": (db.utc_now() + timedelta(days=9)).isoformat()}, "reason": "a pilot"}  # fmt: skip
    granted = trainer.post("/v1/proposals", json=asked).json()
    for name in ("first", "second"):
        assert books.review(books.as_(name, "security"), granted).status_code == 201
    after = admin.post(path, json=body, headers=KEY)

    assert (before.status_code, after.status_code) == (404, 200), after.text


def test_who_lost_the_right_is_told_nothing_that_was_kept(books: Registry) -> None:
    name = f"u{db.uuid7()[-12:]}"
    client = books.as_(name, "trainers")
    run = permitted_run(client)
    cancel(client, run, KEY)

    assert cancel(books.as_(name, "nobody-in-particular"), run, KEY).status_code == 403


def test_the_answer_and_the_effect_are_one_transaction(
    books: Registry, trainer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commit fails after both were written: neither is there, and the key tries again."""
    run = permitted_run(trainer)
    whole = type(books.books).writing

    @contextmanager
    def broken(self: Any) -> Iterator[Any]:
        with whole(self) as session:
            yield session
            session.flush()
            raise ConnectionError("the power went")

    monkeypatch.setattr(type(books.books), "writing", broken)
    failed = cancel(trainer, run, KEY)
    monkeypatch.undo()
    again = cancel(trainer, run, KEY)

    assert (failed.status_code, again.status_code) == (503, 200)
    assert events_about(books, run) == {"run.cancelled": 1}


def test_a_key_that_is_worked_on_is_in_use(books: Registry, trainer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    run, begun, go_on = permitted_run(trainer), threading.Event(), threading.Event()
    whole = type(books.books).writing

    def slow(self: Any) -> Any:
        begun.set()
        assert go_on.wait(20)
        return whole(self)

    with ThreadPoolExecutor(1) as pool:
        monkeypatch.setattr(type(books.books), "writing", slow)
        first = pool.submit(cancel, trainer, run, KEY)
        assert begun.wait(20)
        monkeypatch.undo()
        meanwhile = cancel(trainer, run, KEY)
        go_on.set()

    assert (meanwhile.status_code, meanwhile.json()["code"]) == (409, "idempotency-key-in-use")
    assert meanwhile.headers["retry-after"] == "1"
    assert (first.result().status_code, cancel(trainer, run, KEY).content) == (200, first.result().content)


@pytest.mark.parametrize("database", ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def test_of_16_racing_requests_with_one_key_one_has_an_effect(
    database: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Two apps over one database, as two processes: what one of them works on only the database tells the other."""
    url = request.getfixturevalue("postgresql") if database == "postgresql" else None
    books = Registry(Settings(state_dir=tmp_path / "state", database_url=url))
    apps = [books, Registry(books.settings)]
    clients = [app.as_("wang", "trainers") for app in apps]
    run = permitted_run(clients[0])

    with ThreadPoolExecutor(16) as pool:
        replies = list(pool.map(lambda n: cancel(clients[n % 2], run, KEY), range(16)))

    assert {reply.status_code for reply in replies} <= {200, 409}
    assert len({reply.content for reply in replies if reply.status_code == 200}) == 1
    assert {reply.json()["code"] for reply in replies if reply.status_code == 409} <= {"idempotency-key-in-use"}
    assert events_about(books, run)["run.cancelled"] == 1


def test_answers_are_kept_for_a_day(books: Registry, trainer: Any) -> None:
    run = permitted_run(trainer)
    cancel(trainer, run, KEY)
    with books.books.writing() as session:
        for row in session.exec(select(StoredAnswer)):
            row.created_at -= timedelta(hours=23)
        idempotency.sweep(session)
    kept = cancel(trainer, run, KEY).status_code
    with books.books.writing() as session:
        for row in session.exec(select(StoredAnswer)):
            row.created_at -= timedelta(hours=2)
        session.flush()
        idempotency.sweep(session)

    assert (kept, cancel(trainer, run, KEY).status_code) == (200, 409)


def test_what_is_told_once_takes_no_key(books: Registry, trainer: Any) -> None:
    made = trainer.post("/v1/tokens", json={"scopes": ["*"]}, headers=KEY)
    traded = books.anonymous().post("/v1/token", data={"grant_type": "x"}, headers=KEY)
    erased = books.as_("officer", "security", unit="all").post("/v1/audit:erase", json={}, headers=KEY)

    codes = [reply.json()["code"] for reply in (made, traded)]
    assert codes == ["idempotency-key-not-offered"] * 2
    assert erased.status_code in (403, 422)


def test_every_change_takes_a_key_or_says_why_not(books: Registry) -> None:
    """Whoever adds a POST decides: `OneChange`, `ToldOnce`, or a line in `openapi.NO_KEY`."""
    without = {}
    for operations in books.app.openapi()["paths"].values():
        for method, operation in operations.items():
            taken = {parameter["name"] for parameter in operation.get("parameters", ())}
            if method != "get" and "Idempotency-Key" not in taken:
                without[operation["operationId"]] = operation["description"]

    assert without.keys() == openapi.NO_KEY.keys()
    assert all("Reads no `Idempotency-Key`: " in said for said in without.values())


# --- If-Match and If-None-Match ---------------------------------------------------------------------------------------


def test_an_etag_is_the_digest_of_what_was_answered(trainer: Any) -> None:
    from enforcer.runspec import digest

    reply = trainer.get("/v1/tags/dpo")

    assert reply.headers["etag"] == f'"{digest(reply.content)}"'


@pytest.mark.parametrize("known", ["{tag}", 'W/{tag}, "x"', '"x",{tag}', "*"])
def test_what_did_not_change_is_not_sent_again(trainer: Any, known: str) -> None:
    run = permitted_run(trainer)
    for path in ("/v1/tags/dpo", "/v1/tags/dpo/versions/1", f"/v1/runs/{run}"):
        tag = trainer.get(path).headers["etag"]

        again = trainer.get(path, headers={"If-None-Match": known.format(tag=tag)})

        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)


def test_what_did_change_is_sent_again(trainer: Any) -> None:
    run = permitted_run(trainer)
    tag = trainer.get(f"/v1/runs/{run}").headers["etag"]
    cancelled = cancel(trainer, run)

    again = trainer.get(f"/v1/runs/{run}", headers={"If-None-Match": tag})

    assert (again.status_code, again.headers["etag"]) == (200, cancelled.headers["etag"])


def test_nobody_is_let_in_again_by_somebody_who_has_not_read_why_not(books: Registry, admin: Any) -> None:
    """One admin looks, another shuts them out for another reason, and the first would let them in."""
    path, why = "/v1/principals/user:mallory", {"reason": "back from leave"}
    admin.post(f"{path}:disable", json={"reason": "on leave"})
    seen = admin.get(path).headers["etag"]
    admin.post(f"{path}:enable", json=why, headers={"If-Match": seen})
    admin.post(f"{path}:disable", json={"reason": "stole a laptop"})

    blind = admin.post(f"{path}:enable", json=why)
    stale = admin.post(f"{path}:enable", json=why, headers={"If-Match": seen})
    weak = admin.post(f"{path}:enable", json=why, headers={"If-Match": f"W/{stale.json()['etag']}"})
    shut_out = admin.get(path)
    informed = admin.post(f"{path}:enable", json=why, headers={"If-Match": shut_out.headers["etag"]})

    assert (blind.status_code, blind.json()["code"]) == (428, "precondition-required")
    assert [(reply.status_code, reply.json()["code"]) for reply in (stale, weak)] == [(412, "stale")] * 2
    assert stale.json()["etag"] == shut_out.headers["etag"]
    assert shut_out.json()["reason"] == "stole a laptop"
    assert (informed.status_code, informed.json()["enabled"]) == (200, True)
    refused = [event for event in books.events("deactivate.refused") if event.detail.get("principal") == "user:mallory"]
    assert len(refused) == 3


def test_a_stop_needs_no_if_match_and_honours_one(trainer: Any) -> None:
    run = permitted_run(trainer)

    stale = cancel(trainer, run, **{"If-Match": '"sha256:0"'})
    stopped = cancel(trainer, run)

    assert (stale.status_code, stale.json()["code"], stopped.status_code) == (412, "stale", 200)


# --- validate_only ----------------------------------------------------------------------------------------------------


def state_of(books: Registry) -> tuple[Any, ...]:
    with books.books.reading() as session:
        publications = len(session.exec(select(PolicyPublication)).all())
        return (
            session.exec(select(Stamp.value)).one(),
            publications,
            len(books.events()),
            len(principals.disabled(session)),
        )


def test_what_is_only_tried_changes_nothing_and_says_what_would_be(books: Registry, trainer: Any, admin: Any) -> None:
    run = permitted_run(trainer)
    before = state_of(books)
    until = (db.utc_now() + timedelta(hours=2)).isoformat()
    override = {"rule": "nothing-at-night", "who": ["user:wang"], "may": ["submit"], "tag": "dpo", "unit": "retail",
                "target": "local", "reason": "tonight only", "until": until}  # fmt: skip

    cancelled = trainer.post(f"/v1/runs/{run}:cancel", params={"validate_only": True}, headers=KEY)
    shut = admin.post("/v1/principals/user:eve:disable", params={"validate_only": "true"}, json={"reason": "a trial"})
    refused = admin.post("/v1/policies:override", params={"validate_only": "true"}, json=override)

    assert (cancelled.status_code, cancelled.json()["state"]) == (200, "interrupted")
    assert (shut.status_code, shut.json()["enabled"]) == (200, False)
    assert refused.status_code == 404
    stamp, publications, events, disabled = state_of(books)
    assert (stamp, publications, disabled) == (before[0], before[1], before[3])
    assert events == before[2] + 1  # the refusal
    assert trainer.get(f"/v1/runs/{run}").json()["state"] == "permitted"
    assert cancel(trainer, run, KEY).json()["state"] == "interrupted"  # the key was not used up
    tried = trainer.post(f"/v1/runs/{run}:cancel", params={"validate_only": True}, headers=KEY)
    assert tried.json()["code"] == "run-closed"  # and is not what a trial is held against


# --- proposals --------------------------------------------------------------------------------------------------------


def test_a_proposal_that_was_reviewed_meanwhile_is_not_withdrawn_unread(books: Registry, trainer: Any) -> None:
    opened = books.propose(trainer, "answer-ranking")
    path = f"/v1/proposals/{opened.json()['id']}"
    assert books.review(books.as_("steward", "tag-stewards"), opened.json()).status_code == 201

    blind = trainer.post(f"{path}:withdraw")
    stale = trainer.post(f"{path}:withdraw", headers={"If-Match": opened.headers["etag"]})
    informed = trainer.post(f"{path}:withdraw", headers={"If-Match": trainer.get(path).headers["etag"]})

    assert [reply.status_code for reply in (blind, stale, informed)] == [428, 412, 200]
    assert informed.headers["etag"] == trainer.get(path).headers["etag"]


def test_a_proposal_asked_for_twice_is_opened_once_and_a_review_counts_once(books: Registry, trainer: Any) -> None:
    change = {"kind": "new-tag", "tag": "ticket-routing", "tag_kind": "business", "parent": "sequence-classification",
              "description": "Which desk a ticket is for.", "overrides": {}}  # fmt: skip
    body = {"change": change, "reason": "we train this every week"}
    steward = books.as_("steward", "tag-stewards")

    tried = trainer.post("/v1/proposals", json=body, params={"validate_only": "true"}, headers=KEY)
    opened, again = (trainer.post("/v1/proposals", json=body, headers=KEY) for _ in range(2))
    review = {"verdict": "approve", "digest": opened.json()["digest"], "reason": "I read it all"}
    path = f"/v1/proposals/{opened.json()['id']}/reviews"
    reviews = [steward.post(path, json=review, headers=KEY) for _ in range(2)]

    assert (tried.status_code, tried.json()["digest"]) == (200, opened.json()["digest"])
    assert (opened.status_code, again.status_code, opened.content) == (201, 201, again.content)
    assert [reply.status_code for reply in reviews] == [201, 201]
    assert len(reviews[1].json()["reviews"]) == 1
