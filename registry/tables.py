"""Rows. A table is a row and nothing else: rules live with their noun, bodies in `enforcer.wire`.

SQLModel tables do not validate on construction, so nothing untrusted is ever passed to one unchecked.
"""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    Column,
    DateTime,
    Index,
    LargeBinary,
    UniqueConstraint,
    text,
)
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator
from sqlmodel import Field, SQLModel


class UtcDateTime(TypeDecorator[datetime]):
    """UTC in, UTC out, on databases with and without time zones."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        utc = value.astimezone(UTC)
        return utc.replace(tzinfo=None) if dialect.name == "sqlite" else utc

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if dialect.name == "sqlite" else value.astimezone(UTC)


def _json() -> Any:
    return Field(sa_column=Column(JSON, nullable=False))


def _moment(nullable: bool = False, index: bool = False) -> Any:
    return Field(default=None, sa_column=Column(UtcDateTime, nullable=nullable, index=index))


_IS_OPEN = text("state = 'open'")
_IS_REFUSED = text("outcome = 'refused'")
_HAS_TICKET = text("ticket_id is not null")
_IS_REVOKED = text("state = 'revoked'")
_HOLDS = text("holds")
_IS_RUNNING = text("state = 'running'")
_IS_ALIVE = text("state in ('permitted', 'running', 'lost')")


class Tag(SQLModel, table=True):
    """A task type. Its name never changes; `version` is the one that new runs get."""

    name: str = Field(primary_key=True)
    kind: str
    parent: str | None = Field(default=None, foreign_key="tag.name")
    description: str
    state: str
    version: int
    created_at: datetime = _moment()


class Alias(SQLModel, table=True):
    """Another spelling that resolves to a tag. Names and aliases share one space (checked when proposed)."""

    alias: str = Field(primary_key=True)
    tag: str = Field(foreign_key="tag.name", index=True)


class TagVersion(SQLModel, table=True):
    """One immutable version: the whole profile, inherited parts included."""

    __tablename__ = "tag_version"

    tag: str = Field(primary_key=True, foreign_key="tag.name")
    version: int = Field(primary_key=True)
    profile: dict[str, Any] = _json()
    profile_digest: str
    proposal_id: str | None = Field(default=None, foreign_key="proposal.id")
    created_at: datetime = _moment()


class Proposal(SQLModel, table=True):
    """A governed change. `digest` binds `change` and the `result` it leads to, which is what reviewers agree to.

    `subject` is what it changes: `tag:<name>`, `policy`, or `exception:<id>`.
    """

    __table_args__ = (
        CheckConstraint("state in ('open', 'applied', 'rejected', 'withdrawn')", name="state"),
        Index("one_open_proposal", "subject", unique=True, sqlite_where=_IS_OPEN, postgresql_where=_IS_OPEN),
    )

    id: str = Field(primary_key=True)
    kind: str
    subject: str = Field(index=True)
    change: dict[str, Any] = _json()
    result: dict[str, Any] = _json()
    digest: str
    reason: str
    author: str
    state: str = Field(index=True)
    approvals_needed: int
    version: int | None = None
    policy_revision: str | None = None
    opened_at: datetime = _moment()
    decided_at: datetime | None = _moment(nullable=True)


class ProposedFile(SQLModel, table=True):
    """A file of a policy that was proposed; the proposal's `change` has its digest."""

    __tablename__ = "proposed_file"

    proposal_id: str = Field(primary_key=True, foreign_key="proposal.id")
    name: str = Field(primary_key=True)
    content: str


class KnownException(SQLModel, table=True):
    """An exception that was ever in force, and what was said of it last. What decides is the policy revision.

    `state` follows the clock by a minute: `live`, `expiring` (told that the end is near), `ended`; or `revoked`.
    `name` is the exception's id, which is never given again.
    """

    __tablename__ = "known_exception"
    __table_args__ = (CheckConstraint("state in ('live', 'expiring', 'ended', 'revoked')", name="state"),)

    name: str = Field(primary_key=True)
    terms: dict[str, Any] = _json()
    proposal_id: str | None = Field(default=None, foreign_key="proposal.id")
    state: str = Field(default="live", index=True)
    until: datetime = _moment()


class Review(SQLModel, table=True):
    """One reviewer, one review. That the author is no reviewer is held by a trigger as well (migration 0001)."""

    __table_args__ = (CheckConstraint("verdict in ('approve', 'reject')", name="verdict"),)

    proposal_id: str = Field(primary_key=True, foreign_key="proposal.id")
    reviewer: str = Field(primary_key=True)
    verdict: str
    digest: str
    reason: str
    at: datetime = _moment()


