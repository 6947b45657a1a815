"""Starting: what the embedded default does by itself, and what it refuses to do."""

import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import httpx2
import pytest
from conftest import free_port
from fastapi import FastAPI

from registry import server
from registry.settings import Settings

TAGWARDEN = [sys.executable, "-m", "registry"]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return {
        **os.environ,
        "TAGWARDEN_STATE_DIR": str(tmp_path / "state"),
        "XDG_RUNTIME_DIR": str(tmp_path / "runtime"),
    }


def tagwarden(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*TAGWARDEN, *arguments], env=environment, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.fixture
def served(environment: dict[str, str]) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    port = free_port()
    process = subprocess.Popen(
        [*TAGWARDEN, "serve", "--port", str(port)], env=environment, stderr=subprocess.PIPE, text=True
    )
    url = f"http://127.0.0.1:{port}"
    wait_until_ready(url)
    yield url, process
    process.send_signal(signal.SIGINT)
    process.wait(timeout=20)


def wait_until_ready(url: str) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            if httpx2.get(f"{url}/readyz").status_code == 200:
                return
        except httpx2.TransportError:
            pass
        assert time.monotonic() < deadline, "the registry did not get ready"
        time.sleep(0.1)


def test_the_embedded_default_serves_seeds_and_leaves_a_private_token(
    served: tuple[str, object], tmp_path: Path
) -> None:
    url, _ = served
    token = tmp_path / "runtime" / "tagwarden" / "token"

    reply = httpx2.get(f"{url}/v1/tags", headers={"Authorization": f"Bearer {token.read_text()}"})

    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    assert {"dpo", "embedding", "sequence-classification"} <= {tag["name"] for tag in reply.json()["items"]}


def test_the_signing_keys_of_the_embedded_default_are_private_and_marked(
    served: tuple[str, object], tmp_path: Path
) -> None:
    url, _ = served
    keys = sorted((tmp_path / "state" / "keys").iterdir())

    names = [re.sub(r"-[\w-]{16}\.pem", "", key.name) for key in keys]
    assert names == [".lock", "dev-attestation", "dev-log", "dev-ticket", "dev-token", "ring.json"]
    assert all(stat.S_IMODE(key.stat().st_mode) == 0o600 for key in keys)
    assert httpx2.get(f"{url}/.well-known/jwks.json").json()["keys"][0]["kid"].startswith("dev-")


def test_it_says_nothing_of_its_make_and_believes_no_address_that_a_client_writes(served: tuple[str, object]) -> None:
    """From loopback the web server would take `X-Forwarded-For` as it comes, and guessing would cost nothing."""
    url, _ = served

    replies: list[httpx2.Response] = []
    with httpx2.Client(base_url=url, headers={"Authorization": "Bearer guess"}) as client:
        while not replies or replies[-1].status_code == 401:  # the budget refills a little meanwhile
            assert len(replies) < 500, "guessing costs nothing"
            replies.append(client.get("/v1/tags", headers={"X-Forwarded-For": f"10.0.{len(replies)}.1"}))

    assert len(replies) > 60
    assert replies[-1].status_code == 429
    assert "server" not in replies[0].headers


def test_it_idles_under_150_mib_and_never_imports_torch(served: tuple[str, subprocess.Popen[str]]) -> None:
    _, process = served
    status = Path(f"/proc/{process.pid}/status").read_text()
    maps = Path(f"/proc/{process.pid}/maps").read_text()

    resident_kib = int(re.search(r"VmRSS:\s+(\d+)", status)[1])  # type: ignore[index]

    assert resident_kib < 150 * 1024
    assert "libtorch" not in maps


def test_beyond_loopback_it_refuses_to_start_while_nobody_could_sign_in(environment: dict[str, str]) -> None:
    named = {**environment, "TAGWARDEN_PUBLIC_URL": "https://registry.example"}
    arguments = ("serve", "--host", "0.0.0.0", "--port", str(free_port()))

    nameless, nobody = tagwarden(environment, *arguments), tagwarden(named, *arguments)

    assert (nameless.returncode, nobody.returncode) == (2, 2)
    assert "set TAGWARDEN_PUBLIC_URL" in nameless.stderr
    assert "tagwarden token create" in nobody.stderr
    assert "Traceback" not in nameless.stderr + nobody.stderr


