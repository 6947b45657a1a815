"""How the demo speaks, and how it fails: every step is named, timed, and held to what it says."""

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

OUT = Path("demo-output").absolute()


class Broken(Exception):
    """A step did not do what it says."""


_steps = 0


@contextmanager
def step(title: str) -> Iterator[None]:
    global _steps
    _steps += 1
    print(f"\n{_steps}. {title}", flush=True)
    begun = time.monotonic()
    yield
    print(f"   ✓ {time.monotonic() - begun:.1f} s", flush=True)


def say(line: str) -> None:
    print(f"   {line}", flush=True)


def check(holds: bool, what: str, *, aloud: bool = True) -> None:
    if not holds:
        raise Broken(f"not so: {what}")
    if aloud:
        say(f"✓ {what}")


def found(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    check(match is not None, f"`{pattern}` stands in: {text[-500:]}", aloud=False)
    assert match is not None
    return match[match.re.groups and 1]
