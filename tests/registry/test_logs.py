"""The service's log: one record a line whatever callers send, and no secret in it."""

import ast
import io
import json
import logging
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from enforcer import jws
from enforcer.keys import SigningKey
from registry.logs import JsonLines, Lines, redacted

HOSTILE = [
    "line\nbreak",
    "carriage\rreturn",
    "\x1b[2Kescape",
    "nul\x00",
    "next\x85line",
    "separator\u2028",
    "\u202egnidaer",
    "\x9b31m",
    "vertical\x0btab\x0c",
]


def logged(form: logging.Formatter, message: str, *values: object, fault: Exception | None = None) -> str:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(form)
    trace = (type(fault), fault, fault.__traceback__) if fault else None
    handler.handle(logging.LogRecord("tagwarden", logging.WARNING, __file__, 1, message, values, trace))
    return stream.getvalue()


@pytest.mark.parametrize("form", [Lines(), JsonLines()], ids=["text", "json"])
@pytest.mark.parametrize("hostile", HOSTILE)
def test_what_a_caller_sends_writes_no_line_of_its_own(form: logging.Formatter, hostile: str) -> None:
    line = logged(form, "refused %s", hostile)

    assert len(line.splitlines()) == 1
    assert line.endswith("\n")
    assert all(character.isprintable() for character in line[:-1])


@given(st.text())
def test_no_text_writes_a_second_line(text: str) -> None:
    for form in (Lines(), JsonLines()):
        assert len(logged(form, "%s", text).splitlines()) == 1


def test_a_line_says_when_where_and_how_bad_in_utc() -> None:
    moment = r"2\d{3}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"

    assert re.fullmatch(moment + " WARNING tagwarden x\n", logged(Lines(), "x"))
    told = json.loads(logged(JsonLines(), "x"))
    assert re.fullmatch(moment, told.pop("time"))
    assert told == {"level": "WARNING", "logger": "tagwarden", "message": "x"}


def test_a_traceback_cannot_pass_for_another_record() -> None:
    try:
        raise ValueError("first\n2026-11-24T00:00:00.000Z INFO tagwarden all is well")
    except ValueError as error:
        text, told = logged(Lines(), "fault", fault=error), json.loads(logged(JsonLines(), "fault", fault=error))

    head, *rest = text.splitlines()
    assert head.endswith("fault")
    assert all(line.startswith("  | ") for line in rest)
    assert told["traceback"].startswith("Traceback")


KEY = SigningKey.generate()
SECRETS = {
    "token": ("twp_0123456789ab_" + "s" * 43 + "_deadbeef", "s" * 43),
    "jws": (made := jws.sign({"typ": "run-ticket+jwt", "kid": KEY.kid}, {"jti": "x"}, KEY), made.split(".")[2]),
    "bearer": ("Bearer " + "l" * 43, "l" * 43),
    "dpop": ("Authorization: DPoP " + "t" * 60, "t" * 60),
    "database": ("postgresql://tagwarden:hunter22@db.example/tagwarden", "hunter22"),
    "key": ("-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIA\n-----END PRIVATE KEY-----", "MC4CAQ"),
}


@pytest.mark.parametrize("kind", SECRETS)
@pytest.mark.parametrize("form", [Lines(), JsonLines()], ids=["text", "json"])
def test_what_looks_like_a_secret_is_taken_out(form: logging.Formatter, kind: str) -> None:
    secret, telling = SECRETS[kind]
    try:
        raise ValueError(f"while sending {secret}")
    except ValueError as error:
        line = logged(form, "it said %s", secret, fault=error)

    assert telling not in line
    assert line.count("***") == 2


def test_what_is_no_secret_stays() -> None:
    said = "refused GET /v1/tags from 127.0.0.1: Bearer of bad news, twp_0123456789ab, eyJ, sha256:" + "a" * 64

    assert redacted(said) == said


def test_one_handler_takes_the_web_servers_records_too() -> None:
    program = (
        "import logging; from registry.logs import configure; configure('json')\n"
        "logging.getLogger('uvicorn.error').error('bad\\nrequest'); logging.getLogger('casbin').info('chatter')\n"
        "logging.getLogger('uvicorn.access').info('GET /x?token=1')"
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)

    (line,) = done.stderr.splitlines()
    assert json.loads(line)["message"] == "bad\nrequest"


def test_no_module_of_ours_compares_a_secret_with_equals() -> None:
    """`==` stops at the first byte that differs (CWE-208). Names that hold secrets or their hashes, in all our code."""
    secretive = {"secret", "presented", "token", "lease_token", "lease_sha256", "secret_sha256", "stored"}

    def names(node: ast.expr) -> set[str]:
        """What is compared itself: `token.count(".") == 2` tells nothing of a token."""
        match node:
            case ast.Attribute():
                return {node.attr}
            case ast.Name():
                return {node.id}
            case ast.Tuple():
                return set().union(*map(names, node.elts))
        return set()

    found = []
    for room in ("enforcer", "registry"):
        for file in Path(room).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.Compare) and any(isinstance(op, ast.Eq | ast.NotEq) for op in node.ops):
                    suspects = set().union(*map(names, [node.left, *node.comparators])) & secretive
                    if suspects:
                        found.append(f"{file}:{node.lineno} {suspects}")

    assert found == []
