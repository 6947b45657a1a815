"""When two texts say the same to a reader: alike but for compatibility forms (NFKC), case, and white space.

`Foo  bar`, in full-width letters too, is `foo bar` here (Unicode Standard Annex 15; `str.casefold`). What a rule drops
is compared as it stands (`columns.content`), because case can carry meaning; this is for what people are told of.
"""

import unicodedata
from typing import Any

from trainer.inputs.columns import content


def normalised(text: str) -> str:
    """The one spelling of all texts that say the same."""
    plain = text.lower() if text.isascii() else unicodedata.normalize("NFKC", text).casefold()
    return " ".join(plain.split())


def key(value: Any) -> str:
    """`normalised` for a value of any kind: equal for rows or conversations that say the same."""
    return normalised(value) if isinstance(value, str) else content(_deep(value))


def _deep(value: Any) -> Any:
    if isinstance(value, str):
        return normalised(value)
    if isinstance(value, dict):
        return {name: _deep(inner) for name, inner in value.items()}
    return [_deep(inner) for inner in value] if isinstance(value, list) else value
