"""The service's keys: which signs what, which one comes next, which ones are over (their states: `key_life.py`).

The ring is a file, `keys/ring.json`, and not a table: whoever can write to the database must not be able to publish a
key of their own. A change writes the new ring beside the old one, then its events (in the database), and renames last:
no change without its event, and a crash between the two leaves an event that says less than nothing and the old ring.
"""

import fcntl
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from enforcer import keys
from enforcer.keys import DEV_PREFIX, KeySet, KeyUnusable, Signer, SigningKey
from enforcer.problems import Conflict, Invalid, NotFound, Unavailable
from registry import key_sources
from registry.key_life import PUBLISHED, PURPOSES, KeyRecord, Purpose, Ring, Step

log = logging.getLogger(__name__)

Recorder = Callable[[Sequence[Step]], None]


@dataclass
class _View:
    """The ring as it was read, and what was made of it. Replaced as a whole, so that no thread sees half a change."""

    stamp: tuple[int, int, int]
    ring: Ring
    sets: dict[Purpose, KeySet]
    active: dict[Purpose, Signer]


@dataclass
class Keyring:
    """The ring of one service. Reading follows changes of the file; changing takes a lock that processes share."""

    folder: Path
    _view: _View | None = field(default=None, repr=False)
    _signers: dict[str, Signer] = field(default_factory=dict, repr=False)  # by kid; an `env:` source is read only once
    _told: set[object] = field(default_factory=set, repr=False)  # what the log was told of once

    @classmethod
    def open(cls, folder: Path) -> "Keyring":
        """Read the ring and every key that signs or will sign.

        Raises:
            KeyUnusable: no complete ring, or a key that cannot be trusted or read.
        """
        ring = cls(folder)
        ring._view = ring._read()
        for record in ring._view.ring.keys:
            if record.state == "next":
                ring._signer_of(record)
        return ring

    # --- reading ------------------------------------------------------------------------------------------------------

    def signer(self, purpose: Purpose) -> Signer:
        """The key that signs now.

        Raises:
            Unavailable: the ring was given a key that this process cannot load, and the one before is over.
        """
        signer = self._current().active.get(purpose)
        if signer is None:
            raise Unavailable(f"the registry's {purpose} key cannot be used; its log says why")
        return signer

    def key_set(self, purpose: Purpose) -> KeySet:
        """Every key that a signature of today may carry: next, active, retiring."""
        return self._current().sets[purpose]

    def ever(self, purpose: Purpose) -> KeySet:
        """Those and the retired ones, for what comes back late and is looked up in the books all the same."""
        keys = self._current().ring.keys
        return KeySet.from_jwks({"keys": [k.jwk for k in keys if k.purpose == purpose and k.state != "compromised"]})

    def jwks(self, purpose: Purpose) -> dict[str, Any]:
        return {"keys": [key.jwk for key in self._current().ring.of(purpose, *PUBLISHED)]}

    def retired(self) -> dict[str, Any]:
        """All keys that are over, in JWK form with purpose and times; a compromised one says since when."""
        found = [key for key in self._current().ring.keys if key.state not in PUBLISHED]
        return {"keys": [{**key.jwk, "purpose": key.purpose, **key.moments} for key in found]}

    def records(self) -> list[KeyRecord]:
        """Every key as the file has it now; no private key is touched."""
        return self._load().keys

    def _current(self) -> _View:
        """What the file says now. While it cannot be read, what it said last: those keys were good."""
        view = self._view
        assert view is not None, "a ring is opened before it is read"
        stamp = self._stamp()
        if stamp == view.stamp or stamp in self._told:
            return view
        try:
            view = self._view = self._read(view)
        except KeyUnusable as error:
            self._tell(stamp, "the key ring was changed and cannot be used; the keys stay as they were: %s", error)
        return view

    def _tell(self, once: object, message: str, *facts: object) -> None:
        if once not in self._told:
            self._told.add(once)
            log.error(message, *facts)

    def _stamp(self) -> tuple[int, int, int]:
        try:
            status = os.stat(f"{self.folder}/ring.json", follow_symlinks=False)  # text: once a signature, and cheaper
        except OSError:
            return (0, 0, 0)
        return (status.st_mtime_ns, status.st_ino, status.st_mode)

    def _read(self, former: _View | None = None) -> _View:
        """The published sets follow the file in any case. Only who signs may stay: while a new key cannot be loaded
        here, the former one goes on, unless it is over."""
        stamp, ring = self._stamp(), self._load()
        signers: dict[Purpose, Signer] = {}
        for purpose in PURPOSES:
            record = ring.one(purpose, "active")
            if record is None:
                raise KeyUnusable(
                    f"`{self._file}` has no active {purpose} key; make one with `tagwarden keys rotate {purpose}`"
                )
            try:
                signers[purpose] = self._signer_of(record)
            except KeyUnusable as error:
                if former is None:
                    raise
                self._tell(record.kid, "the %s key `%s` cannot be used: %s", purpose, record.kid, error)
                before = former.active.get(purpose)
                if before is not None and any(key.kid == before.kid for key in ring.of(purpose, *PUBLISHED)):
                    signers[purpose] = before
        sets = {
            purpose: KeySet.from_jwks({"keys": [key.jwk for key in ring.of(purpose, *PUBLISHED)]})
            for purpose in PURPOSES
        }
        return _View(stamp, ring, sets, signers)

    def _load(self) -> Ring:
        if not os.path.lexists(self._file):
            return Ring()
        try:
            return Ring.model_validate_json(keys.read_private(self._file))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise KeyUnusable(f"`{self._file}` is not a key ring: `{where}` {first['msg'].lower()}") from error

    def _signer_of(self, record: KeyRecord) -> Signer:
        signer = self._signers.get(record.kid)
        if signer is None:
            signer = key_sources.open_source(record.source, record.alg, self.folder)
            if keys.thumbprint(signer.public_jwk()) != record.thumbprint:
                raise KeyUnusable(f"`{record.source}` holds another key than `{record.kid}`, which the ring names")
            signer = self._signers[record.kid] = _Named(record.kid, record.alg, record.jwk, signer)
        return signer

    @property
    def _file(self) -> Path:
        return self.folder / "ring.json"

    # --- changing -----------------------------------------------------------------------------------------------------

    def complete(self, record: Recorder, *, dev: bool, now: datetime) -> None:
        """Give every purpose an active key: a fresh registry's first ones. A service that clients elsewhere trust gets
        real keys where it only had development ones, which end at once."""
        with self._changing(record) as (ring, steps):
            for over in (key for key in ring.keys if key.state not in PUBLISHED):
                self._forget(over)  # a crash may have kept one's private half
            for purpose in PURPOSES:
                active = ring.one(purpose, "active")
                if active is not None and (dev or not active.kid.startswith(DEV_PREFIX)):
                    continue
                if active is not None:
                    steps.append(active.end(now))
                fresh = self._publish(ring, purpose, keys.ED25519, None, dev=dev, now=now, at=now, steps=steps)
                steps.append(ring.activate(fresh, now))

    def rotate(
        self, purpose: Purpose, record: Recorder, *, alg: str | None, source: str | None, dev: bool, now: datetime,
        ahead: timedelta,
    ) -> KeyRecord:  # fmt: skip
        """Publish the next key of a purpose; it begins to sign `ahead` from now. With nothing ahead, a key that was
        published before begins at once instead of a fresh one.

        Raises:
            Conflict: another key is next already, or the source's key has a purpose.
            Invalid: an algorithm that this purpose does not take, or a source that is none.
            KeyUnusable: the source's key cannot be read, or does not sign.
        """
        if purpose == "log" and alg not in {None, keys.ED25519}:
            raise Invalid(f"log keys are always Ed25519 (a C2SP checkpoint knows nothing else), not `{alg}`")
        with self._changing(record) as (ring, steps):
            waiting = ring.one(purpose, "next")
            if waiting is not None and (ahead or source or alg):
                raise Conflict(
                    f"`{waiting.kid}` is the next {purpose} key already and signs from "
                    f"{waiting.activate_at:%Y-%m-%d %H:%M} UTC; retire it first, or let it begin with `--now`"
                )
            first = ring.one(purpose, "active") is None
            at = now if first else now + ahead
            chosen = waiting or self._publish(
                ring, purpose, alg or keys.ED25519, source, dev=dev, now=now, at=at, steps=steps
            )
            if first or not ahead:
                steps.append(ring.activate(chosen, now))
            return chosen

    def retire(self, kid: str, record: Recorder, *, compromised: bool, now: datetime) -> KeyRecord:
        """End a key that does not sign: sooner than planned, or because somebody else may have it.

        Raises:
            NotFound: no such key.
            Conflict: it signs now, or is over already.
        """
        with self._changing(record) as (ring, steps):
            key = next((key for key in ring.keys if key.kid == kid), None)
            if key is None:
                raise NotFound(f"`{kid[:80]}` is no key of this registry; `tagwarden keys list` names them")
            if key.state == "active":
                raise Conflict(
                    f"`{kid}` signs now; let another begin first: `tagwarden keys rotate {key.purpose} --now`"
                )
            if key.state == "compromised" or (key.state == "retired" and not compromised):
                raise Conflict(f"`{kid}` is {key.state} already")
            steps.append(key.end(now, compromised=compromised))
            return key

    def advance(self, record: Recorder, *, now: datetime) -> None:
        """Take every step that is due. A key that cannot be loaded here does not begin: the old one goes on."""
        if not any(key.is_due(now) for key in self._current().ring.keys):
            return
        with self._changing(record) as (ring, steps):
            for key in [key for key in ring.keys if key.is_due(now)]:
                if key.state == "retiring":
                    steps.append(key.end(now))
                    continue
                try:
                    self._signer_of(key)
                except KeyUnusable as error:
                    self._tell(key.kid, "the next %s key `%s` does not begin: %s", key.purpose, key.kid, error)
                    continue
                steps.append(ring.activate(key, now))

    @contextmanager
    def _changing(self, record: Recorder) -> Iterator[tuple[Ring, list[Step]]]:
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = os.open(self.folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            ring, steps = self._load(), list[Step]()
            yield ring, steps
            if steps:
                self._replace(ring, lambda: record(steps))
                for step in steps:
                    if step.kind in {"retired", "compromised"}:
                        self._forget(step.key)
        finally:
            os.close(lock)

    def _replace(self, ring: Ring, record: Callable[[], None]) -> None:
        draft = self.folder / ".ring.json.new"
        draft.unlink(missing_ok=True)  # a crash may have left one; the lock is ours
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(ring.model_dump_json(indent=1, exclude_none=True) + "\n")
                file.flush()
                os.fsync(file.fileno())
            record()
            draft.replace(self._file)
        finally:
            draft.unlink(missing_ok=True)
        folder = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        os.fsync(folder)
        os.close(folder)

    def _publish(
        self, ring: Ring, purpose: Purpose, alg: str, source: str | None, *, dev: bool, now: datetime, at: datetime,
        steps: list[Step],
    ) -> KeyRecord:  # fmt: skip
        source = source or self._generate(purpose, alg, dev=dev)
        signer = key_sources.open_source(source, alg, self.folder)
        jwk = signer.public_jwk()
        print_ = keys.thumbprint(jwk)
        taken = next((key for key in ring.keys if key.thumbprint == print_), None)
        if taken is not None:
            raise Conflict(
                f"`{source}` holds `{taken.kid}`, which is a {taken.purpose} key already; a key has one purpose"
            )
        kid = signer.kid if isinstance(signer, SigningKey) else print_[:16]
        jwk = {
            **{name: jwk[name] for name in ("kty", "crv", "x", "y") if name in jwk},
            "kid": kid,
            "alg": alg,
            "use": "sig",
        }
        record = KeyRecord.model_validate(
            {"kid": kid, "purpose": purpose, "alg": alg, "source": source, "state": "next", "jwk": jwk,
             "published_at": now, "activate_at": at}
        )  # fmt: skip
        key_sources.check(signer, record.source, keys.public_key(jwk, alg))
        self._signers[kid] = _Named(kid, alg, jwk, signer)
        ring.keys.append(record)
        steps.append(Step("published", record))
        return record

    def _generate(self, purpose: Purpose, alg: str, *, dev: bool) -> str:
        key = SigningKey.generate(alg, dev=dev)
        name = f"{DEV_PREFIX if dev else ''}{purpose}-{key.thumbprint[:16]}.pem"
        key.save(self.folder / name)
        return f"file:{name}"

    def _forget(self, key: KeyRecord) -> None:
        """The private half of a key that is over: out of the memory, and its file away. HSM and environment are the
        operator's to clean."""
        self._signers.pop(key.kid, None)
        kind, _, name = key.source.partition(":")
        if kind == "file":
            (self.folder / name).unlink(missing_ok=True)


@dataclass(frozen=True)
class _Named:
    """A signer under the id that the ring gave it."""

    kid: str
    alg: str
    jwk: dict[str, str]
    signer: Signer = field(repr=False)

    def public_jwk(self) -> dict[str, str]:
        return dict(self.jwk)

    def sign(self, content: bytes) -> bytes:
        try:
            return self.signer.sign(content)
        except Exception as error:  # a device that is away is no broken promise of ours
            log.error("the key `%s` does not sign: %r", self.kid, error)
            raise Unavailable("the registry's signing key does not answer; nothing was changed. Try again") from error
