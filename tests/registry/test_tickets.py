"""Tickets: issued for exactly one run, redeemed once, by the key they name."""

import json
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import AUDIENCE, Registry, ask, redeem, ticket_request

from enforcer import jws, proofs, tickets
from enforcer.keys import KeySet, SigningKey
from enforcer.problems import TicketInvalid


@pytest.fixture
def run_key() -> SigningKey:
    return SigningKey.generate()


@pytest.fixture
def grant(registry: Registry, run_key: SigningKey) -> dict[str, str]:
    reply = ask(registry.as_("wang", "trainers"), ticket_request(jkt=run_key.thumbprint))
    assert reply.status_code == 201, reply.text
    return dict(reply.json())


def test_a_ticket_binds_who_what_where_and_for_how_long(registry: Registry, grant: dict[str, str]) -> None:
    keys = KeySet.from_jwks(registry.anonymous().get("/.well-known/jwks.json").json())

    permit = tickets.verify(
        grant["ticket"],
        grant["run_spec"].encode(),
        keys,
        issuer=registry.settings.issuer,
        audience=AUDIENCE,
        allow_dev=True,
    )

    assert permit.claims.sub == "user:wang"
    assert (permit.claims.task_type, permit.claims.task_version) == ("sequence-classification", 1)
    assert permit.claims.policy_rule == "trainers-train-classifiers"
    assert permit.claims.exp - permit.claims.iat == 900
    assert permit.spec.arguments["num_labels"] == 2
    assert permit.spec.arguments["learning_rate"] == 2e-5


def test_the_events_of_a_ticket_say_by_which_rule(registry: Registry, grant: dict[str, str]) -> None:
    (event,) = registry.events("ticket.issued")

    assert (event.actor, event.business_unit, event.task_type, event.version) == (
        "user:wang",
        "retail",
        "sequence-classification",
        1,
    )
    assert (event.rule, event.run_id) == ("trainers-train-classifiers", grant["run_id"])
    assert event.policy_revision == registry.policy.revision


def test_only_the_nlp_group_may_submit_dpo_and_the_refusal_names_rule_and_group(registry: Registry) -> None:
    reply = ask(registry.as_("chen", "search-ml", unit="search"), ticket_request("dpo", arguments={}))

    problem = reply.json()
    assert (reply.status_code, problem["code"]) == (403, "not-permitted")
    assert reply.headers["content-type"] == "application/problem+json"
    assert problem["nearest"] == ["nlp-trains-preference-alignment"]
    assert problem["ask"] == ["nlp"]
    (event,) = registry.events("submit.refused")
    assert (event.actor, event.task_type, event.business_unit, event.outcome) == (
        "user:chen",
        "dpo",
        "search",
        "refused",
    )
    assert event.id == problem["decision_id"]


def test_nothing_but_the_refusal_remains_of_a_refused_request(registry: Registry) -> None:
    before = len(registry.events())

    ask(registry.as_("chen", "search-ml"), ticket_request("dpo", arguments={}))

    assert len(registry.events()) == before + 1
    assert registry.as_("root", "platform-admins", unit="all").get("/v1/runs").json()["items"] == []


def test_an_unknown_task_type_is_refused_with_the_way_to_propose_it(registry: Registry) -> None:
    reply = ask(registry.as_("wang", "trainers"), ticket_request("message-tone"))

    assert (reply.status_code, reply.json()["code"]) == (404, "unknown-task-type")
    assert "swift-submit tags propose" in reply.json()["detail"]
    (event,) = registry.events("submit.refused")
    assert (event.task_type, event.detail["asked_for"]) == (None, "message-tone")


@pytest.mark.parametrize(("asked", "suggestion"), [("CLS", "sequence-classification"), ("dpo-v2-new", "dpo")])
def test_a_variant_of_a_task_type_is_answered_with_the_real_one(
    registry: Registry, asked: str, suggestion: str
) -> None:
    reply = ask(registry.as_("wang", "trainers"), ticket_request(asked))

    assert reply.json()["suggestion"] == suggestion


def test_an_alias_gets_a_ticket_for_the_tag_it_stands_for(registry: Registry) -> None:
    reply = ask(registry.as_("wang", "trainers"), ticket_request("seq-cls"))

    assert json.loads(reply.json()["run_spec"])["task_type"] == "sequence-classification"


