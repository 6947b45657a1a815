"""Whether the queries that are taught run on their databases, in the sandbox that will judge the model's."""

from collections.abc import Sequence

from trainer.inputs.places import Places
from trainer.job import Row
from trainer.preflight.found import Found, some


def look(rows: Sequence[Row], places: Places) -> Found:
    """Run each row's `completion` on its `database`.

    Raises:
        DatasetInvalid: a file that is no SQLite database.
    """
    from trainer.sql import checking

    broken = [f"{places.where(rows[index])}: {why}" for index, why in checking.broken(rows)]
    found = Found(facts={"queries": len(rows), "broken_queries": len(broken)})
    if broken:
        found.findings.append(
            f"{len(broken):,} of {len(rows):,} queries give no answer on their database, so no model can be right: "
            f"{some(broken, len(broken))}"
        )
    return found