class PolicyRule(SQLModel, table=True):
    """One rule of a rule set. A set is named by the digest of its rules, so revisions that share it hold it once."""

    __tablename__ = "policy_rule"
    __table_args__ = (CheckConstraint("effect in ('allow', 'deny')", name="effect"),)

    rule_set: str = Field(primary_key=True)
    ordinal: int = Field(primary_key=True, sa_column_kwargs={"autoincrement": False})
    rule_id: str
    owner: str
    effect: str
    who: list[str] = _json()
    may: list[str] = _json()
    tag: list[str] = _json()
    unit: list[str] = _json()
    target: list[str] = _json()
    conditions: dict[str, Any] = _json()
    level: str | dict[str, str] = _json()
    overridable: bool
    reason: str


class PolicyRevision(SQLModel, table=True):
    """What one revision of the policy says, whether or not it was ever live. Rows are never changed (trigger, 0001)."""

    __tablename__ = "policy_revision"

    revision: str = Field(primary_key=True)
    model: str
    directory: dict[str, Any] = _json()
    rule_set: str
    exceptions: list[dict[str, Any]] = _json()
    quotas: list[dict[str, Any]] = _json()
    kept_at: datetime = _moment()


class PolicyPublication(SQLModel, table=True):
    """A revision that went live, by whom. `version` counts without gaps; a revision may come back. Never changed.

    `folder` is the revision that the folder said: what was published has the exceptions granted here besides.
    """

    __tablename__ = "policy_publication"
    __table_args__ = (
        CheckConstraint("source in ('folder', 'proposal', 'override', 'revocation')", name="source"),
        CheckConstraint("approver is null or approver <> author", name="nobody_approves_their_own"),
        CheckConstraint(
            "source <> 'proposal' or (approver is not null and proposal_id is not null)", name="proposal_is_approved"
        ),
        CheckConstraint("(source = 'folder') = (folder is not null)", name="folder_says"),
    )

    version: int = Field(primary_key=True, sa_column_kwargs={"autoincrement": False})
    revision: str = Field(foreign_key="policy_revision.revision", index=True)
    parent: str | None = Field(default=None, foreign_key="policy_revision.revision")
    source: str
    folder: str | None = Field(default=None, foreign_key="policy_revision.revision", index=True)
    author: str
    approver: str | None = None
    proposal_id: str | None = None
    at: datetime = _moment()


class PolicyHead(SQLModel, table=True):
    """Which revision decides (`live`), and which one is only watched beside it (`shadow`), where there is one."""

    __tablename__ = "policy_head"
    __table_args__ = (CheckConstraint("role in ('live', 'shadow')", name="role"),)

    role: str = Field(primary_key=True)
    revision: str = Field(foreign_key="policy_revision.revision")
    version: int


class PolicyShadowCount(SQLModel, table=True):
    """How often a watched candidate answered how, beside the live policy."""

    __tablename__ = "policy_shadow_count"

    candidate: str = Field(primary_key=True, foreign_key="policy_revision.revision")
    business_unit: str = Field(primary_key=True)
    task_type: str = Field(primary_key=True)
    outcome: str = Field(primary_key=True)
    count: int = Field(sa_column=Column(BigInteger, nullable=False))


class QuotaUse(SQLModel, table=True):
    """What a quota counts: runs and GPUs at once under the period `now`, GPU seconds under each period of its window,
    reserved and used together."""

    __tablename__ = "quota_use"

    quota: str = Field(primary_key=True)
    period: str = Field(primary_key=True)
    runs: int
    gpus: int
    gpu_s: int = Field(sa_column=Column(BigInteger, nullable=False))


class QuotaHold(SQLModel, table=True):
    """What one run counts for in one quota. While it `holds`, its GPU seconds are the most that it may take; then what
    it took. A ticket that nobody redeems until `lapses_at` holds nothing."""

    __tablename__ = "quota_hold"
    __table_args__ = (Index("lapsing_holds", "lapses_at", sqlite_where=_HOLDS, postgresql_where=_HOLDS),)

    run_id: str = Field(primary_key=True, foreign_key="run.id")
    quota: str = Field(primary_key=True)
    period: str | None = None
    holds: bool
    gpus: int
    most_gpu_s: int = Field(sa_column=Column(BigInteger, nullable=False))
    gpu_s: int = Field(sa_column=Column(BigInteger, nullable=False))
    lapses_at: datetime = _moment()


