"""Every knob of the service, read from `TAGWARDEN_*` environment variables.

The embedded default needs none of them: loopback, a SQLite file, a token file for the local user.
"""

from pathlib import Path
from typing import Literal, get_args
from urllib.parse import urlsplit

from platformdirs import user_state_path
from pydantic import BaseModel, ConfigDict, Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from enforcer import tlog, wire
from enforcer.local import is_loopback, is_loopback_url
from enforcer.notes import COSIGNATURE, LogInvalid, NoteKey
from registry.rates import Budget
from registry.webhook_guard import Allowed

PACKAGED_POLICIES = Path(__file__).parent / "_policies"
CHECKED_OUT_POLICIES = Path(__file__).parent.parent / "policies"


class Witness(BaseModel):
    """A C2SP tlog-witness: where it takes checkpoints, and the key that it cosigns with."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str
    vkey: str

    @field_validator("url")
    @classmethod
    def http_url(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname or "@" in url:
            raise ValueError("url must be an http(s) URL without credentials")
        return url.rstrip("/")

    @field_validator("vkey")
    @classmethod
    def cosignature_key(cls, vkey: str) -> str:
        try:
            kind = NoteKey.parse(vkey).kind
        except LogInvalid as error:
            raise ValueError(str(error)) from error
        if kind != COSIGNATURE:
            raise ValueError("vkey must be a cosignature key (kind 04)")
        return vkey


class Settings(BaseSettings):
    """`TAGWARDEN_<NAME>` sets `<name>`. Times are in seconds, sizes in bytes."""

    model_config = SettingsConfigDict(env_prefix="TAGWARDEN_", extra="forbid", frozen=True)

    state_dir: Path = Field(
        default_factory=lambda: user_state_path("tagwarden"), description="database and keys of the embedded default"
    )
    database_url: str | None = Field(
        default=None, description="`postgresql://...` for a shared database; left out, a SQLite file in `state_dir`"
    )
    policies_dir: Path = Field(
        default_factory=lambda: CHECKED_OUT_POLICIES if CHECKED_OUT_POLICIES.is_dir() else PACKAGED_POLICIES,
        description="model.conf, directory.yaml, rules/ and vocabulary/",
    )
    policy_check_every: int = Field(
        default=0, ge=0, description="one in so many decisions is put to stock Casbin as well; 0 is none"
    )
    policy_source: Literal["folder", "registry"] = Field(
        default="folder",
        description="where the policy is changed: in `policies_dir`, which is followed, or by proposals",
    )
    replay_days: int = Field(
        default=30, ge=1, le=365, description="days whose decisions a proposed policy makes again before it is reviewed"
    )
    identity_file: Path | None = Field(
        default=None, description="issuers and trust rules. Left out, `identity.yaml` in `policies_dir`, if there"
    )
    host: str = Field(default="127.0.0.1", description="address to listen on")
    port: int = Field(default=8710, ge=0, le=65535, description="port to listen on; 0 picks a free one")
    public_url: str | None = Field(
        default=None, description="how clients reach the service; the `iss` of every ticket. Left out, host and port"
    )
    ticket_ttl_s: int = Field(default=900, ge=30, le=3600, description="how long a ticket may be redeemed")
    lease_ttl_s: int = Field(default=600, ge=15, le=86_400, description="how long a run may stay silent")
    key_publish_ahead_s: int = Field(
        default=86_400, ge=0, le=30 * 86_400, description="how long a new signing key is published before it signs"
    )
    checkpoint_dir: Path = Field(
        default_factory=lambda data: data["state_dir"] / "checkpoints",
        description="where signed heads of the log are kept outside the database; best on another disk",
    )
    publish_every_s: int = Field(
        default=60, ge=1, le=86_400, description="a head of the log goes to that folder and to witnesses this often"
    )
    witnesses: tuple[Witness, ...] = Field(
        default=(),
        description='who cosigns heads of the log: JSON, `[{"url": "https://...", "vkey": "name+id+key"}]`',
    )
    lease_grace_s: int = Field(
        default=600, ge=0, le=86_400, description="how long beyond its lease a run outlives an outage of the registry"
    )
    on_lease_loss: wire.OnLeaseLoss = Field(
        default="checkpoint-and-stop", description="what a run does after that: `checkpoint-and-stop`, or `finish`"
    )
    allowed_hosts: str = Field(
        default="", description="further names under which clients call the service, comma-separated, without ports"
    )
    trusted_proxies: str = Field(
        default="", description="addresses or networks, comma-separated, whose `X-Forwarded-For` names the client"
    )
    webhook_allow: str = Field(
        default="",
        description="hosts or networks, comma-separated, that get events though they are not public, or by http",
    )
    log_format: Literal["text", "json"] = Field(default="text", description="`json` is one object a line")
    # A principal's budgets: so many a minute, all of which may come at once; 0 is no limit. Each process has its own.
    reads_per_minute: int = Field(default=6_000, ge=0, description="reads of a principal")
    writes_per_minute: int = Field(default=1_200, ge=0, description="changes by a principal; heartbeats count by run")
    tickets_per_minute: int = Field(default=1_200, ge=0, description="ticket requests of a principal")
    exports_per_minute: int = Field(default=30, ge=0, description="exports of the audit log by a principal")
    public_per_minute: int = Field(default=6_000, ge=0, description="public keys, by client address")
    failures_per_minute: int = Field(default=60, ge=0, description="failed sign-ins, by client address")

    @field_validator("public_url")
    @classmethod
    def plain_origin(cls, url: str | None) -> str | None:
        if url is None:
            return None
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment or "@" in url:
            raise ValueError("public_url must be an http(s) URL without credentials, query or fragment")
        return url.rstrip("/")

    @field_validator("webhook_allow")
    @classmethod
    def hosts_and_networks(cls, text: str) -> str:
        Allowed.parse(text)
        return text

    @property
    def webhook_allowed(self) -> Allowed:
        return Allowed.parse(self.webhook_allow)

    @property
    def more_hosts(self) -> tuple[str, ...]:
        return tuple(name.strip().lower() for name in self.allowed_hosts.split(",") if name.strip())

    @property
    def budgets(self) -> dict[Budget, int]:
        return {budget: getattr(self, f"{budget}_per_minute") for budget in get_args(Budget)}

    @property
    def issuer(self) -> str:
        """The exact string in `iss`."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return self.public_url or f"http://{host}:{self.port}"

    @property
    def log_origin(self) -> str:
        """What a log that has no name yet is called; see `registry.log.name`."""
        return tlog.origin_of(self.issuer)

    @property
    def sqlalchemy_url(self) -> str:
        """`postgresql://` is spoken through pg8000 (BSD); the file default is SQLite."""
        if self.database_url is None:
            return f"sqlite:///{self.state_dir / 'registry.db'}"
        return self.database_url.replace("postgresql://", "postgresql+pg8000://", 1)

    @property
    def keys_dir(self) -> Path:
        """The key ring and the private keys that are files."""
        return self.state_dir / "keys"

    @property
    def uses_dev_keys(self) -> bool:
        """On loopback the service's own keys are development keys, which verifiers elsewhere refuse."""
        return is_loopback_url(self.issuer)

    @property
    def on_loopback(self) -> bool:
        return is_loopback(self.host) and is_loopback_url(self.issuer)
