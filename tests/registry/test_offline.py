"""Tickets redeemed where nobody could ask us: only where the policy says so, uploaded later, misuse is an alarm."""

import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import manifests
import pytest
from conftest import Registry, ask, redeem, ticket_request
from policy_folders import changed_policy

from enforcer import jws, records, tickets
from enforcer.keys import SigningKey
from enforcer.runspec import canonical_bytes, digest
from enforcer.wire import ErasureRequest, Report
from registry import db, erasure, permits, server
from registry.identity import Actor
from registry.settings import Settings

GOOD = {"macro_f1": {"value": 0.80, "n": 400, "low": 0.75, "high": 0.85, "confidence": 0.95}}


@pytest.fixture
def isolated(tmp_path: Path) -> Registry:
    """A registry whose policy lets runs on `local` redeem offline."""
    return Registry(Settings(state_dir=tmp_path / "state", policies_dir=changed_policy(tmp_path, offline=["local"])))


@pytest.fixture
def run_key() -> SigningKey:
    return SigningKey.generate()


@pytest.fixture
def grant(isolated: Registry, run_key: SigningKey) -> dict[str, Any]:
    reply = ask(isolated.as_("wang", "trainers"), ticket_request(jkt=run_key.thumbprint, redeem="offline"))
    assert reply.status_code == 201, reply.text
    return dict(reply.json())


def record(grant: dict[str, Any], key: SigningKey, host: str = "node-7", age_s: float = 0) -> tuple[str, str]:
    """A redemption as a worker writes it down, and its id."""
    redemption_id = db.uuid7()
    said = records.record(
        key, ticket=grant["ticket"], jti=grant["jti"], redemption_id=redemption_id, host=host,
        now=lambda: time.time() - age_s,
    )  # fmt: skip
    return said, redemption_id


def upload(registry: Registry, grant: dict[str, Any], said: str, **more: Any) -> Any:
    client = registry.anonymous(headers={"Authorization": f"Ticket {grant['ticket']}"})
    return client.post(f"/v1/tickets/{grant['jti']}:upload", json={"record": said, **more})


def with_report(
    registry: Registry, grant: dict[str, Any], key: SigningKey, redemption_id: str, **told: Any
) -> dict[str, Any]:
    whole = {**manifests.finished(registry, grant, key, scores=GOOD), **told}
    report = Report.model_validate(whole).model_dump(mode="json")
    told_digest = digest(canonical_bytes(report))
    proof = records.prove_report(key, jti=grant["jti"], redemption_id=redemption_id, report_digest=told_digest)
    return {"report": report, "report_proof": proof}


def test_offline_is_denied_where_the_policy_does_not_list_the_place(registry: Registry) -> None:
    reply = ask(registry.as_("wang", "trainers"), ticket_request(redeem="offline"))

    assert (reply.status_code, reply.json()["code"]) == (403, "offline-not-permitted")
    assert "policies/directory.yaml" in reply.json()["detail"]
    assert [event.task_type for event in registry.events("submit.refused")] == ["sequence-classification"]


@pytest.mark.parametrize("audience", ["urn:swift:pool:any", "urn:swift:exec:", "urn:swift:exec:a:b"])
def test_an_offline_ticket_is_for_one_host_or_one_cluster(isolated: Registry, audience: str) -> None:
    reply = ask(isolated.as_("wang", "trainers"), ticket_request(redeem="offline", audience=audience))

    assert (reply.status_code, reply.json()["code"]) == (422, "malformed-request")


def test_a_policy_that_lists_an_unknown_place_as_offline_does_not_load(tmp_path: Path) -> None:
    from enforcer.policy import folder
    from enforcer.policy.rules import PolicyInvalid

    with pytest.raises(PolicyInvalid, match="`offline` names `moon`"):
        folder.load(changed_policy(tmp_path, offline=["moon"]))


def test_an_offline_ticket_says_so_and_is_not_redeemed_online(
    isolated: Registry, grant: dict[str, Any], run_key: SigningKey
) -> None:
    reply = redeem(isolated, grant, run_key)

    assert jws.read(grant["ticket"], ("alg", "typ", "kid"))[1]["redeem"] == "offline"
    assert (reply.status_code, reply.json()["step"]) == (401, 14)