class ApiToken(SQLModel, table=True):
    """An API token: the secret is only here as SHA-256 (256 random bits need no slow hash)."""

    __tablename__ = "api_token"

    id: str = Field(primary_key=True)
    secret_sha256: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    actor: str = Field(index=True)
    groups: list[str] = _json()
    business_unit: str
    scopes: list[str] = _json()
    created_at: datetime = _moment()
    expires_at: datetime = _moment()
    last_used_at: datetime | None = _moment(nullable=True)


class Principal(SQLModel, table=True):
    """Somebody whose credentials open nothing. Others have no row here: who there is, is the issuers' to know."""

    id: str = Field(primary_key=True)
    disabled_at: datetime = _moment()
    disabled_by: str
    reason: str


class TradedToken(SQLModel, table=True):
    """A job's token that was traded, kept while it would still be taken."""

    __tablename__ = "traded_token"

    id: str = Field(primary_key=True)
    expires_at: datetime = _moment(index=True)


class Ticket(SQLModel, table=True):
    """An issued ticket and the bytes it binds. Everything is keyed on `jti`, never on the token's text."""

    __table_args__ = (
        CheckConstraint("state in ('issued', 'redeemed', 'revoked')", name="state"),
        CheckConstraint("redeem in ('online', 'offline')", name="redeem"),
        Index("revoked_tickets", "expires_at", sqlite_where=_IS_REVOKED, postgresql_where=_IS_REVOKED),
    )

    jti: str = Field(primary_key=True)
    run_id: str = Field(unique=True)
    jkt: str
    state: str
    run_spec: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    issued_at: datetime = _moment()
    expires_at: datetime = _moment()
    redeemed_at: datetime | None = _moment(nullable=True)
    redemption_id: str | None = None
    redeem: str = "online"
    revoked_at: datetime | None = _moment(nullable=True)


OPEN_RUNS = ("permitted", "running", "lost")  # a lost run comes back by being heard of


class Run(SQLModel, table=True):
    """One run, from its permit on."""

    __table_args__ = (
        CheckConstraint("state in ('permitted', 'running', 'lost', 'finished', 'failed', 'interrupted')", name="state"),
        Index("silent_runs", "lease_expires_at", sqlite_where=_IS_RUNNING, postgresql_where=_IS_RUNNING),
        Index("runs_alive", "actor", "id", sqlite_where=_IS_ALIVE, postgresql_where=_IS_ALIVE),
        Index("run_by_unit", "business_unit", "id"),
        Index("run_by_tag", "task_type", "id"),
    )

    id: str = Field(primary_key=True)
    jti: str = Field(unique=True)
    task_type: str
    version: int
    business_unit: str
    actor: str
    state: str
    target: str
    pool: str
    policy_rule: str
    run_spec_digest: str
    created_at: datetime = _moment()
    started_at: datetime | None = _moment(nullable=True)
    ended_at: datetime | None = _moment(nullable=True)
    heartbeat_at: datetime | None = _moment(nullable=True)
    lease_sha256: bytes | None = Field(default=None, sa_column=Column(LargeBinary, nullable=True))
    lease_expires_at: datetime | None = _moment(nullable=True)
    stop: str | None = None
    step: int = Field(default=0, sa_column=Column(BigInteger, nullable=False))
    total_steps: int = Field(default=0, sa_column=Column(BigInteger, nullable=False))
    logs: dict[str, Any] = _json()
    scores: dict[str, Any] = _json()
    gates: list[dict[str, Any]] = _json()
    verdict: str | None = None
    report_digest: str | None = None


class RunManifest(SQLModel, table=True):
    """What a run signed at its end, and what we signed on it, byte for byte. Rows are never changed (trigger, 0001)."""

    __tablename__ = "run_manifest"

    run_id: str = Field(primary_key=True, foreign_key="run.id")
    digest: str
    manifest: str
    receipt: str
    event_id: str = Field(foreign_key="event.id")


