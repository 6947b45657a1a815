"""What may have been meant: the file's column for one that is missing, the task type that its columns are those of."""

import difflib
from collections.abc import Iterable, Mapping, Sequence

from enforcer.problems import DatasetInvalid
from enforcer.profiles import Profile
from trainer.inputs.rows import Source

# What people call the columns that profiles call otherwise.
USUAL_NAMES = {
    "text": ("review", "content", "sentence", "body", "document", "input", "comment", "title"),
    "label": ("category", "class", "target", "sentiment", "label_name", "labels"),
    "anchor": ("query", "question", "sentence1", "title"),
    "positive": ("document", "answer", "passage", "pos", "sentence2", "context"),
    "negative": ("neg", "hard_negative", "negative_passage"),
    "query": ("question", "qtext", "anchor", "sentence1"),
    "document": ("passage", "answer", "atext", "positive", "sentence2", "text"),
    "prompt": ("instruction", "question", "input", "query"),
    "chosen": ("accepted", "better", "preferred", "response_chosen"),
    "rejected": ("worse", "response_rejected"),
    "completion": ("sql", "response", "output", "answer"),
    "database": ("db_id", "db", "db_path"),
    "messages": ("conversations", "conversation", "dialog"),
    "tools": ("functions",),
}
# The columns by which rows are known to be of a task type, the most telling first; a test asks the profiles.
ROWS_OF = {
    "text-to-sql": ("prompt", "completion", "database"),
    "dpo": ("prompt", "chosen", "rejected"),
    "kto": ("prompt", "completion", "label"),
    "reranker": ("query", "document", "label"),
    "agent-training": ("messages", "tools"),
    "reward-modeling": ("chosen", "rejected"),
    "embedding": ("anchor", "positive"),
    "sequence-classification": ("text", "label"),
    "sft": ("prompt", "completion"),
}


def missing(
    source: Source, profile: Profile, mapping: Mapping[str, str], present: Sequence[str], role: str
) -> DatasetInvalid:
    """The refusal of a file that lacks the column for `role`."""
    name = mapping.get(role, role)
    taken = {mapping.get(other, other) for other in profile.columns} & {*present}
    unused = [column for column in present if column not in taken and column not in profile.columns]
    wanted = [
        other
        for other, column in profile.columns.items()
        if (column.required or other == role) and mapping.get(other, other) not in present
    ]
    guesses = guessed(wanted, unused, mapping)
    facts = {"file": source.name, "pointer": f"/{name}", "proposal": guesses.get(role), "columns": guesses}
    if (other := task_type_of(present, profile)) is not None:
        return DatasetInvalid(
            f"`{source.name}` has no column `{name}`; its columns {quoted(ROWS_OF[other])} are those of `{other}`: "
            f"take `task_type: {other}`, or other rows",
            **facts,
            task_type=other,
        )
    hint = f"the file has {quoted(unused[:20])}" if unused else "the file has no other column"
    return DatasetInvalid(f"`{source.name}` has no column `{name}`; {proposed(guesses) or hint}", **facts)


def formless(
    source: Source, profile: Profile, mapping: Mapping[str, str], present: Sequence[str]
) -> DatasetInvalid | None:
    """The refusal of a file whose columns make no form of this task type's rows, where something else may be meant."""
    if (other := task_type_of(present, profile)) is not None:
        return DatasetInvalid(
            f"`{source.name}` has {quoted(ROWS_OF[other])}, which are the columns of `{other}`; rows of this task type "
            f"have {forms(profile)}: take `task_type: {other}`, or other rows",
            file=source.name,
            task_type=other,
        )
    unused = [column for column in present if column not in profile.columns]
    for form in profile.forms:
        wanted = [role for role in form if mapping.get(role, role) not in present]
        guesses = guessed(wanted, unused, mapping)
        if len(guesses) == len(wanted):
            return DatasetInvalid(
                f"`{source.name}` has {quoted(present[:20])}, and rows of this task type have {forms(profile)}; "
                f"{proposed(guesses)}",
                file=source.name,
                pointer=f"/{wanted[0]}",
                columns=guesses,
            )
    return None


def guessed(wanted: Sequence[str], unused: Sequence[str], mapping: Mapping[str, str]) -> dict[str, str]:
    """A column of the file for each of the wanted roles, no column twice; roles without one are left out."""
    found: dict[str, str] = {}
    for role in wanted:
        left = [column for column in unused if column not in found.values()]
        guess = next((column for column in USUAL_NAMES.get(role, ()) if column in left), None)
        guess = guess or next(iter(difflib.get_close_matches(mapping.get(role, role), left, n=1)), None)
        if guess is None and len(wanted) == 1 and len(left) == 1:
            guess = left[0]
        if guess is not None:
            found[role] = guess
    return found


def proposed(guesses: Mapping[str, str]) -> str:
    if not guesses:
        return ""
    arrows = ", ".join(f"`{role}` <- `{column}`" for role, column in guesses.items())
    pairs = ", ".join(f"{role}: {column}" for role, column in guesses.items())
    return f"{arrows}? Map {'it' if len(guesses) == 1 else 'them'} with `columns: {{{pairs}}}`"


def task_type_of(present: Iterable[str], profile: Profile) -> str | None:
    """The task type whose columns these are, if it is another one than the profile's."""
    has = {*present}
    for name, row in ROWS_OF.items():
        if has >= {*row} and not profile.columns.keys() >= {*row}:
            return name
    return None


def forms(profile: Profile) -> str:
    return "; ".join(" with ".join(f"`{name}`" for name in form) for form in profile.forms)


def quoted(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)
