"""What belongs to what, as frozen sets: asking about a name never creates it, and there is no depth at which the answer
silently becomes no."""

from collections.abc import Iterable, Mapping

from enforcer.policy.rules import ANY_TAG

Above = Mapping[str, frozenset[str]]


def above(parents: Mapping[str, Iterable[str]]) -> Above:
    """Every name with itself and all that it belongs to."""
    known: dict[str, frozenset[str]] = {}
    for name in parents:
        known[name] = climb((name,), parents)
    return known


def climb(names: Iterable[str], parents: Mapping[str, Iterable[str]]) -> frozenset[str]:
    """These names and all that they belong to. A circle ends where it began."""
    found = set(names)
    todo = list(found)
    while todo:
        for parent in parents.get(todo.pop(), ()):
            if parent not in found:
                found.add(parent)
                todo.append(parent)
    return frozenset(found)


def below(above: Above) -> Above:
    """Every name with itself and all that belongs to it."""
    found: dict[str, set[str]] = {name: set() for name in above}
    for name, wider in above.items():
        for one in wider:
            found[one].add(name)
    return {name: frozenset(names) for name, names in found.items()}


def of_tags(tag_parents: Mapping[str, str | None]) -> Mapping[str, list[str]]:
    """The task types as a tree under `any`."""
    return {ANY_TAG: [], **{tag: [parent or ANY_TAG] for tag, parent in tag_parents.items()}}
