"""What a version of a task type says: how it trains, on which columns, where, and what it must reach.

A profile is immutable and content-addressed. A child inherits the whole profile of its parent, pinned to the parent's
version, and may only narrow it: every run that the child accepts, the parent would have accepted (`inheritance.py`).
"""

import difflib
import hashlib
import itertools
import math
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from enforcer import canonical
from enforcer.bindings import Binding, refuse_overlaps
from enforcer.columns import CleaningRule, Column, LossMask
from enforcer.concerns import holds
from enforcer.gates import Gate, MetricName
from enforcer.metrics import METRICS
from enforcer.problems import ArgumentInvalid

MAX_TEXT = 2_000
MAX_LIST = 2_000
MAX_WAYS = 10_000  # to run, as gates tell them apart; a proposal is checked while its author waits


class Kind(StrEnum):
    """What a task type names: a training objective, a model head, a use case, or a business purpose."""

    OBJECTIVE = "objective"
    HEAD = "head"
    USE_CASE = "use-case"
    BUSINESS = "business"


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


ParameterType = Literal["int", "float", "bool", "str", "strings"]
Value = bool | int | float | str | list[str] | None


class Parameter(_Frozen):
    """One training argument. `default: null` together with `required: true` means the trainer must give it."""

    type: ParameterType
    help: str = Field(max_length=300)
    default: Value = None
    required: bool = False
    minimum: float | None = None
    maximum: float | None = None
    choices: list[str] | None = Field(default=None, max_length=MAX_LIST)
    locked: bool = False

    @model_validator(mode="after")
    def something_fits(self) -> Self:
        low, high, choices = self.minimum, self.maximum, self.choices
        if (low is not None or high is not None) and self.type not in ("int", "float"):
            raise _contradiction(f"a minimum or maximum means nothing for type {self.type}")
        if choices is not None and self.type not in ("str", "strings"):
            raise _contradiction(f"choices are words, and the type is {self.type}")
        if choices is not None and (not choices or not all(_has_type(word, "str") for word in choices)):
            raise _contradiction("there is no choice, or an empty one")
        if low is not None and high is not None:
            room = math.floor(high) - math.ceil(low) if self.type == "int" else high - low
            if room < 0:
                raise _contradiction(f"nothing of type {self.type} lies between minimum {low:g} and maximum {high:g}")
        if self.locked and self.default is None:
            raise _contradiction("a locked parameter needs the value it is locked to as `default`")
        if self.default is not None and (breach := self.breach(self.default)):
            raise _contradiction(f"its own default {_shown(self.default)} {breach}")
        return self

    def breach(self, value: object) -> str | None:
        """Why a value cannot stand here, as the end of a sentence; None when it can."""
        if not _has_type(value, self.type):
            return f"is not of type {self.type}"
        if isinstance(value, int | float) and not isinstance(value, bool):
            if self.minimum is not None and value < self.minimum:
                return f"is below the minimum {self.minimum:g}"
            if self.maximum is not None and value > self.maximum:
                return f"is above the maximum {self.maximum:g}"
        if self.choices is not None:
            allowed = set(self.choices)
            if not all(item in allowed for item in (value if isinstance(value, list) else [value])):
                return f"is not one of {', '.join(self.choices)}"
        if self.locked and value != self.default:
            return f"differs from {self.default!r}, to which the task type locks it"
        return None


class Limits(_Frozen):
    max_gpus: int = Field(ge=0, le=4096)
    max_runtime_s: int = Field(ge=60, le=30 * 86_400)


