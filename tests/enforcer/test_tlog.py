"""The Merkle log: against its definition, and against whoever would rather it said something else."""

import hashlib
from typing import Any

import pytest
import rfc8785
from hypothesis import given, strategies as st
from trees import definition, leaves_of

from enforcer import tlog
from enforcer.keys import KeySet, SigningKey
from enforcer.tiles import in_memory
from enforcer.tlog import LogInvalid

KEY = SigningKey.generate()


@pytest.mark.parametrize(
    "issuer", ["http://127.0.0.1:8710", "http://127.0.0.1:43121", "http://[::1]:1", "http://localhost"]
)
def test_a_log_on_loopback_has_one_name_at_every_address_and_port(issuer: str) -> None:
    assert tlog.origin_of(issuer) == tlog.LOCAL


@pytest.mark.parametrize(
    ("issuer", "origin"),
    [
        ("https://registry.example", "registry.example/tlog"),
        ("https://registry.example:8443/books", "registry.example:8443/books/tlog"),
        ("http://localhost.example", "localhost.example/tlog"),
        ("http://[", "[/tlog"),
    ],
)
def test_everywhere_else_a_log_is_called_by_the_address_of_its_registry(issuer: str, origin: str) -> None:
    assert tlog.origin_of(issuer) == origin


@pytest.mark.parametrize("size", range(1, 70))
def test_roots_and_every_proof_follow_the_definition(size: int) -> None:
    leaves = leaves_of(size)
    tree = in_memory(leaves)

    assert tree.root == definition(leaves)
    assert {tlog.root_of_path(leaves[i], i, size, tree.inclusion(i)) for i in range(size)} == {tree.root}


@given(st.integers(1, 200), st.data())
def test_a_proof_fits_no_other_place(size: int, data: st.DataObject) -> None:
    leaves = leaves_of(size)
    tree = in_memory(leaves)
    index, other = data.draw(st.integers(0, size - 1)), data.draw(st.integers(0, size - 1))

    try:
        root = tlog.root_of_path(leaves[index], other, size, tree.inclusion(index))
    except LogInvalid:
        return

    assert (root == tree.root) == (index == other)


@given(st.integers(2, 200), st.data())
def test_a_proof_too_long_or_too_short_is_refused(size: int, data: st.DataObject) -> None:
    leaves = leaves_of(size)
    index = data.draw(st.integers(0, size - 1))
    path = in_memory(leaves).inclusion(index)

    for wrong in (path[:-1], [*path, leaves[0]]):
        with pytest.raises(LogInvalid):
            tlog.root_of_path(leaves[index], index, size, wrong)


def test_the_empty_log_has_the_hash_of_nothing() -> None:
    assert in_memory([]).root == definition([])


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


@pytest.mark.parametrize("spoilt", [{"v": 2}, {"salt": "5A" * 16}, {"salt": "5a " * 16}])
def test_nothing_rides_along_that_no_hash_covers(spoilt: dict[str, Any]) -> None:
    with pytest.raises(LogInvalid, match="`e1`"):
        tlog.entry({**event_of("e1"), **spoilt})


_TEXT = st.text(max_size=12)
_DETAIL = st.dictionaries(
    _TEXT, st.one_of(_TEXT, st.none(), st.integers(-(2**53) + 1, 2**53 - 1), st.booleans(), st.floats(-1e9, 1e9),
                     st.lists(_TEXT, max_size=2)), max_size=4
)  # fmt: skip


@given(
    _TEXT, st.lists(_TEXT, max_size=3), st.one_of(st.none(), _TEXT), _DETAIL, st.one_of(st.none(), st.integers(0, 9))
)
def test_entries_and_hashes_are_made_of_rfc_8785(
    actor: str, groups: list[str], reason: str | None, detail: dict[str, Any], version: int | None
) -> None:
    """Against the reference library, on whatever an event may hold."""
    personal = {"actor": actor, "groups": groups, "reason": reason, "detail": detail}
    event = event_of("e1", **personal, rule=actor, version=version)
    event["personal_hash"] = tlog.personal_hash(event["salt"], event)

    logged = {"v": 1, **{name: value for name, value in event.items() if name not in (*tlog.PERSONAL, "salt")}}
    salted = bytes.fromhex(event["salt"]) + rfc8785.dumps(personal)
    assert tlog.entry(event) == rfc8785.dumps(logged)
    assert event["personal_hash"] == f"sha256:{hashlib.sha256(salted).hexdigest()}"


def test_a_checkpoint_is_a_c2sp_signed_note() -> None:
    note = tlog.sign_checkpoint("registry.example/tlog", 5, in_memory(leaves_of(5)).root, KEY)
    origin, size, root, blank, signature = note.rstrip("\n").split("\n")

    assert (origin, size, blank) == ("registry.example/tlog", "5", "")
    assert len(root) == 44
    assert signature.startswith("\u2014 registry.example/tlog ")
    assert tlog.open_checkpoint(note, KeySet.of(KEY)).size == 5
