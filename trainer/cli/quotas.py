"""`swift-submit quotas`."""

import json
from typing import Any

import click

from trainer.cli.flags import Command
from trainer.cli.session import current


@click.command(cls=Command)
@click.option("--bu", "business_unit", metavar="UNIT", help="Of this business unit (your own).")
def quotas(business_unit: str | None) -> None:
    """What a business unit may take of the machines, and how much is taken."""
    from trainer.cli.output import table

    session = current()
    with session.link() as link:
        query = {"business_unit": business_unit} if business_unit else {}
        found = json.loads(link.ask("GET", "/v1/quotas", query=query, again=True))["items"]
    rows = [
        (quota["id"], quota["unit"], quota["tag"], _of(quota["runs"], quota["concurrent"]),
         _of(quota["gpus"], quota["max_gpus"]), _of(quota["gpu_hours_taken"], quota["gpu_hours"]),
         quota["window"] or "", (quota["resets_at"] or "")[:16])
        for quota in found
    ]  # fmt: skip
    heads = ("quota", "unit", "tag", "runs", "GPUs", "GPU hours", "a", "resets at")
    session.output.result(found, table(heads, rows), brief=[quota["id"] for quota in found])


def _of(taken: float, most: float | None) -> Any:
    return f"{taken:g}" if most is None else f"{taken:g} of {most:g}"