class Profile(_Frozen):
    """The whole contract of one version.

    `experimental`: the library below may change or drop it in any release. `forms` are the sets of columns that make a
    row, where there are several: a row has all columns of one of them. `loss_mask` says which tokens carry loss: `all`,
    those of the `completion`, or those that the `assistant` says. A run whose cleaning drops more than
    `max_dropped_share` of its rows is refused. `maturity` is told to whoever trains.
    """

    recipe: str = Field(pattern=r"^[a-z][a-z0-9-]*$")
    maturity: Literal["stable", "experimental"] = "stable"
    parameters: dict[str, Parameter]
    columns: dict[str, Column]
    forms: list[list[str]] = Field(default_factory=list)
    cleaning: list[CleaningRule] = Field(default_factory=list)
    max_dropped_share: float = Field(default=0.05, ge=0, le=1)
    loss_mask: LossMask | None = None
    metrics: list[MetricName]
    gates: list[Gate] = Field(default_factory=list)
    pool: str
    limits: Limits
    serving: str | None = None
    artifacts: list[str] = Field(default_factory=list)
    bindings: list[Binding] = Field(default_factory=list)

    @model_validator(mode="after")
    def metrics_are_known(self) -> Self:
        for metric in self.metrics:
            if metric not in METRICS:
                raise PydanticCustomError(
                    "metric-unknown",
                    "`{metric}` is no metric that is measured; there are {known}",
                    {"metric": metric, "known": ", ".join(METRICS)},
                )
        return self

    @model_validator(mode="after")
    def rows_are_made_of_columns(self) -> Self:
        named = [name for form in self.forms for name in form] + [n for rule in self.cleaning for n in rule.columns]
        for name in named:
            if name not in self.columns:
                raise ValueError(f"`forms` or `cleaning` speak of a column `{name}`, which there is not")
        ways = {frozenset(form) for form in self.forms}
        if len(ways) != len(self.forms) or sum(map(len, ways)) != sum(map(len, self.forms)) or frozenset() in ways:
            raise ValueError("`forms` holds an empty form, one that stands there twice, or a column twice in one")
        if len({rule.looks_for for rule in self.cleaning}) != len(self.cleaning):
            raise ValueError("`cleaning` has two rules for the same rows; one of them would never say anything")
        return self

    @model_validator(mode="after")
    def gates_speak_of_declared_metrics_and_once_of_each(self) -> Self:
        for gate in self.gates:
            if gate.metric not in self.metrics:
                raise PydanticCustomError(
                    "metric-unknown",
                    "a gate speaks of `{metric}`, which is not among the metrics ({known}); add it to `metrics`",
                    {"metric": gate.metric, "known": ", ".join(self.metrics)},
                )
            _refuse_against_direction(gate)
        if len({gate.metric for gate in self.gates}) != len(self.gates):
            raise _contradiction("two gates bound the same metric; keep the one that is meant")
        return self

    @model_validator(mode="after")
    def conditions_speak_of_choices(self) -> Self:
        said = [(f"the gate on `{gate.metric}`", gate.when) for gate in self.gates]
        said += [(f"the column `{name}`", column.when) for name, column in self.columns.items()]
        for what, when in said:
            for name in when:
                if name not in self.parameters or self.parameters[name].type != "str":
                    raise _contradiction(f"{what} is for runs by their `{name}`, which is no parameter of words")
                if self.parameters[name].choices is None:
                    raise _contradiction(
                        f"{what} is for runs by their `{name}`, which takes any word; give it `choices`"
                    )
        return self

    @model_validator(mode="after")
    def every_run_meets_a_gate(self) -> Self:
        """Where there are gates at all: what nobody measures would pass unseen."""
        names = sorted({name for gate in self.gates for name in gate.when})
        words_of = [self._told_apart(name) for name in names]
        if (ways := math.prod(map(len, words_of))) > MAX_WAYS:
            raise _contradiction(
                f"the gates tell {ways:,} ways to run apart, by {_shown(', '.join(names))}, and at most {MAX_WAYS:,} "
                "are looked through; let fewer parameters or fewer words stand in `when`"
            )
        for words in itertools.product(*words_of):
            arguments = dict(zip(names, words, strict=True))
            if self.gates and not any(gate.concerns(arguments) for gate in self.gates):
                raise _contradiction(f"no gate concerns a run with {arguments}, so it would pass unmeasured")
        return self

    def _told_apart(self, name: str) -> list[str | None]:
        """What a run can have there, with one word for all that stand in the same gates, to which they are the same."""
        lists = [set(gate.when[name]) for gate in self.gates if name in gate.when]
        possible = _possible(self.parameters[name])
        return list({tuple(word in words for words in lists): word for word in reversed(possible)}.values())

    @model_validator(mode="after")
    def labels_are_names_and_a_number(self) -> Self:
        """What `resolve` takes them for."""
        for name, type_ in (("label_names", "strings"), ("num_labels", "int")):
            if name in self.parameters and self.parameters[name].type != type_:
                raise _contradiction(f"`{name}` is of type {type_} wherever there is one")
        return self

    @model_validator(mode="after")
    def one_binding_speaks_for_a_version(self) -> Self:
        refuse_overlaps(self.bindings)
        return self

    def concerning(self, arguments: Mapping[str, Any]) -> Self:
        """What it says of a run with these arguments, defaults filled in: columns and gates of other runs left out."""
        columns = {name: column for name, column in self.columns.items() if holds(column.when, arguments)}
        gates = [gate for gate in self.gates if gate.concerns(arguments)]
        return self.model_copy(update={"columns": columns, "gates": gates})

    def digest(self) -> str:
        """`sha256:` over the canonical bytes."""
        return f"sha256:{hashlib.sha256(self.canonical()).hexdigest()}"

    def canonical(self) -> bytes:
        """The RFC 8785 bytes, as they stand in every run specification of this version."""
        return canonical.dumps(self.model_dump(mode="json"))

    def resolve(self, given: Mapping[str, object]) -> dict[str, Any]:
        """The arguments a run uses: what was given, checked, and every default filled in.

        Raises:
            ArgumentInvalid: an argument that the profile does not take, or a value that breaks its rules.
        """
        for name in given:
            if name not in self.parameters:
                close = difflib.get_close_matches(name, self.parameters, n=1)
                hint = f"did you mean `{close[0]}`?" if close else f"it takes {', '.join(sorted(self.parameters))}"
                raise ArgumentInvalid(f"`{name}` is not a parameter of this task type; {hint}", pointer=f"/{name}")
        resolved: dict[str, Any] = {}
        for name, parameter in self.parameters.items():
            value = given.get(name)
            if value is None:
                if parameter.required and parameter.default is None:
                    raise ArgumentInvalid(f"`{name}` must be given: {parameter.help}", pointer=f"/{name}")
                value = parameter.default
            elif breach := parameter.breach(value):
                raise ArgumentInvalid(f"`{name}`: {value!r} {breach}", pointer=f"/{name}")
            # 2 and 2.0 have one canonical form, so they must be one value before they are one digest.
            resolved[name] = float(value) if parameter.type == "float" and isinstance(value, int) else value
        self._check_label_names(resolved)
        return resolved

    def _check_label_names(self, arguments: dict[str, Any]) -> None:
        """`num_labels` and `label_names` say the same thing twice (the article's spelling), so they must agree."""
        names = arguments.get("label_names")
        if names is None:
            return
        if len(set(names)) != len(names):
            raise ArgumentInvalid("`label_names` holds a name twice", pointer="/label_names")
        if arguments.get("num_labels") is None and "num_labels" in self.parameters:
            arguments["num_labels"] = len(names)
            if breach := self.parameters["num_labels"].breach(len(names)):
                raise ArgumentInvalid(f"`label_names` holds {len(names)} names, which {breach}", pointer="/label_names")
        if arguments.get("num_labels", len(names)) != len(names):
            raise ArgumentInvalid(
                f"`num_labels` is {arguments['num_labels']}, but `label_names` holds {len(names)} names",
                pointer="/num_labels",
            )


