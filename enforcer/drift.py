"""Does a framework still have the words that the vocabulary is bound to, and has it got new ones?

    removed   a tag is bound to it, and this version of the framework does not have it
    new       the framework has it, no tag is bound to it, and nobody wrote down why
    unbound   the framework has it, no tag is bound to it, and somebody wrote down why (`policies/frameworks.yaml`)
    outside   a tag is bound to the framework, but not to this version of it

An axis is one of the framework's own lists: `task_type`, `rlhf_type`, its sub-commands, its trainer classes.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from enforcer.bindings import Binding, BoundTag, Literal

Unbound = Mapping[str, Mapping[str, str]]  # axis: {value: why no tag is bound to it}


@dataclass(frozen=True)
class Framework:
    """What one version of a framework has. Every value of `axes` is to be bound or known; `others` are only looked up:
    its losses, its classes of arguments."""

    name: str
    version: str
    axes: Mapping[str, frozenset[str]]
    others: Mapping[str, frozenset[str]] = field(default_factory=dict)


@dataclass(frozen=True, order=True)
class Finding:
    axis: str
    value: str
    note: str  # of a removed one, who is bound to it; of an unbound one, why; else empty


@dataclass(frozen=True)
class Drift:
    framework: str
    version: str
    removed: list[Finding]
    new: list[Finding]
    unbound: list[Finding]
    outside: list[str]

    @property
    def is_none(self) -> bool:
        return not (self.removed or self.new or self.outside)


def drift(framework: Framework, tags: Iterable[BoundTag], unbound: Unbound) -> Drift:
    """Hold what is installed against what is bound."""
    theirs = {tag.name: [b for b in tag.bindings if b.framework == framework.name] for tag in tags}
    covered = {name: [b for b in bound if b.covers(framework.version)] for name, bound in theirs.items()}
    used = _used(covered)
    has = {**framework.others, **framework.axes}
    removed = [Finding(a, v, ", ".join(tags)) for (a, v), tags in used.items() if a in has and v not in has[a]]
    free = [(axis, value) for axis, values in framework.axes.items() for value in values if (axis, value) not in used]
    known = {(axis, value): why for axis, values in unbound.items() for value, why in values.items()}
    return Drift(
        framework.name,
        framework.version,
        removed=sorted(removed),
        new=sorted(Finding(*value, "") for value in free if value not in known),
        unbound=sorted(Finding(*value, known[value]) for value in free if value in known),
        outside=sorted(name for name, bound in theirs.items() if bound and not covered[name]),
    )


def _used(bindings: Mapping[str, Iterable[Binding]]) -> dict[tuple[str, str], list[str]]:
    """Which values are bound, and to which tags."""
    used: dict[tuple[str, str], list[str]] = {}
    for tag, bound in bindings.items():
        for value in sorted({value for binding in bound for value in _values(binding)}):
            used.setdefault(value, []).append(tag)
    return used


def _values(binding: Binding) -> Iterable[tuple[str, str]]:
    yield "command", binding.command
    if binding.config:
        yield "config", binding.config
    for way in (binding.args, *binding.recorded):
        for name, value in way.items():
            yield from ((name, word) for word in _texts(value))


def _texts(value: Literal) -> list[str]:
    return value if isinstance(value, list) else [value] if isinstance(value, str) else []
