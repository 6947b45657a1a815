"""Heads of the log go where nobody here can take them back: a folder, and witnesses that cosign them (C2SP
tlog-witness).

A witness that knows a larger log than ours, or another one of the same size, says that ours was put back or forked:
then nothing is sequenced any more.
"""

import base64
import logging
import time
from datetime import UTC, datetime
from pathlib import Path

import httpx2

from enforcer import notes
from enforcer.notes import LogInvalid, Note, NoteKey
from enforcer.problems import LogInconsistent
from registry import log
from registry.books import Books
from registry.settings import Witness

logger = logging.getLogger("tagwarden")
TIMEOUT_S = 10.0
TRIES = 3


class Publisher:
    """Publishes at most every `publish_every_s`, and only what is new."""

    def __init__(self, books: Books, transport: httpx2.BaseTransport | None = None) -> None:
        self._books = books
        self._transport = transport
        self._next = 0.0
        self._known: dict[str, int] = {}  # how large a log each witness knew when it last spoke
        self._said: dict[str, int] = {}  # the size that went to each place last

    def publish_in_time(self) -> None:
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + self._books.settings.publish_every_s
            self.publish()

    def publish(self) -> None:
        """Raises `LogInconsistent` when a witness knows better; one that is away is asked again next time."""
        with self._books.reading() as session:
            newest = log.newest(session)
        if newest is None:
            return
        note, size = newest.note, newest.size
        if self._said.get("folder") != size:
            keep_for_good(self._books.settings.checkpoint_dir, note, size)
            self._said["folder"] = size
        lines: list[str] = []
        for witness in self._books.settings.witnesses:
            if self._said.get(witness.url) == size:
                continue
            try:
                lines += self._ask(witness, note, size)
                self._said[witness.url] = size
            except (httpx2.HTTPError, LogInvalid) as error:
                logger.warning("witness %s did not cosign: %s", witness.url, error)
        if lines:
            log.add_cosignatures(self._books, note, lines)

    def _ask(self, witness: Witness, note: str, size: int) -> list[str]:
        """The cosignature lines of one witness, verified."""
        key = NoteKey.parse(witness.vkey)
        with httpx2.Client(timeout=TIMEOUT_S, transport=self._transport, follow_redirects=False) as http:
            for _ in range(TRIES):
                old = self._known.get(witness.url, 0)
                reply = http.post(f"{witness.url}/add-checkpoint", content=self._request(old, note, size))
                if reply.status_code == 200:
                    lines = [line for line in reply.text.splitlines() if line.startswith("\u2014 ")]
                    mine = [line for line in lines if line.startswith(f"\u2014 {key.name} ")]
                    if Note.parse(notes.attach(note, mine)).signed_at(key) is None:
                        raise LogInvalid("its answer holds no cosignature by its key")
                    self._known[witness.url] = size
                    return mine
                if reply.status_code != 409:
                    raise LogInvalid(f"it answered {reply.status_code}: {reply.text[:200].strip()}")
                self._known[witness.url] = self._conflict(witness, reply.text, old, size)
        raise LogInvalid("it kept moving while it was asked")

    def _conflict(self, witness: Witness, told: str, old: int, size: int) -> int:
        digits = told.strip()
        if not (digits.isascii() and digits.isdecimal() and len(digits) < 18):
            raise LogInvalid(f"its conflict names no size: {told[:80]!r}")
        if int(digits) > size or (int(digits) == old == size):
            self._books.log_alarm = f"witness {witness.url} cosigned another log of {digits} entries"
            raise LogInconsistent(f"{self._books.log_alarm}; this one has {size}. Was the database put back or forked?")
        return int(digits)

    def _request(self, old: int, note: str, size: int) -> bytes:
        proof: list[bytes] = []
        if 0 < old < size:
            with self._books.reading() as session:
                proof = log.consistency(session, old, size)
        lines = [f"old {old}", *(base64.b64encode(node).decode() for node in proof), "", note]
        return "\n".join(lines).encode()


def keep_for_good(folder: Path, note: str, size: int) -> None:
    """One file a checkpoint, in one folder a day; none is ever written twice."""
    day = folder / f"{datetime.now(UTC):%Y-%m-%d}"
    day.mkdir(parents=True, exist_ok=True, mode=0o700)
    file = day / f"{size:012}.checkpoint"
    if not file.exists():
        fresh = file.with_suffix(".new")
        fresh.write_text(note, encoding="utf-8")
        fresh.replace(file)
