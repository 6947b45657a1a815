"""Conditions and facts in words, for those who read policy and not code."""

from datetime import UTC, datetime

from enforcer.policy.conditions import Conditions


def of_conditions(when: Conditions) -> list[str]:
    """What must hold, a phrase for each condition."""
    said = []
    if when.max_gpus is not None:
        said.append(f"at most {when.max_gpus} GPU{'' if when.max_gpus == 1 else 's'}")
    if when.models is not None:
        said.append(f"models {', '.join(when.models)}")
    if when.weekdays is not None:
        said.append(f"on {', '.join(when.weekdays)}" + (f" in {when.zone}" if when.hours is None else ""))
    if when.hours is not None:
        said.append(f"at {when.hours} in {when.zone}")
    if when.change_ticket is not None:
        said.append(f"with a change ticket {', '.join(when.change_ticket)}")
    if when.points is not None:
        said.append(f"asked at {', '.join(when.points)}")
    if when.own_unit:
        said.append("in their own unit")
    if when.until is not None:
        said.append(f"until {of_time(when.until)}")
    return said


def of_time(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC".replace(":00 UTC", " UTC")
