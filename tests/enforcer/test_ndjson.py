"""An NDJSON export, and whoever would rather it said something else."""

import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import rfc8785
from hypothesis import given, settings, strategies as st

from enforcer import ndjson, tlog
from enforcer.keys import KeySet, SigningKey
from enforcer.tiles import in_memory
from enforcer.tlog import LogInvalid

KEY = SigningKey.generate()
KEYS = KeySet.of(KEY)
MANIFEST = ndjson.manifest_line("a.b.c")


def event_of(name: str, *, erased: bool = False, **facts: Any) -> dict[str, Any]:
    personal = {"actor": "user:li", "groups": ["nlp"], "reason": None, "detail": {"gpus": 1}}
    personal |= {field: facts.pop(field) for field in tlog.PERSONAL if field in facts}
    salt = "5a" * 16
    event = {"id": name, "kind": "test", **personal, "salt": salt, **facts}
    event["personal_hash"] = tlog.personal_hash(salt, event)
    return event | tlog.ERASED | {"salt": None} if erased else event


def export_of(events: Sequence[dict[str, Any]], places: Sequence[int] | None = None) -> list[bytes]:
    """The events at these places, all of them when left out, as the registry writes them."""
    tree = in_memory(tlog.leaf_hash(tlog.entry(event)) for event in events)
    walk = ndjson.Walk(tree.size)
    note = tlog.sign_checkpoint("registry.example/tlog", tree.size, tree.root, KEY)
    return [
        ndjson.head_line(note),
        *(
            ndjson.event_line(place, events[place], [tree.node(*node) for node in walk.to(place)[0]])
            for place in (range(len(events)) if places is None else places)
        ),
    ]


def export(count: int = 5) -> list[bytes]:
    return export_of([event_of(f"e{number}") for number in range(count)])


def path_of(line: bytes) -> int:
    """How many hashes the proof holds, 44 characters of base64 for each 32 bytes alone, 128 for three."""
    return len(json.loads(line)["proof"]) * 3 // 4 // 32


def test_an_export_holds() -> None:
    found = ndjson.verify([*export(), MANIFEST], KEYS)

    assert (found.events, found.whole) == (5, True)
    assert ndjson.verify(export()[:3], KEYS).whole is False


def test_a_whole_log_is_proven_by_one_hash_an_event() -> None:
    """The left one of each pair brings the right one's hash: in a tree of 8 leaves, 4 + 2 + 1. No other is needed."""
    lines = export(8)

    assert [path_of(line) for line in lines[1:]] == [3, 0, 1, 0, 2, 0, 1, 0]


@settings(max_examples=200)
@given(st.integers(1, 70), st.data())
def test_any_part_of_a_log_is_proven_in_any_order(size: int, data: st.DataObject) -> None:
    places = data.draw(st.lists(st.integers(0, size - 1), unique=True))
    events = [event_of(f"e{number}") for number in range(size)]

    found = ndjson.verify(export_of(events, places), KEYS)

    assert (found.events, found.whole) == (len(places), len(places) == size)


@settings(max_examples=200)
@given(st.integers(1, 40), st.data())
def test_an_event_of_another_log_is_found_wherever_it_stands(size: int, data: st.DataObject) -> None:
    """Its line is well made and its proof of the right length; only the tree knows it not."""
    places = data.draw(st.lists(st.integers(0, size - 1), unique=True, min_size=1))
    spoilt = data.draw(st.integers(0, len(places) - 1))
    lines = export_of([event_of(f"e{number}") for number in range(size)], places)
    record = json.loads(lines[1 + spoilt])
    lines[1 + spoilt] = rfc8785.dumps({**record, "event": event_of("forged")}) + b"\n"

    with pytest.raises(LogInvalid, match=f"line {2 + spoilt}: event `forged` is not in the log"):
        ndjson.verify(lines, KEYS)


ODD = [
    event_of("e0"),
    event_of("e1", detail={"rate": 1e-07, "share": 0.5, "whole": 1e16}, reason="太慢"),
    event_of("e2", erased=True),
    event_of("e3", detail={"\ue000": 1, "\U0001f600": 2, "nested": {"list": [1, [True]]}}),  # sorted by UTF-16 units
]


