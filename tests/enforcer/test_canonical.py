"""Our canonical form is the reference library's, byte for byte and refusal for refusal."""

import json
from typing import Any

import pytest
import rfc8785
from hypothesis import given, settings, strategies as st

from enforcer import canonical

texts = st.text() | st.text(st.characters(min_codepoint=0xD700, max_codepoint=0x10100))
numbers = (
    st.integers(-(2**53) - 2, 2**53 + 2)
    | st.floats()
    | st.integers(-12, 25).map(lambda power: float(f"1.5e{power}"))
    | st.sampled_from([0.0, -0.0, 1e-4, 9.999e-5, 1e15, 1e16, 1e21, 5e-324, 2.0**53, 0.1 + 0.2])
)
scalars = st.none() | st.booleans() | numbers | texts
documents = st.recursive(
    scalars, lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(texts, inner), max_leaves=20
)


def written(by: Any, document: Any) -> bytes | None:
    """The canonical form; None where there is none."""
    try:
        return bytes(by(document))
    except (rfc8785.CanonicalizationError, UnicodeEncodeError):
        return None


@settings(max_examples=400)
@given(documents)
def test_it_writes_what_the_reference_writes(document: Any) -> None:
    assert written(canonical.dumps, document) == written(rfc8785.dumps, document)


@settings(max_examples=400)
@given(numbers)
def test_every_number_is_spelt_as_in_the_reference(number: float) -> None:
    assert written(canonical.dumps, number) == written(rfc8785.dumps, number)


def test_keys_are_sorted_by_utf16_and_not_by_code_point() -> None:
    """U+FB33 comes after U+1F600, whose first UTF-16 unit is 0xD83D (RFC 8785 section 3.2.3)."""
    assert canonical.dumps({"\ufb33": 1, "\U0001f600": 2}) == '{"\U0001f600":2,"\ufb33":1}'.encode()


@pytest.mark.parametrize("document", [{1: 2}, {"a": {1: 2}}, {"a": b"x"}, {"a": {1, 2}}, {"a": 2**53}, {"a": "\ud800"}])
def test_what_has_no_canonical_form_is_refused(document: Any) -> None:
    with pytest.raises(canonical.CanonicalizationError):
        canonical.dumps(document)


def test_the_canonical_form_is_json_of_the_same_value() -> None:
    document = {"b": [1, 2.5, None, True, {"z": "ü\n"}], "a": {}}

    assert json.loads(canonical.dumps(document)) == document