def test_a_record_that_comes_after_the_permit_ended_still_counts(
    isolated: Registry, grant: dict[str, Any], run_key: SigningKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    said, redemption_id = record(grant, run_key)
    report, now = with_report(isolated, grant, run_key, redemption_id), db.utc_now()
    monkeypatch.setattr(db, "utc_now", lambda: now + timedelta(days=6))
    assert permits.tend(isolated.books) == 0
    monkeypatch.setattr(db, "utc_now", lambda: now + timedelta(days=8))
    assert permits.tend(isolated.books) == 1

    begun = upload(isolated, grant, said).json()
    ended = upload(isolated, grant, said, **report).json()

    assert (begun["state"], begun["ended_at"]) == ("running", None)
    assert ended["state"] == "finished"


def test_an_uploaded_run_is_entered_at_its_time_and_judged(
    isolated: Registry, grant: dict[str, Any], run_key: SigningKey
) -> None:
    said, redemption_id = record(grant, run_key)

    begun = upload(isolated, grant, said)
    ended = upload(isolated, grant, said, **with_report(isolated, grant, run_key, redemption_id))
    again = upload(isolated, grant, said, **with_report(isolated, grant, run_key, redemption_id))

    assert (begun.status_code, begun.json()["state"]) == (200, "running")
    assert (ended.json()["state"], ended.json()["verdict"]) == ("finished", "pass")
    assert again.json() == ended.json()
    kinds = [event.kind for event in isolated.events() if event.ticket_id == grant["jti"]]
    assert kinds == ["ticket.issued", "ticket.redeemed", "run.finished", "gate.pass", "run.manifest"]
    assert isolated.events("ticket.redeemed")[0].detail["host"] == "node-7"


def test_the_same_record_of_a_run_whose_user_was_erased_is_no_alarm(
    isolated: Registry, grant: dict[str, Any], run_key: SigningKey
) -> None:
    said, redemption_id = record(grant, run_key)
    whole = with_report(isolated, grant, run_key, redemption_id)
    assert upload(isolated, grant, said, **whole).status_code == 200
    asked = ErasureRequest(actor="user:wang", reason="request 4711")
    erasure.erase(isolated.books.engine, asked, Actor("system:operator", (), "all"), "all", {})

    again = upload(isolated, grant, said, **whole)
    copied = upload(isolated, grant, record(grant, run_key, host="node-8")[0])

    assert again.status_code == 200
    assert copied.json()["code"] == "ticket-used-twice"


def test_a_second_redemption_is_an_alarm_that_auditors_see(
    isolated: Registry, grant: dict[str, Any], run_key: SigningKey
) -> None:
    upload(isolated, grant, record(grant, run_key, "node-7")[0])

    reply = upload(isolated, grant, record(grant, run_key, "node-8")[0])

    assert (reply.status_code, reply.json()["code"]) == (409, "ticket-used-twice")
    page = isolated.as_("qiao", "auditors").get("/v1/audit", params={"kind": "ticket.used-twice"}).json()
    (alarm,) = page["items"]
    assert (alarm["outcome"], alarm["ticket_id"], alarm["actor"]) == ("refused", grant["jti"], "user:wang")
    assert "on `node-8`" in alarm["reason"]


def test_a_record_for_a_revoked_ticket_is_an_alarm(
    isolated: Registry, grant: dict[str, Any], run_key: SigningKey
) -> None:
    isolated.as_("wang", "trainers").post(f"/v1/tickets/{grant['jti']}:revoke", json={"reason": "wrong data"})

    reply = upload(isolated, grant, record(grant, run_key)[0])

    assert (reply.status_code, reply.json()["code"]) == (409, "revoked-ticket-used")
    assert [event.outcome for event in isolated.events("ticket.used-revoked")] == ["refused"]


def test_a_record_for_a_ticket_that_was_never_issued_is_an_alarm(
    isolated: Registry, grant: dict[str, Any], run_key: SigningKey
) -> None:
    """Whoever has the ticket key signs what they like; that the books do not know it gives them away."""
    claims = jws.read(grant["ticket"], ("alg", "typ", "kid"))[1]
    minted = {**grant, "jti": db.uuid7()}
    header = {"typ": tickets.TYP, "kid": isolated.books.ticket_key.kid}
    minted["ticket"] = jws.sign(header, {**claims, "jti": minted["jti"]}, isolated.books.ticket_key)

    reply = upload(isolated, minted, record(minted, run_key)[0])

    assert (reply.status_code, reply.json()["code"]) == (404, "ticket-never-issued")
    assert [event.outcome for event in isolated.events("ticket.never-issued")] == ["refused"]


def test_a_record_is_taken_when_the_key_of_its_ticket_is_long_retired(
    isolated: Registry, grant: dict[str, Any], run_key: SigningKey
) -> None:
    ring, old, now = isolated.books.ring, isolated.books.ticket_key.kid, db.utc_now()
    said, redemption_id = record(grant, run_key)
    whole = with_report(isolated, grant, run_key, redemption_id)
    ring.rotate("ticket", lambda steps: None, alg=None, source=None, dev=True, now=now, ahead=timedelta())
    ring.retire(old, lambda steps: None, compromised=False, now=now)

    retired = upload(isolated, grant, said)
    ring.retire(old, lambda steps: None, compromised=True, now=now)
    compromised = upload(isolated, grant, said, **whole)

    assert retired.status_code == 200, retired.text
    assert (compromised.status_code, compromised.json()["step"]) == (401, 6)


def test_a_thief_with_the_ticket_alone_uploads_nothing(isolated: Registry, grant: dict[str, Any]) -> None:
    reply = upload(isolated, grant, record(grant, SigningKey.generate())[0])

    assert (reply.status_code, reply.json()["step"]) == (401, 13)
    assert not isolated.events("ticket.redeemed")


def test_a_report_that_the_run_did_not_sign_is_refused(
    isolated: Registry, grant: dict[str, Any], run_key: SigningKey
) -> None:
    said, redemption_id = record(grant, run_key)
    signed = with_report(isolated, grant, run_key, redemption_id)
    better = {**signed, "report": {**signed["report"], "steps": 11}}
    strangers = with_report(isolated, grant, SigningKey.generate(), redemption_id)
    of_another_run = with_report(isolated, grant, run_key, db.uuid7())

    replies = [upload(isolated, grant, said, **told) for told in (better, strangers, of_another_run)]
    bare = upload(isolated, grant, said, report=signed["report"])

    assert [(reply.status_code, reply.json()["step"]) for reply in replies] == [(401, 13)] * 3
    assert bare.status_code == 422
    assert not isolated.events("ticket.redeemed"), "a refused upload leaves nothing but its refusal"


def test_a_record_that_claims_a_time_beyond_the_tickets_life_is_refused(
    isolated: Registry, grant: dict[str, Any], run_key: SigningKey
) -> None:
    replies = [upload(isolated, grant, record(grant, run_key, age_s=age_s)[0]) for age_s in (3600, -3600)]

    assert [(reply.status_code, reply.json()["step"]) for reply in replies] == [(401, 10)] * 2


def test_a_ticket_signed_again_with_a_longer_life_gets_no_longer_one(
    isolated: Registry, grant: dict[str, Any], run_key: SigningKey
) -> None:
    claims = tickets.Claims.model_validate(jws.read(grant["ticket"], ("alg", "typ", "kid"))[1])
    longer = claims.model_copy(update={"exp": claims.exp + 2_000})
    grant["ticket"] = tickets.sign(longer, isolated.books.ticket_key)

    reply = upload(isolated, grant, record(grant, run_key, age_s=-1_500)[0])

    assert (reply.status_code, reply.json()["step"]) == (401, 10)


def test_a_record_does_not_stand_for_the_redemption_of_an_online_ticket(
    isolated: Registry, run_key: SigningKey
) -> None:
    online = ask(isolated.as_("wang", "trainers"), ticket_request(jkt=run_key.thumbprint)).json()

    reply = upload(isolated, online, record(online, run_key)[0])

    assert (reply.status_code, reply.json()["step"]) == (401, 14)


def test_an_offline_run_is_lost_after_its_time_limit(
    isolated: Registry, grant: dict[str, Any], run_key: SigningKey
) -> None:
    from sqlalchemy import update

    from registry.tables import Run

    upload(isolated, grant, record(grant, run_key)[0])
    before = server.mark_lost(isolated.books)
    with isolated.books.writing() as session:  # a day and the grace later
        back = timedelta(seconds=86_400 + isolated.settings.lease_grace_s + 5)
        run = session.get(Run, grant["run_id"])
        assert run is not None
        assert run.lease_expires_at is not None
        session.connection().execute(update(Run).values(lease_expires_at=run.lease_expires_at - back))

    assert (before, server.mark_lost(isolated.books)) == (0, 1)


def test_hostile_uploads_are_refused_in_words(isolated: Registry, grant: dict[str, Any]) -> None:
    client = isolated.anonymous(headers={"Authorization": f"Ticket {grant['ticket']}"})
    path = f"/v1/tickets/{grant['jti']}:upload"
    bodies: list[Any] = [{}, {"record": ""}, {"record": "a.b.c"}, {"record": "x" * 8_000}, [], {"record": 1}]

    replies = [client.post(path, json=body) for body in bodies]

    assert {reply.status_code for reply in replies} <= {401, 422}
    other = isolated.anonymous(headers={"Authorization": f"Ticket {grant['ticket']}"})
    moved = other.post(f"/v1/tickets/{db.uuid7()}:upload", json={"record": "a"})
    assert moved.status_code == 401