def test_a_taken_port_is_named_with_the_way_out(environment: dict[str, str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]

        refused = tagwarden(environment, "serve", "--port", str(port))

    assert refused.returncode == 2
    assert f"127.0.0.1:{port} cannot be listened on" in refused.stderr
    assert "--port" in refused.stderr


@pytest.mark.parametrize(
    ("name", "value"),
    [("TAGWARDEN_PORT", "many"), ("TAGWARDEN_PUBLIC_URL", "registry"), ("TAGWARDEN_LEASE_TTL_S", "1")],
)
def test_a_wrong_setting_is_named(environment: dict[str, str], name: str, value: str) -> None:
    refused = tagwarden({**environment, name: value}, "serve")

    assert refused.returncode == 2
    assert name.removeprefix("TAGWARDEN_").lower() in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_readable_key_file_stops_the_start_with_the_repair(environment: dict[str, str], tmp_path: Path) -> None:
    assert tagwarden(environment, "keys", "rotate", "ticket").returncode == 0
    (key,) = (tmp_path / "state" / "keys").glob("dev-ticket-*.pem")
    key.chmod(0o644)

    refused = tagwarden(environment, "serve", "--port", str(free_port()))

    assert refused.returncode == 1
    assert "chmod 600" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_running_service_turns_its_keys_without_a_restart(
    environment: dict[str, str], served: tuple[str, object]
) -> None:
    url, _ = served

    def kids(path: str = "/.well-known/jwks.json") -> list[str]:
        return [key["kid"] for key in httpx2.get(f"{url}{path}").json()["keys"]]

    (first,) = kids()
    rotated = tagwarden({**environment, "TAGWARDEN_KEY_PUBLISH_AHEAD_S": "2"}, "keys", "rotate", "ticket")
    published = kids()
    second = rotated.stdout.split()[0]
    deadline = time.monotonic() + 20
    while "active       since" not in next(line for line in key_lines(environment) if line.startswith(second)):
        assert time.monotonic() < deadline, "the next key did not begin"
        time.sleep(0.3)
    refused, retired = (tagwarden(environment, "keys", "retire", kid, "--compromised") for kid in (second, first))

    assert published == [first, second]
    assert f"`{second}` signs now" in refused.stderr
    assert retired.returncode == 0, retired.stderr
    assert (kids(), kids("/.well-known/retired-keys")) == ([second], [first])
    admin = Path(environment["XDG_RUNTIME_DIR"], "tagwarden", "token").read_text()
    log = httpx2.get(f"{url}/v1/audit", headers={"Authorization": f"Bearer {admin}"}).json()["items"]
    told = [(event["kind"], event["actor"], event["detail"]["kid"]) for event in log if event["kind"][:4] == "key."][:3]
    assert told == [
        ("key.compromised", "system:operator", first),
        ("key.activated", "system:registry", second),
        ("key.published", "system:operator", second),
    ]


def key_lines(environment: dict[str, str]) -> list[str]:
    return tagwarden(environment, "keys", "list").stdout.splitlines()


def test_a_broken_policy_stops_the_start_and_names_the_rule(environment: dict[str, str], tmp_path: Path) -> None:
    policies = tmp_path / "policies"
    subprocess.run(["cp", "-r", "policies", str(policies)], check=True)
    rules = policies / "rules" / "nlp.yaml"
    rules.write_text(rules.read_text().replace("who: group:nlp\n", "who: group:nlq\n", 1))

    refused = tagwarden({**environment, "TAGWARDEN_POLICIES_DIR": str(policies)}, "serve", "--port", str(free_port()))

    assert refused.returncode == 1
    assert "rules/nlp.yaml:3: rule `nlp-trains-preference-alignment` speaks of unknown group `nlq`" in refused.stderr


def test_a_token_is_for_groups_and_units_that_exist(environment: dict[str, str]) -> None:
    made = tagwarden(environment, "token", "create", "wang", "--group", "trainers", "--unit", "retail")
    refused = tagwarden(environment, "token", "create", "wang", "--group", "trainerz", "--unit", "retial")

    assert re.fullmatch(r"twp_[0-9a-f]{12}_[\w-]{43}_[0-9a-f]{8}\n", made.stdout)
    assert refused.returncode == 1
    assert "group `trainerz`, unit `retial`" in refused.stderr


def test_a_revoked_token_opens_nothing(environment: dict[str, str], served: tuple[str, object]) -> None:
    url, _ = served
    secret = tagwarden(environment, "token", "create", "wang", "--group", "trainers", "--unit", "retail").stdout.strip()
    listed = tagwarden(environment, "token", "list").stdout
    token_id = secret.split("_")[1]

    def status() -> int:
        return httpx2.get(f"{url}/v1/tags", headers={"Authorization": f"Bearer {secret}"}).status_code

    before = status()
    revoked, again = (tagwarden(environment, "token", "revoke", token_id) for _ in range(2))

    assert f"{token_id}  user:wang  trainers  retail" in listed
    assert secret.split("_", 2)[2] not in listed
    assert (before, revoked.returncode, status()) == (200, 0, 401)
    assert again.returncode == 1
    assert "tagwarden token list" in again.stderr
    admin = Path(environment["XDG_RUNTIME_DIR"], "tagwarden", "token").read_text()
    log = httpx2.get(f"{url}/v1/audit", headers={"Authorization": f"Bearer {admin}"}).json()["items"]
    assert [event["kind"] for event in log if event["actor"] == "system:operator"] == ["token.revoked", "token.created"]


def test_a_registry_that_was_never_started_has_no_tokens(environment: dict[str, str]) -> None:
    listed, revoked = tagwarden(environment, "token", "list"), tagwarden(environment, "token", "revoke", "0123456789ab")

    assert (listed.returncode, listed.stdout) == (0, "")
    assert "`0123456789ab` is not the id of a token" in revoked.stderr


def test_the_secret_of_a_token_is_nowhere_in_the_database(environment: dict[str, str], tmp_path: Path) -> None:
    secret = tagwarden(environment, "token", "create", "wang", "--unit", "retail").stdout.split("_", 2)[2][:43]

    stored = b"".join(file.read_bytes() for file in (tmp_path / "state").glob("registry.db*"))

    assert secret.encode() not in stored


def test_without_the_services_packages_it_says_what_to_install(environment: dict[str, str]) -> None:
    program = "import sys; sys.modules['sqlalchemy'] = None; from registry.cli import main; main(['seed'])"

    refused = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60, check=False
    )

    assert refused.returncode == 2
    assert "pip install 'tagwarden[registry]'" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_seeding_twice_adds_nothing(environment: dict[str, str]) -> None:
    first, second = tagwarden(environment, "seed"), tagwarden(environment, "seed")

    assert "sequence-classification" in first.stdout
    assert second.stdout == "nothing to add\n"


