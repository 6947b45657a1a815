"""What a page of the vocabulary costs, first and deep, out of 10,000 task types.

Beside it, over the same SQLite file: the same page with two look-ups for each tag, and reached by OFFSET. A page is 500
tags with their aliases and the digest of the version in force, as objects that the API answers with. CPU milliseconds
of this process, best of the rounds.

    python bench/listing.py [--tags 10000] [--rounds 20]

Exits 1 unless a page is one statement, and the deep one costs less than twice the first.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sqlalchemy import event
from sqlmodel import Session, col, select

from enforcer import wire
from registry import db, server, tag_life, tags
from registry.paging import Filter, ListQuery, Page
from registry.settings import Settings
from registry.tables import KnownName, Tag, TagVersion

PAGE = 500


def main() -> int:
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    asked.add_argument("--tags", type=int, default=10_000)
    asked.add_argument("--rounds", type=int, default=20)
    given = asked.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        engine = a_vocabulary(Path(folder), given.tags)
        with db.reading(engine) as session:
            deep = token_of_last_page(session)
            skipped = given.tags - PAGE
            said = statements(engine, lambda: page(session, deep))
            costs = {
                "one statement, first page": best(lambda: page(session, None), given.rounds),
                "one statement, last page": best(lambda: page(session, deep), given.rounds),
                "two look-ups a tag, first page": best(lambda: tag_by_tag(session, 0), given.rounds),
                "two look-ups a tag, last page by OFFSET": best(lambda: tag_by_tag(session, skipped), given.rounds),
            }
    first = costs["one statement, first page"]
    print(f"{given.tags:,} task types, pages of {PAGE}; {said} statement for a page")
    for what, cost_ms in costs.items():
        print(f"{what:42} {cost_ms:8.2f} ms  {cost_ms / first:6.2f}")
    return 0 if said == 1 and costs["one statement, last page"] < 2 * first else 1


def a_vocabulary(folder: Path, size: int) -> Any:
    settings = Settings(state_dir=folder)
    server.prepare(settings)
    engine = db.open_engine(settings)
    with db.writing(engine) as session:
        like = session.get_one(TagVersion, ("dpo", 1)).model_dump()
        named = [f"tag-{number:06}" for number in range(size)]
        said = {"kind": "business", "parent": "dpo", "description": "one of many", "state": "active", "version": 1}
        session.add_all(Tag(name=name, created_at=db.utc_now(), **said) for name in named)
        session.flush()
        session.add_all(TagVersion(**{**like, "tag": name}) for name in named)
        session.add_all(KnownName(spelling=f"{name}-alias", kind="alias", tag=name) for name in named[::2])
    return engine


def page(session: Session, token: str | None) -> tuple[list[wire.Tag], str | None]:
    return tags.listed(session, Page(ListQuery(page_size=PAGE, page_token=token), Filter(), tags.LISTING))


def token_of_last_page(session: Session) -> str:
    """The last that is full."""
    tokens: list[str] = []
    _, token = page(session, None)
    while token is not None:
        tokens.append(token)
        _, token = page(session, token)
    assert len(tokens) > 1, "two pages hold them all; ask for more tags"
    return tokens[-2]


def tag_by_tag(session: Session, skipped: int) -> list[wire.Tag]:
    session.expunge_all()
    found = []
    for tag in session.exec(select(Tag).order_by(col(Tag.name)).offset(skipped).limit(PAGE)).all():
        aliases = session.exec(
            select(KnownName.spelling).where(KnownName.tag == tag.name, KnownName.kind == "alias")
        ).all()
        digest = session.exec(
            select(TagVersion.profile_digest).where(TagVersion.tag == tag.name, TagVersion.version == tag.version)
        ).one()
        told = {**tag.model_dump(), "deprecation": tag_life.deprecation_of(tag), "profile_digest": digest}
        found.append(wire.Tag(**told, aliases=list(aliases)))
    return found


def best(work: Callable[[], object], rounds: int) -> float:
    costs = []
    for _ in range(rounds):
        started = time.process_time()
        work()
        costs.append(time.process_time() - started)
    return 1_000 * min(costs)


def statements(engine: Any, work: Callable[[], object]) -> int:
    said: list[str] = []

    def note(*args: Any) -> None:
        said.append(args[2])

    event.listen(engine, "before_cursor_execute", note)
    work()
    event.remove(engine, "before_cursor_execute", note)
    return len([statement for statement in said if statement != "BEGIN"])


if __name__ == "__main__":
    sys.exit(main())
