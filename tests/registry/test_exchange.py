"""Trading a job's or workload's own token for a short access token of the registry (RFC 8693)."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest
from conftest import Registry, ask, ticket_request
from issuers import Provider
from sqlmodel import select

from enforcer import jws
from enforcer.keys import SigningKey
from registry import db, exchange
from registry.keyring import Keyring
from registry.settings import Settings
from registry.tables import TradedToken

GITHUB = {
    "repository_id": "712345678",
    "repository_owner_id": "9876543",
    "job_workflow_ref": "example/reviews/.github/workflows/nightly.yml@refs/heads/main",
}
POD = {
    "sub": "system:serviceaccount:retail:reindex",
    "kubernetes.io": {"namespace": "retail", "serviceaccount": {"name": "reindex", "uid": "uid-of-the-account"}},
}
JWT = "urn:ietf:params:oauth:token-type:jwt"


@pytest.fixture
def provider() -> Iterator[Provider]:
    provider = Provider()
    yield provider
    provider.stop()


@pytest.fixture
def registry(tmp_path: Path, provider: Provider) -> Registry:
    """One that trusts a workflow and a service account, both of the same issuer."""
    shared = {
        "issuer": provider.url,
        "audience": "urn:ours",
        "business_unit": "retail",
        "scopes": ["submit", "run-read"],
    }
    rules = [
        {"id": "nightly", "kind": "ci", "claims": GITHUB, "groups": ["retail-ds"], **shared},
        {"id": "reindex", "kind": "workload", "claims": POD, "groups": [], "single_use": False, "ttl_s": 300, **shared},
    ]
    file = tmp_path / "identity.yaml"
    file.write_text(json.dumps({"trust_rules": rules}))
    return Registry(Settings(state_dir=tmp_path / "state", identity_file=file))


def job(provider: Provider, **claims: Any) -> str:
    """The token of a CI job, as GitHub writes it: `typ: JWT`, five minutes."""
    said = {"aud": "urn:ours", "sub": "repo:example/reviews:environment:prod", "run_id": "77", "groups": None}
    return provider.token({"typ": "JWT"}, **{**said, **GITHUB, **claims})


def pod(provider: Provider, **claims: Any) -> str:
    """A projected service-account token: no `typ` at all."""
    inside = {**POD["kubernetes.io"], "pod": {"name": "reindex-0", "uid": "uid-of-the-pod"}}  # type: ignore[dict-item]
    said = {"aud": ["urn:ours"], "sub": POD["sub"], "kubernetes.io": inside, "groups": None, "client_id": None}
    return provider.token({"typ": None}, **{**said, **claims})


def trade(registry: Registry, token: str, **changes: str | None) -> httpx2.Response:
    form = {"grant_type": exchange.GRANT, "subject_token": token, "subject_token_type": JWT, **changes}
    return registry.anonymous().post("/v1/token", data={k: v for k, v in form.items() if v is not None})


def as_bearer(registry: Registry, reply: httpx2.Response) -> Any:
    return registry.anonymous(headers={"Authorization": f"Bearer {reply.json()['access_token']}"})


def test_a_ci_job_gets_ten_minutes_as_its_rule(registry: Registry, provider: Provider) -> None:
    reply = trade(registry, job(provider))

    answer = reply.json()
    assert (reply.status_code, reply.headers["cache-control"]) == (200, "no-store")
    assert (answer["token_type"], answer["expires_in"], answer["scope"]) == ("Bearer", 600, "submit run-read")
    me = as_bearer(registry, reply).get("/v1/me").json()
    assert (me["id"], me["groups"], me["business_unit"]) == ("ci:nightly", ["retail-ds"], "retail")


def test_what_a_job_does_is_on_record_with_the_job_behind_it(registry: Registry, provider: Provider) -> None:
    client = as_bearer(registry, trade(registry, job(provider)))

    assert ask(client, ticket_request()).status_code == 201

    traded, issued = registry.events("token.exchanged", "ticket.issued")
    assert (traded.actor, traded.detail["trust_rule"]) == ("ci:nightly", "nightly")
    assert traded.detail["identity_revision"] == registry.books.issuers.policy.revision
    for event in (traded, issued):
        assert event.detail["acting_iss"] == provider.url
        assert (event.detail["acting_sub"], event.detail["acting_run"]) == (
            "repo:example/reviews:environment:prod",
            "77",
        )


def test_a_token_is_worth_nothing_once_its_key_is_over_however_lately_it_was_used(
    registry: Registry, provider: Provider
) -> None:
    client = as_bearer(registry, trade(registry, job(provider)))
    assert ask(client, ticket_request()).status_code == 201
    ring, stolen = Keyring(registry.settings.keys_dir), registry.books.token_key.kid

    ring.rotate("token", lambda _: None, alg=None, source=None, dev=False, now=datetime.now(UTC), ahead=timedelta(0))
    assert ask(client, ticket_request()).status_code == 201  # it signs no more, and is still published
    ring.retire(stolen, lambda _: None, compromised=True, now=datetime.now(UTC))

    assert ask(client, ticket_request()).status_code == 401


def test_the_pod_of_a_workload_is_on_record(registry: Registry, provider: Provider) -> None:
    trade(registry, pod(provider))

    (event,) = registry.events("token.exchanged")
    assert (event.actor, event.detail["acting_pod"]) == ("workload:reindex", "uid-of-the-pod")


def test_an_access_token_says_what_rfc_9068_wants_and_is_signed_for_this_only(
    registry: Registry, provider: Provider
) -> None:
    token = trade(registry, job(provider)).json()["access_token"]

    header, claims = jws.read(token, ("alg", "typ", "kid"))
    assert (header["typ"], header["kid"]) == ("at+jwt", registry.books.token_key.kid)
    assert header["kid"] not in (registry.books.ticket_key.kid, registry.books.log_key.kid)
    assert claims["aud"] == claims["iss"] == registry.settings.issuer
    assert {"sub", "iat", "exp", "jti", "client_id", "scope", "act"} <= set(claims)


def test_a_jobs_token_is_traded_once(registry: Registry, provider: Provider) -> None:
    token = job(provider)

    first, second = trade(registry, token), trade(registry, token)
    same_id = trade(registry, job(provider, jti=jws.read_foreign(token)[1]["jti"], run_id="78"))

    assert [reply.status_code for reply in (first, second, same_id)] == [200, 400, 400]
    assert "traded before" in second.json()["detail"]
    refusals = registry.events("token.exchange.refused")
    assert [(event.actor, event.detail["trust_rule"]) for event in refusals] == [("ci:nightly", "nightly")] * 2


def test_a_token_without_an_id_is_traded_once_as_well(registry: Registry, provider: Provider) -> None:
    token = job(provider, jti=None)

    assert [trade(registry, token).status_code for _ in range(2)] == [200, 400]


def test_a_projected_token_is_traded_as_often_as_it_lives(registry: Registry, provider: Provider) -> None:
    token = pod(provider)

    assert [trade(registry, token).status_code for _ in range(3)] == [200, 200, 200]


def test_traded_tokens_are_forgotten_after_their_end(registry: Registry, provider: Provider) -> None:
    trade(registry, job(provider))
    with db.writing(registry.books.engine) as session:
        kept = session.exec(select(TradedToken)).one()
        kept.expires_at = kept.expires_at.replace(year=2020)

    trade(registry, job(provider))

    with db.reading(registry.books.engine) as session:
        assert len(session.exec(select(TradedToken)).all()) == 1


def test_scopes_cut_a_token_down_and_never_up(registry: Registry, provider: Provider) -> None:
    narrow = trade(registry, job(provider), scope="run-read")
    wide = trade(registry, job(provider), scope="run-read approve")

    refused = ask(as_bearer(registry, narrow), ticket_request())
    assert narrow.json()["scope"] == "run-read"
    assert (refused.status_code, refused.json()["reason_code"]) == (403, "not-in-scope")
    assert (wide.status_code, wide.json()["error"]) == (400, "invalid_scope")


def test_a_job_may_not_do_what_its_rule_does_not_name(registry: Registry, provider: Provider) -> None:
    """`retail-ds` are trainers, who may propose; the rule's scopes do not hold it."""
    refused = registry.propose(as_bearer(registry, trade(registry, job(provider))))

    assert (refused.status_code, refused.json()["reason_code"]) == (403, "not-in-scope")
    assert "this credential is for `submit`, `run-read` only" in refused.json()["detail"]


