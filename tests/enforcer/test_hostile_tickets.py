"""The corpus: what was seen to pass somebody's verifier, and more; each dies at its step, under every algorithm.

Rows that stock libraries accepted when measured (joserfc 1.8, PyJWT 2.15) are marked: j, p.
"""

import base64
import hmac
import json
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256

import pytest
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from forging import AUDIENCE, CLAIMS, DIGEST, ISSUER, KEYS, NOW, Forge, part, raw, verify

from enforcer import jws, tickets
from enforcer.keys import KeySet, SigningKey
from enforcer.problems import TicketInvalid

ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
DEEP = 20_000


def loose_bits(token: str, at: int = -1) -> str:
    """The last character of a part whose length is no multiple of 4 has unused bits; set one."""
    parts = token.split(".")
    assert len(parts[at]) % 4, "this part has no unused bits"
    parts[at] = parts[at][:-1] + ALPHABET[ALPHABET.index(parts[at][-1]) ^ 1]
    return ".".join(parts)


def loose_payload(forge: Forge) -> str:
    """A signature over the loose spelling itself, so that only the spelling is wrong."""
    padding = next(n for n in range(3) if len(part({**CLAIMS, "client_id": "c" * (n + 1)})) % 4)
    signed = f"{part(forge.header)}.{part({**CLAIMS, 'client_id': 'c' * (padding + 1)})}"
    signed = loose_bits(signed)
    return f"{signed}.{part(forge.key.sign(signed.encode()))}"


def payload_of_another(forge: Forge) -> str:
    header, _, signature = forge.good.split(".")
    return ".".join((header, forge.claiming(sub="user:root").split(".")[1], signature))


def hs256_with_the_public_key(forge: Forge, secret: bytes) -> str:
    signed = f"{part({**forge.header, 'alg': 'HS256'})}.{part(CLAIMS)}"
    return f"{signed}.{part(hmac.digest(secret, signed.encode(), sha256) * 2)}"


def public_pem(key: SigningKey) -> bytes:
    return key.private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def der(signature: bytes) -> bytes:
    return encode_dss_signature(int.from_bytes(signature[:32]), int.from_bytes(signature[32:]))


def deep(opening: bytes, closing: bytes, levels: int) -> bytes:
    return b'{"a":' + opening * levels + b"1" + closing * levels + b"}"


def doubled(name: str, value: str) -> bytes:
    """The claims with one member twice, the last of them hostile."""
    return json.dumps(CLAIMS)[:-1].encode() + f',"{name}":{value}}}'.encode()


