"""Access tokens of an identity provider: the good one gets in, and each hostile one is refused for what it is."""

import base64
import hashlib
import hmac
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Registry
from issuers import AUDIENCE, Provider, unsigned
from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey

from enforcer.policy import folder, identity as believed
from enforcer.problems import Unauthenticated, Unavailable
from registry import oidc
from registry.oidc import Issuers
from registry.settings import Settings


@pytest.fixture
def provider() -> Iterator[Provider]:
    provider = Provider()
    yield provider
    provider.stop()


def issuer(provider: Provider, **changes: Any) -> dict[str, Any]:
    return {"name": "corp", "issuer": provider.url, "audience": AUDIENCE, "business_unit": "retail", **changes}


@pytest.fixture
def trusting(tmp_path: Path) -> Callable[..., Registry]:
    """A registry that believes these issuers."""

    def make(*issuers: dict[str, Any], **more: Any) -> Registry:
        file = tmp_path / "identity.yaml"
        file.write_text(json.dumps({"issuers": list(issuers), **more}))
        return Registry(Settings(state_dir=tmp_path / "state", identity_file=file))

    return make


def me(registry: Registry, token: str) -> Any:
    return registry.anonymous(headers={"Authorization": f"Bearer {token}"}).get("/v1/me")


def issuers(provider: Provider, tmp_path: Path, now: Callable[[], float] | None = None, **how: Any) -> Issuers:
    file = tmp_path / "believed.yaml"
    file.write_text(json.dumps({"issuers": [issuer(provider, **how)]}))
    policy = believed.load(file, folder.load(Path("policies")).directory)
    return Issuers(policy, now=now) if now else Issuers(policy)


# --- who it is --------------------------------------------------------------------------------------------------------


def test_an_access_token_of_a_provider_says_who_and_which_groups(provider: Provider, trusting: Any) -> None:
    registry = trusting(issuer(provider))

    reply = me(registry, provider.token(groups=["trainers", "everybody-in-the-company"]))

    assert (reply.status_code, reply.json()["id"]) == (200, "user:corp:248289761001")
    assert (reply.json()["groups"], reply.json()["business_unit"]) == (["trainers"], "retail")
    assert reply.json()["groups_digest"] == "sha256:" + hashlib.sha256(b'["trainers"]').hexdigest()


def test_groups_of_a_provider_are_what_the_policy_decides_on(provider: Provider, trusting: Any) -> None:
    registry = trusting(issuer(provider))
    client = registry.anonymous(headers={"Authorization": f"Bearer {provider.token(groups=['trainers'])}"})

    assert registry.propose(client).status_code == 201
    assert registry.events("proposal.opened")[0].actor == "user:corp:248289761001"


def test_who_somebody_is_does_not_hang_on_their_mail_address(provider: Provider, trusting: Any) -> None:
    registry = trusting(issuer(provider))

    before = me(registry, provider.token(email="li@old.example", preferred_username="li")).json()["id"]
    after = me(registry, provider.token(email="li@new.example", preferred_username="boss")).json()["id"]

    assert before == after


def test_a_subject_of_any_spelling_becomes_a_plain_id_of_its_own(provider: Provider, trusting: Any) -> None:
    registry = trusting(issuer(provider))

    for sub in ("li@example.com", "user:corp:1", "a/b", "李", "x" * 200, "~abc", " ", "group:nlp"):
        digest = hashlib.sha256(sub.encode()).hexdigest()[:32]
        assert me(registry, provider.token(sub=sub)).json()["id"] == f"user:corp:~{digest}"
        assert me(registry, provider.token(sub=digest)).json()["id"] == f"user:corp:{digest}"


def test_a_client_that_acts_for_nobody_is_a_service(provider: Provider, trusting: Any) -> None:
    registry = trusting(issuer(provider))

    assert me(registry, provider.token(sub="nightly", client_id="nightly")).json()["id"] == "service:corp:nightly"


def test_a_providers_own_words_are_translated(provider: Provider, trusting: Any) -> None:
    registry = trusting(
        issuer(
            provider,
            groups={"claim": "roles", "names": {"9f2e-0001": "search-ml"}},
            business_unit={"claim": "department", "names": {"Shop": "retail"}},
        )
    )

    found = me(registry, provider.token(groups=None, roles=["9f2e-0001", "9f2e-0002"], department="Shop")).json()

    assert (found["groups"], found["business_unit"]) == (["search-ml"], "retail")


