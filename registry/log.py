"""The transparency log: what is on record gets its place, and every place is signed for.

Events wait in an outbox (`pending_entry`) until they are sequenced: appended to the tiles of the tree, with a new
signed checkpoint, in one transaction. What is pending is a set and not a position, so an event that commits late is
found by the next run. Whoever sequences first looks whether what stands here still is what was signed: the newest
checkpoint is also kept outside the database, so that a database which was put back to an earlier state is not
continued.

All of it costs the same however long the log is: a few tiles at the right edge are read and written.
"""

import contextlib
import fcntl
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import insert
from sqlmodel import Session, col, delete, select

from enforcer import tiles, tlog, wire
from enforcer.notes import LogInvalid, Note, attach
from enforcer.problems import LogInconsistent, LogShorter, NotLogged, UnknownEvent
from enforcer.tiles import Tiles
from registry import db
from registry.books import Books
from registry.settings import Settings
from registry.tables import Event, LogCheckpoint, LogEntry, LogTile, PendingEntry

logger = logging.getLogger("tagwarden")
BATCH = 1_000
NEWEST = "newest"


def integrate(books: Books, *, within_s: float | None = None) -> bool:
    """Give every event that has committed by now its place. Callers that come together share one run.

    False when that took longer than `within_s`.

    Raises:
        LogInconsistent: the log is not what was signed; nothing was appended.
    """
    arrived = books.log_runs
    if not books.log_lock.acquire(timeout=-1 if within_s is None else within_s):
        return False
    try:
        if books.log_done > arrived:  # a run that began after we came has ended: our events are in it
            return True
        books.log_runs += 1
        while _append_batch(books) == BATCH:
            pass
        books.log_done = books.log_runs
        return True
    finally:
        books.log_lock.release()


def is_pending(session: Session) -> bool:
    return session.exec(select(PendingEntry.event_id).limit(1)).first() is not None


def check(books: Books) -> None:
    """That the tiles are those of the stored checkpoint, and continue the one that is kept outside the database.

    Raises:
        LogInconsistent: they are not.
    """
    with books.reading() as session:
        _tiles_as_signed(books, session)


def newest(session: Session) -> LogCheckpoint | None:
    return session.exec(select(LogCheckpoint).order_by(col(LogCheckpoint.size).desc()).limit(1)).first()


def name(settings: Settings, session: Session) -> str:
    """The log's origin. Whoever signs next signs under the name of the newest head, whatever its own settings say; a
    log that is empty, or known on its own machine only, takes the name that the settings give."""
    head = newest(session)
    called = tlog.LOCAL if head is None else tlog.read_checkpoint(Note.parse(head.note)).origin
    return settings.log_origin if called == tlog.LOCAL else called


def witnessed(session: Session, index: int) -> LogCheckpoint | None:
    """The newest checkpoint that witnesses cosigned, when it covers this entry; else the newest there is."""
    query = select(LogCheckpoint).where(col(LogCheckpoint.witnessed), col(LogCheckpoint.size) > index)
    return session.exec(query.order_by(col(LogCheckpoint.size).desc()).limit(1)).first() or newest(session)


def tiles_of(session: Session, size: int) -> Tiles:
    """The log as it was with `size` entries."""

    return Tiles(size, lambda level, index, width: tile(session, level, index, width))


def tile(session: Session, level: int, index: int, width: int) -> bytes | None:
    """The first `width` hashes of a tile, as it stood when it had no more."""
    query = select(LogTile.hashes).where(LogTile.level == level, LogTile.index == index, col(LogTile.width) >= width)
    hashes = session.exec(query).first()
    return None if hashes is None else hashes[: width * tiles.HASH_BYTES]


def waits(session: Session, event_id: str) -> bool:
    return session.get(PendingEntry, event_id) is not None


def prove(session: Session, event_id: str) -> tlog.Proof:
    """The proof that an event stands in the log.

    Raises:
        UnknownEvent: no such event.
        NotLogged: its place is still open.
        LogInconsistent: the row is no longer what was logged.
    """
    event = session.get(Event, event_id)
    if event is None:
        raise UnknownEvent(f"there is no event `{event_id[:100]}`")
    index = session.exec(select(LogEntry.index).where(LogEntry.event_id == event_id)).first()
    checkpoint = None if index is None else witnessed(session, index)
    if index is None or checkpoint is None or checkpoint.size <= index:
        raise NotLogged(
            f"event `{event_id}` has no place in the log yet; ask again in a second, or with `Prefer: wait=2`"
        )
    try:
        extra = tlog.entry(as_document(event))
        path = tuple(tiles_of(session, checkpoint.size).inclusion(index))
    except LogInvalid as error:
        raise LogInconsistent(f"the log cannot prove this: {error}; tell the registry's owner") from error
    return tlog.Proof(index, path, checkpoint.note, extra)


def consistency(session: Session, old: int, size: int) -> list[bytes]:
    """The proof that the log of `size` entries continues the one of `old`.

    Raises:
        LogShorter: this log has fewer entries than `size`.
        LogInconsistent: it lacks tiles.
    """
    head = newest(session)
    if head is None or size > head.size:
        raise LogShorter(f"this log has {head.size if head else 0} entries, not {size}")
    try:
        return tiles_of(session, size).consistency(old)
    except LogInvalid as error:
        raise LogInconsistent(f"the log cannot prove this: {error}") from error