@pytest.mark.parametrize("places", [[0, 1, 2, 3], [3, 1, 2]])
def test_no_byte_can_be_changed(places: list[int]) -> None:
    content = b"".join(export_of(ODD, places))
    assert ndjson.verify(content.splitlines(keepends=True), KEYS).events == len(places)

    for position in range(len(content)):
        for bit in (1, 32):  # another letter, and the same in the other case
            changed = bytearray(content)
            changed[position] ^= bit
            with pytest.raises(LogInvalid):
                ndjson.verify(bytes(changed).splitlines(keepends=True), KEYS)


def test_a_missing_line_is_no_whole_log() -> None:
    lines = export(8)

    for missing in range(1, 9):
        try:
            found = ndjson.verify(lines[:missing] + lines[missing + 1 :], KEYS)
        except LogInvalid:
            continue
        assert not found.whole


@settings(max_examples=300)
@given(
    st.text(max_size=9),
    st.recursive(
        st.text(max_size=9) | st.none() | st.booleans() | st.integers(1 - 2**53, 2**53 - 1) | st.floats(-1e30, 1e30),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
        max_leaves=6,
    ),
)
def test_a_line_is_rfc_8785_whatever_an_event_holds(text: str, value: Any) -> None:
    event = event_of(text, reason=text, detail={text: value})

    head, line = export_of([event])

    assert line == rfc8785.dumps({"event": event, "index": 0, "proof": ""}) + b"\n"
    assert ndjson.verify([head, line], KEYS).whole


@pytest.mark.parametrize("places", [[0, 0], [4, 4], [2, 4, 1, 4], [0, 1, 2, 0]])
def test_an_event_counts_once_however_well_it_is_proven_again(places: list[int]) -> None:
    events = [event_of(f"e{number}") for number in range(5)]

    with pytest.raises(LogInvalid, match=f"line {len(places) + 1}: entry {places[-1]} stands twice"):
        ndjson.verify(export_of(events, places), KEYS)


Spoil = Callable[[list[bytes]], list[bytes]]


def in_line_3(old: bytes, new: bytes) -> Spoil:
    def spoil(lines: list[bytes]) -> list[bytes]:
        assert old in lines[2]
        return [*lines[:2], lines[2].replace(old, new), *lines[3:]]

    return spoil


