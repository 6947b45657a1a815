"""What goes where: data on stdout, talk on stderr, and the same facts for people and for programs.

human    text; a progress bar on a terminal, one line in 30 s elsewhere
json     one document: the answer, or the problem document of the refusal
ndjson   one event in each line, `"schema": "swift-submit/v1"`; the last is `result` or `problem`
quiet    nothing but what a script would read: ids and paths
"""

import json
import os
import sys
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import click

SCHEMA = "swift-submit/v1"


class Output:
    def __init__(self, flags: Mapping[str, Any]) -> None:
        chosen = flags.get("format") or "auto"
        if flags.get("json"):
            chosen = "json"
        self.quiet = bool(flags.get("quiet")) or chosen == "quiet"
        self.mode = "human" if chosen == "auto" else chosen
        self.verbose = bool(flags.get("verbose"))
        self.color = not (flags.get("no_color") or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb")
        self.live = (
            self.mode == "human"
            and not self.quiet
            and not flags.get("no_progress")
            and sys.stderr.isatty()
            and os.environ.get("TERM") != "dumb"
            and not os.environ.get("CI")
        )

    def talk(self, text: str, mark: str = "") -> None:
        """Something for a person to know: never data."""
        if not self.quiet:
            self._err(text, mark)

    def warn(self, text: str) -> None:
        self.talk(text, self._styled("! ", fg="yellow"))

    def error(self, lines: Sequence[str]) -> None:
        for at, line in enumerate(lines):
            self._err(line, self._styled("✗ ", fg="red") if at == 0 else "  ")

    def event(self, event: str, **facts: Any) -> None:
        """One line of ndjson; nothing in other modes."""
        if self.mode == "ndjson":
            click.echo(json.dumps({"schema": SCHEMA, "event": event, **facts}, ensure_ascii=False, default=str))

    def result(self, document: Any, lines: Iterable[str], *, brief: Iterable[str] = ()) -> None:
        """The answer: `document` for programs, `lines` for people, `brief` with -q."""
        if self.mode == "json":
            click.echo(json.dumps(document, ensure_ascii=False, indent=2, default=str))
        elif self.mode == "ndjson":
            self.event("result", result=document)
        else:
            for line in brief if self.quiet else lines:
                click.echo(plain(line))

    def problem(self, document: Mapping[str, Any]) -> bool:
        """The refusal for programs; False when people are to be told instead."""
        if self.mode == "json":
            click.echo(json.dumps(document, ensure_ascii=False, indent=2, default=str))
        elif self.mode == "ndjson":
            self.event("problem", problem=document)
        return self.mode in ("json", "ndjson")

    def _err(self, text: str, mark: str = "") -> None:
        click.echo(mark + plain(text), err=True)

    def _styled(self, text: str, **style: Any) -> str:
        return click.style(text, **style) if self.color and sys.stderr.isatty() else text


def plain(text: str) -> str:
    """Without control characters: names, reasons and labels are other people's words, and terminals obey them."""
    return "".join(c for c in text if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cf"))


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    """Columns of even width; wide characters count as two cells."""
    cells = [[plain(str("" if cell is None else cell)).replace("\n", " ") for cell in row] for row in (head, *rows)]
    widths = [max(map(_width, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(cell + " " * (width - _width(cell)) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in cells]  # fmt: skip


def _width(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)
