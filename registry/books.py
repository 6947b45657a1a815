"""What the running service holds: settings, engine, keys, and the gate over the current vocabulary."""

from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import Depends, Request
from sqlalchemy import Engine
from sqlmodel import Session, select

from enforcer.keys import DEV_PREFIX, KeySet, SigningKey
from enforcer.policy import rules
from enforcer.policy.snapshot import Snapshot
from registry import db
from registry.rates import Rates
from registry.settings import Settings, is_loopback
from registry.tables import Tag


@dataclass
class Books:
    settings: Settings
    engine: Engine
    ticket_key: SigningKey
    log_key: SigningKey
    policy: rules.Policy
    rates: Rates = field(init=False, repr=False)
    _snapshot: Snapshot | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        self.rates = Rates(self.settings.budgets)

    @classmethod
    def open(cls, settings: Settings) -> "Books":
        """Read the policy, open the database, load or make the keys.

        Raises:
            PolicyInvalid: the policy cannot go live.
            KeyUnusable: a key file that cannot be trusted.
        """
        policy = rules.load(settings.policies_dir)
        engine = db.open_engine(settings)
        return cls(settings, engine, _key(settings, "ticket"), _key(settings, "log"), policy)

    def reading(self) -> AbstractContextManager[Session]:
        return db.reading(self.engine)

    def writing(self) -> AbstractContextManager[Session]:
        return db.writing(self.engine)

    def gate(self, session: Session) -> Snapshot:
        """The gate over the task-type tree as this session sees it. Rebuilt when a tag was added, by one assignment."""
        parents = dict(session.exec(select(Tag.name, Tag.parent)).all())
        snapshot = self._snapshot
        if snapshot is None or snapshot.tag_parents != parents:
            snapshot = self._snapshot = Snapshot(self.policy, parents)
        return snapshot

    @property
    def ticket_keys(self) -> KeySet:
        return KeySet.of(self.ticket_key)

    @property
    def log_origin(self) -> str:
        """The first line of every checkpoint: which log this is (C2SP: a schema-less URL)."""
        return f"{self.settings.issuer.partition('://')[2]}/tlog"


async def the_books(request: Request) -> Books:  # async: a plain function would cost a thread hop for nothing
    books: Books = request.app.state.books
    return books


TheBooks = Annotated[Books, Depends(the_books)]


def _key(settings: Settings, purpose: str) -> SigningKey:
    """One key a purpose. On loopback it is a development key, which verifiers elsewhere refuse."""
    folder: Path = settings.state_dir / "keys"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    dev = is_loopback(urlsplit(settings.issuer).hostname or "")
    file = folder / f"{DEV_PREFIX if dev else ''}{purpose}.pem"
    if not file.exists():
        SigningKey.generate(dev=dev).save(file)
    return SigningKey.load(file)
