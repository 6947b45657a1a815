"""Tokens become text piece by piece without a half character, and nothing of a stop sequence is told."""

import pytest

from trainer.serve.saying import Words


def decode(ids: list[int]) -> str:
    """Tokens are bytes of UTF-8."""
    return bytes(ids).decode("utf-8", "replace")


def told(text: str, *stops: str) -> tuple[list[str], bool]:
    words, pieces = Words(decode, stops), []
    for token in text.encode():
        pieces.append(words.add(token))
        if words.stopped:
            return [*pieces, words.rest()], True
    return [*pieces, words.rest()], False


def test_a_character_is_told_when_it_is_whole() -> None:
    pieces, _ = told("a中b")

    assert pieces == ["a", "", "", "中", "b", ""]


def test_half_a_character_at_the_end_is_told_as_what_it_is() -> None:
    words = Words(decode, ())
    pieces = [words.add(token) for token in "中".encode()[:2]]

    assert [*pieces, words.rest()] == ["", "", "\ufffd"]


@pytest.mark.parametrize(
    ("text", "stops", "said", "stopped"),
    [
        ("yes. END more", ("END",), "yes. ", True),
        ("yes. EN", ("END",), "yes. EN", False),
        ("EENDx", ("END",), "E", True),
        ("one two", ("three",), "one two", False),
        ("a\nb\n\nc", ("\n\n", "c"), "a\nb", True),
    ],
)
def test_nothing_of_a_stop_sequence_is_told(text: str, stops: tuple[str, ...], said: str, stopped: bool) -> None:
    pieces, ended = told(text, *stops)

    assert ("".join(pieces), ended) == (said, stopped)
    assert not any("END" in "".join(pieces[:i]) for i in range(len(pieces)))
