"""Labels given as numbers, which count into `label_names` from 0: that they do not count otherwise.

Labels from 1 to 4 with five names would train every class under its neighbour's name, and nothing would tell.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from enforcer.problems import DatasetInvalid
from enforcer.profiles import Profile
from trainer.inputs.rows import Source


def refuse_other_counts(
    sources: Sequence[Source], profile: Profile, mapping: Mapping[str, str], names: Sequence[str]
) -> None:
    """Raise `DatasetInvalid` where all rows together skip a number, 0 above all, below the highest that they use."""
    role = next((name for name, column in profile.columns.items() if column.type in ("label", "labels")), None)
    if role is None or not names or any(map(is_number, names)):
        return
    column = mapping.get(role, role)
    used = {n for source in sources for row in source.rows for n in _numbers(row.get(column), source.textual)}
    skipped = sorted({*range(max(used, default=0))} - used)
    if not skipped or (0 in used and max(used) >= len(names)):  # then the number is told that has no name
        return
    among = f"from {min(used)} to {max(used)}" if len(used) > 1 else f"{max(used)} alone"
    if 0 in skipped:
        why = f"numbers count into `label_names` from 0, and no row has 0: `{column}` holds {among}"
        todo = "count from 0, or write the names instead"
    else:
        missing = ", ".join(f"{n} (`{names[n]}`)" for n in skipped[:5])
        why = f"`{column}` holds numbers {among} and never {missing}, so they may not count into `label_names`"
        todo = "write the names instead, or take the name that no row has out of `label_names` and count without it"
    if (other := _named_by(sources, names, column)) is not None:
        todo = f"`{other}` holds names of `label_names`: map it with `columns: {{{role}: {other}}}`"
    raise DatasetInvalid(f"`{sources[0].name}`: {why}; {todo}", file=sources[0].name, pointer=f"/{column}")


def is_number(name: str) -> bool:
    """Whether a label is named by a number, as the stars of a review: then a number in a row means that name."""
    try:
        float(name)
    except ValueError:
        return False
    return True


def _numbers(value: Any, textual: bool) -> Iterator[int]:
    """The numbers among the labels of a row; what is no label is refused elsewhere."""
    if textual and isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            return
    for label in value if isinstance(value, list) else [value]:
        if isinstance(label, int) and not isinstance(label, bool) and label >= 0:
            yield label
        elif textual and isinstance(label, str) and label.isdecimal():
            yield int(label)


def _named_by(sources: Sequence[Source], names: Sequence[str], column: str) -> str | None:
    """A column whose every value is a name."""
    known = {*names}
    return next(
        (
            other
            for other in sources[0].rows[0]
            if other != column
            and all(isinstance(said := row.get(other), str) and said in known for s in sources for row in s.rows)
        ),
        None,
    )