def test_a_claim_gives_nobody_a_unit_that_is_none_or_holds_others(provider: Provider, trusting: Any) -> None:
    registry = trusting(issuer(provider, business_unit={"claim": "department"}))

    replies = [me(registry, provider.token(department=said)) for said in ("all", "Mars", None, 7, ["retail"])]

    assert {(reply.status_code, reply.json()["code"]) for reply in replies} == {(403, "not-permitted")}
    assert len(registry.events("sign-in.refused")) == len(replies)


OVERAGES: list[dict[str, Any]] = [
    {"groups": None, "_claim_names": {"groups": "src1"}, "_claim_sources": {"src1": {"endpoint": "https://x"}}},
    {"groups": None, "hasgroups": True},
    {"groups": ["trainers"], "_claim_names": {"groups": "src1"}},
    {"groups": None},
    {"groups": "trainers"},
    {"groups": [{"name": "trainers"}]},
]


def test_groups_that_were_left_out_are_not_no_groups(provider: Provider, trusting: Any) -> None:
    registry = trusting(issuer(provider))

    for claims in OVERAGES:
        reply = me(registry, provider.token(**claims))
        assert (reply.status_code, reply.json()["code"]) == (403, "groups-overage"), claims
        assert "only the groups that are assigned to this application" in reply.json()["detail"]

    refused = registry.events("sign-in.refused")
    assert {(event.actor, event.detail["problem"]) for event in refused} == {
        ("user:corp:248289761001", "groups-overage")
    }
    assert len(refused) == len(OVERAGES)


def test_a_provider_without_groups_is_taken_when_the_policy_says_so(provider: Provider, trusting: Any) -> None:
    registry = trusting(issuer(provider, groups={"required": False}))

    assert me(registry, provider.token(groups=None)).json()["groups"] == []
    for said in ({"hasgroups": True}, {"_claim_names": {"groups": "src1"}}):  # it has some after all
        assert me(registry, provider.token(groups=None, **said)).json()["code"] == "groups-overage"


# --- hostile tokens ---------------------------------------------------------------------------------------------------


OTHER = ECKey.generate_key("P-256", {"kid": "one", "use": "sig"})


def hmac_with_the_public_key(provider: Provider) -> str:
    """Key confusion (CVE-2022-29217): HS256 with the public key as the secret."""
    token = unsigned({"alg": "HS256", "typ": "at+jwt", "kid": "one"}, provider.claims())
    signed = token.rpartition(".")[0]
    secret = provider.key.as_pem(private=False)
    return f"{signed}.{base64.urlsafe_b64encode(hmac.digest(secret, signed.encode(), 'sha512')).rstrip(b'=').decode()}"