Make = Callable[[Forge], str]
HOSTILE: dict[str, tuple[int, Make]] = {
    # 1. length and alphabet
    "empty": (1, lambda f: ""),
    "one part": (1, lambda f: f.good.split(".")[0]),
    "four parts": (1, lambda f: f.good + ".AAAA"),
    "five parts, as a JWE": (1, lambda f: "..".join((f.good, "AAAA"))),
    "no header": (1, lambda f: "." + f.good.split(".", 1)[1]),
    "no payload": (1, lambda f: "..".join(f.good.split(".")[::2])),
    "no signature": (1, lambda f: f.good.rsplit(".", 1)[0] + "."),
    "signature + == (p)": (1, lambda f: f.good + "=="),
    "signature + =": (1, lambda f: f.good + "="),
    "newline appended": (1, lambda f: f.good + "\n"),
    "space in front": (1, lambda f: " " + f.good),
    "space inside": (1, lambda f: f.good.replace(".", ". ", 1)),
    "tab in the signature": (1, lambda f: f.good[:-1] + "\t"),
    "NUL appended": (1, lambda f: f.good + "\x00"),
    "standard alphabet": (1, lambda f: f.good[:-2] + "+/"),
    "full-width letter": (1, lambda f: f.good[:-1] + "\uff21"),
    "Bearer in front": (1, lambda f: "Bearer " + f.good),
    "JSON serialization": (
        1,
        lambda f: json.dumps(dict(zip(("protected", "payload", "signature"), f.good.split("."), strict=True))),
    ),
    "8 MB (p)": (1, lambda f: f.claiming(sub="x" * 8_000_000)),
    "just over the length": (1, lambda f: f.claiming(sub="x" * 7_000)),
    "short signature": (1, lambda f: f.signed_as(f.key.sign(b"")[:63])),
    "long signature": (1, lambda f: f.signed_as(f.key.sign(b"") + b"\x00")),
    "ECDSA signature in DER": (1, lambda f: f.signed_as(der(KEYS["ES256"].sign(b"")))),
    "alg none, no signature": (1, lambda f: f"{part({**f.header, 'alg': 'none'})}.{part(CLAIMS)}."),
    "HS256 with its own short signature": (1, lambda f: hs256_with_the_public_key(f, b"secret")[:-43]),
    # 2. one spelling
    "unused bits of the signature": (2, lambda f: loose_bits(f.good)),
    "unused bits of the payload": (2, loose_payload),
    "a part of 4n+1 characters": (2, lambda f: f.good.replace(".", "A" * (5 - len(part(f.header)) % 4) + ".", 1)),
    # 3. strict JSON
    "payload is no JSON": (3, lambda f: f.saying(b"{")),
    "payload is a list": (3, lambda f: f.saying([CLAIMS])),
    "payload is text": (3, lambda f: f.saying("claims")),
    "payload is null": (3, lambda f: f.saying(None)),
    "header is a list": (3, lambda f: raw([f.header], CLAIMS, f.key)),
    "two documents": (3, lambda f: f.saying(json.dumps(CLAIMS).encode() * 2)),
    "a comment": (3, lambda f: f.saying(b"/**/" + json.dumps(CLAIMS).encode())),
    "single quotes": (3, lambda f: f.saying(str(CLAIMS).encode())),
    "trailing comma": (3, lambda f: f.saying(json.dumps(CLAIMS)[:-1].encode() + b",}")),
    "UTF-16 (j, p)": (3, lambda f: f.saying(json.dumps(CLAIMS).encode("utf-16"))),
    "UTF-16 without a mark": (3, lambda f: f.saying(json.dumps(CLAIMS).encode("utf-16-le"))),
    "UTF-32": (3, lambda f: f.saying(json.dumps(CLAIMS).encode("utf-32"))),
    "UTF-8 byte-order mark (j, p)": (3, lambda f: f.saying(b"\xef\xbb\xbf" + json.dumps(CLAIMS).encode())),
    "invalid UTF-8": (3, lambda f: f.saying(json.dumps(CLAIMS).encode().replace(b"user:wang", b"user:\xff"))),
    "overlong UTF-8": (3, lambda f: f.saying(json.dumps(CLAIMS).encode().replace(b"user:wang", b"user:\xc0\xaf"))),
    "lone surrogate": (3, lambda f: f.claiming(sub="\ud800")),
    "control character in a string": (3, lambda f: f.saying(json.dumps(CLAIMS).encode().replace(b"wang", b"wa\x01g"))),
    "duplicate sub (j, p)": (3, lambda f: f.saying(doubled("sub", '"user:root"'))),
    "duplicate sub, escaped": (3, lambda f: f.saying(doubled("\\u0073ub", '"user:root"'))),
    "duplicate inside cnf": (3, lambda f: f.written('{"jkt": ', '{"jkt": "x", "jkt": ')),
    "duplicate alg (j, p)": (3, lambda f: raw(json.dumps(f.header)[:-1].encode() + b',"alg":"none"}', CLAIMS, f.key)),
    "a float": (3, lambda f: f.claiming(exp=NOW + 900.0)),
    "an exponent": (3, lambda f: f.written(f'"exp": {NOW + 900}', '"exp": 1e99')),
    "minus zero point zero": (3, lambda f: f.written('"ver": 1', '"ver": -0.0')),
    "NaN": (3, lambda f: f.claiming(exp=float("nan"))),
    "Infinity": (3, lambda f: f.claiming(exp=float("inf"))),
    "an integer of 21 digits": (3, lambda f: f.claiming(exp=10**20)),
    "an integer of 3,000 digits": (3, lambda f: f.written(f'"exp": {NOW + 900}', '"exp": ' + "9" * 3_000)),
    "300 objects": (3, lambda f: f.saying({"a": [{}] * 300})),
    "17 deep": (3, lambda f: f.saying(deep(b"[", b"]", 16))),
    "2,000 deep": (3, lambda f: f.saying(deep(b"[", b"]", 2_000))),
    # 4. the header
    "no typ (j, p)": (4, lambda f: f.beheaded("typ")),
    "no kid": (4, lambda f: f.beheaded("kid")),
    "no alg": (4, lambda f: f.beheaded("alg")),
    "embedded jwk (j, p)": (4, lambda f: f.headed(jwk=f.key.public_jwk())),
    "embedded jwk of a stranger": (4, lambda f: Forge(replace(SigningKey.generate(), kid=f.key.kid)).headed(jwk={})),
    "jku": (4, lambda f: f.headed(jku="https://evil.example/jwks.json")),
    "x5u": (4, lambda f: f.headed(x5u="https://evil.example/x.pem")),
    "x5c": (4, lambda f: f.headed(x5c=["AAAA"])),
    "crit: [] (j)": (4, lambda f: f.headed(crit=[])),
    "crit: an extension": (4, lambda f: f.headed(crit=["exp"], exp=NOW)),
    "zip (p)": (4, lambda f: f.headed(zip="DEF")),
    "b64: false": (4, lambda f: f.headed(b64=False, crit=["b64"])),
    "cty": (4, lambda f: f.headed(cty="JWT")),
    "enc": (4, lambda f: f.headed(enc="A256GCM")),
    "members in capitals": (4, lambda f: raw({k.upper(): v for k, v in f.header.items()}, CLAIMS, f.key)),
    # 5. the type
    "an access token (j, p)": (5, lambda f: f.headed(typ="at+jwt")),
    "a proof": (5, lambda f: f.headed(typ="dpop+jwt")),
    "plain JWT": (5, lambda f: f.headed(typ="JWT")),
    "application/ in front": (5, lambda f: f.headed(typ=f"application/{tickets.TYP}")),
    "typ in capitals": (5, lambda f: f.headed(typ=tickets.TYP.upper())),
    "typ is a list": (5, lambda f: f.headed(typ=[tickets.TYP])),
    "typ is null": (5, lambda f: f.headed(typ=None)),
    # 6. the key, and its algorithm
    "unknown kid (j, p)": (6, lambda f: f.headed(kid="someone")),
    "empty kid": (6, lambda f: f.headed(kid="")),
    "kid is a number": (6, lambda f: f.headed(kid=1)),
    "kid is a list": (6, lambda f: f.headed(kid=[f.key.kid])),
    "kid is a path": (6, lambda f: f.headed(kid="../../dev/null")),
    "kid is SQL": (6, lambda f: f.headed(kid="x' or '1'='1")),
    "alg none": (6, lambda f: f.headed(alg="none")),
    "alg nOnE": (6, lambda f: f.headed(alg="nOnE")),
    "alg null": (6, lambda f: f.headed(alg=None)),
    "alg is a list": (6, lambda f: f.headed(alg=[f.key.alg])),
    "alg in lower case": (6, lambda f: f.headed(alg=f.key.alg.lower())),
    "HS256 with the public PEM": (6, lambda f: hs256_with_the_public_key(f, public_pem(f.key))),
    "HS256 with the public JWK": (6, lambda f: hs256_with_the_public_key(f, json.dumps(f.key.public_jwk()).encode())),
    "HS256 with the public x": (
        6,
        lambda f: hs256_with_the_public_key(f, base64.urlsafe_b64decode(f.key.public_jwk()["x"] + "=")),
    ),
    "RS256": (6, lambda f: f.headed(alg="RS256")),
    "ES384": (6, lambda f: f.headed(alg="ES384")),
    "Ed448": (6, lambda f: f.headed(alg="Ed448")),
    "the other names of our algorithms": (6, lambda f: f.headed(alg=next(alg for alg in KEYS if alg != f.key.alg))),
    # 7. the signature
    "signed by a stranger": (7, lambda f: Forge(replace(SigningKey.generate(f.key.alg), kid=f.key.kid)).good),
    "payload of another": (7, payload_of_another),
    "signature of zeros": (7, lambda f: f.signed_as(bytes(64))),
    "signature of ones": (7, lambda f: f.signed_as(b"\xff" * 64)),
    "signature over the payload only": (7, lambda f: f.signed_as(f.key.sign(part(CLAIMS).encode()))),
    "halves of the signature swapped": (7, lambda f: f.signed_as((f.key.sign(b"") * 2)[32:96])),
    # 8. the claims
    **{f"no {claim}": (8, lambda f, claim=claim: f.without(claim)) for claim in CLAIMS},  # type: ignore[misc]
    "no claims": (8, lambda f: f.saying({})),
    "another claim": (8, lambda f: f.claiming(admin=True)),
    "exp as text (p)": (8, lambda f: f.claiming(exp=str(NOW + 900))),
    "exp true": (8, lambda f: f.claiming(exp=True)),
    "exp null": (8, lambda f: f.claiming(exp=None)),
    "exp a list": (8, lambda f: f.claiming(exp=[NOW + 900])),
    "jti empty (p)": (8, lambda f: f.claiming(jti="")),
    "jti with a newline": (8, lambda f: f.claiming(jti=CLAIMS["jti"] + "\n")),
    "jti in capitals": (8, lambda f: f.claiming(jti=CLAIMS["jti"].upper())),
    "sub null": (8, lambda f: f.claiming(sub=None)),
    "sub empty": (8, lambda f: f.claiming(sub="")),
    "sub an object": (8, lambda f: f.claiming(sub={"user": "wang"})),
    "audience list": (8, lambda f: f.claiming(aud=[AUDIENCE])),
    "audience list with another": (8, lambda f: f.claiming(aud=[AUDIENCE, "urn:swift:exec:local:there"])),
    "negative GPUs": (8, lambda f: f.permitting(gpus=-1)),
    "GPUs as text": (8, lambda f: f.permitting(gpus="1")),
    "no time to run": (8, lambda f: f.permitting(max_runtime_s=0)),
    "another action": (8, lambda f: f.permitting(actions=["train", "export"])),
    "another kind of permit": (8, lambda f: f.permitting(type="deployment")),
    "two permits": (8, lambda f: f.claiming(authorization_details=CLAIMS["authorization_details"] * 2)),
    "no permit": (8, lambda f: f.claiming(authorization_details=[])),
    "cnf by x5t": (8, lambda f: f.claiming(cnf={"x5t#S256": "k" * 43})),
    "cnf with two keys": (8, lambda f: f.claiming(cnf={"jkt": "k" * 43, "jwk": {}})),
    "short thumbprint": (8, lambda f: f.claiming(cnf={"jkt": "k" * 42})),
    "version 2": (8, lambda f: f.claiming(ver=2)),
    "task type in capitals": (8, lambda f: f.claiming(task_type="DPO")),
    "short digest": (8, lambda f: f.claiming(run_spec_digest="sha256:00")),
    "digest of another kind": (8, lambda f: f.claiming(run_spec_digest="md5:" + "0" * 32)),
    "a claim of 301 characters": (8, lambda f: f.claiming(sub="x" * 301)),
    # 9. from whom, for whom
    "another issuer": (9, lambda f: f.claiming(iss=ISSUER + ".evil")),
    "issuer prefix": (9, lambda f: f.claiming(iss=ISSUER[:-1])),
    "issuer with a slash": (9, lambda f: f.claiming(iss=ISSUER + "/")),
    "issuer in capitals": (9, lambda f: f.claiming(iss=ISSUER.upper())),
    "another audience": (9, lambda f: f.claiming(aud="urn:swift:exec:local:there")),
    "audience prefix": (9, lambda f: f.claiming(aud=AUDIENCE[:-1])),
    # 10. when
    "expired": (10, lambda f: f.claiming(iat=NOW - 2_000, nbf=NOW - 2_000, exp=NOW - 1_100)),
    "not yet": (10, lambda f: f.claiming(iat=NOW + 500, nbf=NOW + 500, exp=NOW + 1_400)),
    "nbf ahead": (10, lambda f: f.claiming(nbf=NOW + 500)),
    "lives a day": (10, lambda f: f.claiming(exp=NOW + 86_400)),
    "lives a second too long": (10, lambda f: f.claiming(exp=NOW + 3_601)),
    "ends before it begins": (10, lambda f: f.claiming(exp=NOW - 1)),
    "lives from the beginning of time": (10, lambda f: f.claiming(iat=0)),
    "negative times": (10, lambda f: f.claiming(iat=-NOW, nbf=-NOW, exp=-NOW + 900)),
    # 11., 12. what
    "another specification": (11, lambda f: f.claiming(run_spec_digest=DIGEST)),
    "another task type than specified": (12, lambda f: f.claiming(task_type="dpo")),
    "another version than specified": (12, lambda f: f.claiming(task_version=2)),
    "another run than specified": (12, lambda f: f.claiming(txn="run-2")),
    "another unit than specified": (12, lambda f: f.claiming(business_unit="finance")),
    "another pool than specified": (12, lambda f: f.permitting(pool="h100")),
    "more GPUs than specified": (12, lambda f: f.permitting(gpus=8)),
    "more time than specified": (12, lambda f: f.permitting(max_runtime_s=7_200)),
}


