"""Compatibility: which run configurations stay valid from one version of a task type to the next.

    NONE      anything goes; the class of a change decides who has to agree to it
    BACKWARD  every run configuration that is valid under version n-1 is valid under n
    FORWARD   every run configuration that is valid under n is valid under n-1: who rolls back loses nothing
    FULL      both: the two accept the same
    ..._TRANSITIVE   the same between n and every earlier version

A run configuration is what a trainer decides: arguments, the columns that the data has or is mapped to, the number of
GPUs. What it is held against is `Profile.resolve`, the columns and the limits. Gates are no part of it, since they
judge what comes out.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from enforcer import profile_probes
from enforcer.profile_changes import diff, in_words
from enforcer.profiles import Profile


class Compatibility(StrEnum):
    NONE = "NONE"
    BACKWARD = "BACKWARD"
    BACKWARD_TRANSITIVE = "BACKWARD_TRANSITIVE"
    FORWARD = "FORWARD"
    FORWARD_TRANSITIVE = "FORWARD_TRANSITIVE"
    FULL = "FULL"
    FULL_TRANSITIVE = "FULL_TRANSITIVE"

    @property
    def transitive(self) -> bool:
        return self.name.endswith("_TRANSITIVE")

    @property
    def backward(self) -> bool:
        return self.name.startswith(("BACKWARD", "FULL"))

    @property
    def forward(self) -> bool:
        return self.name.startswith(("FORWARD", "FULL"))


@dataclass(frozen=True)
class Incompatibility:
    """`direction` says which way configurations get lost; `version` is the earlier one of the two."""

    direction: str
    version: int
    path: str
    sentence: str


def incompatibilities(
    mode: Compatibility, earlier: Mapping[int, Profile], following: Profile
) -> tuple[Incompatibility, ...]:
    """What the mode forbids of the next version. `earlier` are the versions so far."""
    numbers = sorted(earlier, reverse=True)
    found = []
    for number in numbers if mode.transitive else numbers[:1]:
        before = earlier[number]
        if mode.backward:
            found += [Incompatibility("backward", number, *loss) for loss in losses(before, following)]
        if mode.forward:
            found += [Incompatibility("forward", number, *loss) for loss in losses(following, before)]
    return tuple(found)


def losses(before: Profile, after: Profile) -> list[tuple[str, str]]:
    """Where a configuration that `before` accepts is refused by `after`: path and sentence. Empty when there is none.

    Exact: the fields are independent of each other, and no profile accepts nothing (`profiles.refuse_contradictions`).
    """
    found = []
    for group in profile_probes.groups(before, after):
        lost = profile_probes.effect(before, after, group).lost
        if lost is not None:
            found.append((f"parameters.{group[0]}", f"{in_words(lost)} was accepted, and is refused"))
    others = (change for change in diff(before, after) if not change.path.startswith("parameters."))
    return [*found, *((change.path, change.sentence) for change in others if change.loses)]
