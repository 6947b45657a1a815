"""What rules speak of, for those who look at rules and not at requests: lint, coverage, differences."""

from collections.abc import Iterable, Mapping

from enforcer.policy import trees
from enforcer.policy.rules import ANY_TAG, ANY_TARGET, ROOT_UNIT, Directory, Scope


class Scopes:
    """Which names stand above and below which, over one directory and one task-type tree."""

    def __init__(self, directory: Directory, tags: Mapping[str, str | None]) -> None:
        groups = {f"group:{name}": [f"group:{wider}" for wider in above] for name, above in directory.groups.items()}
        self.who = trees.above(groups)
        self.units = trees.above(directory.trees["unit"])
        self.targets = trees.above(directory.trees["target"])
        self.tags = trees.above(trees.of_tags(tags))

    def above_who(self, who: str) -> frozenset[str]:
        return self.who.get(who, frozenset([who]))

    def above_tag(self, tag: str) -> frozenset[str]:
        return self.tags.get(tag, frozenset([tag, ANY_TAG]))

    def groups_of(self, who: str) -> frozenset[str]:
        """This principal and the groups below it."""
        return frozenset(name for name, above in self.who.items() if who in above) | {who}

    def tags_of(self, scope: Scope) -> list[str]:
        return _at_or_below(self.tags, scope.tag)

    def leaf_units_of(self, scope: Scope) -> list[str]:
        return _leaves(self.units, scope.unit)

    def leaf_targets_of(self, scope: Scope) -> list[str]:
        return _leaves(self.targets, scope.target)

    def covers(self, wide: Scope, narrow: Scope) -> bool:
        """Whether each request that `narrow` speaks of, conditions aside, is one that `wide` speaks of too."""
        return (
            ("*" in wide.may or set(narrow.may) <= set(wide.may))
            and all(not self.above_who(who).isdisjoint(wide.who) for who in narrow.who)
            and all(not self.above_tag(tag).isdisjoint(wide.tag) for tag in narrow.tag)
            and (ROOT_UNIT in wide.unit or all(not self.units[unit].isdisjoint(wide.unit) for unit in narrow.unit))
            and (ANY_TARGET in wide.target or all(not self.targets[t].isdisjoint(wide.target) for t in narrow.target))
        )


def _at_or_below(tree: trees.Above, names: Iterable[str]) -> list[str]:
    wanted = set(names)
    return [name for name, above in tree.items() if not above.isdisjoint(wanted)]


def _leaves(tree: trees.Above, names: Iterable[str]) -> list[str]:
    parents = {parent for name, above in tree.items() for parent in above if parent != name}
    return [name for name in _at_or_below(tree, names) if name not in parents]