def test_a_jobs_token_is_never_turned_into_a_lasting_one(registry: Registry, provider: Provider) -> None:
    client = as_bearer(registry, trade(registry, job(provider)))

    reply = client.post("/v1/tokens", json={"scopes": ["submit"]})

    assert (reply.status_code, reply.json()["code"]) == (403, "not-permitted")


@pytest.mark.parametrize(
    ("claims", "says"),
    [
        ({"repository_id": "1"}, "`nightly` wants another `repository_id`"),
        ({"repository_owner_id": 9876543}, "`repository_owner_id`"),
        ({"job_workflow_ref": GITHUB["job_workflow_ref"] + "x"}, "`job_workflow_ref`"),
        ({"aud": "urn:theirs"}, "another audience"),
        ({"exp": 2, "iat": 1}, "expired"),
        ({"exp": 4_000_000_000}, "longer than a day"),
        ({"iss": "https://evil.example"}, "no trust rule"),
    ],
)
def test_another_job_gets_nothing(registry: Registry, provider: Provider, claims: dict[str, Any], says: str) -> None:
    before = len(registry.events())

    reply = trade(registry, job(provider, **claims))

    assert (reply.status_code, reply.json()["error"]) == (400, "invalid_request")
    assert says in reply.json()["detail"]
    assert len(registry.events()) == before  # anybody can have a token of a public issuer


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"grant_type": "client_credentials"}, "unsupported_grant_type"),
        ({"grant_type": None}, "unsupported_grant_type"),
        ({"subject_token": None}, "invalid_request"),
        ({"subject_token": "x.y.z"}, "invalid_request"),
        ({"subject_token_type": "urn:ietf:params:oauth:token-type:saml2"}, "invalid_request"),
        ({"requested_token_type": "urn:ietf:params:oauth:token-type:refresh_token"}, "invalid_request"),
        ({"actor_token": "x"}, "invalid_request"),
        ({"audience": "https://other"}, "invalid_target"),
        ({"resource": "https://other"}, "invalid_target"),
    ],
)
def test_a_request_that_is_none_is_refused_in_the_words_of_oauth(
    registry: Registry, provider: Provider, changes: dict[str, str | None], error: str
) -> None:
    reply = trade(registry, job(provider), **changes)

    assert (reply.status_code, reply.headers["content-type"]) == (400, "application/problem+json")
    assert (reply.json()["code"], reply.json()["error"]) == ("exchange-refused", error)
    assert reply.json()["error_description"].isascii()


