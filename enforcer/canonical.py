"""RFC 8785 canonical JSON, quickly: the same bytes as the reference library `rfc8785`, several times as fast.

Text and whole numbers are written here, by Python's own encoder where a container holds nothing else. Other numbers,
and whatever is not exactly one of Python's JSON types, are left to the library, errors included.
"""

from collections.abc import Collection
from functools import lru_cache
from json.encoder import c_make_encoder, encode_basestring  # type: ignore[attr-defined]
from typing import Any

import rfc8785

CanonicalizationError = rfc8785.CanonicalizationError
_MAX_INTEGER = 2**53 - 1
# Types that Python's own encoder, written in C, spells as RFC 8785 wants them, integers within bounds.
_PLAIN = frozenset({str, int, bool, type(None)})
_encode = c_make_encoder(None, None, encode_basestring, None, ":", ",", True, False, False)  # sorted, compact


def dumps(document: Any) -> bytes:
    """The canonical bytes.

    Raises:
        CanonicalizationError: numbers beyond 2^53, NaN, infinity, lone surrogates, or what is not JSON.
    """
    try:
        return _text(document).encode()
    except UnicodeEncodeError as error:
        raise CanonicalizationError("the text holds a lone surrogate") from error


def _text(value: Any) -> str:
    kind = type(value)
    if kind is str:
        return encode_basestring(value)
    if value is None:
        return "null"
    if kind is bool:
        return "true" if value else "false"
    if kind is int and -_MAX_INTEGER <= value <= _MAX_INTEGER:
        return repr(value)
    if kind is float:
        return _number(value)
    if kind is dict:
        ascii_only = _has_ascii_names(value)
        if ascii_only and _is_plain(value.values()):
            return "".join(_encode(value, 0))
        # As UTF-16 code units, which for ASCII is how Python sorts.
        names = sorted(value) if ascii_only else sorted(value, key=lambda name: name.encode("utf-16-be"))
        return f"{{{','.join([f'{encode_basestring(name)}:{_text(value[name])}' for name in names])}}}"
    if kind is list or kind is tuple:
        if _is_plain(value):
            return "".join(_encode(value, 0))
        return f"[{','.join([_text(item) for item in value])}]"
    return rfc8785.dumps(value).decode()


@lru_cache(maxsize=4_000)  # learning rates and shares come again and again
def _number(value: float) -> str:
    return rfc8785.dumps(value).decode()


def _has_ascii_names(members: dict[Any, Any]) -> bool:
    try:
        return "".join(members).isascii()
    except TypeError as error:
        raise CanonicalizationError("object keys must be strings") from error


def _is_plain(values: Collection[Any]) -> bool:
    kinds = set(map(type, values))
    if int in kinds and not all(-_MAX_INTEGER <= value <= _MAX_INTEGER for value in values if type(value) is int):
        return False
    return kinds <= _PLAIN
