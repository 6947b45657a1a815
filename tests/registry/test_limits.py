"""Refused before it is routed: wrong names, other sites, large, deep, ambiguous bodies. What every answer carries."""

import contextlib
import json
import zlib
from pathlib import Path
from typing import Any

import pytest
from conftest import Registry, ask, redeem, ticket_request
from fastapi.testclient import TestClient
from hypothesis import given, strategies as st

from enforcer import proofs
from enforcer.keys import SigningKey
from enforcer.problems import Malformed, TooDeep
from registry import limits
from registry.settings import Settings

EVALUATION = {"resource": {"type": "task-type", "id": "dpo"}, "action": {"name": "submit"}}
URL = "/access/v1/evaluation"


def post(registry: Registry, body: bytes | str, kind: str = "application/json", path: str = URL) -> Any:
    return registry.as_("wang", "nlp").post(path, content=body, headers={"Content-Type": kind})


def nested(levels: int, opening: str = "[", closing: str = "]") -> str:
    """An evaluation whose innermost value makes the body this many levels deep; the context is the second."""
    inner = opening * (levels - 2) + "1" + closing * (levels - 2)
    return json.dumps({**EVALUATION, "context": {"model": "@"}}).replace('"@"', inner)


# --- bodies -----------------------------------------------------------------------------------------------------------


def test_sixteen_levels_are_parsed_and_seventeen_are_not(registry: Registry) -> None:
    at_the_limit, beyond = post(registry, nested(16)).json(), post(registry, nested(17)).json()

    assert at_the_limit["code"] == "malformed-request", "the field says what it takes"
    assert "/body/context/model" in at_the_limit["detail"]
    assert (beyond["code"], beyond["status"]) == ("too-deep", 422)


@pytest.mark.parametrize(
    "body",
    [
        "[" * 60_000,
        '{"a":' * 10_000,
        "[" * 2_000 + "]" * 2_000,
        '{"a":"' + "\\" * 3 + '"' + ",b:" + "[" * 5_000,
        nested(5_000),
    ],
    ids=["open brackets", "open members", "balanced", "after a broken string", "in a field"],
)
def test_no_nesting_is_a_fault_of_ours(registry: Registry, body: str) -> None:
    reply = post(registry, body)

    assert (reply.status_code, reply.headers["content-type"]) == (422, "application/problem+json")


def test_brackets_inside_of_strings_are_no_nesting(registry: Registry) -> None:
    body = json.dumps({**EVALUATION, "context": {"model": '[{"\\' * 40}})

    assert post(registry, body).status_code == 200


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(alphabet='a"\\[]{}:,\n\u00e9'),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(alphabet='a"\\[]{}'), inner, max_size=3),
    max_leaves=40,
)


def depth_by_definition(value: Any) -> int:
    if isinstance(value, list | dict):
        inner = value.values() if isinstance(value, dict) else value
        return 1 + max(map(depth_by_definition, inner), default=0)
    return 0


@given(JSON, st.booleans())
def test_depth_is_that_of_the_parsed_document(value: Any, ascii_only: bool) -> None:
    body = json.dumps(value, ensure_ascii=ascii_only).encode()

    assert limits.depth(body) == depth_by_definition(value)
    assert limits.depth(body.replace(b" ", b"\n\t ")) == depth_by_definition(value)


@given(st.binary(max_size=300) | st.text(alphabet='[]{}"\\:,01aeE.+-nul ').map(str.encode))
def test_no_bytes_are_a_fault_of_ours(body: bytes) -> None:
    with contextlib.suppress(Malformed, TooDeep):
        json.dumps(limits.strict_json(body))


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ('{"resource": {"type": "task-type", "id": "dpo", "id": "x"}}', "`id` stands twice"),
        (b'\xff\xfe{\x00"\x00a\x00"\x00:\x001\x00}\x00', "UTF-8"),
        (b'{"a": "\xff"}', "UTF-8"),
        ("{", "not JSON"),
        ('{"a": ' + "9" * 5_000 + "}", "not JSON"),
    ],
    ids=["a member twice", "UTF-16", "broken UTF-8", "cut", "an integer of 5,000 digits"],
)
def test_a_body_has_one_reading_or_none(registry: Registry, body: str | bytes, says: str) -> None:
    reply = post(registry, body)

    assert (reply.status_code, reply.json()["code"]) == (422, "malformed-request")
    assert says in reply.json()["detail"]


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "", "json"])
def test_a_body_is_called_what_it_is(registry: Registry, kind: str) -> None:
    """A browser form cannot send `application/json` without asking first (CORS), so this stops forged forms, too."""
    reply = post(registry, json.dumps(EVALUATION), kind)

    assert (reply.status_code, reply.json()["code"]) == (415, "unsupported-media-type")


