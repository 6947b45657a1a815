"""Texts that were spoilt on their way into the file: decoded by the wrong table, cut, or with bytes that are no text.

replaced   U+FFFD, where a decoder gave up; what stood there is lost
mojibake   UTF-8 that was read as Windows-1252 or Latin-1 (`cafÃ©`): encoding it back and decoding it gives other text
controls   NUL and its like, byte order marks inside of a text
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any

from trainer.job import Row
from trainer.preflight.found import Found, quoted, some

# The first byte of a UTF-8 sequence (C2-F4) as Latin-1 shows it, then what Windows-1252 or Latin-1 make of 80-BF.
_LATIN = "[\u00c2-\u00f4]"
_REST = "[\u0080-\u00bf\u0152\u0153\u0160\u0161\u0178\u017d\u017e\u0192\u02c6\u02dc\u2013-\u203a\u20ac\u2122]"
_SUSPECT = re.compile(f"{_LATIN}{_REST}+")
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ufeff]")
# One regular expression that no sound text matches decides for most rows that there is nothing to look at.
_ODD = re.compile(f"\ufffd|{_CONTROL.pattern}|{_SUSPECT.pattern}")
SAYS = {
    "replaced": "hold the replacement character U+FFFD: what stood there was lost when the text was decoded",
    "mojibake": "look like UTF-8 that was read as Windows-1252; read the source again as UTF-8",
    "controls": "hold control characters or a byte order mark",
}


def look(rows: Sequence[Row]) -> Found:
    spoilt: dict[str, list[str]] = {name: [] for name in SAYS}
    for row in rows:
        kinds = {kind: text for text in texts(row) if _ODD.search(text) for kind in _kinds(text)}
        for kind, text in kinds.items():
            spoilt[kind].append(text)
    found = Found(facts={"encodings": {kind: len(texts) for kind, texts in spoilt.items() if texts}})
    for kind, held in spoilt.items():
        if held:
            shown = some((quoted(_around(kind, text)) for text in held), len(held))
            found.findings.append(f"{len(held):,} of {len(rows):,} rows {SAYS[kind]}: {shown}")
    return found


def texts(value: Any) -> Iterator[str]:
    """Every string in a value, keys left out."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from texts(inner)


def _kinds(text: str) -> Iterator[str]:
    if "\ufffd" in text:
        yield "replaced"
    if any(_read_wrongly(match.group()) for match in _SUSPECT.finditer(text)):
        yield "mojibake"
    if _CONTROL.search(text):
        yield "controls"


def _read_wrongly(suspect: str) -> bool:
    """Whether these characters are the bytes of a UTF-8 character that people write. Others come by chance: a quotation
    mark behind a letter (`GRÜ“`) would be Syriac."""
    for table in ("cp1252", "latin-1"):
        try:
            meant = suspect.encode(table).decode("utf-8")
        except UnicodeError:
            continue
        return all(char <= "\u017f" or "\u0370" <= char <= "\u04ff" or char >= "\u0900" for char in meant)
    return False


def _around(kind: str, text: str) -> str:
    pattern = {"replaced": re.compile("\ufffd"), "mojibake": _SUSPECT, "controls": _CONTROL}[kind]
    at = next(pattern.finditer(text)).start()
    return text[max(0, at - 20) : at + 20]
