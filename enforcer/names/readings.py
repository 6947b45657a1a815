"""What a name says once its spelling is evened out: the forms under which names are compared.

`words` tells letters from numbers, `core` leaves out versions and noise, `stems` says what abbreviations stand for,
`squeezed` has no separators, `skeleton` no letter that is taken for another. None of them is a name to show to anybody.
"""

import re
import unicodedata

from enforcer.names.rules import NameRules

LONGEST = 200  # of a text that is looked at; no name is a quarter as long

# Letters of other scripts that are drawn like Latin ones and do not decompose to them (Unicode TR 39).
_LOOK_ALIKE = str.maketrans(
    "авгеіјкмнорсԁѕтухһԛԝցոսզɡıαβγεικνορτυχωℓøłđ", "abreijkmhopcdstyxhqwgnuqgiabyeikvoptuxwlold"
)


def fold(text: str) -> str:
    """The text in Latin letters without marks, as far as it is drawn in such; its case stays."""
    text = text[:LONGEST]
    if text.isascii():
        return text
    plain = (mark for mark in unicodedata.normalize("NFKD", text) if unicodedata.category(mark) not in ("Mn", "Cf"))
    return "".join(
        latin.upper() if letter != letter.lower() else latin
        for letter in plain
        for latin in [letter.lower().translate(_LOOK_ALIKE)]
    )


def to_kebab(text: str) -> str:
    """The nearest kebab-case reading of any text: `DpoTask` -> `dpo-task`, `text_to_SQL` -> `text-to-sql`."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "-", text[:LONGEST])
    return re.sub(r"[^a-z0-9]+", "-", spaced.lower()).strip("-")


def words(kebab: str, *, two: str = "to") -> list[str]:
    """Glued numbers stand alone (`dpo2` is `dpo 2`). A `2` inside may mean `to` (`text2sql`) or a version."""
    found = re.findall(r"v\d+|\d+|[a-z]+", kebab)
    return [two if word == "2" and 0 < at < len(found) - 1 else word for at, word in enumerate(found)]


def core(said: list[str], rules: NameRules, *, soft: bool = False) -> list[str]:
    """Without versions and noise; where `soft`, also without what is noise beside a task type only."""
    return [word for word in said if not rules.is_noise(word) and not (soft and word in rules.soft_noise)]


def stems(said: list[str], rules: NameRules) -> tuple[str, ...]:
    """The words in full and in the singular, in their order."""
    full = [part for word in said for part in _in_full(word, rules).split("-")]
    return tuple(map(singular, full))


def _in_full(word: str, rules: NameRules) -> str:
    return rules.abbreviations.get(word) or rules.abbreviations.get(singular(word), word)


def in_any_order(said: tuple[str, ...]) -> tuple[str, ...]:
    """Around `to` the order is the meaning: `image-to-text` is not `text-to-image`."""
    return said if "to" in said else tuple(sorted(said))


def squeezed(kebab: str) -> str:
    return singular(kebab.replace("-", ""))


def skeleton(kebab: str) -> str:
    """As read from afar: `l`, `i` and `1` are one stroke, `o` and `0` one ring, `rn` an `m`, `vv` a `w`."""
    return kebab.replace("-", "").translate(_STROKES).replace("rn", "m").replace("vv", "w")


_STROKES = str.maketrans("li0", "11o")


def singular(word: str) -> str:
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")) else word
