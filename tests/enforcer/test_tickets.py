"""Tickets, keys and proofs: what is good passes under each algorithm, and only a TicketInvalid ever comes out."""

import os
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from forging import AUDIENCE, CLAIMS, ISSUER, KEY, KEYS, NOW, SPEC, Forge, verify
from hypothesis import given, strategies as st
from joserfc import jws as joserfc_jws
from joserfc.jwk import JWKRegistry

from enforcer import jws, proofs, tickets
from enforcer.keys import KeySet, KeyUnusable, SigningKey, public_key
from enforcer.problems import TicketInvalid
from enforcer.tickets import VerifiedTicket

GOOD = Forge(KEY).good


def step_that_refuses(token: str, **options: Any) -> int:
    with pytest.raises(TicketInvalid) as refused:
        verify(token, **options)
    return int(refused.value.facts["step"])


@pytest.mark.parametrize("alg", KEYS)
def test_a_good_ticket_is_verified(alg: str) -> None:
    permit = verify(Forge(KEYS[alg]).good)

    assert (permit.claims.sub, permit.spec.task_type) == ("user:wang", "embedding")


@pytest.mark.parametrize("alg", KEYS)
def test_our_own_signing_makes_the_same_kind_of_token(alg: str) -> None:
    key = KEYS[alg]
    token = tickets.sign(tickets.Claims.model_validate(CLAIMS), key)

    assert verify(token).claims.jti == CLAIMS["jti"]
    assert jws.read(token, ("alg", "typ", "kid"))[0] == {"alg": alg, "typ": tickets.TYP, "kid": key.kid}
    assert len(token.rsplit(".", 1)[1]) == 86


def test_only_the_verifier_makes_a_verified_ticket() -> None:
    permit = verify(GOOD)

    with pytest.raises(TypeError, match="only made by"):
        VerifiedTicket(permit.claims, permit.spec, GOOD, object())


def test_an_edited_specification_is_refused() -> None:
    assert step_that_refuses(GOOD, spec=SPEC + b" ") == 11


def test_the_leeway_is_a_minute_and_no_more() -> None:
    assert verify(GOOD, now=NOW - 60).claims.jti
    assert verify(GOOD, now=NOW + 900 + 60).claims.jti
    assert step_that_refuses(GOOD, now=NOW - 61) == 10
    assert step_that_refuses(GOOD, now=NOW + 961) == 10


@pytest.mark.parametrize("alg", KEYS)
def test_a_development_key_is_refused_unless_it_is_expected(alg: str) -> None:
    dev = SigningKey.generate(alg, dev=True)
    token = Forge(dev).good

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


@given(st.text(max_size=200) | st.binary(max_size=200).map(Forge(KEY).saying))
def test_whatever_comes_in_only_a_ticket_invalid_comes_out(token: str) -> None:
    with pytest.raises(TicketInvalid):
        verify(token)


# --- keys and proofs --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alg", KEYS)
def test_what_we_sign_the_jose_library_verifies(alg: str) -> None:
    token = jws.sign({"typ": "test+jwt", "kid": "k"}, {"says": "你好"}, KEYS[alg])

    found = joserfc_jws.deserialize_compact(token, JWKRegistry.import_key(KEYS[alg].public_jwk()), algorithms=[alg])

    assert found.payload.decode() == '{"says":"你好"}'


@pytest.mark.parametrize("alg", KEYS)
def test_a_thumbprint_is_that_of_the_jose_library(alg: str) -> None:
    key = KEYS[alg]

    assert key.thumbprint == JWKRegistry.import_key(key.public_jwk()).thumbprint()
    assert key.thumbprint == public_key(key.public_jwk(), alg).thumbprint


@pytest.mark.parametrize("alg", KEYS)
def test_a_key_survives_its_file(alg: str, tmp_path: Path) -> None:
    file = tmp_path / "key.pem"
    KEYS[alg].save(file)

    read = SigningKey.load(file, alg)

    assert read.public_jwk() == KEYS[alg].public_jwk()
    assert file.stat().st_mode & 0o777 == 0o600
    with pytest.raises(FileExistsError):
        KEYS[alg].save(file)


