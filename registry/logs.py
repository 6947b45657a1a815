"""The service's own log: one record a line whatever is in it, and no secrets.

`text` for people, `json` (one object a line) for collectors. What callers send can be in a message: control characters
are escaped, so that no request writes a line of its own (CWE-117) or reverses the reading order on a terminal. Our own
code logs no credential; the redaction is for the one that somebody puts where none belongs.
"""

import json
import logging
import re
import sys
from datetime import UTC, datetime
from typing import Literal

# C0 and C1 controls, line and paragraph separators, and what turns the direction of writing (CVE-2021-42574).
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_SECRETS = (
    (re.compile(r"\b(twp_[0-9a-f]{12})_[A-Za-z0-9_-]+"), r"\1_***"),  # the id stays: it is how a token is revoked
    (re.compile(r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]*)?"), "eyJ***"),  # a compact JWS
    (re.compile(r"\b(Bearer|DPoP|Basic)(:?\s+)[A-Za-z0-9._~+/=-]{8,}", re.IGNORECASE), r"\1\2***"),
    (re.compile(r"(://[^\s:/@]*):[^\s/@]+@"), r"\1:***@"),  # the password of a database URL
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?-----END [A-Z ]*PRIVATE KEY-----", re.DOTALL), "***"),
)


def configure(form: Literal["text", "json"]) -> None:
    """One handler for everything in this process, on stderr; libraries that chatter are quieter."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if form == "json" else Lines())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    for chatty in ("casbin", "alembic", "uvicorn"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


class Lines(logging.Formatter):
    """`2026-11-24T13:00:00.123Z WARNING name message`; a traceback follows on lines that begin with `  | `."""

    def format(self, record: logging.LogRecord) -> str:
        head = f"{_time(record)} {record.levelname} {record.name} {escaped(redacted(record.getMessage()))}"
        trace = _traceback(record)
        return "\n".join([head, *(f"  | {escaped(line)}" for line in trace.split("\n"))]) if trace else head


class JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        said = {
            "time": _time(record),
            "level": record.levelname,
            "logger": record.name,
            "message": redacted(record.getMessage()),
        }
        if trace := _traceback(record):
            said["traceback"] = trace
        return json.dumps(said)  # ASCII only: every control character is escaped


def escaped(text: str) -> str:
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def redacted(text: str) -> str:
    for secret, left in _SECRETS:
        text = secret.sub(left, text)
    return text


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _traceback(record: logging.LogRecord) -> str:
    return redacted(logging.Formatter().formatException(record.exc_info)) if record.exc_info else ""
