"""The life of a key of the service. A key has one purpose and goes one way:

next -> active -> retiring -> retired,  or, from anywhere,  -> compromised

next         published, does not sign yet, so that every verifier has it before the first signature
active       signs; one for each purpose
retiring     signs no more, stays published until the last thing that it signed has expired
retired      in `/.well-known/retired-keys` for ever, to verify old manifests and checkpoints; the private file is gone
compromised  left the published sets at once; listed with the retired ones, with the time
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from enforcer import keys, tickets

Purpose = Literal["ticket", "log", "token", "attestation"]
PURPOSES: tuple[Purpose, ...] = ("ticket", "log", "token", "attestation")
State = Literal["next", "active", "retiring", "retired", "compromised"]
PUBLISHED: frozenset[State] = frozenset({"next", "active", "retiring"})
# How long a key stays published after its last signature: the longest life of what it signs, and the leeway. What has
# no end (checkpoints, attestations) is verified with the retired keys later; a day lets every cache learn of them.
OVERLAP: dict[Purpose, timedelta] = {
    "ticket": timedelta(seconds=tickets.MAX_LIFE_S + tickets.LEEWAY_S),
    "token": timedelta(seconds=tickets.MAX_LIFE_S + tickets.LEEWAY_S),
    "log": timedelta(days=1),
    "attestation": timedelta(days=1),
}


class KeyRecord(BaseModel):
    """One key of the ring. Times are UTC; `activate_at` and `retire_at` are when the next step is due."""

    model_config = ConfigDict(extra="forbid")

    kid: str
    purpose: Purpose
    alg: Literal["Ed25519", "EdDSA", "ES256"]
    source: str
    state: State
    jwk: dict[str, str]
    published_at: datetime
    activate_at: datetime
    activated_at: datetime | None = None
    retire_at: datetime | None = None
    retired_at: datetime | None = None
    compromised_at: datetime | None = None

    @property
    def thumbprint(self) -> str:
        return keys.thumbprint(self.jwk)

    @property
    def moments(self) -> dict[str, str]:
        """When it began and ended, as far as it did."""
        names = ("activated_at", "retired_at", "compromised_at")
        found = {name: getattr(self, name) for name in names}
        return {name: at.astimezone(UTC).isoformat() for name, at in found.items() if at is not None}

    def is_due(self, now: datetime) -> bool:
        if self.state == "next":
            return self.activate_at <= now
        return self.state == "retiring" and self.retire_at is not None and self.retire_at <= now

    def end(self, now: datetime, *, compromised: bool = False) -> "Step":
        self.retired_at = self.retired_at or now
        if not compromised:
            self.state = "retired"
            return Step("retired", self)
        self.state, self.compromised_at = "compromised", now
        return Step("compromised", self)


class Ring(BaseModel):
    """Every key that there is and was."""

    model_config = ConfigDict(extra="forbid")

    version: Literal[1] = 1
    keys: list[KeyRecord] = Field(default_factory=list)

    def of(self, purpose: Purpose, *states: State) -> list[KeyRecord]:
        return [key for key in self.keys if key.purpose == purpose and key.state in states]

    def one(self, purpose: Purpose, state: State) -> KeyRecord | None:
        return next(iter(self.of(purpose, state)), None)

    def activate(self, key: KeyRecord, now: datetime) -> "Step":
        """Let a key sign; the one before stays published for as long as its signatures may be asked about."""
        former = self.one(key.purpose, "active")
        if former is not None:
            former.state, former.retire_at = "retiring", now + OVERLAP[key.purpose]
        key.state, key.activated_at, key.activate_at = "active", now, min(key.activate_at, now)
        return Step("activated", key)


@dataclass(frozen=True)
class Step:
    """One change of one key, as it goes on record."""

    kind: Literal["published", "activated", "retired", "compromised"]
    key: KeyRecord

    @property
    def detail(self) -> dict[str, Any]:
        key = self.key
        detail = {"kid": key.kid, "purpose": key.purpose, "alg": key.alg, "thumbprint": key.thumbprint}
        if self.kind == "published":
            detail |= {"source": key.source.partition(":")[0], "activate_at": key.activate_at.isoformat()}
        return detail
