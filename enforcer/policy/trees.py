"""What belongs to what, for those who look at rules and not at requests: lint, coverage, differences."""

from collections.abc import Iterable, Mapping

from enforcer.policy.rules import ANY_TAG, ANY_TARGET, ROOT_UNIT, Directory, Scope


class Trees:
    """Names with all that is above them, themselves included, over one directory and one task-type tree."""

    def __init__(self, directory: Directory, tags: Mapping[str, str | None]) -> None:
        self._who = _closure({f"group:{g}": [f"group:{w}" for w in wider] for g, wider in directory.groups.items()})
        self._units = _closure({unit: _one(parent) for unit, parent in directory.units.items()})
        self._targets = _closure({target: _one(parent) for target, parent in directory.targets.items()})
        self._tags = _closure({tag: _one(parent or ANY_TAG) for tag, parent in tags.items()} | {ANY_TAG: []})

    def above_who(self, who: str) -> frozenset[str]:
        return self._who.get(who, frozenset([who]))

    def above_tag(self, tag: str) -> frozenset[str]:
        return self._tags.get(tag, frozenset([tag, ANY_TAG]))

    def members_of(self, who: str) -> frozenset[str]:
        """The groups at or below this one."""
        return frozenset(name for name, above in self._who.items() if who in above) | {who}

    def tags_in(self, scope: Scope) -> list[str]:
        return _at_or_below(self._tags, scope.tag)

    def leaf_units_in(self, scope: Scope) -> list[str]:
        return _leaves(self._units, scope.unit)

    def leaf_targets_in(self, scope: Scope) -> list[str]:
        return _leaves(self._targets, scope.target)

    def covers(self, wide: Scope, narrow: Scope) -> bool:
        """Whether each request that `narrow` speaks of, conditions aside, is one that `wide` speaks of too."""
        return (
            ("*" in wide.may or set(narrow.may) <= set(wide.may))
            and all(not self.above_who(who).isdisjoint(wide.who) for who in narrow.who)
            and all(not self.above_tag(tag).isdisjoint(wide.tag) for tag in narrow.tag)
            and (ROOT_UNIT in wide.unit or all(not self._units[unit].isdisjoint(wide.unit) for unit in narrow.unit))
            and (ANY_TARGET in wide.target or all(not self._targets[t].isdisjoint(wide.target) for t in narrow.target))
        )


def _one(parent: str | None) -> list[str]:
    return [parent] if parent else []


def _closure(parents: Mapping[str, Iterable[str]]) -> dict[str, frozenset[str]]:
    """Each name with all above it. The trees have no circles: `Policy.of` and the vocabulary see to it."""
    above: dict[str, frozenset[str]] = {}

    def of(name: str) -> frozenset[str]:
        if name not in above:
            above[name] = frozenset([name]).union(*(of(parent) for parent in parents.get(name, ())))
        return above[name]

    for name in parents:
        of(name)
    return above


def _at_or_below(tree: Mapping[str, frozenset[str]], names: Iterable[str]) -> list[str]:
    wanted = set(names)
    return [name for name, above in tree.items() if not above.isdisjoint(wanted)]


def _leaves(tree: Mapping[str, frozenset[str]], names: Iterable[str]) -> list[str]:
    parents = {parent for name, above in tree.items() for parent in above if parent != name}
    return [name for name in _at_or_below(tree, names) if name not in parents]
