"""The strict verifier: every hostile token dies with a number, and only a TicketInvalid ever comes out."""

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enforcer import jws, proofs, tickets
from enforcer.keys import KeySet, KeyUnusable, SigningKey, public_key
from enforcer.problems import TicketInvalid
from enforcer.profiles import Limits, Profile
from enforcer.runspec import Inputs, RunSpec, canonical_bytes, digest
from enforcer.tickets import VerifiedTicket

NOW = 1_790_000_000
ISSUER, AUDIENCE = "https://registry.example", "urn:swift:exec:local:here"
KEY = SigningKey.generate()
DIGEST = "sha256:" + "0" * 64
PROFILE = Profile(
    recipe="embedding", parameters={}, columns={}, metrics=[], pool="t4", limits=Limits(max_gpus=1, max_runtime_s=3600)
)
SPEC = canonical_bytes(
    RunSpec(
        v=1,
        run_id="run-1",
        task_type="embedding",
        version=1,
        profile_digest=PROFILE.digest(),
        profile=PROFILE,
        arguments={},
        inputs=Inputs.model_validate(
            {
                "model": {"name": "m", "digest": DIGEST},
                "datasets": [{"role": "train", "name": "d", "digest": DIGEST, "rows": 1}],
                "code": {"commit": None, "dirty": None},
                "eval_fraction": 0,
                "columns": {},
            }
        ),
        business_unit="retail",
        target="local",
        gpus=1,
        limits=Limits(max_gpus=1, max_runtime_s=3600),
    )
)
CLAIMS: dict[str, Any] = {
    "iss": ISSUER,
    "sub": "user:wang",
    "aud": AUDIENCE,
    "iat": NOW,
    "nbf": NOW,
    "exp": NOW + 900,
    "jti": "0199e3f0-0000-7000-8000-000000000001",
    "cnf": {"jkt": "k" * 43},
    "txn": "run-1",
    "client_id": "swift-submit/test",
    "authorization_details": [
        {"type": "training_run", "pool": "t4", "gpus": 1, "max_runtime_s": 3600, "actions": ["train"]}
    ],
    "ver": 1,
    "task_type": "embedding",
    "task_version": 1,
    "business_unit": "retail",
    "run_spec_digest": digest(SPEC),
    "policy_digest": DIGEST,
    "policy_rule": "a-rule",
    "decision_id": "0199e3f0-0000-7000-8000-000000000002",
    "redeem": "online",
}
HEADER = {"alg": "Ed25519", "typ": tickets.TYP, "kid": KEY.kid}


def raw(header: object, payload: object, key: SigningKey = KEY) -> str:
    """A correctly signed token over any header and payload, as a careless or hostile issuer would make it."""

    def part(value: object) -> str:
        content = value if isinstance(value, bytes) else json.dumps(value).encode()
        return base64.urlsafe_b64encode(content).rstrip(b"=").decode()

    signed = f"{part(header)}.{part(payload)}"
    return f"{signed}.{base64.urlsafe_b64encode(key.sign(signed.encode())).rstrip(b'=').decode()}"


def verify(token: str, *, spec: bytes = SPEC, now: float = NOW, **options: Any) -> VerifiedTicket:
    given_ = {"issuer": ISSUER, "audience": AUDIENCE, **options}
    return tickets.verify(token, spec, KeySet.of(KEY), now=lambda: now, **given_)


def step_that_refuses(token: str, **options: Any) -> int:
    with pytest.raises(TicketInvalid) as refused:
        verify(token, **options)
    return int(refused.value.facts["step"])


GOOD = raw(HEADER, CLAIMS)


def test_a_good_ticket_is_verified() -> None:
    permit = verify(GOOD)

    assert (permit.claims.sub, permit.spec.task_type) == ("user:wang", "embedding")


def test_our_own_signing_makes_the_same_kind_of_token() -> None:
    assert verify(tickets.sign(tickets.Claims.model_validate(CLAIMS), KEY)).claims.jti == CLAIMS["jti"]


