"""Permits taken back: by whom, with what effect, on whose record; and runs that fell silent."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from conftest import AUDIENCE, Registry, ask, redeem, ticket_request
from policy_folders import changed_policy
from sqlalchemy import update

from enforcer import revoked, tickets
from enforcer.keys import SigningKey
from enforcer.problems import TicketInvalid
from registry import db, revocations, server
from registry.identity import Actor
from registry.settings import Settings
from registry.tables import Run, Ticket

STEWARD = Actor("user:steward", (), "all")
FREEZE = {"id": "retail-is-frozen", "effect": "deny", "who": "group:trainers", "may": ["submit"], "unit": "retail",
          "reason": "The unit's data is under review."}  # fmt: skip


def issue(registry: Registry, user: str = "wang", unit: str = "retail", **changes: Any) -> tuple[dict[str, Any], Any]:
    key = SigningKey.generate()
    reply = ask(registry.as_(user, "trainers", unit=unit), ticket_request(jkt=key.thumbprint, **changes))
    assert reply.status_code == 201, reply.text
    return reply.json(), key


def revoke(registry: Registry, grant: dict[str, Any], user: str = "wang", *groups: str, unit: str = "retail") -> Any:
    path = f"/v1/tickets/{grant['jti']}:revoke"
    return registry.as_(user, *groups, unit=unit).post(path, json={"reason": "wrong data"})


def beat(registry: Registry, lease: dict[str, Any]) -> dict[str, Any]:
    client = registry.anonymous(headers={"Authorization": f"Bearer {lease['lease_token']}"})
    reply = client.post(f"/v1/runs/{lease['run_id']}/heartbeats", json={"step": 1, "total_steps": 9})
    assert reply.status_code == 200, reply.text
    return dict(reply.json())


def state_of(registry: Registry, grant: dict[str, Any]) -> str:
    return str(registry.as_("root", "platform-admins", unit="all").get(f"/v1/runs/{grant['run_id']}").json()["state"])


def test_a_revoked_ticket_is_never_redeemed(registry: Registry) -> None:
    grant, key = issue(registry)

    reply, refused = revoke(registry, grant), redeem(registry, grant, key)

    assert (reply.status_code, reply.json()["state"]) == (200, "revoked")
    assert (refused.status_code, refused.json()["code"]) == (409, "ticket-revoked")
    (event,) = registry.events("ticket.revoked")
    assert (event.actor, event.reason, event.ticket_id, event.rule) == (
        "user:wang", "wrong data", grant["jti"], "owner"
    )  # fmt: skip
    assert state_of(registry, grant) == "interrupted"


def test_a_run_whose_ticket_is_revoked_hears_it_with_its_next_heartbeat_and_gets_no_more_time(
    registry: Registry,
) -> None:
    grant, key = issue(registry)
    lease = redeem(registry, grant, key).json()

    revoke(registry, grant)
    first, second = beat(registry, lease), beat(registry, lease)

    assert first["stop"] == "revoked by user:wang: wrong data"
    assert first["expires_at"] == second["expires_at"] == lease["expires_at"]


def test_a_lost_answer_to_a_redemption_is_not_given_again_after_the_revocation(registry: Registry) -> None:
    grant, key = issue(registry)
    redemption_id = db.uuid7()
    redeem(registry, grant, key, redemption_id)

    revoke(registry, grant)
    again = redeem(registry, grant, key, redemption_id)

    assert (again.status_code, again.json()["code"]) == (409, "ticket-revoked")


def test_who_may_cancel_there_may_revoke_and_nobody_else(registry: Registry) -> None:
    (first, _), (second, _) = issue(registry), issue(registry)

    colleague = revoke(registry, first, "chen", "retail-ds")
    stranger = revoke(registry, second, "sun", "trainers", unit="search")
    without_rights = revoke(registry, second, "qiao", "auditors")

    assert [reply.status_code for reply in (colleague, stranger, without_rights)] == [200, 403, 403]
    assert [event.rule for event in registry.events("ticket.revoked")] == ["trainers-train-classifiers"]
    assert [event.actor for event in registry.events("revoke.refused")] == ["user:sun", "user:qiao"]


def test_people_take_back_their_own_ticket_when_they_lost_every_group(registry: Registry) -> None:
    grant, _ = issue(registry)

    assert revoke(registry, grant, "wang").status_code == 200


def test_a_ticket_that_is_revoked_or_whose_run_ended_is_not_revoked_again(registry: Registry) -> None:
    (first, _), (second, key) = issue(registry), issue(registry)
    revoke(registry, first)
    lease = redeem(registry, second, key).json()
    client = registry.anonymous(headers={"Authorization": f"Bearer {lease['lease_token']}"})
    client.post(f"/v1/runs/{lease['run_id']}/report", json={"state": "failed", "steps": 1})

    codes = [(reply := revoke(registry, grant)).status_code and reply.json()["code"] for grant in (first, second)]
    unknown = registry.as_("wang", "trainers").post(f"/v1/tickets/{db.uuid7()}:revoke", json={"reason": "wrong data"})

    assert codes == ["ticket-revoked", "run-closed"]
    assert (unknown.status_code, unknown.json()["code"]) == (404, "unknown-ticket")


def test_a_principal_that_is_disabled_loses_open_tickets_and_running_runs(registry: Registry) -> None:
    (waiting, waiting_key), (training, key), (others, others_key) = (issue(registry), issue(registry),
                                                                     issue(registry, "chen"))  # fmt: skip
    lease = redeem(registry, training, key).json()

    with registry.books.writing() as session:
        taken = revocations.revoke_all_of(session, "user:wang", STEWARD, "left the company")

    assert taken == 2
    assert redeem(registry, waiting, waiting_key).json()["code"] == "ticket-revoked"
    assert beat(registry, lease)["stop"] == "revoked by user:steward: left the company"
    assert redeem(registry, others, others_key).status_code == 200
    assert {event.actor for event in registry.events("ticket.revoked")} == {"user:steward"}


def test_who_is_disabled_loses_what_they_had_in_the_same_transaction(registry: Registry) -> None:
    (waiting, waiting_key), (training, key) = issue(registry), issue(registry)
    lease = redeem(registry, training, key).json()
    admin = registry.as_("root", "platform-admins", unit="all")

    reply = admin.post("/v1/principals/user:wang:disable", json={"reason": "left the company"})

    assert reply.status_code == 200, reply.text
    assert redeem(registry, waiting, waiting_key).json()["code"] == "ticket-revoked"
    assert beat(registry, lease)["stop"] == "revoked by user:root: left the company"
    events = registry.events("principal.disabled", "ticket.revoked")
    assert [event.kind for event in events] == ["principal.disabled", "ticket.revoked", "ticket.revoked"]
    assert len({event.rule for event in events}) == 1, "one decision, one rule"


# --- a policy that changed --------------------------------------------------------------------------------------------


def under_another_policy(registry: Registry, root: Path, **change: Any) -> Registry:
    """The same books, opened by a service with another policy."""
    folder = changed_policy(root, name=f"policies-{db.uuid7()}", **change)
    return Registry(registry.settings.model_copy(update={"policies_dir": folder}))


def test_what_a_new_policy_denies_is_revoked_and_the_event_names_rule_and_revision(
    registry: Registry, tmp_path: Path
) -> None:
    revocations.recheck(registry.books)
    (waiting, waiting_key), (training, key), (elsewhere, elsewhere_key) = (
        issue(registry), issue(registry), issue(registry, "sun", unit="search")
    )  # fmt: skip
    lease = redeem(registry, training, key).json()

    later = under_another_policy(registry, tmp_path, rules=[FREEZE])
    taken = revocations.recheck(later.books)

    assert taken == 2
    events = later.events("ticket.revoked")
    assert {(e.actor, e.rule, e.policy_revision) for e in events} == {
        ("system:policy", "retail-is-frozen", later.policy.revision)
    }
    assert redeem(later, waiting, waiting_key).json()["code"] == "ticket-revoked"
    assert "explicit-deny" in beat(later, lease)["stop"]
    assert redeem(later, elsewhere, elsewhere_key).status_code == 200


def test_a_policy_is_asked_again_once_for_each_revision(registry: Registry, tmp_path: Path) -> None:
    grant, _ = issue(registry)
    before = registry.policy.revision
    assert [revocations.recheck(registry.books) for _ in range(2)] == [0, 0]
    later = under_another_policy(registry, tmp_path, rules=[{**FREEZE, "unit": "search"}])

    counts = [revocations.recheck(each.books) for each in (registry, later, registry)]

    assert counts == [0, 0, 0]
    asked = [event.policy_revision for event in registry.events("policy.live")]
    assert asked == [before, later.policy.revision]
    assert state_of(registry, grant) == "permitted"


def test_more_permits_than_one_batch_are_asked_again(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(revocations, "BATCH", 2)
    grants = [issue(registry)[0] for _ in range(5)]

    later = under_another_policy(registry, tmp_path, rules=[FREEZE])

    assert revocations.recheck(later.books) == 5
    assert {event.ticket_id for event in later.events("ticket.revoked")} == {grant["jti"] for grant in grants}


def test_the_unit_of_the_caller_is_asked_again_not_that_of_the_run(registry: Registry, tmp_path: Path) -> None:
    """`root` belongs to `all`, so a run for `retail` is in their own units; a rule on that holds as it did."""
    ask(registry.as_("root", "trainers", unit="all"), ticket_request(business_unit="retail"))

    later = under_another_policy(registry, tmp_path, rules=[{**FREEZE, "unit": "search"}])

    assert revocations.recheck(later.books) == 0


def test_a_place_that_is_offline_no_more_takes_its_open_tickets_back(tmp_path: Path) -> None:
    folder = changed_policy(tmp_path, offline=["local"])
    registry = Registry(Settings(state_dir=tmp_path / "state", policies_dir=folder))
    issue(registry, redeem="offline")

    later = under_another_policy(registry, tmp_path, offline=[])

    assert revocations.recheck(later.books) == 1


# --- for verifiers that cannot ask ------------------------------------------------------------------------------------


def test_the_list_of_revoked_tickets_is_signed_short_lived_and_heeded(registry: Registry) -> None:
    (grant, _), (other, _) = issue(registry), issue(registry)
    revoke(registry, grant)
    reply = registry.anonymous().get("/.well-known/revoked.json")

    taken_back = revoked.read(reply.json()["revoked"], registry.books.ticket_keys, issuer=registry.settings.issuer)

    assert reply.headers["cache-control"] == "public, max-age=60"
    assert taken_back == {grant["jti"]}
    for granted, step in ((grant, 14), (other, None)):
        verified = _verify_step(registry, granted, taken_back)
        assert verified == step


def _verify_step(registry: Registry, grant: dict[str, Any], taken_back: frozenset[str]) -> int | None:
    try:
        tickets.verify(
            grant["ticket"], grant["run_spec"].encode(), registry.books.ticket_keys, issuer=registry.settings.issuer,
            audience=AUDIENCE, allow_dev=True, revoked=taken_back,
        )  # fmt: skip
    except TicketInvalid as refusal:
        return int(refusal.facts["step"])
    return None


def test_a_ticket_that_has_expired_leaves_the_list(registry: Registry) -> None:
    grant, _ = issue(registry)
    revoke(registry, grant)
    with registry.books.writing() as session:
        session.connection().execute(update(Ticket).values(expires_at=db.utc_now() - timedelta(seconds=90)))

    said = registry.anonymous().get("/.well-known/revoked.json").json()["revoked"]

    assert revoked.read(said, registry.books.ticket_keys, issuer=registry.settings.issuer) == frozenset()


@pytest.mark.parametrize("wrong", ["key", "issuer", "old", "typ", "text"])
def test_a_list_that_does_not_hold_is_refused_at_step_14(registry: Registry, wrong: str) -> None:
    key, settings = registry.books.ticket_key, registry.settings
    stranger = SigningKey.generate()
    age_s = revoked.LIFE_S + 120 if wrong == "old" else 0
    said = revoked.sign(
        ["x"],
        SigningKey(key.kid, stranger.alg, stranger.private) if wrong == "key" else key,
        issuer="x" if wrong == "issuer" else settings.issuer,
        now=lambda: db.utc_now().timestamp() - age_s,
    )
    said = {"typ": issue(registry)[0]["ticket"], "text": said + "."}.get(wrong, said)

    with pytest.raises(TicketInvalid) as refused:
        revoked.read(said, registry.books.ticket_keys, issuer=settings.issuer)

    assert refused.value.facts["step"] == 14


# --- runs that fell silent --------------------------------------------------------------------------------------------


@pytest.fixture
def silent(registry: Registry) -> tuple[Registry, dict[str, Any]]:
    grant, key = issue(registry)
    lease = redeem(registry, grant, key).json()
    grace = timedelta(seconds=registry.settings.lease_grace_s + 1)
    with registry.books.writing() as session:
        session.connection().execute(update(Run).values(lease_expires_at=db.utc_now() - grace))
    return registry, lease


def test_a_run_that_was_silent_for_lease_and_grace_is_lost_and_its_next_heartbeat_finds_it(
    silent: tuple[Registry, dict[str, Any]],
) -> None:
    registry, lease = silent

    found = [server.mark_lost(registry.books), server.mark_lost(registry.books)]
    lost = registry.as_("wang", "trainers").get("/v1/runs", params={"state": "lost"}).json()["items"]
    answer = beat(registry, lease)

    assert found == [1, 0]
    assert [run["id"] for run in lost] == [lease["run_id"]]
    assert answer["stop"] is None
    assert state_of(registry, lease) == "running"
    assert [event.kind for event in registry.events("run.lost", "run.found")] == ["run.lost", "run.found"]


def test_a_lost_run_may_still_report(silent: tuple[Registry, dict[str, Any]]) -> None:
    registry, lease = silent
    server.mark_lost(registry.books)
    client = registry.anonymous(headers={"Authorization": f"Bearer {lease['lease_token']}"})

    reply = client.post(f"/v1/runs/{lease['run_id']}/report", json={"state": "interrupted", "steps": 3})

    assert (reply.status_code, reply.json()["state"]) == (200, "interrupted")


def test_within_lease_and_grace_nobody_is_lost(registry: Registry) -> None:
    grant, key = issue(registry)
    redeem(registry, grant, key)
    with registry.books.writing() as session:  # lapsed, but the grace is not over
        session.connection().execute(update(Run).values(lease_expires_at=db.utc_now() - timedelta(seconds=5)))

    assert server.mark_lost(registry.books) == 0


def test_the_lease_says_what_a_run_does_when_the_registry_stays_away(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path / "state", lease_ttl_s=30, lease_grace_s=45, on_lease_loss="finish")
    registry = Registry(settings)
    grant, key = issue(registry)

    lease = redeem(registry, grant, key).json()

    assert (lease["lease_s"], lease["grace_s"], lease["on_lease_loss"], lease["heartbeat_s"]) == (30, 45, "finish", 10)
