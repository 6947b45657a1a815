"""The plug-in for hardware security modules, with a real PKCS#11 module (SoftHSM) and a served registry."""

import os
import shutil
import signal
import subprocess
import sys
import time
import tomllib
import uuid
from pathlib import Path

import httpx2
import pytest
from conftest import free_port, ticket_request

from enforcer import jws
from enforcer.keys import KeySet

PACKAGE = Path(__file__).parents[2] / "deploy" / "pkcs11"
MODULES = [Path("/usr/lib/softhsm/libsofthsm2.so"), Path("/usr/local/lib/softhsm/libsofthsm2.so")]
KEY_PAIRS = """
import pkcs11
from pkcs11 import Attribute, KeyType
from pkcs11.util.ec import encode_named_curve_parameters
import os, sys
token = pkcs11.lib(os.environ["TAGWARDEN_PKCS11_MODULE"]).get_token(token_label="tagwarden")
with token.open(user_pin="4711", rw=True) as session:
    for kind, curve, label in ((KeyType.EC_EDWARDS, "1.3.101.112", "edwards"), (KeyType.EC, "secp256r1", "p256")):
        given = {Attribute.EC_PARAMS: encode_named_curve_parameters(curve)}
        session.create_domain_parameters(kind, given, local=True).generate_keypair(label=label, store=True)
"""

pytestmark = pytest.mark.pkcs11


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """A token with two key pairs, and the plug-in installed: its module and its entry point on the path."""
    module = next((path for path in MODULES if path.exists()), None)
    if module is None or shutil.which("softhsm2-util") is None:
        pytest.skip("no SoftHSM (libsofthsm2.so, softhsm2-util); install the package `softhsm2`")
    pytest.importorskip("pkcs11", reason="no package `python-pkcs11`; it is part of the development dependencies")
    site, tokens = tmp_path / "site", tmp_path / "tokens"
    project = tomllib.loads((PACKAGE / "pyproject.toml").read_text())["project"]
    info = site / "tagwarden_pkcs11.dist-info"
    info.mkdir(parents=True)
    tokens.mkdir()
    shutil.copy(PACKAGE / "tagwarden_pkcs11.py", site)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    (plugin,) = project["entry-points"]["tagwarden.signers"].items()
    (info / "entry_points.txt").write_text("[tagwarden.signers]\n{} = {}\n".format(*plugin))
    (tmp_path / "softhsm2.conf").write_text(f"directories.tokendir = {tokens}\nobjectstore.backend = file\n")
    (tmp_path / "pin").write_text("4711\n")
    made = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(site), str(PACKAGE.parents[1])]),
        "SOFTHSM2_CONF": str(tmp_path / "softhsm2.conf"),
        "TAGWARDEN_PKCS11_MODULE": str(module),
        "TAGWARDEN_PKCS11_PIN_FILE": str(tmp_path / "pin"),
        "TAGWARDEN_STATE_DIR": str(tmp_path / "state"),
        "XDG_RUNTIME_DIR": str(tmp_path / "runtime"),
    }
    token = ["softhsm2-util", "--init-token", "--free", "--label", "tagwarden", "--pin", "4711", "--so-pin", "0815"]
    for command in (token, [sys.executable, "-c", KEY_PAIRS]):
        subprocess.run(command, env=made, check=True, capture_output=True, timeout=60)
    return made


def tagwarden(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "registry", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(("label", "alg"), [("edwards", "Ed25519"), ("p256", "ES256")])
def test_a_served_registry_signs_tickets_with_a_key_in_the_module(
    environment: dict[str, str], label: str, alg: str
) -> None:
    made = tagwarden(
        environment, "keys", "rotate", "ticket", "--alg", alg, "--source", f"signer:pkcs11:tagwarden/{label}"
    )
    assert made.returncode == 0, made.stderr
    token = tagwarden(environment, "token", "create", "wang", "--group", "trainers", "--unit", "retail").stdout.strip()
    url = f"http://127.0.0.1:{(port := free_port())}"
    serve = [sys.executable, "-m", "registry", "serve", "--port", str(port)]

    with subprocess.Popen(serve, env=environment, stderr=subprocess.PIPE) as service:
        try:
            wait_for(url)
            keys = KeySet.from_jwks(httpx2.get(f"{url}/.well-known/jwks.json").json())
            headers = {"Authorization": f"Bearer {token}", "Idempotency-Key": str(uuid.uuid4())}
            grant = httpx2.post(f"{url}/v1/tickets", json=ticket_request(), headers=headers).json()
        finally:
            service.send_signal(signal.SIGINT)

    header = jws.read(grant["ticket"], ("alg", "typ", "kid"))[0]
    key = keys.get(header["kid"])
    assert (header["alg"], header["kid"]) == (alg, made.stdout.split()[0])
    assert key is not None
    assert jws.signature_holds(grant["ticket"], key)
    assert len(keys) == 1
    assert not list(Path(environment["TAGWARDEN_STATE_DIR"], "keys").glob("*ticket*.pem"))


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("tagwarden/nothing", "NoSuchKey"),
        ("other/edwards", "NoSuchToken"),
        ("", "cannot be used"),
        ("tagwarden/p256", "has a key for ES256, not for Ed25519"),
    ],
)
def test_what_is_not_in_the_module_is_refused_without_a_traceback(
    environment: dict[str, str], source: str, why: str
) -> None:
    refused = tagwarden(environment, "keys", "rotate", "ticket", "--source", f"signer:pkcs11:{source}")

    assert refused.returncode == 1
    assert why in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_wrong_pin_is_refused_and_not_shown(environment: dict[str, str]) -> None:
    Path(environment["TAGWARDEN_PKCS11_PIN_FILE"]).write_text("9876")

    refused = tagwarden(environment, "keys", "rotate", "ticket", "--source", "signer:pkcs11:tagwarden/edwards")

    assert refused.returncode == 1
    assert "PinIncorrect" in refused.stderr
    assert "9876" not in refused.stderr + refused.stdout


def wait_for(url: str) -> None:
    deadline = time.monotonic() + 40
    while True:
        try:
            if httpx2.get(f"{url}/readyz").status_code == 200:
                return
        except httpx2.TransportError:
            pass
        assert time.monotonic() < deadline, "the registry did not get ready"
        time.sleep(0.1)
