"""What the running service holds: settings, engine, keys, and the gate over the current vocabulary."""

import threading
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, Request
from sqlalchemy import Engine
from sqlmodel import Session, col, select

from enforcer import tlog
from enforcer.keys import KeySet, Signer
from enforcer.policy import identity, rules
from enforcer.policy.snapshot import Snapshot
from enforcer.problems import LogInconsistent
from registry import db
from registry.keyring import Keyring
from registry.oidc import Issuers
from registry.rates import Rates
from registry.settings import Settings
from registry.tables import LogCheckpoint, Tag
from registry.writer import Writer

HEAD_FOR_S = 1.0


@dataclass
class Books:
    settings: Settings
    engine: Engine
    ring: Keyring
    policy: rules.Policy
    issuers: Issuers
    rates: Rates = field(init=False, repr=False)
    writer: Writer = field(init=False, repr=False)
    # The log in this process (`registry.log`): runs of the sequencer begun and ended, and why it refuses to go on.
    log_lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    log_runs: int = 0
    log_done: int = 0
    log_alarm: str | None = None
    _head: tuple[float, str] = field(default=(0.0, ""), repr=False)
    _snapshot: Snapshot | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        self.rates = Rates(self.settings.budgets)
        self.writer = Writer(self.engine)

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
    def log_keys(self) -> KeySet:
        """Whose signatures under our own heads count: all keys that ever signed the log. A quiet log's newest head may
        be by a key that is over; that it was one of ours is what is asked here, and the tiles say the rest."""
        over = [jwk for jwk in self.ring.retired()["keys"] if jwk["purpose"] == "log"]
        ever = [*self.ring.jwks("log")["keys"], *over]
        return KeySet.from_jwks(
            {"keys": [{name: value for name, value in jwk.items() if name != "compromised_at"} for jwk in ever]}
        )

    def head(self, session: Session) -> str:
        """The newest signed checkpoint, at most a second old. Read through the caller's session: a second connection
        in a request that holds one already could wait for it forever.

        Raises:
            LogInconsistent: this process saw that the log is not what was signed.
        """
        note = self.known_head()
        if note is None:
            found = session.exec(select(LogCheckpoint.note).order_by(col(LogCheckpoint.size).desc()).limit(1)).first()
            note = found or tlog.sign_checkpoint(self.settings.log_origin, 0, tlog.EMPTY_ROOT, self.log_key)
            self._head = (time.monotonic() + HEAD_FOR_S, note)
        return note

    def known_head(self) -> str | None:
        """The newest checkpoint, where it was read less than a second ago. Raises as `head`."""
        if self.log_alarm is not None:
            raise LogInconsistent(f"the registry gives nothing out while its log is in doubt: {self.log_alarm}")
        until, note = self._head
        return note if time.monotonic() < until else None

    def forget_head(self) -> None:
        self._head = (0.0, "")


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