@pytest.mark.parametrize(
    ("arguments", "pointer"),
    [
        ({}, "/label_names"),
        ({"label_names": ["a", "b"], "num_labels": 3}, "/num_labels"),
        ({"label_names": ["a", "a"]}, "/label_names"),
        ({"label_names": ["a", "b"], "learning_rat": 1e-4}, "/learning_rat"),
        ({"label_names": ["a", "b"], "learning_rate": 5}, "/learning_rate"),
        ({"label_names": ["a", "b"], "seed": 1.5}, "/seed"),
        ({"label_names": ["a", "b"], "use_lora": "yes"}, "/use_lora"),
    ],
)
def test_an_argument_that_the_profile_does_not_take_is_refused_by_name(
    registry: Registry, arguments: dict[str, object], pointer: str
) -> None:
    reply = ask(registry.as_("wang", "trainers"), ticket_request(arguments=arguments))

    assert (reply.status_code, reply.json()["code"], reply.json()["pointer"]) == (422, "argument-invalid", pointer)


@pytest.mark.parametrize("seed", [2**60, "1e999", "NaN", '"\\ud800"'])
def test_numbers_and_text_without_a_canonical_form_are_refused_not_a_500(registry: Registry, seed: object) -> None:
    body = json.dumps(ticket_request()).replace('["bad", "good"]', f'["bad", "good"], "seed": {seed}')
    headers = {"Idempotency-Key": "a-fresh-key", "Content-Type": "application/json"}

    reply = registry.as_("wang", "trainers").post("/v1/tickets", content=body, headers=headers)

    assert reply.status_code == 422, reply.text


def test_a_large_body_is_refused(registry: Registry) -> None:
    body = ticket_request(arguments={"label_names": ["x" * 100_000]})

    reply = ask(registry.as_("wang", "trainers"), body)

    assert (reply.status_code, reply.json()["code"]) == (413, "too-large")


def test_the_same_key_gets_the_same_ticket_and_another_body_is_refused(registry: Registry) -> None:
    wang = registry.as_("wang", "trainers")
    first = ask(wang, ticket_request(), key="retry-me")

    again, other = ask(wang, ticket_request(), key="retry-me"), ask(wang, ticket_request(gpus=1), key="retry-me")

    assert again.json() == first.json()
    assert (other.status_code, other.json()["code"]) == (422, "idempotency-key-reused")
    assert len(registry.events("ticket.issued")) == 1


def test_a_plan_says_what_would_be_granted_and_writes_nothing(registry: Registry) -> None:
    before = len(registry.events())

    reply = ask(registry.as_("wang", "trainers"), ticket_request(), validate_only=True)

    assert (reply.status_code, reply.json()["policy_rule"]) == (200, "trainers-train-classifiers")
    assert reply.json()["gates"] == ["macro_f1 >= 0.6 with 95% confidence on at least 100 samples"]
    assert len(registry.events()) == before


def test_a_ticket_is_redeemed_once(registry: Registry, grant: dict[str, str], run_key: SigningKey) -> None:
    first, second = redeem(registry, grant, run_key), redeem(registry, grant, run_key)

    assert first.status_code == 200
    assert (second.status_code, second.json()["code"]) == (409, "ticket-used")
    assert len(registry.events("ticket.redeemed")) == 1
    (event,) = registry.events("redeem.refused")
    assert (event.actor, event.ticket_id, event.run_id) == ("user:wang", grant["jti"], grant["run_id"])


def test_of_many_racing_redemptions_one_wins(registry: Registry, grant: dict[str, str], run_key: SigningKey) -> None:
    with ThreadPoolExecutor(16) as pool:
        replies = list(pool.map(lambda _: redeem(registry, grant, run_key).status_code, range(32)))

    assert (replies.count(200), replies.count(409)) == (1, 31)


def test_the_same_process_may_ask_again_after_a_lost_answer(
    registry: Registry, grant: dict[str, str], run_key: SigningKey
) -> None:
    redemption_id = "0199e3f0-0000-7000-8000-000000000001"

    replies = [redeem(registry, grant, run_key, redemption_id) for _ in range(2)]

    assert [reply.status_code for reply in replies] == [200, 200]
    assert len(registry.events("ticket.redeemed")) == 1


def test_a_thief_without_the_key_redeems_nothing(registry: Registry, grant: dict[str, str]) -> None:
    reply = redeem(registry, grant, SigningKey.generate())

    assert (reply.status_code, reply.json()["step"]) == (401, 13)


def test_a_proof_for_another_ticket_or_another_time_is_refused(
    registry: Registry, grant: dict[str, str], run_key: SigningKey
) -> None:
    stale = redeem(registry, grant, run_key, now=lambda: time.time() - 300)
    moved = redeem(registry, {**grant, "jti": "0199e3f0-0000-7000-8000-000000000001"}, run_key)

    assert (stale.status_code, stale.json()["step"]) == (401, 13)
    assert (moved.status_code, moved.json()["step"]) == (401, 14)