@pytest.mark.parametrize("kind", ["application/json; charset=utf-8", "Application/JSON"])
def test_the_ways_to_write_the_media_type_are_known(registry: Registry, kind: str) -> None:
    assert post(registry, json.dumps(EVALUATION), kind).status_code == 200


@pytest.mark.parametrize("announced", [True, False], ids=["with its length", "in chunks"])
@pytest.mark.parametrize(
    ("path", "most"),
    [
        *((path, limits.MAX_BODY_BYTES) for path in (URL, "/v1/tickets", "/v1/audit:erase", "/v1/runs/run-x/report")),
        *((path, limits.MAX_POLICY_BYTES) for path in ("/v1/proposals", "/v1/policies:replay")),
    ],
)
def test_a_body_beyond_the_limit_of_its_route_is_refused(
    registry: Registry, path: str, most: int, announced: bool
) -> None:
    """64 KiB, and 4 MiB where policy files are sent."""
    body = b'{"a": "' + b"x" * most + b'"}'
    chunks = [body] if announced else [body[:60_000], body[60_000:]]

    reply = registry.as_("wang", "nlp").post(
        path, content=body if announced else iter(chunks), headers={"Content-Type": "application/json"}
    )

    assert (reply.status_code, reply.json()["code"]) == (413, "too-large")


@pytest.mark.parametrize("length", ["-1", "x", "1" * 20, "99999999"])
def test_a_length_that_cannot_be_is_refused(registry: Registry, length: str) -> None:
    reply = registry.as_("wang", "nlp").post(URL, content=b"{}", headers={"Content-Length": length})

    assert reply.status_code == 413


# --- query parameters -------------------------------------------------------------------------------------------------

DOCUMENT = json.loads(Path("openapi/registry.json").read_text())
BY_RUNS = (":redeem", ":refuse", ":upload", "/heartbeats", "/report")  # held by a ticket or a lease, nobody signs in
HELD = [path for path in DOCUMENT["paths"] if path.endswith(BY_RUNS)]
EVERYWHERE = [(method, path) for path, methods in DOCUMENT["paths"].items() for method in methods if path not in HELD]


@pytest.mark.parametrize(("method", "path"), EVERYWHERE)
def test_an_unknown_query_parameter_is_refused_on_every_route(registry: Registry, method: str, path: str) -> None:
    """Whoever calls is let through by the policy or refused by it first; what matters is that nothing is done."""
    for name, value in (("proposal_id", "x"), ("name", "dpo"), ("version", "1"), ("jti", "x"), ("run_id", "x")):
        path = path.replace(f"{{{name}}}", value)
    client = registry.as_("root", "platform-admins", "trainers", "auditors", "nlp", "tag-stewards")
    body = {} if method == "get" else {"data": {"grant_type": "x"}} if path == "/v1/token" else {"json": {}}

    reply = client.request(method, path, params={"busines_unit": "retail"}, **body)

    assert (reply.status_code, reply.json()["code"]) == (422, "malformed-request")
    assert "`busines_unit` is not a query parameter" in reply.json()["detail"]


@pytest.mark.parametrize("path", HELD)
def test_a_run_may_not_add_parameters_either(registry: Registry, path: str) -> None:
    key = SigningKey.generate()
    grant = ask(registry.as_("wang", "trainers"), ticket_request(jkt=key.thumbprint)).json()
    lease = redeem(registry, grant, key).json()
    path = path.replace("{jti}", grant["jti"]).replace("{run_id}", grant["run_id"])
    headers = {"Authorization": f"Bearer {lease['lease_token']}"}
    if path.endswith(":upload"):
        headers = {"Authorization": f"Ticket {grant['ticket']}"}
    elif "/tickets/" in path:
        proof = proofs.prove(key, method="POST", url=f"{registry.settings.issuer}{path}", ticket=grant["ticket"])
        headers = {"Authorization": f"DPoP {grant['ticket']}", "DPoP": proof}
    before = len(registry.events())

    reply = registry.anonymous(headers=headers).post(f"{path}?force=true", json={})

    assert reply.status_code == 422
    assert "`force` is not a query parameter of this route; it takes " in reply.json()["detail"]
    assert [event.outcome for event in registry.events()[before:]] == ["refused"]