def test_a_body_that_is_no_form_is_refused(registry: Registry) -> None:
    many = b"&".join(b"f%d=1" % number for number in range(30))

    def post(content: bytes, kind: str = "application/x-www-form-urlencoded") -> httpx2.Response:
        return registry.anonymous().post("/v1/token", content=content, headers={"Content-Type": kind})

    for body in (b"grant_type=a&grant_type=b", b"\xff=1", b"a=%ff", many):
        assert (post(body).status_code, post(body).json()["error"]) == (400, "invalid_request")
    assert post(b"").json()["error"] == "unsupported_grant_type"
    assert post(b"{}", "application/json").status_code == 415


def test_unknown_parameters_are_ignored_as_rfc_6749_wants(registry: Registry, provider: Provider) -> None:
    assert trade(registry, job(provider), colour="blue").status_code == 200


def test_an_access_token_is_no_subject_token(registry: Registry, provider: Provider) -> None:
    ours = trade(registry, job(provider)).json()["access_token"]
    theirs = provider.token({"typ": "at+jwt"}, aud="urn:ours", **GITHUB)

    assert [trade(registry, token).status_code for token in (ours, theirs)] == [400, 400]


def test_a_jobs_own_token_opens_nothing_by_itself(registry: Registry, provider: Provider) -> None:
    client = registry.anonymous(headers={"Authorization": f"Bearer {job(provider)}"})

    assert client.get("/v1/tags").status_code == 401