def test_an_expired_ticket_is_not_redeemed(tmp_path, run_key: SigningKey) -> None:  # type: ignore[no-untyped-def]
    from datetime import timedelta

    from sqlalchemy import update

    from registry import db
    from registry.settings import Settings
    from registry.tables import Ticket

    registry = Registry(Settings(state_dir=tmp_path / "state", ticket_ttl_s=30))
    grant = ask(registry.as_("wang", "trainers"), ticket_request(jkt=run_key.thumbprint)).json()
    with db.writing(registry.books.engine) as session:
        session.connection().execute(update(Ticket).values(expires_at=db.utc_now() - timedelta(seconds=1)))

    reply = redeem(registry, grant, run_key)

    assert (reply.status_code, reply.json()["code"]) == (409, "ticket-expired")


def test_somebody_elses_ticket_looks_like_none(registry: Registry, grant: dict[str, str]) -> None:
    mine = registry.as_("wang", "trainers").get(f"/v1/tickets/{grant['jti']}")
    theirs = registry.as_("chen", "platform-admins").get(f"/v1/tickets/{grant['jti']}")

    assert mine.json()["state"] == "issued"
    assert (theirs.status_code, theirs.json()["code"]) == (404, "unknown-ticket")


def test_an_edited_specification_is_refused_at_step_11(registry: Registry, grant: dict[str, str]) -> None:
    edited = grant["run_spec"].replace('"seed":42', '"seed":43')
    assert edited != grant["run_spec"]

    with pytest.raises(TicketInvalid) as refused:
        tickets.verify(
            grant["ticket"],
            edited.encode(),
            registry.books.ticket_keys,
            issuer=registry.settings.issuer,
            audience=AUDIENCE,
            allow_dev=True,
        )

    assert refused.value.facts["step"] == 11


def test_a_key_id_or_algorithm_of_the_tokens_own_choice_is_refused(registry: Registry, grant: dict[str, str]) -> None:
    claims = jws.read(grant["ticket"], ("alg", "typ", "kid"))[1]
    forged = jws.sign({"typ": tickets.TYP, "kid": registry.books.ticket_key.kid}, claims, SigningKey.generate())

    with pytest.raises(TicketInvalid) as refused:
        tickets.recognise(forged, registry.books.ticket_keys, issuer=registry.settings.issuer)

    assert refused.value.facts["step"] == 7


# --- what must not be had ---------------------------------------------------------------------------------------------


def test_nobody_trains_for_another_unit_and_that_units_auditor_sees_the_attempt(registry: Registry) -> None:
    reply = ask(registry.as_("wang", "trainers"), ticket_request(business_unit="search"))

    assert (reply.status_code, reply.json()["nearest"][0]) == (403, "trainers-train-classifiers")
    assert [event.business_unit for event in registry.events("submit.refused")] == ["search"]


def test_an_attempt_for_a_unit_that_does_not_exist_stays_with_the_callers_own(registry: Registry) -> None:
    reply = ask(registry.as_("wang", "trainers"), ticket_request(business_unit="nowhere"))

    assert (reply.status_code, reply.json()["reason_code"]) == (403, "unknown-unit")
    (event,) = registry.events("submit.refused")
    assert (event.business_unit, event.detail["asked_for_unit"]) == ("retail", "nowhere")


@pytest.mark.parametrize("wider", [{"target": "k8s"}, {"target": "any"}, {"business_unit": "all"}])
def test_a_place_that_holds_others_would_pass_by_their_denials(registry: Registry, wider: dict[str, str]) -> None:
    reply = ask(registry.as_("root", "trainers", unit="all"), ticket_request(**{"business_unit": "retail", **wider}))

    assert reply.status_code == 403
    assert reply.json()["reason_code"] in {"unit-holds-others", "target-holds-others"}
    assert "name one of them" in reply.json()["detail"]


def test_target_and_gpus_of_the_request_reach_the_policy(registry: Registry) -> None:
    wang = registry.as_("wang", "trainers")

    unknown, many = ask(wang, ticket_request(target="k8s/h100")), ask(wang, ticket_request(gpus=3))

    assert unknown.json()["reason_code"] == "unknown-target"
    assert "max_gpus 2, asked for 3" in many.json()["detail"]


def test_the_profile_limits_gpus_below_what_the_policy_would_allow(registry: Registry) -> None:
    registry.approve_tag(overrides={"limits": {"max_gpus": 1, "max_runtime_s": 3600}})

    reply = ask(registry.as_("wang", "trainers"), ticket_request("message-tone", gpus=2))

    assert (reply.status_code, reply.json()["pointer"]) == (422, "/gpus")


