"""What a run reports at its end, with the manifest that its own key signs."""

from datetime import UTC, datetime
from typing import Any

from conftest import AUDIENCE, DIGEST, Registry

from enforcer import manifest, tickets
from enforcer.gates import Score
from enforcer.keys import SigningKey
from enforcer.manifest import Environment, Hardware
from enforcer.tickets import VerifiedTicket

OUTPUTS = {"model/model.safetensors": DIGEST}
HERE = Environment(
    packages={"torch": "2.9.0"},
    packages_digest=DIGEST,
    python="CPython 3.11.7",
    platform="Linux",
    hardware=Hardware(cpu="x", cpus=2, memory_bytes=2**34, accelerators=[]),
)


def verified(registry: Registry, grant: dict[str, Any]) -> VerifiedTicket:
    """The granted ticket, as of when it was issued."""
    return tickets.verify(
        grant["ticket"], grant["run_spec"].encode(), registry.books.ring.ever("ticket"),
        issuer=registry.settings.issuer, audience=AUDIENCE, allow_dev=True,
        now=lambda: tickets.unverified_claims(grant["ticket"])["iat"],
    )  # fmt: skip


def sign(ticket: VerifiedTicket, key: SigningKey, **changes: Any) -> str:
    """The manifest of a run that finished, but for what is changed."""
    at = datetime(2026, 11, 24, 12, tzinfo=UTC)
    said = {
        "state": "finished", "outputs": OUTPUTS, "folders": [], "byproducts": [], "environment": HERE,
        "metrics": {}, "started": at, "finished": at, "builder_version": "0.1.0", **changes,
    }  # fmt: skip
    return manifest.sign(manifest.describe(ticket, key=key, **said), key).decode()


def finished(registry: Registry, grant: dict[str, Any], key: SigningKey, **told: Any) -> dict[str, Any]:
    """The report of a run that finished, manifest and all."""
    report = {"state": "finished", "steps": 10, "scores": {}, "outputs": OUTPUTS, **told}
    scores = {name: Score(**score) for name, score in report["scores"].items()}
    signed = sign(verified(registry, grant), key, outputs=report["outputs"], metrics=scores)
    return {**report, "manifest": signed}
