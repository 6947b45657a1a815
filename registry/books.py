"""What the running service holds: settings, engine, keys, and the gate.

The gate is built from the books under a stamp (`tables.Stamp`), which moves with every publication of a policy and
every change of a task type: one number, read with each request, tells whether it still stands. So what another process
published counts here with the next request. A head that cannot be used leaves the last good gate in its place.
"""

import logging
import threading
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, Request
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError
from sqlmodel import Session, col, select

from enforcer import tlog
from enforcer.keys import KeySet, Signer
from enforcer.policy import identity
from enforcer.policy.rules import Directory
from enforcer.policy.snapshot import Snapshot, Watch
from enforcer.problems import LogInconsistent, Unavailable
from registry import db, revisions
from registry.counts import Counts
from registry.keyring import Keyring
from registry.oidc import Issuers
from registry.rates import Rates
from registry.settings import Settings
from registry.shadow import Shadow
from registry.tables import LogCheckpoint, Stamp, Tag
from registry.writer import Writer

log = logging.getLogger(__name__)
HEAD_FOR_S = 1.0


@dataclass(frozen=True)
class Unusable:
    """A revision that is live in the books and not here, and why."""

    revision: str
    reason: str


@dataclass
class Books:
    settings: Settings
    engine: Engine
    ring: Keyring
    issuers: Issuers
    rates: Rates = field(init=False, repr=False)
    writer: Writer = field(init=False, repr=False)
    # The log in this process (`registry.log`): runs of the sequencer begun and ended, and why it refuses to go on.
    log_lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    log_runs: int = 0
    log_done: int = 0
    log_alarm: str | None = None
    _head: tuple[float, str] = field(default=(0.0, ""), repr=False)
    # Whose Idempotency-Keys are being worked on in this process (`registry.idempotency`).
    changing: set[tuple[str, str]] = field(default_factory=set, repr=False)
    changing_lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    policy_alarm: Unusable | None = None
    shadow: Shadow = field(default_factory=Shadow, repr=False)
    counts: Counts = field(default_factory=Counts, repr=False)
    watch: Watch | None = None  # sees every decision (`create_app`)
    _gate: tuple[int, Snapshot] | None = field(default=None, repr=False)  # with the stamp that it was read under
    _building: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def __post_init__(self) -> None:
        self.rates = Rates(self.settings.budgets)
        self.writer = Writer(self.engine)

    @classmethod
    def open(cls, settings: Settings) -> "Books":
        """Open the database, read the policy that is live, load the keys.

        Raises:
            PolicyInvalid: the policy, or `identity.yaml`, cannot be used.
            Unavailable: no policy was ever published (`server.prepare` does).
            KeyUnusable: no complete key ring (`server.prepare` makes it), or a key that cannot be trusted.
        """
        engine = db.open_engine(settings)
        with db.reading(engine) as session:
            directory = revisions.live(session).directory
        issuers = Issuers(whom_to_believe(settings, directory))
        return cls(settings, engine, Keyring.open(settings.keys_dir), issuers)

    def reading(self) -> AbstractContextManager[Session]:
        return db.reading(self.engine)

    def writing(self) -> AbstractContextManager[Session]:
        return db.writing(self.engine)

    def gate(self, session: Session) -> Snapshot:
        """The gate over policy and task types, no older than what this session sees; swapped by one assignment.

        Raises:
            Unavailable: there is no policy that could be used, nor was there one before.
        """
        stamp = session.exec(select(Stamp.value)).one()  # before what it stands for, which then is no older
        known = self._gate
        if known is None or known[0] < stamp:
            with self._building:  # whoever waits would build the same
                known = self._gate
                if known is None or known[0] < stamp:
                    known = self._gate = stamp, self._build(session, known[1] if known else None)
        return known[1]

    def _build(self, session: Session, before: Snapshot | None) -> Snapshot:
        parents = dict(session.exec(select(Tag.name, Tag.parent)).all())
        revision = revisions.live_revision(session)
        self.shadow.follow(session, parents)
        if before is not None and (before.revision, before.tag_parents) == (revision, parents):
            self.policy_alarm = None
            return before
        try:
            policy = before.policy if before else None
            if policy is None or policy.revision != revision:
                policy = revisions.load(session, revision, known=policy)
            gate = Snapshot(policy, parents, watch=self.watch)
        except (DBAPIError, ConnectionError):
            raise
        except Exception as error:  # a denial for everybody would be no better answer than yesterday's policy
            if self.policy_alarm is None or self.policy_alarm.revision != revision:
                log.critical("revision %s of the policy is live and cannot be used: %s", revision, error)
            self.policy_alarm = Unusable(revision, str(error)[:1_000])
            if before is None:
                raise Unavailable("the policy that is live cannot be used; see the service's log") from error
            return before if before.tag_parents == parents else Snapshot(before.policy, parents, watch=self.watch)
        self.policy_alarm = None
        return gate

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


def whom_to_believe(settings: Settings, directory: Directory) -> identity.IdentityPolicy:
    """The issuers and trust rules. A file that was named must be there; the default one need not be.

    Raises:
        PolicyInvalid: it cannot go live.
    """
    file = settings.identity_file or settings.policies_dir / "identity.yaml"
    there = settings.identity_file is not None or file.exists()
    return identity.load(file, directory) if there else identity.IdentityPolicy()