class Event(SQLModel, table=True):
    """One thing that happened or was refused. Rows are never deleted, and updated only to erase what is personal
    (triggers, migration 0001)."""

    __table_args__ = (
        Index("event_by_unit", "business_unit", "id"),
        Index("event_by_tag", "task_type", "id"),
        Index("event_by_actor", "actor", "id"),
        Index("event_by_kind", "kind", "id"),
        # A unit's own auditor filters inside the unit: each of these finds a rare few among the unit's millions.
        # Of two that fit as well, SQLite takes the one made last: an actor is rarer than a tag, a tag than a kind.
        # What stands behind the id answers a second filter from the index, without a look at each row.
        Index("event_by_unit_kind", "business_unit", "kind", "id", "outcome"),
        Index("event_by_unit_tag", "business_unit", "task_type", "id", "kind"),
        Index("event_by_unit_actor", "business_unit", "actor", "id", "task_type", "kind", "outcome"),
        Index(
            "event_refused",
            "business_unit",
            "id",
            "kind",
            "task_type",
            "actor",
            sqlite_where=_IS_REFUSED,
            postgresql_where=_IS_REFUSED,
        ),
        Index("event_by_ticket", "ticket_id", "id", sqlite_where=_HAS_TICKET, postgresql_where=_HAS_TICKET),
    )

    id: str = Field(primary_key=True)
    at: datetime = _moment()
    kind: str
    outcome: str
    actor: str
    groups: list[str] = _json()
    business_unit: str
    task_type: str | None = None
    version: int | None = None
    rule: str | None = None
    policy_revision: str | None = None
    run_id: str | None = Field(default=None, index=True)
    ticket_id: str | None = None
    proposal_id: str | None = None
    digest: str | None = None
    groups_digest: str
    reason: str | None = None
    detail: dict[str, Any] = _json()
    personal_hash: str
    salt: str | None = None


class PendingEntry(SQLModel, table=True):
    """An event that has no place in the log yet. Written with the event, taken away when it is sequenced.

    The leaf is hashed when the event is written, so that a row changed before it was sequenced shows as well.
    """

    __tablename__ = "pending_entry"

    event_id: str = Field(primary_key=True, foreign_key="event.id")
    leaf_hash: bytes = Field(sa_column=Column(LargeBinary, nullable=False))


class LogEntry(SQLModel, table=True):
    """The place of an event in the Merkle log. Gap-free by construction: one sequencer, counting from what is there."""

    __tablename__ = "log_entry"
    __table_args__ = (UniqueConstraint("event_id"),)

    index: int = Field(primary_key=True, sa_column_kwargs={"autoincrement": False})
    event_id: str = Field(foreign_key="event.id")
    leaf_hash: bytes = Field(sa_column=Column(LargeBinary, nullable=False))


class LogTile(SQLModel, table=True):
    """A tile of the tree (C2SP tlog-tiles): up to 256 hashes of a level. Full ones never change (trigger, 0001)."""

    __tablename__ = "log_tile"

    level: int = Field(primary_key=True, sa_column_kwargs={"autoincrement": False})
    index: int = Field(primary_key=True, sa_column_kwargs={"autoincrement": False})
    width: int
    hashes: bytes = Field(sa_column=Column(LargeBinary, nullable=False))


class LogCheckpoint(SQLModel, table=True):
    """The newest signed head of the log, and the newest that witnesses cosigned; older ones are taken away."""

    __tablename__ = "log_checkpoint"

    size: int = Field(primary_key=True, sa_column_kwargs={"autoincrement": False})
    note: str
    witnessed: bool


class LegalHold(SQLModel, table=True):
    """Until it is released, what is personal in the events that fit all of its filters is not erased."""

    __tablename__ = "legal_hold"

    id: str = Field(primary_key=True)
    reason: str
    placed_by: str
    placed_at: datetime = _moment()
    released_at: datetime | None = _moment(nullable=True)
    business_unit: str | None = None
    actor: str | None = None
    run_id: str | None = None


class IdempotentAnswer(SQLModel, table=True):
    """What a ticket request with this Idempotency-Key was answered, so that a retry gets the same, to the byte: the
    ticket itself, the head and the warnings that came with it. The rest stands in the rows of ticket and run."""

    __tablename__ = "idempotent_answer"

    actor: str = Field(primary_key=True)
    key: str = Field(primary_key=True)
    request_digest: str
    jti: str
    ticket: str
    checkpoint: str
    warnings: list[str] = _json()
    created_at: datetime = _moment(index=True)


class UsedProof(SQLModel, table=True):
    """A proof of possession that was taken, kept while a copy of it would still be fresh."""

    __tablename__ = "used_proof"

    id: str = Field(primary_key=True)
    used_at: datetime = _moment(index=True)


class Stamp(SQLModel, table=True):
    """One row, whose value moves with every change of what a ticket rests on (triggers, migration 0001): an API token
    that ends, a task type, the version in force, an alias, the policy. What was read under a stamp holds while the
    stamp stands."""

    id: int = Field(primary_key=True, sa_column_kwargs={"autoincrement": False})
    value: int = Field(sa_column=Column(BigInteger, nullable=False))
