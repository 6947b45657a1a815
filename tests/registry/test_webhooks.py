"""Webhooks: who may have whom told, what is sent, in which order, and that nothing is lost."""

import base64
import hashlib
import hmac
import json
from collections.abc import Mapping
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from conftest import Registry
from sqlalchemy.event import listen
from sqlmodel import col, delete
from webhook_house import URL, House, Receiver

from registry import db, identity, webhook_delivery, webhook_pings, webhook_signing, webhooks
from registry.tables import ApiToken
from registry.webhook_guard import Answered


@pytest.fixture
def house(registry: Registry) -> House:
    return House(registry, registry.as_("ops", "platform-admins", unit="all"))


def signed_by(secret: str, headers: Mapping[str, str], body: bytes) -> bool:
    """As a receiver checks it, from the text of the Standard Webhooks specification."""
    content = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    made = hmac.digest(base64.b64decode(secret.removeprefix("whsec_")), content, hashlib.sha256)
    return f"v1,{base64.b64encode(made).decode()}" in headers["webhook-signature"].split(" ")


def test_a_signature_is_that_of_the_specifications_example() -> None:
    at = datetime.fromtimestamp(1614265330, UTC)

    made = webhook_signing.headers(
        "msg_p5jXN8AQM9LWM0D4loKWxJek", at, b'{"test": 2432232314}', ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"]
    )

    assert made["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_secrets_differ_by_webhook_and_generation_and_are_in_no_row(house: House) -> None:
    first, second = house.hook(), house.hook()
    rotated = house.admin.post(f"/v1/webhooks/{first['id']}:rotate-secret").json()

    assert len({first["secret"], second["secret"], rotated["secret"]}) == 3
    assert "secret" not in house.state(first)
    told = json.dumps([event.detail for event in house.registry.events()])
    assert first["secret"] not in told
    assert rotated["secret"] not in told


def test_an_event_is_sent_as_a_signed_cloud_event_without_what_is_personal_beyond_the_actor(house: House) -> None:
    hook = house.hook()
    (event_id,) = house.happen("test.ran", reason="a private reason", detail={"private": 1}, task_type="dpo")

    assert house.turn() == 1

    headers, body = house.receiver.got[0]
    cloud = json.loads(body)
    assert signed_by(hook["secret"], headers, body)
    assert not signed_by(hook["secret"], headers, body + b" ")
    assert headers["content-type"] == "application/cloudevents+json"
    assert (cloud["specversion"], cloud["type"], cloud["id"]) == ("1.0", "io.tagwarden.test.ran.v1", event_id)
    assert (cloud["source"], cloud["subject"]) == (house.registry.settings.issuer, "tags/dpo")
    assert (cloud["authtype"], cloud["authid"]) == ("user", "user:eve")
    assert cloud["time"] == cloud["recordedtime"] == cloud["data"]["at"]
    assert {"salt", "reason", "detail", "groups"} & set(cloud["data"]) == set()
    assert b"private" not in body
    assert house.deliveries(hook) == {event_id: "delivered"}


def test_somebody_who_was_erased_before_the_delivery_is_not_named_in_it(house: House) -> None:
    house.hook()
    house.receiver.down = True
    house.happen("test.ran")
    house.turn()
    officer = house.registry.as_("officer", "privacy-officers", unit="all")
    asked = {"actor": "user:eve", "business_unit": "all", "reason": "they asked for it"}
    assert officer.post("/v1/audit:erase", json=asked).status_code == 200

    house.receiver.down = False
    house.turn(hours=1)

    assert house.receiver.bodies[0]["authid"] == "erased"


def test_who_made_a_webhook_is_erased_from_it_and_it_goes_on(house: House) -> None:
    hook = house.hook()
    officer = house.registry.as_("officer", "privacy-officers", unit="all")
    asked = {"actor": "user:ops", "business_unit": "all", "reason": "they asked for it"}
    assert officer.post("/v1/audit:erase", json=asked).status_code == 200

    seen = house.registry.as_("chief", "platform-admins", unit="all").get(f"/v1/webhooks/{hook['id']}").json()

    assert (seen["holder"], seen["state"]) == ("erased", "active")


def test_only_what_was_asked_for_is_sent(house: House) -> None:
    house.hook(kinds=["test.*", "exact.one"], business_unit="retail", task_type="dpo")
    house.happen("test.ran", unit="ai", task_type="dpo")
    house.happen("test.ran", task_type="sft")
    house.happen("testing.ran", "exact.one.more", "exact", task_type="dpo")
    wanted = house.happen("test.ran", "exact.one", task_type="dpo")

    house.turn()

    assert house.receiver.ids == wanted


def test_a_receiver_that_is_down_for_a_day_gets_everything_once_in_order(house: House) -> None:
    hook = house.hook()
    house.receiver.down = True
    happened = []
    for _ in range(9):
        happened += house.happen("test.ran", "test.ended")
        house.turn(hours=3)
    failing = house.state(hook)
    assert failing["attempts"] == 9
    assert failing["failing_since"] is not None

    house.receiver.down = False
    while house.turn(hours=1):
        pass

    assert house.receiver.ids == happened
    assert house.state(hook)["failing_since"] is None


def test_waits_double_to_a_quarter_of_an_hour_and_a_receiver_may_ask_for_more(house: House) -> None:
    assert 3.7 < webhook_delivery.backoff_s(1) <= 5
    assert 7.5 <= webhook_delivery.backoff_s(2) <= 10
    assert 675 <= webhook_delivery.backoff_s(50) <= 900
    hook = house.hook()
    house.happen("test.ran")
    house.receiver.script = [Answered(503, "1800")]

    house.turn()

    waits = datetime.fromisoformat(house.state(hook)["next_attempt_at"]) - house.at
    assert waits == timedelta(seconds=1800)
    assert house.turn(minutes=29) == 0
    assert house.turn(minutes=2) == 1


def test_an_event_that_is_refused_is_parked_so_that_others_go_on(house: House) -> None:
    hook = house.hook()
    poison, good = house.happen("test.poison", "test.ran")
    house.receiver.script = [422] * webhook_delivery.PARK_AFTER

    for _ in range(webhook_delivery.PARK_AFTER):
        house.turn(minutes=16)

    assert house.deliveries(hook) == {poison: "parked", good: "delivered"}
    replayed = house.admin.post(f"/v1/webhooks/{hook['id']}:replay", params={"from": poison})
    assert replayed.status_code == 200, replayed.text
    house.at = db.utc_now() + timedelta(days=1)
    house.turn()
    assert house.receiver.ids[-2:] == [poison, good]
    assert house.deliveries(hook) == {poison: "delivered", good: "delivered"}


def test_an_answer_that_says_nothing_of_the_event_parks_nothing(house: House) -> None:
    hook = house.hook()
    house.happen("test.ran")
    house.receiver.script = [301, 401, 403, 404, 408, 429, 500, 404, 404, 404]

    for _ in range(10):
        house.turn(hours=2)

    assert house.deliveries(hook) == {}
    assert house.turn(hours=2) == 1


def test_a_receiver_that_is_gone_ends_its_webhook(house: House) -> None:
    hook = house.hook()
    house.happen("test.ran")
    house.receiver.script = [410]

    house.turn()

    assert house.state(hook)["state"] == "ended"
    assert [event.actor for event in house.registry.events("webhook.ended")] == ["system:registry"]
    assert house.admin.patch(f"/v1/webhooks/{hook['id']}", json={"state": "active"}).status_code == 409


def test_a_crash_after_the_receiver_took_it_sends_it_again_and_loses_nothing(house: House) -> None:
    house.hook()
    first, second = house.happen("test.one", "test.two")

    def crash() -> None:
        raise KeyboardInterrupt

    house.receiver.meanwhile = crash
    with pytest.raises(KeyboardInterrupt):
        house.turn()
    house.receiver.meanwhile = lambda: None

    assert house.turn() == 0, "the lease of the crashed one stands for a minute"
    house.turn(seconds=61)
    assert house.receiver.ids == [first, first, second]


def test_two_workers_do_not_tell_the_same(house: House) -> None:
    hook = house.hook()
    happened = house.happen("test.one", "test.two", "test.three")
    books = house.registry.books
    other = Receiver()

    def try_it_too() -> None:
        assert webhook_delivery.deliver(books, hook["id"], now=lambda: house.at, post=other) == 0

    house.receiver.meanwhile = try_it_too
    house.turn()

    assert house.receiver.ids == happened
    assert other.ids == []


def test_a_worker_that_lost_its_lease_does_not_move_the_place(house: House) -> None:
    hook = house.hook()
    first, second = house.happen("test.one", "test.two")
    house.turn()

    def replay() -> None:
        house.receiver.meanwhile = lambda: None
        assert house.admin.post(f"/v1/webhooks/{hook['id']}:replay", params={"from": first}).status_code == 200

    (third,) = house.happen("test.three")
    house.receiver.meanwhile = replay
    house.turn()
    house.at = db.utc_now() + timedelta(seconds=1)
    house.turn()

    assert house.receiver.ids == [first, second, third, first, second, third]


def test_a_turn_ends_by_time_so_that_others_have_theirs(house: House) -> None:
    house.hook()
    happened = house.happen("test.one", "test.two", "test.three")

    def dawdle() -> None:
        house.at += timedelta(seconds=6)

    house.receiver.meanwhile = dawdle

    assert [house.turn(), house.turn()] == [2, 1]
    assert house.receiver.ids == happened


def test_whoever_waits_the_longest_is_told_first(house: House) -> None:
    first, second = house.hook()["id"], house.hook()["id"]
    house.happen("test.ran")
    assert webhook_delivery.due(house.registry.books, house.at) == [first, second]
    webhook_delivery.deliver(house.registry.books, first, now=lambda: house.at, post=house.receiver)

    house.happen("test.ran")

    assert webhook_delivery.due(house.registry.books, house.at) == [second, first]


def test_webhooks_that_the_news_is_not_for_cost_one_write_together(house: House) -> None:
    hooks = [house.hook(kinds=["no.such"]) for _ in range(5)]
    house.happen("test.ran")
    commits: list[int] = []
    listen(house.registry.books.engine, "commit", lambda _: commits.append(1))

    assert webhook_delivery.due(house.registry.books, house.at) == []

    assert len(commits) == 1
    assert len({house.state(hook)["cursor"] for hook in hooks}) == 1
    assert webhook_delivery.due(house.registry.books, house.at) == []
    assert len(commits) == 1, "a log that did not move is not looked at again"


def test_a_pause_loses_nothing(house: House) -> None:
    hook = house.hook()
    path = f"/v1/webhooks/{hook['id']}"
    assert house.admin.patch(path, json={"state": "paused"}).json()["state"] == "paused"
    waiting = house.happen("test.ran")
    assert house.turn(hours=1) == 0

    house.admin.patch(path, json={"state": "active"})
    house.at = db.utc_now() + timedelta(seconds=1)
    house.turn()

    assert house.receiver.ids == waiting


def test_two_secrets_sign_for_a_day_after_a_rotation(house: House) -> None:
    old = house.hook()
    path = f"/v1/webhooks/{old['id']}:rotate-secret"
    new = house.admin.post(path).json()
    assert house.admin.post(path).status_code == 409, "a third secret would shut out the first"
    house.happen("test.one")
    house.turn()
    house.happen("test.two")
    house.turn(hours=25)

    during, after = house.receiver.got
    assert [signed_by(one["secret"], *during) for one in (old, new)] == [True, True]
    assert [signed_by(one["secret"], *after) for one in (old, new)] == [False, True]


def test_replay_goes_back_and_says_what_it_cannot_do(house: House) -> None:
    hook = house.hook()
    house.happen("test.one")
    house.turn()
    _, coming = house.happen("test.two", "test.three")
    path = f"/v1/webhooks/{hook['id']}:replay"

    replies = {
        since: house.admin.post(path, params={"from": since}).status_code
        for since in (coming, "nonsense", "2030-01-01T00:00:00", "2999-01-01T00:00:00Z", "2020-01-01T00:00:00Z")
    }

    assert list(replies.values()) == [422, 404, 422, 404, 200]
    assert house.state(hook)["cursor"] == 0


def test_whoever_has_others_told_must_be_allowed_to_and_every_change_is_one_event(house: House) -> None:
    trainer = house.registry.as_("wang", "trainers")
    hook = house.hook()
    path = f"/v1/webhooks/{hook['id']}"
    body = {"url": URL, "kinds": ["*"]}
    assert trainer.post("/v1/webhooks", json=body).status_code == 403
    assert [trainer.request(way, path, json={}).status_code for way in ("GET", "DELETE")] == [403, 403]

    house.admin.patch(path, json={"kinds": ["*"]})
    house.admin.delete(path)

    kinds = [event.kind for event in house.registry.events() if event.kind.startswith("webhook.")]
    assert kinds == ["webhook.created", "webhook.changed", "webhook.ended"]
    assert house.state(hook)["state"] == "ended"
    assert house.admin.get("/v1/webhooks").json()["items"][0]["id"] == hook["id"]
    assert house.admin.get("/v1/webhooks/nobody").status_code == 404


def _narrow_token(house: House) -> str:
    """Of somebody who may read everything, for webhooks alone."""
    with house.registry.books.writing() as session:
        return identity.create_token(
            session, "user:ops", ["platform-admins"], "all", life=timedelta(hours=1), now=db.utc_now(),
            scopes=["webhook-admin"],
        )  # fmt: skip


def test_nobody_has_others_told_what_they_may_not_read(house: House) -> None:
    narrow = house.registry.anonymous(headers={"Authorization": f"Bearer {_narrow_token(house)}"})

    reply = narrow.post("/v1/webhooks", json={"url": URL, "kinds": ["*"], "business_unit": "all"})

    assert (reply.status_code, reply.json()["reason_code"]) == (403, "not-in-scope")
    assert house.admin.get("/v1/webhooks").json()["items"] == []


def test_what_widens_or_moves_a_webhook_takes_the_right_to_read_what_is_sent(house: House) -> None:
    path = f"/v1/webhooks/{house.hook()['id']}"
    (event,) = house.happen("test.one")
    house.turn()
    narrow = house.registry.anonymous(headers={"Authorization": f"Bearer {_narrow_token(house)}"})

    assert narrow.patch(path, json={"state": "paused"}).status_code == 200, "a pause tells nobody more"
    replies = [
        narrow.patch(path, json={"kinds": ["*"]}),
        narrow.patch(path, json={"state": "active"}),
        narrow.post(f"{path}:replay", params={"from": event}),
        narrow.post(f"{path}:rotate-secret"),
    ]

    assert [(reply.status_code, reply.json()["reason_code"]) for reply in replies] == [(403, "not-in-scope")] * 4


def test_a_test_is_refused_while_one_is_under_way_or_too_many_are(house: House) -> None:
    first, *others = [house.hook()["id"] for _ in range(webhook_pings.AT_ONCE + 1)]
    *busy, free = others
    with webhook_pings.one(first):
        again = house.admin.post(f"/v1/webhooks/{first}:test")
        with ExitStack() as tests:
            for hook in busy:
                tests.enter_context(webhook_pings.one(hook))
            too_many = house.admin.post(f"/v1/webhooks/{free}:test")

    assert [reply.status_code for reply in (again, too_many)] == [429, 429]
    assert again.headers["Retry-After"] == "15"
    assert house.registry.events("webhook.tested") == [], "nothing was sent"
    with webhook_pings.one(free):
        pass


def test_a_task_type_that_there_is_not_is_said_and_an_alias_is_stored_as_what_it_stands_for(house: House) -> None:
    body = {"url": URL, "kinds": ["*"], "business_unit": "all"}

    unknown = house.admin.post("/v1/webhooks", json={**body, "task_type": "dpoo"})

    assert (unknown.status_code, unknown.json()["code"]) == (404, "unknown-task-type")
    assert house.hook(task_type="seq-cls")["task_type"] == "sequence-classification"


def test_the_path_of_an_address_may_be_a_secret_and_is_in_no_event(house: House) -> None:
    house.hook(url="https://hooks.example/services/T0/very-secret")

    (event,) = house.registry.events("webhook.created")

    assert "very-secret" not in json.dumps(event.detail)
    assert event.detail["host"] == "hooks.example"
    assert event.detail["url_digest"].startswith("sha256:")


def test_a_unit_has_no_more_webhooks_than_may_be(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhooks, "MOST_OF_A_UNIT", 2)
    first = house.hook()["id"]
    house.hook()
    body = {"url": URL, "kinds": ["*"], "business_unit": "all"}

    assert house.admin.post("/v1/webhooks", json=body).status_code == 409
    house.hook(business_unit="retail")
    house.admin.delete(f"/v1/webhooks/{first}")
    house.hook()


def test_a_key_that_cannot_be_used_is_the_services_fault_and_sends_nothing(house: House) -> None:
    path = f"/v1/webhooks/{house.hook()['id']}"
    (house.registry.settings.keys_dir / "webhooks.key").chmod(0o644)

    reply = house.admin.post(f"{path}:test")

    assert (reply.status_code, reply.json()["code"]) == (503, "unavailable")
    assert house.registry.events("webhook.tested") == []


def test_a_webhook_of_somebody_who_is_disabled_pauses_until_somebody_else_answers_for_it(house: House) -> None:
    hook, path = house.hook(), "/v1/principals/user:ops"
    assert webhooks.pause_of_nobody(house.registry.books) == 0
    other = house.registry.as_("chief", "platform-admins", unit="all")
    assert other.post(f"{path}:disable", json={"reason": "they left the house"}).status_code == 200

    assert [webhooks.pause_of_nobody(house.registry.books) for _ in range(2)] == [1, 0]

    paused = other.get(f"/v1/webhooks/{hook['id']}").json()
    assert (paused["state"], paused["reason"], paused["holder"]) == (
        "paused",
        "whoever made or resumed it last is disabled",
        "user:ops",
    )
    assert [event.actor for event in house.registry.events("webhook.paused")] == ["system:registry"]
    resumed = other.patch(f"/v1/webhooks/{hook['id']}", json={"state": "active"}).json()
    assert (resumed["holder"], resumed["reason"]) == ("user:chief", None)
    assert webhooks.pause_of_nobody(house.registry.books) == 0


def test_a_webhook_of_somebody_who_may_not_read_its_events_any_more_pauses(house: House) -> None:
    """They were moved to another work, and nobody disabled them: the groups of their tokens are other ones."""
    hook, kept = house.hook(), house.hook(url="https://hooks.example/kept")
    chief = house.registry.as_("chief", "platform-admins", unit="all")
    again = {"state": "paused"}, {"state": "active"}
    assert [chief.patch(f"/v1/webhooks/{kept['id']}", json=said).status_code for said in again] == [200, 200]
    with house.registry.books.writing() as session:
        session.exec(delete(ApiToken).where(col(ApiToken.actor) == "user:ops"))
    house.registry.token("ops", "trainers", unit="all")

    assert [webhooks.pause_of_nobody(house.registry.books) for _ in range(2)] == [1, 0]

    paused = chief.get(f"/v1/webhooks/{hook['id']}").json()
    assert (paused["state"], paused["holder"]) == ("paused", "user:ops")
    assert paused["reason"] == "whoever made or resumed it last may not read these events any more (`audit-read`)"
    (told,) = house.registry.events("webhook.paused")
    assert (told.detail["webhook"], told.detail["because"]) == (hook["id"], paused["reason"])
    house.happen("test.after")
    house.turn(minutes=1)
    assert [body["type"] for body in house.receiver.bodies] == ["io.tagwarden.test.after.v1"]  # by the one that is kept


def test_a_webhook_is_not_ended_where_another_was_seen(house: House) -> None:
    path = f"/v1/webhooks/{house.hook()['id']}"
    seen = house.admin.get(path).headers["etag"]
    house.admin.patch(path, json={"kinds": ["*"]})

    stale = house.admin.delete(path, headers={"If-Match": seen})
    ended = house.admin.delete(path, headers={"If-Match": house.admin.get(path).headers["etag"]})

    assert (stale.status_code, stale.json()["code"]) == (412, "stale")
    assert ended.status_code == 204


def test_the_key_file_is_private_and_a_bad_one_is_refused(tmp_path: Path) -> None:
    root = webhook_signing.root_key(tmp_path)

    assert webhook_signing.root_key(tmp_path) == root
    (tmp_path / "webhooks.key").chmod(0o644)
    with pytest.raises(webhook_signing.KeyUnusable, match="can be read by others"):
        webhook_signing.root_key(tmp_path)
