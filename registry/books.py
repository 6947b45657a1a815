"""What the running service holds: settings, engine, keys, and the gate over the current vocabulary."""

from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, Request
from sqlalchemy import Engine
from sqlmodel import Session, select

from enforcer.keys import KeySet, Signer
from enforcer.policy import identity, rules
from enforcer.policy.snapshot import Snapshot
from registry import db
from registry.keyring import Keyring
from registry.oidc import Issuers
from registry.rates import Rates
from registry.settings import Settings
from registry.tables import Tag


@dataclass
class Books:
    settings: Settings
    engine: Engine
    ring: Keyring
    policy: rules.Policy
    issuers: Issuers
    rates: Rates = field(init=False, repr=False)
    _snapshot: Snapshot | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        self.rates = Rates(self.settings.budgets)

    @classmethod
    def open(cls, settings: Settings) -> "Books":
        """Read the policy, open the database, load the keys.

        Raises:
            PolicyInvalid: the policy, or `identity.yaml`, cannot go live.
            KeyUnusable: no complete key ring (`server.prepare` makes it), or a key that cannot be trusted.
        """
        policy = rules.load(settings.policies_dir)
        issuers = Issuers(whom_to_believe(settings, policy.directory))
        return cls(settings, db.open_engine(settings), Keyring.open(settings.keys_dir), policy, issuers)

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
    def ticket_key(self) -> Signer:
        return self.ring.signer("ticket")

    @property
    def ticket_keys(self) -> KeySet:
        return self.ring.key_set("ticket")

    @property
    def log_key(self) -> Signer:
        return self.ring.signer("log")

    @property
    def token_key(self) -> Signer:
        """Signs the access tokens that an exchange gives out."""
        return self.ring.signer("token")

    @property
    def token_keys(self) -> KeySet:
        return self.ring.key_set("token")

    @property
    def attestation_key(self) -> Signer:
        """Countersigns manifests."""
        return self.ring.signer("attestation")

    @property
    def log_origin(self) -> str:
        """The first line of every checkpoint: which log this is (C2SP: a schema-less URL)."""
        return f"{self.settings.issuer.partition('://')[2]}/tlog"


async def the_books(request: Request) -> Books:  # async: a plain function would cost a thread hop for nothing
    books: Books = request.app.state.books
    return books


TheBooks = Annotated[Books, Depends(the_books)]


def whom_to_believe(settings: Settings, directory: rules.Directory) -> identity.IdentityPolicy:
    """The issuers and trust rules. A file that was named must be there; the default one need not be.

    Raises:
        PolicyInvalid: it cannot go live.
    """
    file = settings.identity_file or settings.policies_dir / "identity.yaml"
    there = settings.identity_file is not None or file.exists()
    return identity.load(file, directory) if there else identity.IdentityPolicy()
