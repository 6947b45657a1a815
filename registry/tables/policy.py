"""The policy: revisions, which one is live, and exceptions."""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, CheckConstraint, Column
from sqlmodel import Field, SQLModel

from registry.tables.columns import json_column, moment


class KnownException(SQLModel, table=True):
    """An exception that was ever in force, and what was said of it last. What decides is the policy revision.

    `state` follows the clock by a minute: `live`, `expiring` (told that the end is near), `ended`; or `revoked`.
    `name` is the exception's id, which is never given again.
    """

    __tablename__ = "known_exception"
    __table_args__ = (CheckConstraint("state in ('live', 'expiring', 'ended', 'revoked')", name="state"),)

    name: str = Field(primary_key=True)
    terms: dict[str, Any] = json_column()
    proposal_id: str | None = Field(default=None, foreign_key="proposal.id")
    state: str = Field(default="live", index=True)
    until: datetime = moment()


class PolicyRule(SQLModel, table=True):
    """One rule of a rule set. A set is named by the digest of its rules, so revisions that share it hold it once."""

    __tablename__ = "policy_rule"
    __table_args__ = (CheckConstraint("effect in ('allow', 'deny')", name="effect"),)

    rule_set: str = Field(primary_key=True)
    ordinal: int = Field(primary_key=True, sa_column_kwargs={"autoincrement": False})
    rule_id: str
    owner: str
    effect: str
    who: list[str] = json_column()
    may: list[str] = json_column()
    tag: list[str] = json_column()
    unit: list[str] = json_column()
    target: list[str] = json_column()
    conditions: dict[str, Any] = json_column()
    level: str | dict[str, str] = json_column()
    overridable: bool
    reason: str


class PolicyRevision(SQLModel, table=True):
    """What one revision of the policy says, whether or not it was ever live. Rows are never changed (trigger, 0001)."""

    __tablename__ = "policy_revision"

    revision: str = Field(primary_key=True)
    model: str
    directory: dict[str, Any] = json_column()
    rule_set: str
    exceptions: list[dict[str, Any]] = json_column()
    quotas: list[dict[str, Any]] = json_column()
    approvals: dict[str, Any] = json_column()
    kept_at: datetime = moment()


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
    at: datetime = moment()


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