def entries(session: Session, start: int, end: int) -> Iterator[bytes]:
    """The entries `[start, end)`, in order."""
    query = select(Event).join(LogEntry).where(col(LogEntry.index) >= start, col(LogEntry.index) < end)
    for event in session.exec(query.order_by(col(LogEntry.index))):
        yield tlog.entry(as_document(event))


def add_cosignatures(books: Books, note: str, lines: list[str]) -> None:
    """Put verified cosignatures under a checkpoint of ours, and let older ones go."""
    size = tlog.read_checkpoint(Note.parse(note)).size
    with books.writing() as session:
        db.queue_for(session, "sequencer")
        row = session.get(LogCheckpoint, size) or LogCheckpoint(size=size, note=note, witnessed=True)
        row.note, row.witnessed = attach(row.note, lines), True
        session.add(row)
        session.flush()
        session.exec(delete(LogCheckpoint).where(col(LogCheckpoint.size) < size))
    books.forget_head()


def as_document(event: Event) -> dict[str, Any]:
    """The event exactly as it stands on the wire; `tlog.entry` makes its log entry of this."""
    return wire.Event.model_validate(event).model_dump(mode="json")


def _append_batch(books: Books) -> int:
    with books.writing() as session:
        db.queue_for(session, "sequencer")
        query = select(PendingEntry.event_id, PendingEntry.leaf_hash).join(Event)
        found = session.exec(query.order_by(col(Event.at), col(Event.id)).limit(BATCH)).all()
        if not found:
            return 0
        before, origin = _tiles_as_signed(books, session), name(books.settings, session)
        grown = before.grown([leaf for _, leaf in found])
        for (level, index), hashes in grown.items():
            width = len(hashes) // tiles.HASH_BYTES
            session.merge(LogTile(level=level, index=index, width=width, hashes=hashes))
        places = [
            {"index": index, "event_id": event_id, "leaf_hash": leaf}
            for index, (event_id, leaf) in enumerate(found, start=before.size)
        ]
        session.connection().execute(insert(LogEntry), places)
        placed = select(LogEntry.event_id).where(col(LogEntry.index) >= before.size)
        session.exec(delete(PendingEntry).where(col(PendingEntry.event_id).in_(placed)))
        session.flush()
        after = tiles_of(session, before.size + len(found))
        note = tlog.sign_checkpoint(origin, after.size, after.root, books.log_key)
        session.exec(delete(LogCheckpoint).where(col(LogCheckpoint.witnessed).is_(False)))
        session.add(LogCheckpoint(size=after.size, note=note, witnessed=False))
    try:
        keep_outside(books.settings.checkpoint_dir, note)
    except OSError as error:  # what was sequenced is sequenced; that nobody could tell a put-back database now is said
        logger.error("the newest head could not be kept in %s: %s", books.settings.checkpoint_dir, error)
    books.forget_head()
    return len(found)


# --- is it still what was signed? -------------------------------------------------------------------------------------


def _tiles_as_signed(books: Books, session: Session) -> Tiles:
    kept = kept_outside(books.settings.checkpoint_dir)  # before the row: whoever sequences now writes the file last
    row = newest(session)
    try:
        if row is None:
            log = tiles_of(session, 0)
            if tile(session, 0, 0, 1) is not None:
                raise LogInvalid("there are tiles, and the checkpoint that signs for them is gone")
        else:
            head = tlog.open_checkpoint(row.note, books.log_keys)
            log = tiles_of(session, head.size)
            if (head.size, head.root) != (row.size, log.root):
                raise LogInvalid(f"the tiles are not those of the checkpoint at {row.size} entries")
        if kept is not None:
            _continues(books, session, log.size, kept)
    except LogInvalid as error:
        books.log_alarm = str(error)
        raise LogInconsistent(
            f"the log is not continued: {error}. Put back the newest backup; when there is none, whoever holds newer "
            f"checkpoints must be told, and `{books.settings.checkpoint_dir / NEWEST}` moved aside"
        ) from error
    books.log_alarm = None
    return log


def _continues(books: Books, session: Session, size: int, kept: str) -> None:
    old = tlog.open_checkpoint(kept, books.log_keys)
    if old.size > size:
        raise LogInvalid(
            f"the log went backwards: it has {size} entries, and a checkpoint over {old.size} was given out"
        )
    if tiles_of(session, old.size).root != old.root:
        raise LogInvalid(f"the log's first {old.size} entries are not those that a checkpoint was given out for")


def kept_outside(folder: Path) -> str | None:
    try:
        return (folder / NEWEST).read_text("utf-8")
    except FileNotFoundError:
        return None


def keep_outside(folder: Path, note: str) -> None:
    """Keep the newest checkpoint beside the database. It only ever grows, whichever process writes last."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        kept = kept_outside(folder)
        if kept is not None and _size(kept) >= _size(note):
            return
        fresh = folder / f".{NEWEST}.new"
        with fresh.open("w", encoding="utf-8") as file:
            file.write(note)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(folder / NEWEST)


def _size(note: str) -> int:
    with contextlib.suppress(LogInvalid):
        return tlog.read_checkpoint(Note.parse(note)).size
    return -1
