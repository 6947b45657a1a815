"""The Merkle log: against its definition, and against whoever would rather it said something else."""

import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enforcer import tlog
from enforcer.keys import KeySet, SigningKey
from enforcer.tlog import LogInvalid, Tree

KEY = SigningKey.generate()


def definition(leaves: list[bytes]) -> bytes:
    """MTH of RFC 6962 section 2.1, word for word."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    return hashlib.sha256(b"\x01" + definition(leaves[:split]) + definition(leaves[split:])).digest()


def leaves_of(count: int) -> list[bytes]:
    return [tlog.leaf_hash(b"%d" % number) for number in range(count)]


@pytest.mark.parametrize("size", range(1, 70))
def test_roots_and_every_proof_follow_the_definition(size: int) -> None:
    leaves = leaves_of(size)
    tree = Tree(leaves)

    assert tree.root == definition(leaves)
    assert {tlog.root_of_path(leaves[i], i, size, tree.proof(i)) for i in range(size)} == {tree.root}


@given(st.integers(1, 200), st.data())
def test_a_proof_fits_no_other_place(size: int, data: st.DataObject) -> None:
    leaves = leaves_of(size)
    tree = Tree(leaves)
    index, other = data.draw(st.integers(0, size - 1)), data.draw(st.integers(0, size - 1))

    try:
        root = tlog.root_of_path(leaves[index], other, size, tree.proof(index))
    except LogInvalid:
        return

    assert (root == tree.root) == (index == other)


@given(st.integers(2, 200), st.data())
def test_a_proof_too_long_or_too_short_is_refused(size: int, data: st.DataObject) -> None:
    leaves = leaves_of(size)
    index = data.draw(st.integers(0, size - 1))
    path = Tree(leaves).proof(index)

    for wrong in (path[:-1], [*path, leaves[0]]):
        with pytest.raises(LogInvalid):
            tlog.root_of_path(leaves[index], index, size, wrong)


def test_the_empty_log_has_the_hash_of_nothing() -> None:
    assert Tree([]).root == definition([])


def event_of(name: str, **changes: Any) -> dict[str, Any]:
    personal = {"actor": "user:li", "groups": ["nlp"], "reason": None, "detail": {"gpus": 1}}
    salt = "5a" * 16
    return {
        "id": name,
        "kind": "test",
        **personal,
        "salt": salt,
        "personal_hash": tlog.personal_hash(salt, personal),
        **changes,
    }


@pytest.mark.parametrize("field", tlog.PERSONAL)
def test_a_changed_personal_part_is_no_entry(field: str) -> None:
    with pytest.raises(LogInvalid, match="`e1`: its personal part is not what was logged"):
        tlog.entry(event_of("e1", **{field: "another"}))


def test_an_erased_event_keeps_its_leaf() -> None:
    erased = event_of("e1", **tlog.ERASED, salt=None)

    assert tlog.entry(erased) == tlog.entry(event_of("e1"))
    assert b"user:li" not in tlog.entry(erased)
    with pytest.raises(LogInvalid):
        tlog.entry({**erased, "actor": "user:wang"})


def export(count: int = 5) -> list[str]:
    events = [event_of(f"e{number}") for number in range(count)]
    tree = Tree(tlog.leaf_hash(tlog.entry(event)) for event in events)
    note = tlog.sign_checkpoint("registry.example/tlog", count, tree.root, KEY)
    return [
        tlog.export_head(note),
        *(tlog.export_line(number, event, tree.proof(number)) for number, event in enumerate(events)),
    ]


def test_a_checkpoint_is_a_c2sp_signed_note() -> None:
    note = json.loads(export()[0])["checkpoint"]
    origin, size, root, blank, signature = note.rstrip("\n").split("\n")

    assert (origin, size, blank) == ("registry.example/tlog", "5", "")
    assert len(root) == 44
    assert signature.startswith(f"\u2014 {KEY.kid} ")
    assert tlog.open_checkpoint(note, KeySet.of(KEY)).size == 5


def test_an_export_holds() -> None:
    found = tlog.verify_export(export(), KeySet.of(KEY))

    assert (found.events, found.whole) == (5, True)
    assert tlog.verify_export(export()[:3], KeySet.of(KEY)).whole is False


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda lines: [line.replace('"e2"', '"e9"') for line in lines], "line 4: event `e9` is not in the log"),
        (lambda lines: [line.replace('"gpus":1', '"gpus":2') for line in lines], "line 2: event `e0`: its personal"),
        (lambda lines: [*lines, lines[1]], "line 7: entry 0 stands twice"),
        (lambda lines: lines[1:], "line 1 is not a record"),
        (lambda lines: [lines[0].replace("\\n5\\n", "\\n6\\n"), *lines[1:]], "signature .* does not hold"),
        (lambda lines: [*lines[:2], "{}"], "line 3 is not a record"),
        (lambda lines: [*lines[:2], "nonsense"], "line 3 is not a record"),
        (lambda lines: [*lines[:2], lines[2].replace('"index":1', '"index":7')], "line 3: index 7 is outside"),
        (lambda lines: [], "the export is empty"),
        (lambda lines: [*lines[:2], json.dumps({**json.loads(lines[2]), "event": "x"})], "line 3 is not a record"),
        (lambda lines: [*lines[:2], "[" * 100_000], "line 3 is not a record"),
        (lambda lines: ["[]"], "line 1 is not a record"),
    ],
)
def test_the_first_thing_that_does_not_fit_is_named(spoil, says: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(LogInvalid, match=says):
        tlog.verify_export(spoil(export()), KeySet.of(KEY))
