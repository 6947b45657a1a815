"""The run specification: one value, one spelling, one digest."""

import hashlib
import json

import pytest
from hypothesis import given, strategies as st

from enforcer.runspec import SpecificationInvalid, canonical_bytes, canonical_bytes_around, digest

numbers = st.integers(-(2**53) + 1, 2**53 - 1) | st.floats(-1e15, 1e15)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(texts, values, max_size=4))
def test_the_canonical_form_is_a_fixed_point(document: dict[str, object]) -> None:
    canonical = canonical_bytes(document)

    assert canonical_bytes(json.loads(canonical)) == canonical


@given(st.dictionaries(texts, values, max_size=5))
def test_the_order_of_members_does_not_matter(document: dict[str, object]) -> None:
    assert canonical_bytes(dict(reversed(document.items()))) == canonical_bytes(document)


@given(st.dictionaries(texts | st.sampled_from(["profil", "profile_digest", "a", "z"]), values, max_size=5), values)
def test_a_profile_that_is_canonical_already_is_put_in_its_place(document: dict[str, object], profile: object) -> None:
    around = {"limits": 1, "profile_digest": 2, **document}
    around.pop("profile", None)
    inside = canonical_bytes({"p": profile})[5:-1]

    assert canonical_bytes_around(inside, around) == canonical_bytes({**around, "profile": profile})


def test_the_digest_is_what_sha256sum_prints() -> None:
    assert digest(b"abc") == "sha256:" + hashlib.sha256(b"abc").hexdigest()


def test_rfc_8785_sorts_by_utf16_and_writes_numbers_like_ecmascript() -> None:
    """RFC 8785 sections 3.2.2.3 and 3.2.3: U+1F600 (surrogates D83D DE00) sorts before U+FB33; 1e30, 4.5, 0.002."""
    document = {"\ufb33": 1, "\U0001f600": 2, "n": [1e30, 4.50, 2e-3, -0.0, 1.0]}

    assert canonical_bytes(document).decode() == '{"n":[1e+30,4.5,0.002,0,1],"\U0001f600":2,"\ufb33":1}'


@pytest.mark.parametrize(
    "value",
    [2**60, float("nan"), float("inf"), "\ud800", {"a": object}],
    ids=["2^60", "nan", "inf", "surrogate", "type"],
)
def test_what_has_no_canonical_form_is_refused(value: object) -> None:
    with pytest.raises(SpecificationInvalid):
        canonical_bytes({"x": value})


def test_depth_and_size_are_limited() -> None:
    deep: object = 1
    for _ in range(2_000):
        deep = [deep]

    with pytest.raises(SpecificationInvalid, match="nests deeper"):
        canonical_bytes({"x": deep})
    with pytest.raises(SpecificationInvalid, match="the limit is"):
        canonical_bytes({"x": "a" * 70_000})
