"""When one run continues another: everything that decides what training computes is the same.

Where a file lies, the commit of the working tree and the gates decide nothing of it: they may be others by then, and
each of the two specifications says which they were.
"""

from collections.abc import Mapping
from typing import Any

from enforcer.problems import NotContinued
from enforcer.profiles import Profile
from enforcer.runspec import Inputs, RunSpec

OF_THE_PROFILE = ("recipe", "columns", "forms", "cleaning", "loss_mask")


def check(
    then: RunSpec, *, task_type: str, profile: Profile, arguments: Mapping[str, Any], inputs: Inputs, gpus: int
) -> None:
    """See that what is asked for is the run `then`, only further.

    Raises:
        NotContinued: it is not; the first difference is named.
    """
    was = _decisive(then.task_type, then.profile, then.arguments, then.inputs, then.gpus)
    now = _decisive(task_type, profile, arguments, inputs, gpus)
    for what in {**was, **now}:
        if was.get(what) != now.get(what):
            raise NotContinued(
                f"run `{then.run_id}` cannot be continued with another {what}: it was "
                f"`{_short(was.get(what))}`, and would be `{_short(now.get(what))}`; ask for the same, or start anew",
                run_id=then.run_id,
            )


def _decisive(
    task_type: str, profile: Profile, arguments: Mapping[str, Any], inputs: Inputs, gpus: int
) -> dict[str, Any]:
    """What decides what a run computes, by a name for people."""
    return {
        "task type": task_type,
        **{f"argument `{name}`": value for name, value in sorted(arguments.items())},
        "model": inputs.model.digest,
        "teacher": inputs.teacher and inputs.teacher.digest,
        **{f"{data.role} dataset (number {at})": data.digest for at, data in enumerate(inputs.datasets, 1)},
        "`eval_fraction`": inputs.eval_fraction,
        "mapping of `columns`": inputs.columns,
        "number of GPUs": gpus,
        **{f"`{name}` in the task type's version": _plain(getattr(profile, name)) for name in OF_THE_PROFILE},
    }


def _plain(value: Any) -> Any:
    match value:
        case Mapping():
            return {name: _plain(item) for name, item in value.items()}
        case list() | tuple():
            return [_plain(item) for item in value]
    return value.model_dump(mode="json") if hasattr(value, "model_dump") else value


def _short(value: Any) -> str:
    return "none" if value is None else str(value)[:100]
