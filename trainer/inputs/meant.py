"""What rows were meant for, where a task type reads other columns for another word of a parameter.

A parameter that nobody set has its default. Rows that lack what the default reads, and have all that another word does,
say which word was meant; to propose their columns for those of the default would train something else.
"""

from collections.abc import Mapping
from typing import Any

from enforcer.problems import DatasetInvalid
from enforcer.profiles import Profile
from trainer.inputs import proposals
from trainer.inputs.rows import Source


def refuse_rows_of_another_word(
    source: Source, profile: Profile, mapping: Mapping[str, str], arguments: Mapping[str, Any]
) -> None:
    """Raise `DatasetInvalid` for rows that suit another word of a parameter than its default, naming that word."""
    present = {name for row in source.rows for name in row}

    def needed(arguments: Mapping[str, Any]) -> list[str]:
        return [name for name, column in profile.concerning(arguments).columns.items() if column.required]

    def suit(arguments: Mapping[str, Any]) -> bool:
        return {mapping.get(name, name) for name in needed(arguments)} <= present

    if suit(arguments):
        return
    for name in sorted({name for column in profile.columns.values() for name in column.when}):
        parameter = profile.parameters[name]
        for word in parameter.choices or []:
            other = {**arguments, name: word}
            if arguments.get(name) != parameter.default or parameter.default == word:
                continue
            guesses = _under_other_names(needed(other), present, mapping)
            if suit(other) or guesses:
                *most, last = (f"`{column}`" for column in needed(other))
                todo = f"set that, with `columns: {{{_pairs(guesses)}}}`" if guesses else "set that"
                raise DatasetInvalid(
                    f"`{source.name}`: rows of {', '.join(most)} and {last} are for `{name}: {word}`; {todo}",
                    file=source.name,
                    pointer=f"/{name}",
                    columns=guesses,
                )


def _under_other_names(needed: list[str], present: set[str], mapping: Mapping[str, str]) -> dict[str, str]:
    """The usual names of the columns that lack, where most are there; all of them or none. A `label` may be a class."""
    lacking = [name for name in needed if mapping.get(name, name) not in present]
    guesses = {
        name: usual
        for name in lacking
        for usual in reversed(proposals.USUAL_NAMES.get(name, ()))
        if usual in present and usual not in ("label", "target")
    }
    return guesses if len(guesses) == len(lacking) < len(needed) / 2 else {}


def _pairs(guesses: Mapping[str, str]) -> str:
    return ", ".join(f"{role}: {column}" for role, column in guesses.items())
