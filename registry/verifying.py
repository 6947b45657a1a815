"""Is the record what was signed for? Everything is computed again from the rows, and compared with a checkpoint that
somebody else kept: one that lies in the database proves nothing about the database."""

from collections.abc import Iterator, Sequence

from sqlalchemy import func
from sqlmodel import Session, col, select

from enforcer import tlog
from enforcer.keys import KeySet
from enforcer.ndjson import Verified
from enforcer.notes import LogInvalid
from enforcer.tlog import Frontier, Head
from registry import log
from registry.tables import Event, LogEntry, PendingEntry

CHUNK = 2_000


def verify_database(session: Session, keys: KeySet, outside: Sequence[Head]) -> Verified:
    """Every row against its leaf, every leaf against the tree, the tree against each checkpoint brought from outside.

    Raises:
        LogInvalid: naming the first thing that does not fit.
    """
    stored = log.newest(session)
    if stored is None:
        raise LogInvalid("the database holds no checkpoint")
    head = tlog.open_checkpoint(stored.note, keys)
    for known in outside:
        if known.size > head.size:
            raise LogInvalid(
                f"the log went backwards: it has {head.size} entries, and you hold a checkpoint over {known.size}"
            )
    edge = Frontier()
    signed = sorted([*outside, head], key=lambda known: known.size)
    for index, leaf in _leaves(session):
        while signed and signed[0].size == edge.size:
            _compare(edge, signed.pop(0))
        if index != edge.size:
            raise LogInvalid(f"entry {edge.size} is missing")
        edge.append(leaf)
    while signed and signed[0].size == edge.size:
        _compare(edge, signed.pop(0))
    if signed or edge.size != head.size:
        raise LogInvalid(f"the log has {edge.size} entries, and a checkpoint over {(signed or [head])[0].size}")
    if log.tiles_of(session, head.size).root != head.root:
        raise LogInvalid("the tiles are not those of the checkpoint")
    _check_the_unlogged(session)
    return Verified(head, edge.size, True)


def _leaves(session: Session) -> Iterator[tuple[int, bytes]]:
    after = -1
    query = select(LogEntry, Event).join(Event, col(Event.id) == LogEntry.event_id, isouter=True)
    while True:
        page = query.where(col(LogEntry.index) > after).order_by(col(LogEntry.index)).limit(CHUNK)
        found: Sequence[tuple[LogEntry, Event | None]] = session.exec(page).all()
        for place, event in found:
            if event is None:
                raise LogInvalid(f"entry {place.index}: event `{place.event_id}` was deleted")
            leaf = tlog.leaf_hash(tlog.entry(log.as_document(event)))
            if leaf != place.leaf_hash:
                raise LogInvalid(f"entry {place.index}: event `{event.id}` is not what was logged")
            yield place.index, leaf
        if not found:
            return
        after = found[-1][0].index
        session.expunge_all()


def _compare(edge: Frontier, known: Head) -> None:
    if edge.root != known.root:
        raise LogInvalid(f"the log's first {edge.size} entries are not those of the checkpoint over {known.size}")


def _check_the_unlogged(session: Session) -> None:
    """Events that still wait for their place are what was hashed for them, and there are no others."""
    waiting = select(PendingEntry, Event).join(Event, col(Event.id) == PendingEntry.event_id)
    for pending, event in session.exec(waiting):
        if tlog.leaf_hash(tlog.entry(log.as_document(event))) != pending.leaf_hash:
            raise LogInvalid(f"event `{event.id}`, which waits for its place, is not what was written")
    placed = select(LogEntry.event_id).union_all(select(PendingEntry.event_id)).subquery()
    query = select(Event.id).where(col(Event.id).not_in(select(placed.c.event_id))).limit(1)
    if (stranger := session.exec(query).first()) is not None:
        raise LogInvalid(f"event `{stranger}` was inserted: it has no place in the log and waits for none")
    doubled = select(PendingEntry.event_id).join(LogEntry, col(LogEntry.event_id) == PendingEntry.event_id)
    if session.exec(select(func.count()).select_from(doubled.subquery())).one():
        raise LogInvalid("an event waits for its place and has one")
