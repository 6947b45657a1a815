"""What a child makes of its parent's profile, and who may be whose parent.

A child says only what differs. What comes out is held against the parent's profile field by field: whatever
`profile_changes` says widens it, is refused. So for every run configuration that a child accepts, the parent accepts
the arguments that the child makes of it, asks no higher bar and grants no lower limit.
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from pydantic import ValidationError

from enforcer import problems, profile_probes
from enforcer.bindings import Binding
from enforcer.problems import BoundsContradict, ParentCycle, ProfileInvalid, ProfileWidens
from enforcer.profile_changes import diff
from enforcer.profiles import Profile, ProfileOverrides


def inherit(parent: Profile, child: ProfileOverrides) -> Profile:
    """The child's whole profile.

    Raises:
        ProfileWidens: it allows what the parent does not, or speaks of what the parent does not have.
        BoundsContradict, MetricUnknown, ProfileInvalid: it cannot be meant.
    """
    if strange := sorted(child.parameters.keys() - parent.parameters.keys()):
        raise ProfileWidens(f"`{strange[0]}` is not a parameter of the parent; a child may only narrow")
    gates = {(gate.metric, gate.op): gate for gate in [*parent.gates, *child.gates]}
    if len({(gate.metric, gate.op) for gate in child.gates}) != len(child.gates):
        raise BoundsContradict("two gates bound the same metric in the same direction")
    whole = _profile(
        {
            **parent.model_dump(),
            "parameters": {name: _merged(parent, child, name) for name in parent.parameters},
            "columns": {**parent.columns, **child.columns},
            "forms": child.forms or parent.forms,
            "cleaning": list({r.looks_for: r for r in [*parent.cleaning, *child.cleaning]}.values()),
            "metrics": [*parent.metrics, *(metric for metric in child.metrics if metric not in parent.metrics)],
            "artifacts": [*parent.artifacts, *(name for name in child.artifacts if name not in parent.artifacts)],
            "bindings": _bindings(parent, child),
            "recipe": child.recipe or parent.recipe,
            "gates": list(gates.values()),
            "limits": child.limits or parent.limits,
            "pool": child.pool or parent.pool,
            **({} if child.max_dropped_share is None else {"max_dropped_share": child.max_dropped_share}),
        }
    )
    refuse_wider(parent, whole)
    return whole


def refuse_wider(parent: Profile, child: Profile) -> None:
    """A recipe of its own and how other frameworks spell it are a child's own affair: neither allows a run more.

    Raises:
        ProfileWidens
    """
    own = ("recipe", "bindings")
    wider = [change for change in diff(parent, child) if change.widens and not change.path.startswith(own)]
    if wider:
        more = f" (and {len(wider) - 1} more)" if len(wider) > 1 else ""
        raise ProfileWidens(
            f"a child may only narrow what it inherits: {wider[0].sentence}{more}",
            changes=[asdict(change) for change in wider[:20]],
        )


def refuse_contradictions(profile: Profile) -> None:
    """Raises BoundsContradict where the parameters, each of which could be given, can never be given together."""
    for group in profile_probes.groups(profile):
        if profile_probes.accepts_nothing(profile, group):
            names = " and ".join(f"`{name}`" for name in group)
            raise BoundsContradict(f"no run could ever be: what {names} say can never hold at once")


def refuse_cycle(parents: Mapping[str, str | None]) -> None:
    """Raises ParentCycle, naming the way round, where following parents comes back to where it began."""
    free: set[str] = set()
    for name in parents:
        way: dict[str, None] = {}
        at: str | None = name
        while at is not None and at not in free:
            if at in way:
                names = [*way, at]
                circle = " -> ".join(f"`{one}`" for one in names[names.index(at) :])
                raise ParentCycle(f"{circle}: a task type cannot be its own ancestor; give one of them another parent")
            way[at] = None
            at = parents.get(at)
        free.update(way)


def _bindings(parent: Profile, child: ProfileOverrides) -> list[Binding]:
    """Of a framework that the child speaks of, the child's own; of the others, the parent's."""
    own = child.bindings or []
    spoken_of = {binding.framework for binding in own}
    return [*(binding for binding in parent.bindings if binding.framework not in spoken_of), *own]


def _merged(parent: Profile, child: ProfileOverrides, name: str) -> dict[str, Any]:
    override = child.parameters.get(name)
    return {**parent.parameters[name].model_dump(), **(override.model_dump(exclude_none=True) if override else {})}


def _profile(document: dict[str, Any]) -> Profile:
    try:
        return Profile.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise problems.from_validation(error.errors()) or ProfileInvalid(f"`{where}`: {first['msg']}") from error
