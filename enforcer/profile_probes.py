"""What a profile accepts, found by asking it.

Two profiles are compared by putting the same run configurations to both, so there is no second meaning of a parameter
beside `Profile.resolve`. Parameters do not depend on each other, but for `label_names` and `num_labels`, so each of
these groups is asked alone. What is asked of a group are the corners of both profiles: a value on each bound and each
default, two choices that both have, two that one has, one that none has. That is exact for rules made of a type, one
interval, one set of choices and a lock: where one profile accepts more than the other, a corner shows it
(`tests/enforcer/test_profile_changes.py` holds it against all configurations of small worlds).
"""

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, product
from typing import Any

from enforcer.problems import ArgumentInvalid
from enforcer.profiles import MAX_LIST, Parameter, Profile

Configuration = Mapping[str, object]
LABELS = ("label_names", "num_labels")  # they say the same thing twice, so neither is judged alone
WIDEST_INT = 2**53 - 1
_LEFT_OUT = object()


@dataclass(frozen=True)
class Effect:
    """What one profile means for the run configurations of another. Witnesses are None where there is none.

    `lost` was accepted and is refused, `gained` was refused and is accepted. `widened` resolves to arguments that the
    former profile would refuse even where they are written out. `differs` is accepted by both and trains otherwise.
    """

    lost: Configuration | None = None
    gained: Configuration | None = None
    widened: Configuration | None = None
    differs: Configuration | None = None


def groups(*profiles: Profile) -> list[tuple[str, ...]]:
    """The parameters of the profiles in groups that do not depend on each other."""
    names = {name for profile in profiles for name in profile.parameters}
    pair = tuple(name for name in LABELS if name in names)
    alone: list[tuple[str, ...]] = [(name,) for name in sorted(names.difference(pair))]
    return [pair, *alone] if pair else alone


def effect(before: Profile, after: Profile, group: Sequence[str]) -> Effect:
    """Put the corners of a group to both."""
    old, new = _part(before, group), _part(after, group)
    found: dict[str, Configuration] = {}
    for configuration in configurations(old, new, group):
        was, now = _resolved(old, configuration), _resolved(new, configuration)
        if was is not None and now is None:
            found.setdefault("lost", configuration)
        if was is None and now is not None:
            found.setdefault("gained", configuration)
        if now is not None and _resolved(old, now) is None:
            found.setdefault("widened", configuration)
        if was is not None and now is not None and any(was[name] != now[name] for name in was.keys() & now.keys()):
            found.setdefault("differs", configuration)
    return Effect(**found)


def accepts_nothing(profile: Profile, group: Sequence[str]) -> bool:
    part = _part(profile, group)
    return all(_resolved(part, configuration) is None for configuration in configurations(part, part, group))


def configurations(before: Profile, after: Profile, group: Sequence[str]) -> Iterator[dict[str, object]]:
    """The corners of a group, each parameter left out as well."""
    parameters = {name: [p.parameters[name] for p in (before, after) if name in p.parameters] for name in group}
    choices = {name: [_LEFT_OUT, *_values(known)] for name, known in parameters.items()}
    if set(LABELS) <= choices.keys():
        lengths = _lengths([*parameters["num_labels"], *parameters["label_names"]])
        choices["label_names"] += _label_lists(parameters["label_names"], lengths)
        choices["num_labels"] += lengths
    for values in product(*map(_distinct, choices.values())):
        yield {name: value for name, value in zip(choices, values, strict=True) if value is not _LEFT_OUT}


def _part(profile: Profile, group: Sequence[str]) -> Profile:
    return profile.model_copy(update={"parameters": {n: p for n, p in profile.parameters.items() if n in group}})


def _resolved(profile: Profile, configuration: Configuration) -> dict[str, Any] | None:
    try:
        return profile.resolve(configuration)
    except ArgumentInvalid:
        return None


def _values(parameters: Sequence[Parameter]) -> list[object]:
    values: list[object] = []
    for parameter in parameters:
        values += [] if parameter.default is None else [parameter.default]
        match parameter.type:
            case "bool":
                values += [False, True]
            case "int" | "float":
                values += _numbers(parameter)
            case "str":
                values += _words(parameters)
            case "strings":
                values += [words for word in _words(parameters) for words in ([word], [word, word])]
    return values


def _numbers(parameter: Parameter) -> list[object]:
    """The ends of the interval, as whole numbers and as fractions: both are of type float, one of type int."""
    low, high = parameter.minimum, parameter.maximum
    fractions = [-sys.float_info.max if low is None else low, sys.float_info.max if high is None else high]
    lowest = max(-WIDEST_INT, math.ceil(low) if low is not None else -WIDEST_INT)
    highest = min(WIDEST_INT, math.floor(high) if high is not None else WIDEST_INT)
    default = parameter.default
    same = [float(default), int(default)] if isinstance(default, int | float) and default == int(default) else []
    return [*fractions, lowest, highest, *same]


def _words(parameters: Sequence[Parameter]) -> list[str]:
    """Of each part of the choices two, since one of them may be what another rule is about; and a word of no choice."""
    sets = [parameter.choices for parameter in parameters if parameter.choices is not None]
    first, last = (sets[0], sets[-1]) if sets else ([], [])
    parts = ([w for w in first if w in set(last)], [w for w in first if w not in set(last)],
             [w for w in last if w not in set(first)])  # fmt: skip
    return [*(word for part in parts for word in part[:2]), *islice(_new_words(sets), 1)]


def _new_words(taken: Sequence[Sequence[str]]) -> Iterator[str]:
    known = {word for words in taken for word in words}
    return (word for n in range(len(known) + MAX_LIST) if (word := f"other-{n}") not in known)


def _lengths(parameters: Sequence[Parameter]) -> list[int]:
    """How many labels there may be at least and at most, by any of the rules."""
    found = {1, 2, MAX_LIST}
    for parameter in parameters:
        if parameter.type == "int":
            found.update(number for number in _numbers(parameter) if isinstance(number, int))
        for words in (parameter.choices, parameter.default):
            found.update([len(words)] if isinstance(words, list) else [])
    return sorted(length for length in found if 1 <= length <= MAX_LIST)


def _label_lists(parameters: Sequence[Parameter], lengths: Sequence[int]) -> list[list[str]]:
    """Lists of different labels, of each length, that begin with each of the words and are filled up from one set."""
    sets = [parameter.choices for parameter in parameters if parameter.choices is not None]
    fillings = [*sets, list(islice(_new_words(sets), MAX_LIST + 1))]
    lists = []
    for word, filling, length in product(_words(parameters), fillings, lengths):
        labels = [word, *islice((other for other in filling if other != word), length - 1)]
        lists += [labels] if len(labels) == length else []
    return lists


def _distinct(values: Sequence[object]) -> list[object]:
    """Once each; 1, 1.0 and True are three."""
    return list({(type(value), tuple(value) if isinstance(value, list) else value): value for value in values}.values())
