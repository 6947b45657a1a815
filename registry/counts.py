"""What this process counts for `/metrics`. Counting a ticket costs a microsecond or two.

What labels a series comes from words that the registry knows: task types of the vocabulary, units of the policy,
actions, and codes of refusals. Whatever else somebody asked for is `_other`: nobody grows the metrics by asking.
"""

from collections.abc import Mapping
from functools import cache
from typing import Any

from prometheus_client import CollectorRegistry, Counter, GCCollector, PlatformCollector, ProcessCollector

OTHER = "_other"


class Counts:
    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self.registry)
        self._issued = Counter(
            "tagwarden_tickets_issued",
            "Run tickets issued by this process.",
            ["task_type", "business_unit"],
            registry=self.registry,
        )
        self._issued_of = cache(self._issued.labels)
        self._refused = Counter(
            "tagwarden_refusals",
            "Attempts that this process refused, by action and code of the problem.",
            ["action", "code", "task_type", "business_unit"],
            registry=self.registry,
        )

    def issued(self, task_type: str, business_unit: str) -> None:
        self._issued_of(task_type, business_unit).inc()

    def refused(self, action: str, code: str, facts: Mapping[str, Any]) -> None:
        """`facts` of the attempt hold a unit and a task type only where the registry knows them."""
        unit, tag = (facts.get(name) or OTHER for name in ("business_unit", "task_type"))
        self._refused.labels(action, code, tag, unit).inc()