def test_the_routes_of_runs_are_those_five() -> None:
    assert len(HELD) == len(BY_RUNS)


def test_a_parameter_given_twice_is_refused(registry: Registry) -> None:
    reply = registry.as_("wang", "trainers").get("/v1/tags?page_size=1&page_size=500")

    assert reply.status_code == 422
    assert "`page_size` was given more than once" in reply.json()["detail"]


def test_the_refusal_names_what_the_route_takes(registry: Registry) -> None:
    reply = registry.as_("wang", "trainers").get("/v1/proposals?stat=open")

    assert "it takes `awaiting_me`, `filter`, `order_by`, `page_size`, `page_token`, `state`" in reply.json()["detail"]


# --- names and other sites --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1:8710", "localhost:8710", "LOCALHOST:8710", "[::1]:8710"])
def test_loopback_answers_to_loopback_names(registry: Registry, host: str) -> None:
    assert registry.anonymous().get("/.well-known/jwks.json", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example:8710", "evil.example", "127.0.0.1", "127.0.0.1:80", "localhost.evil.example:8710", "", "@:8710"],
)
def test_a_rebound_name_gets_nothing(registry: Registry, host: str) -> None:
    """DNS rebinding: the page's own name resolves to 127.0.0.1, but the browser still sends it as `Host`."""
    reply = registry.as_("wang", "trainers").get("/v1/tags", headers={"Host": host})

    assert (reply.status_code, reply.json()["code"]) == (421, "misdirected-request")


@pytest.fixture
def public(tmp_path: Path) -> Registry:
    """Beyond loopback, behind a name; somebody can sign in."""
    settings = Settings(state_dir=tmp_path / "state")
    Registry(settings).token("root")
    named = {"host": "0.0.0.0", "public_url": "https://registry.example", "allowed_hosts": "inner.example, old.example"}
    return Registry(settings.model_copy(update=named))


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("registry.example", 200),
        ("registry.example:443", 200),
        ("inner.example:8710", 200),
        ("old.example", 200),
        ("evil.example", 421),
        ("127.0.0.1:8710", 421),
        ("10.1.2.3:8710", 421),
    ],
)
def test_a_public_registry_answers_to_its_names(public: Registry, host: str, status: int) -> None:
    assert public.anonymous().get("/.well-known/jwks.json", headers={"Host": host}).status_code == status


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_probes_may_come_by_address(public: Registry, path: str) -> None:
    assert public.anonymous().get(path, headers={"Host": "10.1.2.3:8710"}).status_code == 200


@pytest.mark.parametrize("origin", ["https://evil.example", "http://localhost:3000", "null", "file://", "x"])
def test_another_sites_page_changes_nothing(registry: Registry, origin: str) -> None:
    before = len(registry.events())

    reply = registry.as_("author", "trainers").post("/v1/proposals", json={}, headers={"Origin": origin})

    assert (reply.status_code, reply.json()["code"]) == (403, "cross-origin")
    assert len(registry.events()) == before


def test_our_own_pages_may_ask(registry: Registry) -> None:
    reply = registry.as_("wang", "nlp").post(URL, json=EVALUATION, headers={"Origin": "http://127.0.0.1:8710"})

    assert reply.status_code == 200
    assert "access-control-allow-origin" not in reply.headers


# --- every answer -----------------------------------------------------------------------------------------------------

ALWAYS = {
    "x-content-type-options": "nosniff",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}


