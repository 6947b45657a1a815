"""What the books said a moment ago: who a token belongs to, which version of a task type is in force, and the gate.

Kept under the stamp (`tables.Stamp`) at which it was read. Nothing here is checked again before it is used: whoever
drafts by it puts the stamp on the draft, and the writer refuses a draft whose stamp has moved, in the transaction that
would have written it. So a ticket is never issued to a token that was revoked, or for a task type that was deprecated,
before the ticket was. The key ring is a file and has no stamp: what a JWT said is kept with the set of token keys that
it was verified with, which is another one as soon as the ring was changed. Whatever else is answered (refusals, plans,
every other route) is read from the books each time.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from sqlmodel import select

from enforcer.keys import KeySet
from enforcer.policy.snapshot import Snapshot
from registry import db, tags
from registry.books import Books
from registry.identity import Actor, recognise
from registry.tables import Stamp

LIFE = timedelta(seconds=60)  # of a token's verification, where the token itself lives longer
MAX_TOKENS = 10_000


@dataclass(frozen=True)
class Known:
    """What was read under one stamp. Never changed: learning more makes a new one."""

    stamp: int
    gate: Snapshot
    actors: Mapping[bytes, tuple[Actor, datetime, KeySet | None]] = field(default_factory=dict)
    task_types: Mapping[str, tags.InForce] = field(default_factory=dict)

    def actor(self, token: str, now: datetime, books: Books) -> Actor | None:
        """Whose token this is, while it lives and the keys that it was verified with stand as they did."""
        actor, until, keys = self.actors.get(_fingerprint(token), (None, now, None))
        return actor if now < until and (keys is None or keys is books.token_keys) else None


class Recently:
    def __init__(self, books: Books) -> None:
        self._books = books
        self.known: Known | None = None

    def learn(self, token: str, task_type: str) -> Known:
        """Read the stamp, and then what it stands for.

        Raises:
            Unauthenticated, PrincipalDisabled, GroupsOverage, NotPermitted, Unavailable: as `identity.recognise`.
            UnknownTaskType, TaskTypeArchived.
        """
        now = db.utc_now()
        keys = self._books.token_keys if token.count(".") == 2 else None  # before the token is verified with them
        with self._books.reading() as session:
            stamp = session.exec(select(Stamp.value)).one()
        actor = recognise(self._books, token, now=now).admitted()  # may ask an issuer, so no session is open
        with self._books.reading() as session:
            task = tags.in_force(session, task_type)
            known = self.known
            if known is None or known.stamp != stamp:
                known = Known(stamp, self._books.gate(session))
        actors = dict(known.actors) if len(known.actors) < MAX_TOKENS else {}
        if actor.expires_at is not None:
            actors[_fingerprint(token)] = actor, min(actor.expires_at, now + LIFE), keys
        learnt = Known(stamp, known.gate, actors, {**known.task_types, task_type: task})
        if self.known is None or self.known.stamp <= stamp:
            self.known = learnt
        return learnt

    def forget(self) -> None:
        self.known = None


def _fingerprint(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
