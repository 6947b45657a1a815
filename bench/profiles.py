"""What a profile costs once it is known, and what a change of one costs to class.

CPU time of this process, least of `--rounds` rounds, the vocabulary that ships, a child and its parent. The peer is
what every look-up cost without a memory: the stored JSON parsed and checked, and its canonical bytes made.

    python bench/profiles.py [--rounds 7] [--limit-us 50]

Exits 1 when a warm profile (with its ancestors) costs more than the limit.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from enforcer.compatibility import Compatibility, incompatibilities
from enforcer.profile_changes import diff
from enforcer.profiles import Profile
from registry import db, tag_versions, tags
from registry.books import Books
from registry.server import prepare
from registry.settings import Settings

CHILD, PARENT = "intent-recognition", "sequence-classification"


def least_us(work: Callable[[], object], times: int, rounds: int) -> float:
    found = []
    for _ in range(rounds):
        began = time.process_time()
        for _ in range(times):
            work()
        found.append((time.process_time() - began) / times)
    return min(found) * 1e6


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--limit-us", type=float, default=50)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(state_dir=Path(folder) / "state")
        prepare(settings)
        books = Books.open(settings)
        with db.reading(books.engine) as session:
            child, parent = (tags.version(session, name) for name in (CHILD, PARENT))
            warm = least_us(lambda: tag_versions.parsed(child), 20_000, options.rounds)
            given = {"label_names": ["a", "b"], "max_length": 256}
            profiles = {row.tag: tag_versions.parsed(row).profile for row in (child, parent)}
            stored = json.dumps(child.profile)

            def cold() -> bytes:
                return Profile.model_validate_json(stored).canonical()

            rows = {
                "parsed and made canonical each time (the peer)": least_us(cold, 300, options.rounds),
                "a known version, warm": warm,
                "in force: the tag read from SQLite, the version known": least_us(
                    lambda: tags.in_force(session, CHILD), 1_000, options.rounds
                ),
                "arguments of a run resolved by it": least_us(
                    lambda: profiles[CHILD].resolve(given), 5_000, options.rounds
                ),
                "diff of a child and its parent": least_us(
                    lambda: diff(profiles[PARENT], profiles[CHILD]), 200, options.rounds
                ),
                "FULL compatibility of the two": least_us(
                    lambda: incompatibilities(Compatibility.FULL, {1: profiles[PARENT]}, profiles[CHILD]),
                    100,
                    options.rounds,
                ),
            }
    for name, cost in rows.items():
        print(f"{name:<56}{cost:>12,.1f} us")
    print(f"a warm profile costs {warm:.2f} us (limit {options.limit_us:g})")
    return int(warm > options.limit_us)


if __name__ == "__main__":
    sys.exit(main())