@pytest.mark.parametrize(
    ("path", "status"),
    [("/v1/tags", 200), ("/healthz", 200), ("/nowhere", 404), ("/v1/tags/none", 404), ("/v1/tags?x=1", 422)],
)
def test_every_answer_carries_the_security_headers(registry: Registry, path: str, status: int) -> None:
    reply = registry.as_("wang", "trainers").get(path)

    assert reply.status_code == status
    assert {name: reply.headers[name] for name in ALWAYS} == ALWAYS
    assert reply.headers["cache-control"] == "no-store"
    assert "server" not in reply.headers
    assert "strict-transport-security" not in reply.headers, "this one is plain http"


@pytest.mark.parametrize("how", ["host", "size", "fault", "anonymous"])
def test_refusals_before_and_faults_beyond_the_routes_carry_them_too(registry: Registry, how: str) -> None:
    client = registry.as_("wang", "nlp")
    if how == "fault":
        registry.books._gate = (2**62, None)
    reply = {
        "host": lambda: client.get("/v1/tags", headers={"Host": "evil.example"}),
        "size": lambda: client.post(URL, content=b"x" * 70_000),
        "fault": lambda: client.post(URL, json=EVALUATION),
        "anonymous": lambda: registry.anonymous().get("/v1/tags"),
    }[how]()

    assert reply.status_code == {"host": 421, "size": 413, "fault": 500, "anonymous": 401}[how]
    assert {name: reply.headers[name] for name in ALWAYS} == ALWAYS
    assert reply.headers["content-type"] == "application/problem+json"


def test_a_fault_of_ours_is_in_the_services_log(registry: Registry, caplog: pytest.LogCaptureFixture) -> None:
    client = registry.as_("wang", "nlp")
    registry.books._gate = (2**62, None)

    reply = client.post(URL, json=EVALUATION)

    assert reply.status_code == 500
    (record,) = [record for record in caplog.records if record.exc_info]
    assert record.levelname == "ERROR"
    assert "AttributeError" in (record.exc_text or str(record.exc_info))


def test_public_keys_stay_cacheable_and_https_is_kept(public: Registry) -> None:
    reply = public.anonymous().get("/.well-known/jwks.json")

    assert reply.headers.get_list("cache-control") == ["public, max-age=600"]
    assert reply.headers["strict-transport-security"].startswith("max-age=63072000")


# --- strangers --------------------------------------------------------------------------------------------------------


def test_strangers_cannot_tell_what_exists(registry: Registry) -> None:
    """The same answer, word for word, for what is there and what is not: to nobody, to a guessed token, to a guessed
    lease."""
    known, trainer = registry.token("wang", "trainers"), registry.as_("wang", "trainers")
    grant = ask(trainer, ticket_request()).json()
    proposal = registry.propose(trainer).json()

    def answers(client: TestClient, *paths: str, method: str = "GET") -> list[tuple[int, str]]:
        replies = [client.request(method, path, **({} if method == "GET" else {"json": {}})) for path in paths]
        return [(reply.status_code, reply.text) for reply in replies]

    def token_of(id: str) -> str:
        secret = "A" * 43
        return f"twp_{id}_{secret}_{zlib.crc32(f'{id}_{secret}'.encode()):08x}"

    stranger = registry.anonymous()
    guesser = registry.anonymous(headers={"Authorization": "Bearer guess"})
    of_known = registry.anonymous(headers={"Authorization": f"Bearer {token_of(known.split('_')[1])}"})
    of_unknown = registry.anonymous(headers={"Authorization": f"Bearer {token_of('0' * 12)}"})
    pairs = [
        answers(stranger, "/v1/tags/dpo", "/v1/tags/no-such-tag"),
        answers(stranger, f"/v1/tickets/{grant['jti']}", "/v1/tickets/none"),
        answers(stranger, f"/v1/runs/{grant['run_id']}", "/v1/runs/none"),
        answers(stranger, f"/v1/proposals/{proposal['id']}", "/v1/proposals/none"),
        answers(stranger, f"/v1/tickets/{grant['jti']}:redeem", "/v1/tickets/none:redeem", method="POST"),
        answers(guesser, f"/v1/runs/{grant['run_id']}/heartbeats", "/v1/runs/none/heartbeats", method="POST"),
        answers(of_known, "/v1/tags") + answers(of_unknown, "/v1/tags"),
    ]

    assert [pair[0] for pair in pairs] == [pair[1] for pair in pairs]
    assert {pair[0][0] for pair in pairs} == {401}
