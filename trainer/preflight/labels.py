"""The labels of a classifier: which there are, how many rows each has, and which the evaluation never asks for."""

from collections import Counter
from collections.abc import Sequence

from trainer.job import Row
from trainer.preflight.found import Found

NO_INTERVAL = "will have no interval, so a gate that asks for confidence cannot be passed"
UNEVEN = 10


def look(label: str, names: Sequence[str], train: Sequence[Row], held_out: Sequence[Row]) -> Found:
    balance = Counter(dict.fromkeys(names, 0))
    balance.update(name for row in train for name in _of(row, label))
    asked = {name for row in held_out for name in _of(row, label)}
    found = Found(facts={"labels": dict(balance)})
    if missing := [name for name, count in balance.items() if count == 0]:
        unlearned = [name for name in missing if name in asked]
        asks = f"; {_named(unlearned)} is asked for in evaluation and can only be missed" if unlearned else ""
        found.findings.append(f"no training row has the label {_named(missing)}{asks}")
    if held_out and (unseen := sorted(set(names) - asked)):
        found.findings.append(f"no evaluation row has the label {_named(unseen)}: `macro_f1` {NO_INTERVAL}")
    most, least = max(balance.values()), min(balance.values())
    if least and most >= UNEVEN * least:
        found.findings.append(
            f"the labels are uneven: the most frequent has {most / least:.0f} times the rows of the rarest"
        )
    return found


def _of(row: Row, label: str) -> Sequence[str]:
    said = row[label]
    return said if isinstance(said, list) else [said]


def _named(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names[:10])
