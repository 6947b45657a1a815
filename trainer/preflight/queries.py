"""Whether the queries that are taught run on their databases, in the sandbox that will judge the model's."""

from collections.abc import Sequence

from enforcer.problems import DatasetInvalid
from trainer.inputs.places import Places
from trainer.job import Row
from trainer.preflight.found import Found, some


def look(train: Sequence[Row], held_out: Sequence[Row], places: Places) -> Found:
    """Run each row's `completion` on its `database`.

    Raises:
        DatasetInvalid: a file that is no SQLite database, or a held-out query that no answer can be compared with.
    """
    from trainer.sql import checking

    rows = [*held_out, *train]
    faults = checking.broken(rows)
    broken = [f"{places.where(rows[index])}: {why}" for index, why in faults]
    if unjudgeable := [said for said, (index, _) in zip(broken, faults, strict=True) if index < len(held_out)]:
        raise DatasetInvalid(
            f"{len(unjudgeable):,} of {len(held_out):,} held-out queries give no answer that another can be compared "
            f"with: {some(unjudgeable, len(unjudgeable))}. Correct them, or leave them out"
        )
    found = Found(facts={"queries": len(rows), "broken_queries": len(broken)})
    if broken:
        found.findings.append(
            f"{len(broken):,} of {len(rows):,} queries give no answer on their database, so no model can be right: "
            f"{some(broken, len(broken))}"
        )
    return found
