"""What a version of a task type says: how it trains, on which columns, where, and what it must reach.

A profile is immutable and content-addressed. A child inherits the whole profile of its parent, pinned to the parent's
version, and may only narrow it: every run that the child accepts, the parent would have accepted too. In particular it
may add parameters' bounds, lock values, add metrics and gates, raise gates and lower limits; it may not loosen one.
"""

import difflib
import hashlib
import math
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from enforcer import canonical
from enforcer.bindings import Binding, refuse_overlaps
from enforcer.gates import Gate, MetricName
from enforcer.problems import ArgumentInvalid, ProfileInvalid

MAX_TEXT = 2_000
MAX_LIST = 2_000


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
    choices: list[str] | None = None
    locked: bool = False

    @model_validator(mode="after")
    def default_keeps_its_own_rules(self) -> Self:
        if self.locked and self.default is None:
            raise ValueError("a locked parameter needs the value it is locked to as `default`")
        if self.default is not None and (breach := self.breach(self.default)):
            raise ValueError(f"its own default {self.default!r} {breach}")
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
            given = value if isinstance(value, list) else [value]
            if any(item not in self.choices for item in given):
                return f"is not one of {', '.join(self.choices)}"
        if self.locked and value != self.default:
            return f"differs from {self.default!r}, to which the task type locks it"
        return None


class Column(_Frozen):
    """One field of a training example. Labels are checked against `label_names`."""

    type: Literal["text", "label"]
    help: str = Field(max_length=300)
    required: bool = True


class Limits(_Frozen):
    max_gpus: int = Field(ge=0, le=4096)
    max_runtime_s: int = Field(ge=60, le=30 * 86_400)


class Profile(_Frozen):
    """The whole contract of one version."""

    recipe: str = Field(pattern=r"^[a-z][a-z0-9-]*$")
    parameters: dict[str, Parameter]
    columns: dict[str, Column]
    metrics: list[MetricName]
    gates: list[Gate] = Field(default_factory=list)
    pool: str
    limits: Limits
    serving: str | None = None
    artifacts: list[str] = Field(default_factory=list)
    bindings: list[Binding] = Field(default_factory=list)

    @model_validator(mode="after")
    def gates_speak_of_declared_metrics_and_once_of_each(self) -> Self:
        if len({(gate.metric, gate.op) for gate in self.gates}) != len(self.gates):
            raise ValueError("two gates bound the same metric in the same direction")
        for gate in self.gates:
            if gate.metric not in self.metrics:
                raise ValueError(f"a gate speaks of `{gate.metric}`, which is not among the metrics")
        return self

    @model_validator(mode="after")
    def one_binding_speaks_for_a_version(self) -> Self:
        refuse_overlaps(self.bindings)
        return self

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
    """A child's profile: only what differs from the parent's."""

    parameters: dict[str, ParameterOverride] = Field(default_factory=dict)
    metrics: list[MetricName] = Field(default_factory=list)
    gates: list[Gate] = Field(default_factory=list)
    pool: str | None = None
    limits: Limits | None = None


def inherit(parent: Profile, child: ProfileOverrides) -> Profile:
    """The child's whole profile.

    Raises:
        ProfileInvalid: the child widens what the parent allows, or speaks of what the parent does not have.
    """
    parameters = dict(parent.parameters)
    for name, override in child.parameters.items():
        if name not in parameters:
            raise ProfileInvalid(f"`{name}` is not a parameter of the parent; a child may only narrow")
        parameters[name] = _narrow(name, parameters[name], override)
    if child.pool is not None and child.pool != parent.pool:
        raise ProfileInvalid(f"pool `{child.pool}` is not the parent's `{parent.pool}`; a child may only narrow")
    limits = child.limits or parent.limits
    if limits.max_gpus > parent.limits.max_gpus or limits.max_runtime_s > parent.limits.max_runtime_s:
        raise ProfileInvalid("`limits` are above the parent's; a child may only narrow")
    whole = {
        **parent.model_dump(),
        "parameters": parameters,
        "metrics": [*parent.metrics, *(m for m in child.metrics if m not in parent.metrics)],
        "gates": _tighten(parent.gates, child.gates),
        "limits": limits,
    }
    try:
        return Profile(**whole)
    except ValueError as error:
        raise ProfileInvalid(str(error)) from error


def _narrow(name: str, old: Parameter, override: ParameterOverride) -> Parameter:
    changes = override.model_dump(exclude_none=True)
    if old.locked and changes.get("default", old.default) != old.default:
        raise ProfileInvalid(f"`{name}` is locked by the parent")
    if (override.locked is False and old.locked) or (override.required is False and old.required):
        raise ProfileInvalid(f"`{name}`: a child may lock or require a parameter, not release it")
    if override.minimum is not None and old.minimum is not None and override.minimum < old.minimum:
        raise ProfileInvalid(f"`{name}`: minimum {override.minimum:g} is below the parent's {old.minimum:g}")
    if override.maximum is not None and old.maximum is not None and override.maximum > old.maximum:
        raise ProfileInvalid(f"`{name}`: maximum {override.maximum:g} is above the parent's {old.maximum:g}")
    if override.choices is not None and old.choices is not None and not set(override.choices) <= set(old.choices):
        raise ProfileInvalid(f"`{name}`: choices go beyond the parent's {', '.join(old.choices)}")
    try:
        return Parameter(**{**old.model_dump(), **changes})
    except ValueError as error:
        raise ProfileInvalid(f"`{name}`: {error}") from error


def _tighten(parents: list[Gate], children: list[Gate]) -> list[Gate]:
    """The parent's gates with the child's in their place, which must be at least as hard on the same metric."""
    gates = {(gate.metric, gate.op): gate for gate in parents}
    for gate in children:
        old = gates.get((gate.metric, gate.op))
        if old is not None:
            harder = gate.value >= old.value if gate.op == ">=" else gate.value <= old.value
            surer = (gate.confidence or 0.0) >= (old.confidence or 0.0) and gate.min_n >= old.min_n
            if not (harder and surer):
                raise ProfileInvalid(
                    f"the gate on `{gate.metric}` is easier than the parent's ({old.op} {old.value:g}, "
                    f"min_n {old.min_n}, confidence {old.confidence}); a child may only narrow"
                )
        gates[gate.metric, gate.op] = gate
    return list(gates.values())


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