def test_only_the_verifier_makes_a_verified_ticket() -> None:
    permit = verify(GOOD)

    with pytest.raises(TypeError, match="only made by"):
        VerifiedTicket(permit.claims, permit.spec, GOOD, object())


def changed(**claims: Any) -> str:
    return raw(HEADER, {**CLAIMS, **claims})


def without(claim: str) -> str:
    return raw(HEADER, {name: value for name, value in CLAIMS.items() if name != claim})


def other_key() -> str:
    return raw(HEADER, CLAIMS, SigningKey.generate())


def swapped_payload() -> str:
    header, _, signature = GOOD.split(".")
    return ".".join((header, changed(sub="user:root").split(".")[1], signature))


def loose_bits(token: str) -> str:
    """The last character of the signature has unused bits; set one."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return token[:-1] + alphabet[alphabet.index(token[-1]) ^ 1]


DEEP = b"[" * 3_000 + b"]" * 3_000
HOSTILE: dict[str, tuple[int, Callable[[], str]]] = {
    "empty": (1, lambda: ""),
    "one part": (1, lambda: GOOD.split(".")[0]),
    "padding appended": (1, lambda: GOOD + "=="),
    "newline appended": (1, lambda: GOOD + "\n"),
    "space inside": (1, lambda: GOOD.replace(".", ". ", 1)),
    "no signature": (1, lambda: GOOD.rsplit(".", 1)[0] + "."),
    "fourth part": (1, lambda: GOOD + ".AAAA"),
    "standard alphabet": (1, lambda: GOOD[:-2] + "+/"),
    "8 MB": (1, lambda: raw(HEADER, {**CLAIMS, "sub": "x" * 8_000_000})),
    "unused bits set": (2, lambda: loose_bits(GOOD)),
    "payload is no JSON": (3, lambda: raw(HEADER, b"{")),
    "payload is a list": (3, lambda: raw(HEADER, [CLAIMS])),
    "payload is UTF-16": (3, lambda: raw(HEADER, json.dumps(CLAIMS).encode("utf-16"))),
    "payload has a byte-order mark": (3, lambda: raw(HEADER, b"\xef\xbb\xbf" + json.dumps(CLAIMS).encode())),
    "payload is deep": (3, lambda: raw(HEADER, b'{"a":' + DEEP[:2_000] + b"]" * 1_000 + b"}")),
    "duplicate claim": (3, lambda: raw(HEADER, json.dumps(CLAIMS)[:-1].encode() + b',"sub":"user:root"}')),
    "duplicate header member": (3, lambda: raw(json.dumps(HEADER)[:-1].encode() + b',"alg":"none"}', CLAIMS)),
    "float": (3, lambda: changed(exp=NOW + 900.0)),
    "NaN": (3, lambda: raw(HEADER, json.dumps(CLAIMS).replace("900", "NaN").encode() + b"")),
    "huge integer": (3, lambda: changed(exp=10**20)),
    "lone surrogate": (3, lambda: raw(HEADER, json.dumps({**CLAIMS, "sub": "\ud800"}).encode())),
    "header without typ": (4, lambda: raw({"alg": "Ed25519", "kid": KEY.kid}, CLAIMS)),
    "header without kid": (4, lambda: raw({"alg": "Ed25519", "typ": tickets.TYP}, CLAIMS)),
    "embedded jwk": (4, lambda: raw({**HEADER, "jwk": KEY.public_jwk()}, CLAIMS)),
    "jku": (4, lambda: raw({**HEADER, "jku": "https://evil.example"}, CLAIMS)),
    "empty crit": (4, lambda: raw({**HEADER, "crit": []}, CLAIMS)),
    "zip": (4, lambda: raw({**HEADER, "zip": "DEF"}, CLAIMS)),
    "b64 false": (4, lambda: raw({**HEADER, "b64": False}, CLAIMS)),
    "an access token": (5, lambda: raw({**HEADER, "typ": "at+jwt"}, CLAIMS)),
    "upper-case typ": (5, lambda: raw({**HEADER, "typ": "RUN-TICKET+JWT"}, CLAIMS)),
    "typ is a list": (5, lambda: raw({**HEADER, "typ": [tickets.TYP]}, CLAIMS)),
    "unknown kid": (6, lambda: raw({**HEADER, "kid": "someone"}, CLAIMS)),
    "kid is a number": (6, lambda: raw({**HEADER, "kid": 1}, CLAIMS)),
    "kid is a path": (6, lambda: raw({**HEADER, "kid": "../../dev/null"}, CLAIMS)),
    "alg none": (6, lambda: raw({**HEADER, "alg": "none"}, CLAIMS)),
    "alg EdDSA": (6, lambda: raw({**HEADER, "alg": "EdDSA"}, CLAIMS)),
    "alg HS256": (6, lambda: raw({**HEADER, "alg": "HS256"}, CLAIMS)),
    "alg null": (6, lambda: raw({**HEADER, "alg": None}, CLAIMS)),
    "signed by another key": (7, other_key),
    "payload swapped": (7, swapped_payload),
    "zero signature": (7, lambda: GOOD.rsplit(".", 1)[0] + "." + "A" * 86),
    **{f"no {claim}": (8, lambda claim=claim: without(claim)) for claim in CLAIMS},  # type: ignore[misc]
    "another claim": (8, lambda: changed(admin=True)),
    "exp as text": (8, lambda: changed(exp=str(NOW + 900))),
    "exp true": (8, lambda: changed(exp=True)),
    "empty jti": (8, lambda: changed(jti="")),
    "sub null": (8, lambda: changed(sub=None)),
    "audience list": (8, lambda: changed(aud=[AUDIENCE])),
    "negative gpus": (
        8,
        lambda: changed(authorization_details=[{**CLAIMS["authorization_details"][0], "gpus": -1}]),
    ),
    "two permits": (8, lambda: changed(authorization_details=CLAIMS["authorization_details"] * 2)),
    "version 2": (8, lambda: changed(ver=2)),
    "task type in capitals": (8, lambda: changed(task_type="DPO")),
    "short digest": (8, lambda: changed(run_spec_digest="sha256:00")),
    "another issuer": (9, lambda: changed(iss=ISSUER + ".evil")),
    "issuer prefix": (9, lambda: changed(iss=ISSUER[:-1])),
    "another audience": (9, lambda: changed(aud="urn:swift:exec:local:there")),
    "expired": (10, lambda: changed(iat=NOW - 2_000, nbf=NOW - 2_000, exp=NOW - 1_100)),
    "not yet": (10, lambda: changed(iat=NOW + 500, nbf=NOW + 500, exp=NOW + 1_400)),
    "lives a day": (10, lambda: changed(exp=NOW + 86_400)),
    "ends before it begins": (10, lambda: changed(exp=NOW - 1)),
    "another specification": (11, lambda: changed(run_spec_digest=DIGEST)),
    "another task type than specified": (12, lambda: changed(task_type="dpo")),
    "another version than specified": (12, lambda: changed(task_version=2)),
    "another run than specified": (12, lambda: changed(txn="run-2")),
    "another unit than specified": (12, lambda: changed(business_unit="finance")),
    "more GPUs than specified": (
        12,
        lambda: changed(authorization_details=[{**CLAIMS["authorization_details"][0], "gpus": 8}]),
    ),
}


@pytest.mark.parametrize(("step", "make"), HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_token_is_refused_at_its_step(step: int, make: Callable[[], str]) -> None:
    assert step_that_refuses(make()) == step


def test_an_edited_specification_is_refused() -> None:
    assert step_that_refuses(GOOD, spec=SPEC + b" ") == 11


def test_the_leeway_is_a_minute_and_no_more() -> None:
    assert verify(GOOD, now=NOW - 60).claims.jti
    assert verify(GOOD, now=NOW + 900 + 60).claims.jti
    assert step_that_refuses(GOOD, now=NOW - 61) == 10
    assert step_that_refuses(GOOD, now=NOW + 961) == 10


def test_a_development_key_is_refused_unless_it_is_expected() -> None:
    dev = SigningKey.generate(dev=True)
    token = raw({**HEADER, "kid": dev.kid}, CLAIMS, dev)

    def check(**options: Any) -> VerifiedTicket:
        return tickets.verify(token, SPEC, KeySet.of(dev), issuer=ISSUER, audience=AUDIENCE, now=lambda: NOW, **options)

    assert check(allow_dev=True).claims.jti
    with pytest.raises(TicketInvalid) as refused:
        check()
    assert refused.value.facts["step"] == 6


@given(st.integers(0, len(GOOD) - 1), st.characters(min_codepoint=33, max_codepoint=126))
def test_any_changed_character_is_refused(position: int, character: str) -> None:
    token = GOOD[:position] + character + GOOD[position + 1 :]

    if token != GOOD:
        with pytest.raises(TicketInvalid):
            verify(token)


@given(st.text(max_size=200) | st.binary(max_size=200).map(lambda raw_: raw(HEADER, raw_)))
def test_whatever_comes_in_only_a_ticket_invalid_comes_out(token: str) -> None:
    with pytest.raises(TicketInvalid):
        verify(token)


# --- keys and proofs --------------------------------------------------------------------------------------------------


def test_a_low_order_public_key_is_refused() -> None:
    with pytest.raises(KeyUnusable, match="low-order"):
        public_key({"kty": "OKP", "crv": "Ed25519", "x": jws.b64url(b"\x00" * 32)})


def test_a_key_set_with_a_private_key_is_refused() -> None:
    private = {**KEY.public_jwk(), "d": "AAAA"}

    with pytest.raises(KeyUnusable, match="private"):
        KeySet.from_jwks({"keys": [private]})


def test_keys_of_another_purpose_are_left_aside() -> None:
    rsa = {"kty": "RSA", "n": "x", "e": "AQAB", "alg": "RS256", "use": "sig", "kid": "rsa-1"}

    assert len(KeySet.from_jwks({"keys": [rsa, KEY.public_jwk()]})) == 1


def test_a_private_key_does_not_show_itself() -> None:
    assert KEY.private.as_dict(private=True)["d"] not in repr(KEY)  # type: ignore[operator]


URL = "https://registry.example/v1/tickets/x:redeem"


def proof(**changes: Any) -> str:
    return proofs.prove(KEY, **{"method": "POST", "url": URL, "ticket": GOOD, "now": lambda: NOW, **changes})


def check_proof(made: str, **changes: Any) -> proofs.ProvenKey:
    return proofs.check(made, **{"method": "POST", "url": URL, "ticket": GOOD, "now": lambda: NOW, **changes})


def test_a_proof_names_the_key_that_made_it() -> None:
    assert check_proof(proof()).thumbprint == KEY.thumbprint


@pytest.mark.parametrize(
    "changes", [{"method": "GET"}, {"url": URL + "x"}, {"ticket": GOOD + "x"}, {"now": lambda: NOW - 61}]
)
def test_a_proof_is_for_one_request(changes: dict[str, Any]) -> None:
    with pytest.raises(TicketInvalid) as refused:
        check_proof(proof(**changes))

    assert refused.value.facts["step"] == 13


@pytest.mark.parametrize(
    "change", [{"kty": "EC"}, {"crv": "X25519"}, {"crv": "Ed448"}, {"x": 1}, {"x": "AAAA"}, {"x": ""}]
)
def test_a_key_of_another_kind_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(KeyUnusable):
        public_key({**KEY.public_jwk(), **change})


def test_a_proof_by_another_key_than_it_carries_is_refused() -> None:
    payload = jws.read(proof(), ("alg", "typ", "jwk"))[1]
    jwk = SigningKey.generate().public_jwk()
    made = jws.sign({"typ": proofs.TYP, "jwk": jwk}, payload, KEY)

    with pytest.raises(TicketInvalid, match="signature does not hold"):
        check_proof(made)


@given(st.text(max_size=100))
def test_no_text_passes_as_a_proof(made: str) -> None:
    with pytest.raises(TicketInvalid):
        check_proof(made)