def test_the_corpus_is_not_thinned_out() -> None:
    assert len(HOSTILE) >= 150
    assert {step for step, _ in HOSTILE.values()} == set(range(1, 13))


@pytest.mark.parametrize("alg", KEYS)
@pytest.mark.parametrize(("step", "make"), HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_token_is_refused_at_its_step(step: int, make: Make, alg: str) -> None:
    token = make(Forge(KEYS[alg]))

    with pytest.raises(TicketInvalid) as refused:
        verify(token)

    assert refused.value.facts["step"] == step, refused.value.detail


@pytest.mark.parametrize("named", KEYS)
@pytest.mark.parametrize("alg", KEYS)
def test_only_the_keys_own_algorithm_is_taken_from_a_token(alg: str, named: str) -> None:
    """Ed25519 and EdDSA are one curve and one signature: only the key's record tells them apart."""
    token = Forge(KEYS[alg]).headed(alg=named)

    public = KeySet.of(KEYS[alg]).get(KEYS[alg].kid)
    assert public is not None
    assert jws.signature_holds(token, public) == (named == alg)  # also where nobody compared the names before
    if named == alg:
        assert verify(token).claims.jti
    else:
        with pytest.raises(TicketInvalid, match=f"its `alg` is not the key's, {alg}"):
            verify(token)


@pytest.mark.parametrize("alg", KEYS)
def test_a_document_that_would_exhaust_a_parser_is_refused_before_it_is_parsed(alg: str) -> None:
    """20,000 levels do not fit into a ticket's length; the reader of its parts refuses them all the same (j: crash)."""
    assert len(deep(b"[", b"]", DEEP)) > jws.MAX_LENGTH
    for opening, closing in ((b"[", b"]"), (b'{"a":', b"}")):
        with pytest.raises(TicketInvalid) as refused:
            verify(Forge(KEYS[alg]).saying(deep(opening, closing, DEEP)))
        assert refused.value.facts["step"] == 1
        with pytest.raises(jws.Malformed, match="too deep"):
            jws._strict_object(deep(opening, closing, DEEP))


def test_a_clock_that_is_a_minute_behind_is_no_attack() -> None:
    """The 60th token of the measured corpus: `nbf` 60 s ahead lies inside the leeway."""
    assert verify(Forge(KEYS["Ed25519"]).claiming(nbf=NOW + 60)).claims.jti
