"""Tickets as an issuer makes them, careful or careless or hostile: signed correctly over any header and payload."""

import base64
import json
from dataclasses import dataclass
from typing import Any

from enforcer import tickets
from enforcer.keys import ALGORITHMS, KeySet, Signer, SigningKey
from enforcer.profiles import Limits, Profile
from enforcer.runspec import Inputs, RunSpec, canonical_bytes, digest
from enforcer.tickets import VerifiedTicket

NOW = 1_790_000_000
ISSUER, AUDIENCE = "https://registry.example", "urn:swift:exec:local:here"
DIGEST = "sha256:" + "0" * 64
PROFILE = Profile(
    recipe="embedding", parameters={}, columns={}, metrics=[], pool="t4", limits=Limits(max_gpus=1, max_runtime_s=3600)
)
SPEC = canonical_bytes(
    RunSpec(
        v=1,
        run_id="run-1",
        task_type="embedding",
        version=1,
        profile_digest=PROFILE.digest(),
        profile=PROFILE,
        arguments={},
        inputs=Inputs.model_validate(
            {
                "model": {"name": "m", "digest": DIGEST},
                "datasets": [{"role": "train", "name": "d", "digest": DIGEST, "rows": 1}],
                "code": {"commit": None, "dirty": None},
                "eval_fraction": 0,
                "columns": {},
            }
        ),
        business_unit="retail",
        target="local",
        gpus=1,
        limits=Limits(max_gpus=1, max_runtime_s=3600),
    )
)
CLAIMS: dict[str, Any] = {
    "iss": ISSUER,
    "sub": "user:wang",
    "aud": AUDIENCE,
    "iat": NOW,
    "nbf": NOW,
    "exp": NOW + 900,
    "jti": "0199e3f0-0000-7000-8000-000000000001",
    "cnf": {"jkt": "k" * 43},
    "txn": "run-1",
    "client_id": "swift-submit/test",
    "authorization_details": [
        {"type": "training_run", "pool": "t4", "gpus": 1, "max_runtime_s": 3600, "actions": ["train"]}
    ],
    "ver": 1,
    "task_type": "embedding",
    "task_version": 1,
    "business_unit": "retail",
    "run_spec_digest": digest(SPEC),
    "policy_digest": DIGEST,
    "policy_rule": "a-rule",
    "decision_id": "0199e3f0-0000-7000-8000-000000000002",
    "redeem": "online",
}
KEYS = {alg: SigningKey.generate(alg) for alg in ALGORITHMS}
KEY = KEYS["Ed25519"]


def part(value: object) -> str:
    """One part of a compact JWS; bytes are taken as they are."""
    content = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def raw(header: object, payload: object, key: Signer = KEY) -> str:
    signed = f"{part(header)}.{part(payload)}"
    return f"{signed}.{part(key.sign(signed.encode()))}"


@dataclass(frozen=True)
class Forge:
    """Everything one key can be made to sign."""

    key: SigningKey

    @property
    def header(self) -> dict[str, Any]:
        return {"alg": self.key.alg, "typ": tickets.TYP, "kid": self.key.kid}

    @property
    def good(self) -> str:
        return raw(self.header, CLAIMS, self.key)

    def headed(self, **members: Any) -> str:
        return raw({**self.header, **members}, CLAIMS, self.key)

    def beheaded(self, member: str) -> str:
        return raw({name: value for name, value in self.header.items() if name != member}, CLAIMS, self.key)

    def claiming(self, **claims: Any) -> str:
        return raw(self.header, {**CLAIMS, **claims}, self.key)

    def permitting(self, **permit: Any) -> str:
        return self.claiming(authorization_details=[{**CLAIMS["authorization_details"][0], **permit}])

    def without(self, claim: str) -> str:
        return raw(self.header, {name: value for name, value in CLAIMS.items() if name != claim}, self.key)

    def saying(self, payload: object) -> str:
        return raw(self.header, payload, self.key)

    def written(self, old: str, new: str) -> str:
        """The claims with a piece of their JSON text replaced."""
        text = json.dumps(CLAIMS)
        assert text.count(old) == 1, f"`{old}` stands {text.count(old)} times"
        return self.saying(text.replace(old, new).encode())

    def signed_as(self, signature: bytes) -> str:
        """The good ticket under another signature."""
        return f"{self.good.rsplit('.', 1)[0]}.{part(signature)}"


def verify(token: str, *, spec: bytes = SPEC, now: float = NOW, **options: Any) -> VerifiedTicket:
    """Verified by a verifier that has pinned one key of each algorithm."""
    given = {"issuer": ISSUER, "audience": AUDIENCE, **options}
    return tickets.verify(token, spec, KeySet.of(*KEYS.values()), now=lambda: now, **given)
