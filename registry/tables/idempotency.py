"""What changes were answered, for whoever has to ask again."""

from datetime import datetime

from sqlalchemy import Column, LargeBinary
from sqlmodel import Field, SQLModel

from registry.tables.columns import json_column, moment


class StoredAnswer(SQLModel, table=True):
    """The answer to a change that came with this Idempotency-Key, byte for byte. No secret is ever kept here."""

    __tablename__ = "stored_answer"

    actor: str = Field(primary_key=True)
    key: str = Field(primary_key=True)
    request_digest: str
    status: int
    headers: dict[str, str] = json_column()
    body: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    created_at: datetime = moment(index=True)