def test_a_superseded_version_takes_no_new_runs(registry: Registry) -> None:
    registry.approve_tag()
    change = {"kind": "new-version", "tag": "message-tone", "overrides": {"parameters": {"seed": {"maximum": 99}}}}
    proposal = registry.as_("wang", "trainers").post("/v1/proposals", json={"change": change, "reason": "fewer seeds"})
    for steward in ("li", "zhao"):
        registry.review(registry.as_(steward, "tag-stewards"), proposal.json())

    old, new = (
        ask(registry.as_("wang", "trainers"), ticket_request("message-tone", version=number, arguments=arguments))
        for number, arguments in ((1, {"label_names": ["a", "b"]}), (2, {"label_names": ["a", "b"], "seed": 1}))
    )

    assert (old.status_code, old.json()["code"]) == (409, "task-type-not-active")
    assert new.status_code == 201


def test_no_label_is_no_classification(registry: Registry) -> None:
    """One may do: of several labels to a text, or as what a regression predicts."""
    wang = registry.as_("wang", "trainers")
    reply = ask(wang, ticket_request(arguments={"label_names": []}))

    assert (reply.status_code, reply.json()["pointer"]) == (422, "/label_names")
    assert ask(wang, ticket_request(arguments={"label_names": ["only"]})).status_code == 201


def test_a_ticket_forged_with_our_own_key_is_not_in_the_books(
    registry: Registry, grant: dict[str, str], run_key: SigningKey
) -> None:
    thief = SigningKey.generate()
    claims = jws.read(grant["ticket"], ("alg", "typ", "kid"))[1]
    header = {"typ": tickets.TYP, "kid": registry.books.ticket_key.kid}
    for change in (
        {"cnf": {"jkt": thief.thumbprint}},
        {"sub": "user:nobody", "cnf": {"jkt": thief.thumbprint}},
        {"run_spec_digest": "sha256:" + "0" * 64, "cnf": {"jkt": thief.thumbprint}},
    ):
        forged = jws.sign(header, {**claims, **change}, registry.books.ticket_key)

        reply = redeem(registry, {**grant, "ticket": forged}, thief)

        assert (reply.status_code, reply.json()["code"]) == (404, "ticket-never-issued")
    assert [event.ticket_id for event in registry.events("ticket.never-issued")] == [grant["jti"]] * 3
    assert redeem(registry, grant, run_key).status_code == 200


def test_a_captured_redemption_cannot_be_sent_again(
    registry: Registry, grant: dict[str, str], run_key: SigningKey
) -> None:
    path = f"/v1/tickets/{grant['jti']}:redeem"
    made = proofs.prove(run_key, method="POST", url=f"{registry.settings.issuer}{path}", ticket=grant["ticket"])
    client = registry.anonymous(headers={"Authorization": f"DPoP {grant['ticket']}", "DPoP": made})
    body = {"redemption_id": "0199e3f0-0000-7000-8000-000000000001"}

    first, captured = client.post(path, json=body), client.post(path, json=body)

    assert first.status_code == 200
    assert (captured.status_code, captured.json()["step"]) == (401, 13)
    lease = registry.anonymous(headers={"Authorization": f"Bearer {first.json()['lease_token']}"})
    beat = lease.post(f"/v1/runs/{grant['run_id']}/heartbeats", json={"step": 1, "total_steps": 2})
    assert beat.status_code == 200


def test_a_run_cancelled_before_it_started_never_starts(
    registry: Registry, grant: dict[str, str], run_key: SigningKey
) -> None:
    cancelled = registry.as_("wang", "trainers").post(f"/v1/runs/{grant['run_id']}:cancel").json()

    reply = redeem(registry, grant, run_key)

    assert cancelled["state"] == "interrupted"
    assert (reply.status_code, reply.json()["code"]) == (409, "ticket-revoked")


@pytest.mark.parametrize(
    "arguments", ['{"label_names": ["\\ud800", "b"]}', '{"\\ud800": 1}', '{"learning_rate": 1' + "0" * 400 + "}"]
)
@pytest.mark.parametrize("validate_only", ["true", "false"])
def test_hostile_arguments_are_refused_in_words_and_on_record(
    registry: Registry, arguments: str, validate_only: str
) -> None:
    body = json.dumps(ticket_request(arguments={})).replace('"arguments": {}', f'"arguments": {arguments}')
    headers = {"Idempotency-Key": "a-fresh-key", "Content-Type": "application/json"}

    reply = registry.as_("wang", "trainers").post(
        f"/v1/tickets?validate_only={validate_only}", content=body, headers=headers
    )

    assert reply.status_code == 422, reply.text
    assert len(registry.events("submit.refused")) == 1
