"""The API as its OpenAPI document tells it, called with whatever the document allows and with much that it does not.

schemathesis makes the requests; the real app answers, over a registry that holds one of everything. Every answer has a
status, a media type and a body that the document names, and none is a 5xx.
"""

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import hypothesis
import hypothesis.strategies as st
import pytest
import schemathesis
from conftest import Registry, ask, redeem, ticket_request
from hypothesis import HealthCheck, Phase
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi import checks

from enforcer.keys import SigningKey
from registry import db
from registry.settings import Settings

DOCUMENT = json.loads(Path("openapi/registry.json").read_text())
SCHEMA = schemathesis.openapi.from_dict(DOCUMENT)
OPERATIONS = sorted(
    operation["operationId"] for operations in DOCUMENT["paths"].values() for operation in operations.values()
)
CHECKS = [
    not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
]
CALLERS = ("admin", "trainer", "nobody")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A registry with one of everything, and each caller's headers. Budgets are off: they would answer for the rest."""
    unlimited = {name: 0 for name in Settings.model_fields if name.endswith("_per_minute")}
    registry = Registry(Settings(state_dir=tmp_path_factory.mktemp("world"), **unlimited))
    registry.approve_tag()
    proposal = registry.propose(registry.as_("author", "trainers"), "review-topics").json()
    exception = {"kind": "exception", "id": "pilot", "who": ["user:wang"], "may": ["submit"], "tag": ["dpo"],
                 "until": (db.utc_now() + timedelta(days=30)).isoformat()}  # fmt: skip
    asked = {"change": exception, "reason": "a pilot"}
    granted = registry.as_("author", "trainers").post("/v1/proposals", json=asked).json()
    for admin in ("first", "second"):
        assert registry.review(registry.as_(admin, "security"), granted).status_code == 201
    key, trainer = SigningKey.generate(), registry.as_("wang", "trainers", "nlp")
    waiting = ask(trainer, ticket_request(jkt=key.thumbprint)).json()
    running = ask(trainer, ticket_request(jkt=key.thumbprint)).json()
    lease = redeem(registry, running, key).json()
    groups = ("platform-admins", "security", "tag-stewards", "auditors", "nlp", "trainers")
    return {
        "registry": registry,
        "admin": {"Authorization": f"Bearer {registry.token('root', *groups, unit='all')}"},
        "trainer": {"Authorization": f"Bearer {registry.token('wang', 'trainers')}"},
        "nobody": {},
        "lease": {"Authorization": f"Bearer {lease['lease_token']}"},
        "ids": {
            "name": ["dpo", "message-tone"],
            "proposal_id": [proposal["id"], granted["id"]],
            "exception_id": ["pilot"],
            "jti": [waiting["jti"]],
            "run_id": [lease["run_id"]],
            "version": [1, 2],
            "token_id": [registry.token("wang", "trainers").split("_")[1]],
            "principal_id": ["user:somebody", "ci:nightly"],
        },
    }


def call(world: dict[str, Any], operation_id: str, caller: str, examples: int) -> None:
    """Send `examples` valid and as many invalid requests, and hold each answer against the document."""
    operation = SCHEMA.find_operation_by_id(operation_id)
    client = world["registry"].anonymous()
    headers = world["lease"] if caller == "admin" and operation_id in ("sendHeartbeat", "reportRun") else world[caller]

    takes_nothing = not (operation.definition.raw.get("parameters") or operation.definition.raw.get("requestBody"))
    modes = [GenerationMode.POSITIVE, *([] if takes_nothing else [GenerationMode.NEGATIVE])]

    for mode in modes:

        @hypothesis.given(case=operation.as_strategy(generation_mode=mode), data=st.data())
        @hypothesis.settings(
            max_examples=examples,
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
            derandomize=True,
            database=None,
        )
        def answers_as_documented(case: Any, data: st.DataObject) -> None:
            for name in case.path_parameters:
                if name in world["ids"] and data.draw(st.booleans()):
                    case.path_parameters[name] = data.draw(st.sampled_from(world["ids"][name]))
            given = {k: v for k, v in (case.headers or {}).items() if k.lower() not in ("authorization", "host")}
            case.headers = given
            request = case.as_transport_kwargs(base_url=world["registry"].settings.issuer)
            request["headers"] = {**request["headers"], **headers}
            request.pop("cookies", None)
            if isinstance(request.get("data"), bytes | str):
                request["content"] = request.pop("data")
            case.validate_response(client.request(**request), checks=CHECKS)

        answers_as_documented()


@pytest.mark.parametrize("caller", CALLERS)
@pytest.mark.parametrize("operation_id", OPERATIONS)
def test_every_answer_is_documented(world: dict[str, Any], operation_id: str, caller: str) -> None:
    call(world, operation_id, caller, 5 if caller == "nobody" else 15)


@pytest.mark.slow
@pytest.mark.parametrize("caller", CALLERS)
@pytest.mark.parametrize("operation_id", OPERATIONS)
def test_every_answer_is_documented_at_length(world: dict[str, Any], operation_id: str, caller: str) -> None:
    call(world, operation_id, caller, 20 if caller == "nobody" else 100)
