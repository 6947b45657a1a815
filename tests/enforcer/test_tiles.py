"""Tiles against the definition of the tree, and every proof against what it must not prove."""

import json
import os
from base64 import b64decode
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st
from trees import definition, leaves_of

from enforcer import tiles, tlog
from enforcer.notes import LogInvalid
from enforcer.tiles import Tiles, in_memory

VECTORS = Path(os.environ.get("TAGWARDEN_VECTORS", Path(__file__).parents[3] / "shared" / "vectors"))
LEAVES = leaves_of(1_400)


def grow(batches: list[int]) -> tuple[Tiles, dict[tuple[int, int], bytes]]:
    """A log that grew by these numbers of entries, and its stored tiles."""
    stored: dict[tuple[int, int], bytes] = {}

    def read(level: int, index: int, width: int) -> bytes | None:
        tile = stored.get((level, index))
        return tile and tile[: 32 * width]

    size = 0
    for batch in batches:
        stored.update(Tiles(size, read).grown(LEAVES[size : size + batch]))
        size += batch
    return Tiles(size, read), stored


@settings(max_examples=60)
@given(st.lists(st.integers(0, 300), max_size=4), st.data())
def test_however_it_grew_the_tiles_are_those_of_the_definition(batches: list[int], data: st.DataObject) -> None:
    log, stored = grow(batches)

    assert log.root == definition(LEAVES[: log.size])
    for (level, index), hashes in stored.items():
        span = 256**level
        first = index * 256
        expected = [
            definition(LEAVES[at * span : (at + 1) * span]) for at in range(first, min(first + 256, log.size // span))
        ]
        assert hashes == b"".join(expected)
    old = data.draw(st.integers(0, log.size))
    assert Tiles(old, log._read).root == definition(LEAVES[:old])


@settings(max_examples=60)
@given(st.integers(1, 1_400), st.data())
def test_every_log_is_shown_to_continue_its_beginning_and_no_other(size: int, data: st.DataObject) -> None:
    log = in_memory(LEAVES[:size])
    old = data.draw(st.integers(1, size))
    proof = log.consistency(old)
    root = definition(LEAVES[:old])

    tlog.check_consistency(old, root, size, log.root, proof)
    forged = [
        (old, definition([*LEAVES[: old - 1], b"x" * 32]), size, log.root, proof),
        (old, root, size, b"x" * 32, proof),
        (old, root, size, log.root, [*proof, b"x" * 32]),
        *([(old, root, size, log.root, proof[:-1])] if proof else []),
        *([(old, root, size, log.root, [b"x" * 32, *proof[1:]])] if proof else []),
    ]
    for attempt in forged:
        with pytest.raises(LogInvalid):
            tlog.check_consistency(*attempt)


def test_the_empty_log_proves_nothing_about_another() -> None:
    log = in_memory(LEAVES[:5])

    with pytest.raises(LogInvalid, match="a log of 5 entries cannot be shown to continue one of 0"):
        log.consistency(0)
    with pytest.raises(LogInvalid):
        tlog.check_consistency(0, tlog.EMPTY_ROOT, 5, log.root, [])


@pytest.mark.parametrize("size", [1, 255, 256, 257, 512, 1_000, 1_400])
def test_inclusion_proofs_from_tiles_hold(size: int) -> None:
    log = in_memory(LEAVES[:size])

    for index in range(0, size, 7):
        assert tlog.root_of_path(LEAVES[index], index, size, log.inclusion(index)) == log.root


@given(st.integers(1, 600))
def test_the_frontier_has_the_same_root(size: int) -> None:
    edge = tlog.Frontier()
    for leaf in LEAVES[:size]:
        edge.append(leaf)

    assert edge.root == definition(LEAVES[:size])


def test_a_tile_that_is_missing_or_short_is_said() -> None:
    for short in (None, b"", b"x" * 31):
        with pytest.raises(LogInvalid, match="tile 0 of level 0 is missing or not 5 hashes wide"):
            _ = Tiles(5, lambda *_, short=short: short).root


@given(st.integers(0, 10**14), st.integers(1, 256))
def test_tile_paths_are_read_as_they_are_written(index: int, width: int) -> None:
    assert tiles.tile_number(tiles.tile_path(index, width)) == (index, width)


def test_the_path_of_the_specification() -> None:
    assert tiles.tile_path(1234067) == "x001/x234/067"
    assert tiles.tile_path(273, 112) == "273.p/112"


@pytest.mark.parametrize(
    "path",
    ["", "1", "0001", "x000/001", "001/002", "x001", "001.p/0", "001.p/256", "001.p/012", "../001", "00١", "001\n"],
)
def test_a_tile_has_one_spelling(path: str) -> None:
    with pytest.raises(LogInvalid):
        tiles.tile_number(path)


@given(st.lists(st.binary(max_size=300), max_size=20), st.binary(max_size=5))
def test_bundles_are_read_as_written_or_refused(entries: list[bytes], rest: bytes) -> None:
    content = tiles.bundle(entries)

    assert tiles.unbundle(content) == entries
    if rest and len(rest) != 2 + int.from_bytes(rest[:2], "big") and rest[:2] != bytes(2):
        with pytest.raises(LogInvalid, match="ends within an entry"):
            tiles.unbundle(content + rest)


@pytest.mark.skipif(not (VECTORS / "merkle").is_dir(), reason="no transparency-dev/merkle vectors here")
def test_the_vectors_of_transparency_dev_agree() -> None:
    """`testdata/inclusion` and `testdata/consistency` of transparency-dev/merkle, copied to `vectors/merkle`."""
    seen = 0
    for file in (VECTORS / "merkle").rglob("*.json"):
        case = json.loads(file.read_text())
        proof = [b64decode(node) for node in case["proof"] or []]
        try:
            if "leafIdx" in case:
                root = tlog.root_of_path(b64decode(case["leafHash"]), case["leafIdx"], case["treeSize"], proof)
                holds = root == b64decode(case["root"])
            else:
                roots = b64decode(case["root1"]), b64decode(case["root2"])
                tlog.check_consistency(case["size1"], roots[0], case["size2"], roots[1], proof)
                holds = True
        except LogInvalid:
            holds = False
        assert holds != case["wantErr"], file
        seen += 1

    assert seen > 100


@given(st.integers(1, 300), st.integers(0, 10), st.data())
def test_a_node_is_the_root_of_what_is_below_it(size: int, level: int, data: st.DataObject) -> None:
    position = data.draw(st.integers(0, (size - 1) >> level))
    log = in_memory(LEAVES[:size])

    assert log.node(level, position) == definition(LEAVES[position << level : min((position + 1) << level, size)])
    with pytest.raises(LogInvalid, match="outside"):
        log.node(level, ((size - 1) >> level) + 1)
