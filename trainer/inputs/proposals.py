"""What may have been meant: the file's column for one that is missing, the task type that its columns are those of."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from enforcer.problems import DatasetInvalid
from enforcer.profiles import Profile
from trainer.inputs import conversations
from trainer.inputs.rows import Source

# What people call the columns that profiles call otherwise.
USUAL_NAMES = {
    "text": ("review", "content", "sentence", "body", "document", "input", "comment", "title"),
    "label": ("category", "class", "target", "sentiment", "label_name", "labels", "kto_tag"),
    "labels": ("label", "tags", "categories"),
    "score": ("similarity_score", "similarity", "label", "rating", "stars", "target"),
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
# The columns by which rows are known to be of a task type, the most telling first, and what such rows hold. A test asks
# the profiles, but for what other trainers call the same.
ROWS_OF = (
    ("text-to-sql", ("prompt", "completion", "database"), "a question and its query each"),
    ("dpo", ("prompt", "chosen", "rejected"), "pairs of answers"),
    ("kto", ("prompt", "completion", "label"), "one answer each and whether it is good"),
    ("reranker", ("query", "document", "label"), "a document each and whether it answers"),
    ("agent-training", ("messages", "tools"), "conversations that call tools"),
    ("reward-modeling", ("chosen", "rejected"), "pairs of answers"),
    ("embedding", ("anchor", "positive"), "texts that belong together"),
    ("sequence-classification", ("text", "label"), "a text and its label each"),
    ("sft", ("prompt", "completion"), "a question and its answer each"),
)
# What makes the rows of one task type those of another: what is missed, whose rows they are, what to do.
TURNED_INTO = {
    (
        "chosen",
        "kto",
    ): "here a row holds two answers to one `prompt`, the better as `chosen` and the worse as `rejected`",
    ("completion", "dpo"): "here make two rows of each, both with its `prompt`: `chosen` as the `completion` with "
    "`label: true`, and `rejected` with `label: false`",
}
AS_OTHERS_CALL_THEM = (
    ("kto", ("messages", "label"), "one answer each and whether it is good"),
    ("dpo", ("conversations", "chosen", "rejected"), "pairs of answers"),
)


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
        advice = TURNED_INTO.get((role, other.name))
        more = f"; {advice}" if advice else f" (`task_type: {other.name}`)"
        return DatasetInvalid(
            f"`{source.name}` has no column `{name}`; {other.said}{more}", **facts, task_type=other.name
        )
    hint = f"the file has {quoted(unused[:20])}" if unused else "the file has no other column"
    if {*wanted} & {"prompt", "completion", "chosen"} and {*present} & {*USUAL_NAMES["messages"], "messages"}:
        guesses, hint = _of_conversations(source, wanted, present, hint)
    advice = proposed(guesses) + lost_beside(guesses, unused) or hint
    return DatasetInvalid(f"`{source.name}` has no column `{name}`; {advice}", **facts)


def _of_conversations(
    source: Source, wanted: Sequence[str], present: Sequence[str], hint: str
) -> tuple[dict[str, str], str]:
    """What to do with conversations where texts are read: a mapping that reads them as they are, or how to cut them."""
    talk = next(name for name in ("conversations", "messages", *USUAL_NAMES["messages"]) if name in present)
    if not {"chosen", "rejected"} <= {*present}:
        return {}, f"{hint}; cut each conversation before its last answer, and give both parts as texts"
    if [*wanted] == ["prompt"] and all(
        isinstance(conversations.words(row.get(talk), "user"), str) for row in source.rows
    ):
        return {"prompt": talk}, hint
    return {}, (
        f"`{talk}` holds more than one turn, and `prompt` is a text: write it as the words before the answer, and "
        "`chosen` and `rejected` as the words of each answer (its `value` or `content`)"
    )


def formless(
    source: Source, profile: Profile, mapping: Mapping[str, str], present: Sequence[str]
) -> DatasetInvalid | None:
    """The refusal of a file whose columns make no form of this task type's rows, where something else may be meant."""
    if (other := task_type_of(present, profile)) is not None:
        why = f"rows of this task type have {forms(profile)}; {other.said}"
        return DatasetInvalid(f"`{source.name}`: {why}", file=source.name, task_type=other.name)
    unused = [column for column in present if column not in profile.columns]
    for form in profile.forms:
        wanted = [role for role in form if mapping.get(role, role) not in present]
        guesses = guessed(wanted, unused, mapping)
        if len(guesses) == len(wanted):
            return DatasetInvalid(
                f"`{source.name}` has {quoted(present[:20])}, and rows of this task type have {forms(profile)}; "
                f"{proposed(guesses)}{lost_beside(guesses, unused)}",
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


def lost_beside(guesses: Mapping[str, str], unused: Sequence[str]) -> str:
    """Rows in the manner of Alpaca ask in two columns, and a mapping reads one."""
    if guesses.get("prompt") != "instruction" or "input" not in unused or "input" in guesses.values():
        return ""
    return (
        ". Then nothing is read from `input`: where rows have one, write a column `prompt` that joins both "
        "(`instruction`, an empty line, `input`) instead"
    )


class Other(NamedTuple):
    """A task type that learns from such rows."""

    name: str
    columns: Sequence[str]
    hold: str

    @property
    def said(self) -> str:
        return f"its rows have {quoted(self.columns)}, {self.hold}: that is what `{self.name}` learns from"


def task_type_of(present: Iterable[str], profile: Profile) -> Other | None:
    """The task type whose columns these are, if it is another one than the profile's."""
    has = {*present}
    for name, row, hold in (*ROWS_OF, *AS_OTHERS_CALL_THEM):
        if has >= {*row} and not profile.columns.keys() >= {*row} and name != profile.recipe:
            return Other(name, row, hold)
    return None


def forms(profile: Profile) -> str:
    return "; ".join(" with ".join(f"`{name}`" for name in form) for form in profile.forms)


def quoted(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)