HOSTILE: dict[str, tuple[Callable[[Provider], str], str]] = {
    "for another audience": (lambda p: p.token(aud="urn:other"), "another audience"),
    "for no audience": (lambda p: p.token(aud=[]), "another audience"),
    "for an audience that ours begins with": (lambda p: p.token(aud=AUDIENCE[:-1]), "another audience"),
    "of another issuer": (lambda p: p.token(iss="https://evil.example"), "no issuer whose access tokens"),
    "of an issuer written otherwise": (lambda p: p.token(iss=p.url + "/"), "no issuer whose access tokens"),
    "an ID token": (lambda p: p.token({"typ": "JWT"}, nonce="n"), "`typ` is not `at+jwt`"),
    "without a type": (lambda p: p.token({"typ": None}), "`typ` is not `at+jwt`"),
    "a run ticket": (lambda p: p.token({"typ": "run-ticket+jwt"}), "`typ` is not `at+jwt`"),
    "alg none": (lambda p: unsigned({"alg": "none", "typ": "at+jwt", "kid": "one"}, p.claims()), "`alg`"),
    "alg HS256 with the public key": (hmac_with_the_public_key, "`alg`"),
    "alg of another type": (
        lambda p: unsigned({"alg": "RS256", "typ": "at+jwt", "kid": "one"}, p.claims(), b"x" * 256),
        "`alg`",
    ),
    "without a key id": (lambda p: p.token({"kid": None}), "`alg` and `kid`"),
    "of an unknown key": (lambda p: p.token({"kid": "two"}), "does not show"),
    "signed by another key": (lambda p: p.token(key=OTHER), "signature does not hold"),
    "with `jwk`": (lambda p: p.token({"jwk": OTHER.as_dict(private=False)}, OTHER), "`jwk`"),
    "with `jku`": (lambda p: unsigned({"alg": "ES256", "kid": "one", "jku": "https://evil"}, p.claims()), "`jku`"),
    "with `x5u`": (lambda p: unsigned({"alg": "ES256", "kid": "one", "x5u": "https://evil"}, p.claims()), "`x5u`"),
    "with `crit`": (lambda p: unsigned({"alg": "ES256", "kid": "one", "crit": []}, p.claims()), "`crit`"),
    "expired": (lambda p: p.token(iat=1, exp=2), "expired"),
    "from the future": (lambda p: p.token(iat=4_000_000_000, exp=4_000_000_300), "not valid yet"),
    "not before the future": (lambda p: p.token(nbf=4_000_000_000, exp=4_000_000_300), "not valid yet"),
    "without an end": (lambda p: p.token(exp=None), "claim `exp`"),
    "with an end in words": (lambda p: p.token(exp="9999999999"), "claim `exp`"),
    "without a start": (lambda p: p.token(iat=None), "claim `iat`"),
    "without a subject": (lambda p: p.token(sub=None), "claim `sub`"),
    "with an empty subject": (lambda p: p.token(sub=""), "claim `sub`"),
    "with a number as subject": (lambda p: p.token(sub=7), "claim `sub`"),
    "with a payload that is a list": (
        lambda p: unsigned({"alg": "ES256", "kid": "one", "typ": "at+jwt"}, []),  # type: ignore[arg-type]
        "not a JSON object",
    ),
    "with padding": (lambda p: p.token() + "==", "three base64url parts"),
    "with a fourth part": (lambda p: p.token() + ".x", "three base64url parts"),
    "cut": (lambda p: p.token()[:-4], "this token is refused"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_token_is_refused_for_what_it_is(provider: Provider, tmp_path: Path, name: str) -> None:
    make, says = HOSTILE[name]

    with pytest.raises(Unauthenticated) as refused:
        issuers(provider, tmp_path).access_token(make(provider))

    assert says in refused.value.detail


def test_hostile_tokens_open_no_route_and_leave_no_event(provider: Provider, trusting: Any) -> None:
    registry = trusting(issuer(provider))
    before = len(registry.events())

    replies = [me(registry, make(provider)) for make, _ in HOSTILE.values()]

    assert {(reply.status_code, reply.headers["content-type"]) for reply in replies} == {
        (401, "application/problem+json")
    }
    assert len(registry.events()) == before


def test_a_good_token_passes_where_the_hostile_ones_fail(provider: Provider, trusting: Any) -> None:
    assert me(trusting(issuer(provider)), provider.token()).status_code == 200


def test_a_provider_that_writes_no_rfc_9068_is_told_from_its_id_tokens(provider: Provider, trusting: Any) -> None:
    registry = trusting(issuer(provider, typ="JWT", login={"client_id": "swift-submit"}))

    good = me(registry, provider.token({"typ": "JWT"}))
    for_the_client = me(registry, provider.token({"typ": "JWT"}, aud="swift-submit"))
    with_a_nonce = me(registry, provider.token({"typ": "JWT"}, nonce="n"))

    assert [reply.status_code for reply in (good, for_the_client, with_a_nonce)] == [200, 401, 401]


# --- keys of a provider -----------------------------------------------------------------------------------------------


RSA = RSAKey.generate_key(2048, {"kid": "one", "use": "sig"})
SMALL = RSAKey.generate_key(1024, {"kid": "one", "use": "sig"})
ED = OKPKey.generate_key("Ed25519", {"kid": "one", "use": "sig"})


@pytest.mark.parametrize(
    ("key", "alg", "said"),
    [
        (RSA, "RS256", None),
        (RSA, "PS256", "PS256"),
        (ED, "EdDSA", None),
        (ED, "Ed25519", "Ed25519"),
        (ED, "EdDSA", "EdDSA"),
    ],
)
def test_the_algorithm_is_the_keys(provider: Provider, tmp_path: Path, key: Any, alg: str, said: str | None) -> None:
    provider.publish({**key.as_dict(private=False), **({"alg": said} if said else {})})

    _, verified = issuers(provider, tmp_path).access_token(provider.token({"alg": alg}, key))

    assert verified.subject == "248289761001"


@pytest.mark.parametrize(("alg", "said"), [("PS256", None), ("RS256", "PS256"), ("RS512", "RS256")])
def test_another_algorithm_of_the_same_type_is_refused(
    provider: Provider, tmp_path: Path, alg: str, said: str | None
) -> None:
    provider.publish({**RSA.as_dict(private=False), **({"alg": said} if said else {})})

    with pytest.raises(Unauthenticated, match="`alg`"):
        issuers(provider, tmp_path).access_token(provider.token({"alg": alg}, RSA))


PUBLIC = OTHER.as_dict(private=False)


@pytest.mark.parametrize(
    "jwk",
    [
        {**PUBLIC, "use": "enc"},
        {name: value for name, value in PUBLIC.items() if name != "use"},
        {**PUBLIC, "alg": "ES384"},
        {**PUBLIC, "x": "AAAA"},
        {**PUBLIC, "kty": "XYZ"},
        SMALL.as_dict(private=False),
        "not a key",
    ],
    ids=["for encryption", "for no use", "of another curve's algorithm", "off the curve", "unknown", "small", "text"],
)
def test_an_unfit_key_is_left_aside(provider: Provider, tmp_path: Path, jwk: Any) -> None:
    provider.publish(jwk)

    with pytest.raises(Unauthenticated, match="does not show"):
        issuers(provider, tmp_path).access_token(provider.token(key=OTHER))


def test_an_id_that_stands_twice_is_nobodys(provider: Provider, tmp_path: Path) -> None:
    provider.publish(provider.key.as_dict(private=False), PUBLIC)

    with pytest.raises(Unauthenticated, match="does not show"):
        issuers(provider, tmp_path).access_token(provider.token())


@pytest.mark.parametrize(
    "answers",
    [
        {"/jwks": (200, {}, {"keys": [OTHER.as_dict(private=True)]})},
        {"/jwks": (200, {}, {"keys": [OctKey.generate_key(256, {"kid": "one", "use": "sig"}).as_dict(private=True)]})},
        {"/jwks": (302, {"Location": "/elsewhere"}, {})},
        {"/jwks": (200, {}, b"<html>")},
        {"/jwks": (200, {}, {"keys": None})},
        {"/jwks": (200, {}, b"[" * 100_000)},
        {"/jwks": (200, {}, b" " * (oidc.MAX_DOCUMENT_BYTES + 1))},
        {"/jwks": (500, {}, {})},
        {"/.well-known/openid-configuration": (302, {"Location": "/moved"}, {})},
        {"/.well-known/openid-configuration": (200, {}, {})},
    ],
    ids=["private key", "shared secret", "redirect", "no JSON", "no keys", "deep", "huge", "500", "discovery moved",
         "discovery empty"],
)  # fmt: skip
def test_a_provider_whose_keys_cannot_be_trusted_opens_nothing(
    provider: Provider, tmp_path: Path, answers: dict[str, Any]
) -> None:
    elsewhere = {"keys": [provider.key.as_dict(private=False)]}
    moved = {"issuer": provider.url, "jwks_uri": f"{provider.url}/elsewhere"}
    provider.answers |= {"/elsewhere": (200, {}, elsewhere), "/moved": (200, {}, moved), **answers}

    with pytest.raises(Unavailable):
        issuers(provider, tmp_path).access_token(provider.token())


def test_a_discovery_document_of_another_issuer_is_not_followed(provider: Provider, tmp_path: Path) -> None:
    document = {"issuer": f"{provider.url}/", "jwks_uri": f"{provider.url}/jwks"}
    provider.answers["/.well-known/openid-configuration"] = (200, {}, document)

    with pytest.raises(Unavailable):
        issuers(provider, tmp_path).access_token(provider.token())
    assert "/jwks" not in provider.asked


def test_keys_come_over_plain_http_only_from_this_machine(provider: Provider, tmp_path: Path) -> None:
    document = {"issuer": provider.url, "jwks_uri": "http://keys.example/jwks"}
    provider.answers["/.well-known/openid-configuration"] = (200, {}, document)

    with pytest.raises(Unavailable):
        issuers(provider, tmp_path).access_token(provider.token())


def test_five_hundred_invented_key_ids_cost_one_request(provider: Provider, tmp_path: Path) -> None:
    checked = issuers(provider, tmp_path)

    for number in range(500):
        with pytest.raises(Unauthenticated, match="does not show"):
            checked.access_token(provider.token({"kid": f"invented-{number}"}))

    assert provider.asked.count("/jwks") == 1


def test_many_at_once_ask_once(provider: Provider, tmp_path: Path) -> None:
    checked, token, found = issuers(provider, tmp_path), provider.token(), []
    threads = [threading.Thread(target=lambda: found.append(checked.access_token(token))) for _ in range(20)]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert (len(found), provider.asked.count("/jwks")) == (20, 1)


def test_a_new_key_is_found_after_the_cooldown(provider: Provider, tmp_path: Path) -> None:
    start = float(provider.claims()["iat"])
    now = [start]
    checked = issuers(provider, tmp_path, now=lambda: now[0])
    checked.access_token(provider.token())
    fresh = ECKey.generate_key("P-256", {"kid": "two", "use": "sig"})
    provider.publish(provider.key.as_dict(private=False), fresh.as_dict(private=False))
    token = provider.token({"kid": "two"}, fresh)

    with pytest.raises(Unauthenticated, match="does not show"):
        checked.access_token(token)
    now[0] = start + oidc.COOLDOWN_S + 1
    _, verified = checked.access_token(token)

    assert verified.subject == "248289761001"


def test_a_provider_that_is_down_is_believed_for_a_day(provider: Provider, tmp_path: Path) -> None:
    start = float(provider.claims()["iat"])
    now = [start]
    checked = issuers(provider, tmp_path, now=lambda: now[0])
    checked.access_token(provider.token())
    provider.answers["/jwks"] = (500, {}, {})

    now[0] = start + 23 * 3600
    checked.access_token(provider.token(exp=int(now[0]) + 60))
    now[0] = start + 25 * 3600
    with pytest.raises(Unavailable):
        checked.access_token(provider.token(exp=int(now[0]) + 60))


def test_a_withdrawn_key_opens_nothing_after_ten_minutes(provider: Provider, tmp_path: Path) -> None:
    start = float(provider.claims()["iat"])
    now = [start]
    checked = issuers(provider, tmp_path, now=lambda: now[0])
    token = provider.token(exp=int(start) + 3600)
    checked.access_token(token)
    provider.publish()

    now[0] = start + oidc.TTL_S + 1
    with pytest.raises(Unauthenticated, match="does not show"):
        checked.access_token(token)


def test_a_token_may_be_thirty_seconds_late(provider: Provider, tmp_path: Path) -> None:
    end = int(provider.claims()["exp"])
    now = [end + 29.0]
    checked = issuers(provider, tmp_path, now=lambda: now[0])
    token = provider.token(exp=end)

    checked.access_token(token)
    now[0] = end + 31.0

    with pytest.raises(Unauthenticated, match="expired"):
        checked.access_token(token)


# --- where to sign in -------------------------------------------------------------------------------------------------


def test_the_registry_says_where_to_sign_in(provider: Provider, trusting: Any) -> None:
    registry = trusting(issuer(provider, login={"client_id": "swift-submit"}))

    said = registry.anonymous().get("/.well-known/oauth-protected-resource").json()

    assert (said["resource"], said["authorization_servers"]) == (registry.settings.issuer, [provider.url])
    assert said["tagwarden_sign_in"] == [
        {"name": "corp", "issuer": provider.url, "client_id": "swift-submit", "scope": "openid offline_access",
         "resource": None}
    ]  # fmt: skip


def test_without_an_identity_file_a_jwt_is_nobodys(registry: Registry, provider: Provider) -> None:
    reply = me(registry, provider.token())

    assert (reply.status_code, provider.asked) == (401, [])


def test_no_token_is_ever_in_the_log(provider: Provider, trusting: Any, caplog: pytest.LogCaptureFixture) -> None:
    registry = trusting(issuer(provider))
    provider.answers["/jwks"] = (500, {}, {})
    tokens = [provider.token(), provider.token(aud="x"), provider.token({"typ": "JWT"})]

    with caplog.at_level("DEBUG"):
        for token in tokens:
            me(registry, token)

    assert "cannot be read" in caplog.text or "answered 500" in caplog.text
    assert not any(part in caplog.text for token in tokens for part in token.split(".")[1:])