def test_two_rules_that_fit_are_one_too_many(tmp_path: Path, provider: Provider) -> None:
    rule = {"kind": "ci", "issuer": provider.url, "audience": "urn:ours", "claims": GITHUB, "business_unit": "retail",
            "groups": [], "scopes": ["submit"]}  # fmt: skip
    file = tmp_path / "identity.yaml"
    file.write_text(json.dumps({"trust_rules": [{"id": "one", **rule}, {"id": "two", **rule}]}))
    registry = Registry(Settings(state_dir=tmp_path / "state", identity_file=file))

    reply = trade(registry, job(provider))

    assert "`one`, `two` all fit" in reply.json()["detail"]


def test_a_disabled_rule_trades_nothing_and_what_it_traded_opens_nothing(
    registry: Registry, provider: Provider
) -> None:
    client = as_bearer(registry, trade(registry, job(provider)))
    admin = registry.as_("boss", "platform-admins")

    reply = admin.post("/v1/principals/ci:nightly:disable", json={"reason": "the repository was sold"})

    assert (reply.status_code, reply.json()["enabled"]) == (200, False)
    assert (client.get("/v1/tags").json()["code"], trade(registry, job(provider)).json()["code"]) == (
        "principal-disabled",
        "principal-disabled",
    )


def forged(
    registry: Registry, key: SigningKey | None = None, header: dict[str, str] | None = None, **changes: Any
) -> str:
    """An access token as ours, but for what is changed."""
    now = int(db.utc_now().timestamp())
    claims = {
        "iss": registry.settings.issuer, "sub": "ci:nightly", "aud": registry.settings.issuer, "iat": now,
        "exp": now + 600, "jti": "x", "client_id": "nightly", "scope": "submit", "groups": ["platform-admins"],
        "business_unit": "all", "act": {"iss": "https://x", "sub": "x"}, **changes,
    }  # fmt: skip
    signer = key or registry.books.token_key
    return jws.sign({"typ": "at+jwt", "kid": registry.books.token_key.kid, **(header or {})}, claims, signer)


def test_an_access_token_that_is_not_quite_ours_is_refused(registry: Registry) -> None:
    far = int(db.utc_now().timestamp()) + 100_000
    hostile = {
        "signed by another key": forged(registry, SigningKey.generate()),
        "signed by the ticket key": forged(registry, registry.books.ticket_key),
        "under the ticket key's id": forged(
            registry, registry.books.ticket_key, {"kid": registry.books.ticket_key.kid}
        ),
        "of another type": forged(registry, header={"typ": "run-ticket+jwt"}),
        "for another registry": forged(registry, aud="https://other"),
        "expired": forged(registry, iat=1, exp=500),
        "of a long life": forged(registry, exp=far),
        "from the future": forged(registry, iat=far, exp=far + 60),
        "with a claim more": forged(registry, admin=True),
        "with an end in words": forged(registry, exp="9"),
        "of a rule that is gone": forged(registry, client_id="gone"),
    }

    answers = {
        name: registry.anonymous(headers={"Authorization": f"Bearer {token}"}).get("/v1/me").status_code
        for name, token in hostile.items()
    }

    assert answers == dict.fromkeys(hostile, 401)
    good = registry.anonymous(headers={"Authorization": f"Bearer {forged(registry)}"}).get("/v1/me")
    assert good.status_code == 200  # the forge itself works: each of the others fails for what was changed


@pytest.mark.postgresql
def test_racing_trades_of_one_token_give_one_access_token(tmp_path: Path, provider: Provider, postgresql: str) -> None:
    rule = {"id": "nightly", "kind": "ci", "issuer": provider.url, "audience": "urn:ours", "claims": GITHUB,
            "business_unit": "retail", "groups": [], "scopes": ["submit"]}  # fmt: skip
    file = tmp_path / "identity.yaml"
    file.write_text(json.dumps({"trust_rules": [rule]}))
    registry = Registry(Settings(state_dir=tmp_path / "state", database_url=postgresql, identity_file=file))
    token = job(provider)

    with ThreadPoolExecutor(6) as pool:
        statuses = sorted(pool.map(lambda _: trade(registry, token).status_code, range(6)))

    assert statuses == [200, 400, 400, 400, 400, 400]