def test_the_committed_openapi_document_is_the_apps(environment: dict[str, str]) -> None:
    checked = tagwarden(environment, "openapi", "--check", "openapi/registry.json")

    assert checked.returncode == 0, checked.stderr


def test_the_openapi_document_is_valid_and_promises_problem_json_for_each_status() -> None:
    from openapi_spec_validator import validate

    document = json.loads(Path("openapi/registry.json").read_text())

    validate(document)
    for path in document["paths"].values():
        for operation in path.values():
            refusals = {status: answer for status, answer in operation["responses"].items() if int(status) >= 400}
            assert {"422", "500"} <= set(refusals)
            assert {*chain.from_iterable(a["content"] for a in refusals.values())} == {"application/problem+json"}
            assert "default" not in operation["responses"], "it would make every status a documented one"


@pytest.mark.parametrize(("module", "what"), [("uvloop", "loop"), ("httptools", "protocol")])
def test_the_fast_parts_of_the_web_server_are_used_where_they_are_installed(
    tmp_path: Path, module: str, what: str
) -> None:
    pytest.importorskip(module)
    config = server.web_server(FastAPI(), Settings(state_dir=tmp_path))

    config.load()

    used = config.get_loop_factory() if what == "loop" else config.http_protocol_class
    assert module in f"{used!r} {getattr(used, '__module__', '')}".lower(), used