class ParameterOverride(_Frozen):
    """What a child says of an inherited parameter. Only these can be narrowed."""

    default: Value = None
    required: bool | None = None
    minimum: float | None = None
    maximum: float | None = None
    choices: list[str] | None = None
    locked: bool | None = None


class ProfileOverrides(_Frozen):
    """A child's profile: only what differs from the parent's.

    `columns` are further ones, or inherited ones that every row needs here; `cleaning`, `artifacts` and `bindings` come
    in the place of the parent's of the same kind, or beside them. `recipe` is for a use case that does what its parent
    does and measures more.
    """

    recipe: str | None = Field(default=None, pattern=r"^[a-z][a-z0-9-]*$")
    columns: dict[str, Column] = Field(default_factory=dict)
    forms: list[list[str]] = Field(default_factory=list)
    cleaning: list[CleaningRule] = Field(default_factory=list)
    max_dropped_share: float | None = Field(default=None, ge=0, le=1)
    artifacts: list[str] = Field(default_factory=list)
    bindings: list[Binding] | None = None
    parameters: dict[str, ParameterOverride] = Field(default_factory=dict)
    metrics: list[MetricName] = Field(default_factory=list)
    gates: list[Gate] = Field(default_factory=list)
    pool: str | None = None
    limits: Limits | None = None


def _has_type(value: object, type_: ParameterType) -> bool:
    match type_:
        case "bool":
            return isinstance(value, bool)
        case "int":
            return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**53
        case "float":
            # An integer beyond 2^53 is no float that would come back the same.
            whole = isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**53
            return whole or (isinstance(value, float) and math.isfinite(value))
        case "str":
            return isinstance(value, str) and 0 < len(value) <= MAX_TEXT
        case "strings":
            return (
                isinstance(value, list)
                and 0 < len(value) <= MAX_LIST
                and all(isinstance(item, str) and 0 < len(item) <= MAX_TEXT for item in value)
            )


def _possible(parameter: Parameter) -> Sequence[str | None]:
    """The words that a run can have there; None where it may say none and nothing is filled in."""
    if parameter.locked:
        return [str(parameter.default)]
    unsaid = [None] if parameter.default is None and not parameter.required else []
    return [*(parameter.choices or []), *unsaid]


def _refuse_against_direction(gate: Gate) -> None:
    higher = METRICS[gate.metric].higher
    if gate.op != (op := ">=" if higher else "<="):
        raise PydanticCustomError(
            "gate-against-direction",
            "the gate `{metric} {given} {value}` lets the worse pass: {which} `{metric}` is better; write "
            '`op: "{op}"` with the bar that is to be reached',
            {
                "metric": gate.metric,
                "given": gate.op,
                "value": f"{gate.value:g}",
                "which": "a higher" if higher else "a lower",
                "op": op,
            },
        )


def _contradiction(sentence: str) -> PydanticCustomError:
    """Of pydantic's kind, so that it is told with its place; `problems.from_validation` makes a refusal of it."""
    return PydanticCustomError("bounds-contradict", "{sentence}", {"sentence": sentence})


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:117]}..."
