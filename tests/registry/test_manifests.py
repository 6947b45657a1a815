"""Run manifests at the registry: taken only from the run's own key, about what was reported, and countersigned."""

from typing import Any

import pytest
from conftest import DIGEST, Registry, ask, redeem, ticket_request
from manifests import OUTPUTS, sign, verified

from enforcer import manifest
from enforcer.gates import Score
from enforcer.keys import KeySet, SigningKey
from enforcer.runspec import digest
from enforcer.tickets import VerifiedTicket

GOOD = {"value": 0.80, "n": 400, "low": 0.75, "high": 0.85, "confidence": 0.95}


class Running:
    """A redeemed ticket, and what its holder can do with it."""

    def __init__(self, registry: Registry) -> None:
        self.registry, self.key = registry, SigningKey.generate()
        grant = ask(registry.as_("wang", "trainers"), ticket_request(jkt=self.key.thumbprint)).json()
        self.lease = redeem(registry, grant, self.key).json()
        self.ticket = verified(registry, grant)

    def manifest(self, key: SigningKey | None = None, ticket: VerifiedTicket | None = None, **changes: Any) -> str:
        said = {"metrics": {"macro_f1": Score(**GOOD)}, **changes}
        return sign(ticket or self.ticket, key or self.key, **said)

    def report(self, **told: Any) -> Any:
        body = {"state": "finished", "steps": 10, "scores": {"macro_f1": GOOD}, "outputs": OUTPUTS, **told}
        client = self.registry.anonymous(headers={"Authorization": f"Bearer {self.lease['lease_token']}"})
        return client.post(f"/v1/runs/{self.lease['run_id']}/report", json=body)

    @property
    def path(self) -> str:
        return f"/v1/runs/{self.lease['run_id']}/manifest"


@pytest.fixture
def running(registry: Registry) -> Running:
    return Running(registry)


def test_a_manifest_is_kept_byte_for_byte_and_countersigned(registry: Registry, running: Running) -> None:
    envelope = running.manifest()

    receipt = running.report(manifest=envelope).json()["receipt"]
    kept = registry.as_("wang", "trainers").get(running.path).json()

    issuer, keys = registry.settings.issuer, KeySet.of(registry.books.attestation_key)
    found = manifest.open_receipt(receipt.encode(), envelope.encode(), keys, issuer=issuer).predicate
    assert (kept["manifest"], kept["receipt"], kept["digest"]) == (envelope, receipt, digest(envelope.encode()))
    assert found.properties[-2:] == ["TAGWARDEN_RUN_FINISHED", "TAGWARDEN_GATES_PASS"]
    assert f"sha256:{found.verifier.policies[0].digest['sha256']}" == registry.policy.revision
    (event,) = registry.events("run.manifest")
    assert (event.digest, event.id, event.run_id) == (kept["digest"], found.event_id, running.lease["run_id"])
    assert kept["events"] == {"ticket.issued": registry.events("ticket.issued")[0].id, "run.manifest": event.id}


def test_the_same_report_again_gets_the_same_receipt_and_one_event(registry: Registry, running: Running) -> None:
    envelope = running.manifest()

    first, again = running.report(manifest=envelope), running.report(manifest=envelope)

    assert first.json() == again.json()
    assert first.json()["receipt"] is not None
    assert len(registry.events("run.manifest")) == 1


def other_run(running: Running) -> str:
    return running.manifest(ticket=Running(running.registry).ticket)


@pytest.mark.parametrize(
    ("made", "why"),
    [
        (lambda r: r.manifest(key=SigningKey.generate()), "signed by another key than the ticket names"),
        (other_run, "of another run: its ticket is"),
        (lambda r: r.manifest(outputs={**OUTPUTS, "model/more": DIGEST}), "its outputs are not those of the report"),
        (lambda r: r.manifest(outputs={"model/model.safetensors": "sha256:" + "b" * 64}), "its outputs are not those"),
        (lambda r: r.manifest(metrics={"macro_f1": Score(**{**GOOD, "value": 0.81})}), "its scores are not those"),
        (lambda r: r.manifest(metrics={}), "its scores are not those"),
        (lambda r: r.manifest(state="interrupted"), "its state are not those"),
        (lambda r: r.manifest().replace("payloadType", "payloadtype"), "not a DSSE envelope"),
        (lambda r: "{}", "not a DSSE envelope"),
    ],
    ids=["another key", "another run", "added", "changed", "score", "no score", "state", "spelling", "empty"],
)
def test_a_manifest_that_does_not_hold_is_refused_with_the_report_and_on_record(
    registry: Registry, running: Running, made: Any, why: str
) -> None:
    reply = running.report(manifest=made(running))

    assert (reply.status_code, reply.json()["code"]) == (422, "manifest-invalid")
    assert why in reply.json()["detail"]
    assert [event.detail["problem"] for event in registry.events("report.refused")] == ["manifest-invalid"]
    assert registry.events("run.finished", "run.manifest") == []
    assert registry.as_("wang", "trainers").get(running.path).json()["code"] == "unknown-manifest"


def test_a_run_that_left_nothing_has_no_manifest(registry: Registry, running: Running) -> None:
    reply = running.report(state="failed", outputs={}, error="it fell over")

    assert (reply.status_code, reply.json()["receipt"]) == (200, None)
    assert registry.as_("wang", "trainers").get(running.path).status_code == 404


def test_a_run_that_finished_without_a_manifest_is_refused_and_may_still_report(
    registry: Registry, running: Running
) -> None:
    refused = running.report()
    taken = running.report(manifest=running.manifest())

    assert (refused.status_code, refused.json()["code"]) == (422, "manifest-invalid")
    assert "says `finished` and brings no `manifest`" in refused.json()["detail"]
    assert taken.status_code == 200
    assert [event.kind for event in registry.events("report.refused", "run.finished")] == [
        "report.refused",
        "run.finished",
    ]


@pytest.mark.parametrize("state", ["failed", "interrupted"])
def test_a_run_that_did_not_finish_may_end_without_a_manifest(running: Running, state: str) -> None:
    assert running.report(state=state).status_code == 200


def test_a_manifest_of_another_unit_is_not_shown(registry: Registry, running: Running) -> None:
    running.report(manifest=running.manifest())

    assert registry.as_("sun", "trainers", unit="search").get(running.path).status_code == 403


def test_a_folder_may_stand_for_more_files_than_a_manifest_has_room_for(registry: Registry, running: Running) -> None:
    envelope = running.manifest(outputs={"model": DIGEST}, folders=["model"])

    assert running.report(outputs={"model": DIGEST}, manifest=envelope).status_code == 200


def test_a_manifest_that_was_kept_is_never_changed(registry: Registry, running: Running) -> None:
    from sqlalchemy import text
    from sqlalchemy.exc import DatabaseError

    running.report(manifest=running.manifest())

    for statement in ("update run_manifest set manifest = '{}'", "delete from run_manifest"):
        with pytest.raises(DatabaseError, match="never changed"), registry.books.writing() as session:
            session.connection().execute(text(statement))
