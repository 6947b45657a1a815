"""Rows that a task type trains on: their columns, what is looked at before training, and which tokens carry loss."""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from enforcer.concerns import Condition

ColumnType = Literal["text", "label", "labels", "score", "flag", "texts", "messages", "tools"]
LossMask = Literal["all", "completion", "assistant"]


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Column(_Frozen):
    """One field of a training example; with `when`, of the runs that take these arguments, and unknown to others.

    text      a string that is not empty
    label     one of `label_names`, or its number; `labels` is a list of them
    score     a number; `flag` is true or false
    texts     a list of strings
    messages  a conversation: `[{"role": "user" | "assistant" | "system" | "tool", "content": ...}]`
    tools     the JSON schemas of the tools that a conversation may call
    """

    type: ColumnType
    help: str = Field(max_length=300)
    required: bool = True
    when: Condition = Field(default_factory=dict)


class CleaningRule(_Frozen):
    """Rows that nobody should train on or be judged by, and what becomes of them.

    duplicate  a training row that says the same as an earlier one
    leaked     an evaluation row whose first text stands in a training row
    equal      a row in which all of `columns` say the same, as a chosen answer that is the rejected one
    """

    check: Literal["duplicate", "leaked", "equal"]
    action: Literal["report", "drop", "refuse"]
    columns: list[str] = Field(default_factory=list, max_length=10)

    @model_validator(mode="after")
    def compares_something(self) -> Self:
        if (self.check == "equal") != (len(self.columns) > 1):
            raise ValueError("`equal` compares at least two `columns`; the other checks look at the whole row")
        if len(set(self.columns)) != len(self.columns):
            raise ValueError("`columns` names one column twice")
        return self

    @property
    def looks_for(self) -> tuple[str, ...]:
        """What makes it one rule: a profile has none of these twice. The order of columns makes no difference."""
        return self.check, *sorted(self.columns)
