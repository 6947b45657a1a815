"""Where rows come from: whatever is found in a row, however late, is told with its line and a JSON pointer."""

from collections.abc import Iterable, Sequence
from typing import Any

from enforcer.problems import DatasetInvalid
from trainer.inputs.rows import Source
from trainer.job import Row


class Places:
    """The line of every row. Rows are known by identity: cleaning and splitting hand on the same objects."""

    def __init__(self) -> None:
        self._of: dict[int, tuple[Row, Source, int]] = {}  # holds the row, so that its id is nobody else's

    def remember(self, source: Source, rows: Sequence[Row]) -> None:
        """These are the rows of this source, in its order."""
        self._of |= {id(row): (row, source, index) for index, row in enumerate(rows)}

    def where(self, row: Row) -> str:
        if (place := self._of.get(id(row))) is None:
            return "a row"
        _, source, index = place
        return source.where(index)

    def some(self, rows: Iterable[Row], most: int = 3) -> str:
        """The first of these rows and how many there are besides: `line 3, 8 of `a.jsonl` and 12 more`."""
        held = list(rows)
        by_file: dict[tuple[str, str], list[str]] = {}
        for row in held[:most]:
            if (place := self._of.get(id(row))) is not None:
                _, source, index = place
                by_file.setdefault((source.unit, source.name), []).append(str(source.number(index)))
        said = ", ".join(f"{unit} {', '.join(numbers)} of `{name}`" for (unit, name), numbers in by_file.items())
        return f"{said} and {len(held) - most:,} more" if len(held) > most else said

    def fault(self, row: Row, pointer: str, why: str, **facts: Any) -> DatasetInvalid:
        """A refusal because of one place in one row. `pointer` goes into the row (RFC 6901): `/messages/2/content`."""
        place = self._of.get(id(row))
        at = {} if place is None else {"file": place[1].name, "row": place[1].number(place[2])}
        said = f" `{pointer}`" if pointer else ""
        return DatasetInvalid(f"{self.where(row)}{said}: {why}", pointer=pointer, **at, **facts)