SPOILT: list[tuple[Spoil, str]] = [
    (in_line_3(b'"e1"', b'"e9"'), "line 3: event `e9` is not in the log"),
    (in_line_3(b'"gpus":1', b'"gpus":2'), "line 3: event `e1`: its personal"),
    (in_line_3(b"5a5a", b"5A5A"), "line 3: event `e1`: its personal"),
    (in_line_3(b'"index":1', b'"index":7'), "line 3: index 7 is outside"),
    (in_line_3(b'"index":1', b'"index":-1'), "line 3: index -1 is outside"),
    (in_line_3(b'"index":1', b'"index":true'), "line 3: not a record"),
    (in_line_3(b'"index":1', b'"index":1.0'), "line 3: not a record"),
    (in_line_3(b'"proof":""', b'"proof":"' + b"A" * 43 + b'="'), "line 3: the proof of entry 1 is too long"),
    (in_line_3(b'"proof":""', b'"proof":null'), "line 3: not a record"),
    (in_line_3(b'"proof":""', b'"proof":"AB=="'), "line 3: not a record.* one spelling"),
    (in_line_3(b'"proof":""', b'"proof":"","z":1'), "line 3: not a record"),
    (in_line_3(b'"salt"', b'"reasons":null,"salt"'), "line 3: event `e1` is not in the log"),
    (lambda lines: [*lines, lines[1]], "line 7: entry 0 stands twice"),
    (lambda lines: [*lines, lines[4]], "line 7: entry 3 stands twice"),
    (lambda lines: [*lines[:3], lines[4]], "line 4: the proof of entry 3 is too short"),
    (lambda lines: lines[1:], "line 1: not a record of an export at this place"),
    (lambda lines: [lines[0], *lines], "line 2: not a record of an export at this place"),
    (lambda lines: [*lines[:2], MANIFEST, *lines[2:]], "line 4: not a record of an export at this place"),
    (lambda lines: [*lines, MANIFEST, MANIFEST], "line 8: not a record of an export at this place"),
    (lambda lines: [lines[0].replace(b"\\n5\\n", b"\\n6\\n"), *lines[1:]], "line 1: .*signature .* does not hold"),
    (lambda lines: [], "the export is empty"),
    # What one reader reads like this, and another like that.
    (in_line_3(b'{"actor"', b'{"actor":"user:eve","actor"'), "line 3: not as RFC 8785 spells it"),
    (in_line_3(b'{"event"', b'{"event":{},"event"'), "line 3: not as RFC 8785 spells it"),
    (in_line_3(b'"gpus":1', b'"gpus": 1'), "line 3: not as RFC 8785 spells it"),
    (in_line_3(b'"gpus":1', b'"gpus":1.0'), "line 3: event `e1`: its personal"),
    (in_line_3(b'"gpus":1', b'"gpus":1e0'), "line 3: not as RFC 8785 spells it"),
    (in_line_3(b"user:li", b"user:l\\u0069"), "line 3: not as RFC 8785 spells it"),
    (in_line_3(b"user:li", b"user:li\\ud800"), "line 3: not a record"),
    (in_line_3(b"user:li", b"user:li\xff"), "line 3: not a record"),
    (in_line_3(b'"gpus":1', b'"gpus":9007199254740993'), "line 3: not as RFC 8785 spells it"),
    (in_line_3(b'"gpus":1', b'"gpus":' + b"9" * 400), "line 3: not a record"),
    (in_line_3(b'"gpus":1', b'"gpus":NaN'), "line 3: not a record"),
    (in_line_3(b'"gpus":1', b'"gpus":' + b"[" * 500 + b"]" * 500), "line 3: "),
    (in_line_3(b'"gpus":1', b'"gpus":' + b"[" * 100_000), "line 3: not a record"),
    (in_line_3(b"\n", b"\r\n"), "line 3: not as RFC 8785 spells it"),
    (in_line_3(b'{"event"', b'\xef\xbb\xbf{"event"'), "line 3: not a record"),
    *[
        (lambda lines, line=line: [*lines[:2], line], "line 3: not a record")
        for line in (b"{}\n", b"[]\n", b"null\n", b"nonsense\n", b" \n", b'{"checkpoint":1}\n', b'{"manifest":1}\n')
    ],
    *[
        (lambda lines, line=line: [*lines[:2], line], "line 3: not a record")
        for line in (
            b'{"event":"x","index":1,"proof":""}\n',
            b'{"event":{},"index":1,"proof":""}\n',
            b'{"event":{"actor":1,"detail":2,"groups":3,"reason":4,"salt":5},"index":1,"proof":""}\n',
        )
    ],
]


@pytest.mark.parametrize(("spoil", "says"), SPOILT)
def test_the_first_line_that_does_not_fit_is_named(spoil: Spoil, says: str) -> None:
    with pytest.raises(LogInvalid, match=says):
        ndjson.verify(spoil(export()), KEYS)


def test_several_processes_find_what_one_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ndjson, "CHUNK", 2)
    lines = [*export(41), MANIFEST]
    twice_wrong = [*lines[:5], b"nonsense\n", *lines[6:30], b"nonsense\n", *lines[31:]]

    assert ndjson.verify(lines, KEYS, processes=2) == ndjson.verify(lines, KEYS)
    for spoilt, says in (
        (twice_wrong, "line 6: not a record"),
        ([*lines[:20], lines[4], *lines[20:30], b"x\n"], "line 21: entry 3 stands twice"),
    ):
        with pytest.raises(LogInvalid, match=says):
            ndjson.verify(spoilt, KEYS, processes=2)


def test_an_export_is_compared_with_what_the_auditor_holds() -> None:
    events = [event_of(f"e{number}") for number in range(9)]
    leaves = [tlog.leaf_hash(tlog.entry(event)) for event in events]
    held = [tlog.Head("registry.example/tlog", size, in_memory(leaves[:size]).root, "kid") for size in (0, 3, 8, 9)]
    forged = tlog.Head("registry.example/tlog", 3, bytes(32), "kid")

    assert ndjson.verify(export_of(events), KEYS, outside=held).whole
    with pytest.raises(LogInvalid, match="line 4: the log's first 3 entries are not those"):
        ndjson.verify(export_of(events), KEYS, outside=[forged])
    with pytest.raises(LogInvalid, match="not of the whole log up to 3 entries"):
        ndjson.verify(export_of(events, [0, 1, 4]), KEYS, outside=held[1:2])
