"""Tokens, who is shut out, and what was used once."""

from datetime import datetime

from sqlalchemy import Column, LargeBinary
from sqlmodel import Field, SQLModel

from registry.tables.columns import json_column, moment


class ApiToken(SQLModel, table=True):
    """An API token: the secret is only here as SHA-256 (256 random bits need no slow hash)."""

    __tablename__ = "api_token"

    id: str = Field(primary_key=True)
    secret_sha256: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    actor: str = Field(index=True)
    groups: list[str] = json_column()
    business_unit: str
    scopes: list[str] = json_column()
    created_at: datetime = moment()
    expires_at: datetime = moment()
    last_used_at: datetime | None = moment(nullable=True)


class Principal(SQLModel, table=True):
    """Somebody whose credentials open nothing. Others have no row here: who there is, is the issuers' to know."""

    id: str = Field(primary_key=True)
    disabled_at: datetime = moment()
    disabled_by: str
    reason: str


class TradedToken(SQLModel, table=True):
    """A job's token that was traded, kept while it would still be taken."""

    __tablename__ = "traded_token"

    id: str = Field(primary_key=True)
    expires_at: datetime = moment(index=True)


class UsedProof(SQLModel, table=True):
    """A proof of possession that was taken, kept while a copy of it would still be fresh."""

    __tablename__ = "used_proof"

    id: str = Field(primary_key=True)
    used_at: datetime = moment(index=True)
