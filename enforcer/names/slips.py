"""One slip of the hand between two spellings: letters swapped, left out, added, or hit beside the right key.

These are the single edits of optimal string alignment, less the replacements that no hand makes: `content` is no
misspelt `context`, nor `micro` `macro`. Which spellings are a slip apart is found by what both become with one letter
left out, so looking for one among ten thousand costs a look-up for each letter.
"""

from collections.abc import Iterator, Mapping

SHORTEST = 6  # letters: `dpo cpo ppo kto orpo` are a slip apart and all real

_ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")


def one_slip(typed: str, meant: str) -> str | None:
    """In words, which slip makes `typed` of `meant`; `None` where it takes none, or more than one."""
    start = _common(typed, meant)
    end = _common(typed[start:][::-1], meant[start:][::-1])
    said, right = typed[start : len(typed) - end], meant[start : len(meant) - end]
    around = said + right + meant[max(0, start - 1) : start] + meant[len(meant) - end : len(meant) - end + 1]
    if any(mark.isdigit() for mark in around):
        return None  # `r2` and `d2` are names of their own
    if len(right) == 1 and not said:
        return f"`{right}` is missing"
    if len(said) == 1 and not right:
        return f"`{said}` is one too many"
    if len(said) == len(right) == 1 and right in _BESIDE.get(said, ""):
        return f"`{said}` stands for `{right}`"
    if len(said) == 2 and said == right[::-1]:
        return f"`{right}` is swapped"
    return None


def less_one(word: str) -> Iterator[str]:
    """The word, and the word without one of its letters. Two that are a slip apart share one of these."""
    yield word
    for at in range(len(word)):
        yield word[:at] + word[at + 1 :]


def _common(one: str, other: str) -> int:
    length = 0
    for mine, theirs in zip(one, other, strict=False):
        if mine != theirs:
            break
        length += 1
    return length


def _beside() -> Mapping[str, str]:
    """The keys around each key (QWERTY)."""
    near: dict[str, str] = {}
    for row, keys in enumerate(_ROWS):
        for at, key in enumerate(keys):
            around = keys[max(0, at - 1) : at] + keys[at + 1 : at + 2]
            around += _ROWS[row - 1][at : at + 2] if row > 0 else ""
            around += _ROWS[row + 1][max(0, at - 1) : at + 1] if row + 1 < len(_ROWS) else ""
            near[key] = around
    return near


_BESIDE = _beside()
