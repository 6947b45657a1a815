"""What does the transparency log cost? `python bench/log.py [LEAVES]`, 10 million when left out.

append   leaf hash, tiles and root of batches of 1,000, in memory
proof    one inclusion and one consistency proof from tiles, tiles already read: none cached between proofs
verify   `ndjson.verify` over a whole export, read by this process or by two others: by the clock, and CPU
peer     SHA-256 over two hashes by `hashlib`, the least that any tree must do for a leaf
"""

import gc
import hashlib
import json
import os
import random
import resource
import statistics
import sys
import time

from enforcer import ndjson, tiles, tlog
from enforcer.keys import KeySet, SigningKey

BATCH = 1_000
EVENTS = 200_000


def main(leaves: int) -> None:
    start = time.process_time()
    for _ in range(200_000):
        hashlib.sha256(b"\x01" + bytes(32) + bytes(32)).digest()
    peer = 200_000 / (time.process_time() - start)
    print(f"peer     {peer:12,.0f} node hashes/s of hashlib  1.00")

    stored: dict[tuple[int, int], bytes] = {}

    def read(level: int, index: int, width: int) -> bytes | None:
        tile = stored.get((level, index))
        return tile and tile[: 32 * width]

    start, size = time.process_time(), 0
    while size < leaves:
        batch = [tlog.leaf_hash(b"entry %d" % number) for number in range(size, min(size + BATCH, leaves))]
        stored.update(tiles.Tiles(size, read).grown(batch))
        size += len(batch)
        _ = tiles.Tiles(size, read).root
    rate = leaves / (time.process_time() - start)
    print(f"append   {rate:12,.0f} leaves/s, with a root every {BATCH:,}  {rate / peer:.2f}")

    gc.freeze()  # the collector must not walk ten million hashes between two proofs
    root, random_ = tiles.Tiles(size, read).root, random.Random(1)  # noqa: S311
    for name in ("inclusion", "consistency"):
        took = []
        for _ in range(300):
            place = random_.randrange(1, size)
            start = time.perf_counter()
            path = getattr(tiles.Tiles(size, read), name)(place)
            took.append((time.perf_counter() - start) * 1e3)
            if name == "inclusion":
                assert tlog.root_of_path(tlog.leaf_hash(b"entry %d" % place), place, size, path) == root
        took.sort()
        print(f"proof    {name} at {size:,} leaves: p50 {statistics.median(took):.2f} ms, p99 {took[-4]:.2f} ms")

    key = SigningKey.generate()
    lines = export(EVENTS, key)
    print(f"verify   {EVENTS:,} events of {sum(map(len, lines)) / EVENTS:,.0f} bytes each, offline")
    for readers in (1, 2):
        own, others, began = _cpu_s(resource.RUSAGE_SELF), _cpu_s(resource.RUSAGE_CHILDREN), time.perf_counter()
        assert ndjson.verify(lines, KeySet.of(key), processes=readers).whole
        rate = EVENTS / (time.perf_counter() - began)
        own, others = _cpu_s(resource.RUSAGE_SELF) - own, _cpu_s(resource.RUSAGE_CHILDREN) - others
        cpu = f"CPU us an event: {own / EVENTS * 1e6:.1f} here, {others / EVENTS * 1e6:.1f} in others with their start"
        print(f"         {rate:12,.0f} events/s by the clock, {readers} reading, load {os.getloadavg()[0]:.1f}; {cpu}")
    start = time.process_time()
    for line in lines:
        json.loads(line)
    print(f"         {EVENTS / (time.process_time() - start):12,.0f} lines/s is what `json.loads` alone reads")


def _cpu_s(whose: int) -> float:
    used = resource.getrusage(whose)
    return used.ru_utime + used.ru_stime


def export(count: int, key: SigningKey) -> list[bytes]:
    """A whole export of events as the registry writes them."""
    events = []
    for number in range(count):
        salt = f"{number:032x}"
        event = {
            "id": f"01933b2e-{number % 65536:04x}-7000-8000-{number:012x}",
            "at": "2026-11-24T13:20:35.123456Z",
            "kind": "ticket.issued",
            "outcome": "done",
            "actor": f"user:u{number % 500}",
            "groups": ["trainers", "nlp"],
            "business_unit": "retail",
            "task_type": "sequence-classification",
            "version": 1,
            "rule": "trainers-train-their-own-unit",
            "policy_revision": "sha256:" + "a" * 64,
            "run_id": f"run-01933b2e-{number % 65536:04x}-7000-8000-{number:012x}",
            "ticket_id": f"01933b2e-{number % 65536:04x}-7000-9000-{number:012x}",
            "proposal_id": None,
            "digest": "sha256:" + "b" * 64,
            "groups_digest": "sha256:" + "c" * 64,
            "reason": None,
            "detail": {"run_spec_digest": "sha256:" + "d" * 64, "target": "local", "gpus": 0, "jkt": "k" * 43},
            "salt": salt,
        }
        events.append({**event, "personal_hash": tlog.personal_hash(salt, event)})
    tree = tiles.in_memory(tlog.leaf_hash(tlog.entry(event)) for event in events)
    note = tlog.sign_checkpoint("registry.example/tlog", tree.size, tree.root, key)
    walk = ndjson.Walk(tree.size)
    return [
        ndjson.head_line(note),
        *(
            ndjson.event_line(at, event, [tree.node(*place) for place in walk.to(at)[0]])
            for at, event in enumerate(events)
        ),
    ]


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000_000)