def test_a_key_file_that_others_could_have_made_or_read_is_refused(tmp_path: Path) -> None:
    file, link, pipe = tmp_path / "key.pem", tmp_path / "link.pem", tmp_path / "pipe.pem"
    KEY.save(file)
    link.symlink_to(file)
    os.mkfifo(pipe, 0o600)

    for path, why in ((link, "cannot be opened"), (pipe, "not a regular file"), (tmp_path / "no.pem", "No such file")):
        with pytest.raises(KeyUnusable, match=why):
            SigningKey.load(path)
    file.chmod(0o640)
    with pytest.raises(KeyUnusable, match="chmod 600"):
        SigningKey.load(file)


@pytest.mark.parametrize(
    ("content", "alg", "why"),
    [
        (b"", None, "not an unencrypted private key"),
        (b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----", None, "not an unencrypted private key"),
        (rsa.generate_private_key(65537, 2048), None, "neither an Ed25519 nor a P-256 private key"),
        (ec.generate_private_key(ec.SECP384R1()), "ES256", "neither an Ed25519 nor a P-256 private key"),
        (KEYS["ES256"].private, "Ed25519", "holds a private key for ES256, not for Ed25519"),
        (KEYS["Ed25519"].private, "ES256", "holds a private key for Ed25519 or EdDSA, not for ES256"),
        (KEYS["Ed25519"].private, "HS256", "not for HS256"),
    ],
    ids=["nothing", "not a key", "RSA", "P-384", "P-256 as Ed25519", "Ed25519 as ES256", "as HS256"],
)
def test_a_private_key_that_does_not_fit_is_refused(content: Any, alg: str | None, why: str, tmp_path: Path) -> None:
    if not isinstance(content, bytes):
        content = content.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    file = tmp_path / "key.pem"
    file.write_bytes(content)
    file.chmod(0o600)

    with pytest.raises(KeyUnusable, match=why):
        SigningKey.load(file, alg)


@pytest.mark.parametrize("alg", KEYS)
def test_a_raw_signature_has_64_bytes_and_holds_for_its_text_only(alg: str) -> None:
    key = KEYS[alg]
    public = KeySet.of(key).get(key.kid)
    assert public is not None
    signature = key.sign(b"text")

    assert len(signature) == 64
    assert public.verify(b"text", signature)
    assert not public.verify(b"texu", signature)
    padded = signature[:32] + b"\x00" + signature[32:]  # the same numbers, one byte longer
    for spoilt in (signature[:-1], signature + b"\x00", padded, bytes(64), b"\xff" * 64, b""):
        assert not public.verify(b"text", spoilt)


def test_a_signer_that_answers_in_der_is_found_out() -> None:
    class Careless:
        kid, alg = KEYS["ES256"].kid, "ES256"
        public_jwk = KEYS["ES256"].public_jwk

        def sign(self, content: bytes) -> bytes:
            private = KEYS["ES256"].private
            assert isinstance(private, ec.EllipticCurvePrivateKey)
            return private.sign(content, ec.ECDSA(SHA256()))

    with pytest.raises(KeyUnusable, match="a JOSE signature has 64"):
        jws.sign({"typ": "test+jwt"}, {}, Careless())


@pytest.mark.parametrize("bytes_", ["00" * 32, "01" + "00" * 31, "ed" + "ff" * 30 + "7f", "ee" + "ff" * 31])
def test_a_low_order_public_key_is_refused(bytes_: str) -> None:
    with pytest.raises(KeyUnusable, match="low-order"):
        public_key({"kty": "OKP", "crv": "Ed25519", "x": jws.b64url(bytes.fromhex(bytes_))})


@pytest.mark.parametrize("alg", KEYS)
def test_a_key_set_with_a_private_key_is_refused(alg: str) -> None:
    private = {**KEYS[alg].public_jwk(), "d": "AAAA"}

    with pytest.raises(KeyUnusable, match="private"):
        KeySet.from_jwks({"keys": [private]})


def test_a_key_set_with_two_keys_of_one_id_is_refused() -> None:
    twin = {**SigningKey.generate().public_jwk(), "kid": KEY.kid}

    with pytest.raises(KeyUnusable, match="two keys of the id"):
        KeySet.from_jwks({"keys": [KEY.public_jwk(), twin]})


@pytest.mark.parametrize(("alg", "other"), [("Ed25519", "ES256"), ("ES256", "Ed25519"), ("ES256", "EdDSA")])
def test_a_key_record_whose_algorithm_is_of_another_curve_is_refused(alg: str, other: str) -> None:
    with pytest.raises(KeyUnusable, match="are taken"):
        KeySet.from_jwks({"keys": [{**KEYS[alg].public_jwk(), "alg": other}]})


def test_a_point_beside_the_curve_is_refused() -> None:
    jwk = KEYS["ES256"].public_jwk()

    with pytest.raises(KeyUnusable, match="not a point of P-256"):
        public_key({**jwk, "y": jwk["x"]})


def test_a_key_has_one_spelling() -> None:
    """43 characters carry 258 bits: two of them are loose, and a loose spelling would be a second thumbprint."""
    x = KEY.public_jwk()["x"]
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"

    for spelling in (x[:-1] + alphabet[alphabet.index(x[-1]) ^ 1], x + "=", x + "\n", " " + x):
        with pytest.raises(KeyUnusable, match="base64url"):
            public_key({**KEY.public_jwk(), "x": spelling})


def test_keys_of_another_purpose_are_left_aside() -> None:
    rsa_key = {"kty": "RSA", "n": "x", "e": "AQAB", "alg": "RS256", "use": "sig", "kid": "rsa-1"}
    for_encryption = {**SigningKey.generate().public_jwk(), "use": "enc"}

    assert len(KeySet.from_jwks({"keys": [rsa_key, for_encryption, "text", KEY.public_jwk()]})) == 1


def test_a_key_that_is_marked_as_compromised_verifies_nothing() -> None:
    marked = {**KEY.public_jwk(), "compromised_at": "2026-11-24T00:00:00Z"}

    assert KeySet.from_jwks({"keys": [marked]}).get(KEY.kid) is None


def test_a_private_key_does_not_show_itself() -> None:
    secret = KEY.private.private_bytes_raw()  # type: ignore[union-attr]

    assert repr(KEY) == f"SigningKey(kid='{KEY.kid}', alg='Ed25519')"
    assert jws.b64url(secret) not in f"{KEY} {KEY!r} {vars(KEY)}"


URL = "https://registry.example/v1/tickets/x:redeem"


def proof(**changes: Any) -> str:
    return proofs.prove(KEY, **{"method": "POST", "url": URL, "ticket": GOOD, "now": lambda: NOW, **changes})


def check_proof(made: str, **changes: Any) -> proofs.ProvenKey:
    return proofs.check(made, **{"method": "POST", "url": URL, "ticket": GOOD, "now": lambda: NOW, **changes})


@pytest.mark.parametrize("alg", ["Ed25519", "ES256"])
def test_a_proof_names_the_key_that_made_it(alg: str) -> None:
    made = proofs.prove(KEYS[alg], method="POST", url=URL, ticket=GOOD, now=lambda: NOW)

    assert check_proof(made).thumbprint == KEYS[alg].thumbprint


@pytest.mark.parametrize("alg", ["EdDSA", "ES256", "none", "HS256", None])
def test_a_proof_under_another_algorithm_than_its_keys_is_refused(alg: str | None) -> None:
    header, payload = jws.read(proof(), ("alg", "typ", "jwk"))

    with pytest.raises(TicketInvalid, match="its `alg` is not that of its key"):
        check_proof(jws.sign({**header, "alg": alg}, payload, KEY))


def test_a_proof_that_carries_its_private_key_is_refused() -> None:
    header, payload = jws.read(proof(), ("alg", "typ", "jwk"))
    header["jwk"]["d"] = "AAAA"

    with pytest.raises(TicketInvalid, match="private key"):
        check_proof(jws.sign(header, payload, KEY))


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
