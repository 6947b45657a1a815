"""Tickets verify elsewhere: with the `openssl` command alone, and with the JOSE library of another language."""

import base64
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from forging import AUDIENCE, CLAIMS, ISSUER, KEYS, NOW, Forge

from enforcer import tickets

NODE = Path(__file__).parents[1] / "node"


def openssl_verifies(token: str, alg: str, folder: Path) -> bool:
    """As tools/verify.sh of a third party would: split at the last dot, decode, verify the bytes before it."""
    signed, _, signature = token.rpartition(".")
    raw = base64.urlsafe_b64decode(signature + "==")
    public = KEYS[alg].private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (folder / "public.pem").write_bytes(public)
    (folder / "signed").write_text(signed)
    if alg == "ES256":  # openssl reads ECDSA signatures in DER only
        raw = encode_dss_signature(int.from_bytes(raw[:32]), int.from_bytes(raw[32:]))
    (folder / "signature").write_bytes(raw)
    digest = ["-digest", "sha256"] if alg == "ES256" else []
    done = subprocess.run(
        ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", "public.pem", "-rawin", *digest, "-in", "signed",
         "-sigfile", "signature"],
        cwd=folder, capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert "Signature Verifi" in done.stdout + done.stderr, done.stderr
    return done.returncode == 0


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no `openssl` command on this machine")
@pytest.mark.parametrize("alg", KEYS)
def test_the_openssl_command_verifies_a_ticket(alg: str, tmp_path: Path) -> None:
    token = tickets.sign(tickets.Claims.model_validate(CLAIMS), KEYS[alg])
    header, payload, signature = token.split(".")

    assert openssl_verifies(token, alg, tmp_path)
    assert not openssl_verifies(f"{header}.{payload[:-1]}A.{signature}", alg, tmp_path)
    assert not openssl_verifies(
        Forge(KEYS[alg]).claiming(sub="user:li").rsplit(".", 1)[0] + f".{signature}", alg, tmp_path
    )


def in_node(token: str, alg: str) -> dict[str, Any]:
    if shutil.which("node") is None:
        pytest.skip("no Node.js on this machine; install it, then `npm ci --prefix tests/node`")
    asked = {
        "token": token, "jwks": {"keys": [KEYS[alg].public_jwk()]}, "issuer": ISSUER, "audience": AUDIENCE,
        "typ": tickets.TYP, "now": NOW,
    }  # fmt: skip
    done = subprocess.run(
        ["node", "verify.mjs"],
        cwd=NODE,
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, f"{done.stderr}\nare its packages there? `npm ci --prefix tests/node`"
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


@pytest.mark.node
@pytest.mark.parametrize("alg", KEYS)
def test_node_jose_verifies_a_ticket(alg: str) -> None:
    token = tickets.sign(tickets.Claims.model_validate(CLAIMS), KEYS[alg])

    answer = in_node(token, alg)

    assert answer["payload"] == CLAIMS
    assert answer["header"] == {"alg": alg, "typ": tickets.TYP, "kid": KEYS[alg].kid}


@pytest.mark.node
@pytest.mark.parametrize("alg", KEYS)
def test_node_jose_refuses_what_we_refuse(alg: str) -> None:
    forge = Forge(KEYS[alg])

    refused = {
        "ERR_JWS_SIGNATURE_VERIFICATION_FAILED": forge.signed_as(bytes(64)),
        "ERR_JWT_EXPIRED": forge.claiming(iat=NOW - 2_000, nbf=NOW - 2_000, exp=NOW - 1_100),
        "ERR_JWT_CLAIM_VALIDATION_FAILED": forge.claiming(aud="urn:swift:exec:local:there"),
        "ERR_JWKS_NO_MATCHING_KEY": forge.headed(kid="someone"),
    }

    assert {code: in_node(token, alg).get("refused") for code, token in refused.items()} == {
        code: code for code in refused
    }
