"""What a change of a profile means for those who train under it.

A diff is a list of changed fields, each of one class; the class of the whole is the heaviest. The parameters are
classed by what `Profile.resolve` accepts (`profile_probes.py`), field after field in one order, each from the profile
that the changes before it lead to.

    editorial   nothing that is checked or done differs: help texts, the order of metrics and artifacts
    compatible  something is added that no rule forbade: a parameter that may be left out, a metric, an artifact, a
                binding, a serving interface where there was none, a default where a value had to be given
    tightening  the bar is raised for the same run: a gate is new or harder, a limit is lower
    loosening   a rule gives way: a gate is easier or gone, a limit or bound is wider, a choice more, a lock released,
                something need not be given any more
    breaking    a run that was fine as it stood is refused, or is not the same run: a parameter, column, metric,
                artifact or binding is gone, one must be given, bounds cut off what was accepted; recipe, pool, serving
                interface, a column's type, a new column, which data may have had unread, a binding's arguments; and a
                default, because a configuration that leaves it open trains something else without being told
                (Google's AIP-180 counts it so, too)

Beside its class a change says what it does to run configurations: it `loses` one that was accepted, which is what
compatibility is about (`compatibility.py`), or `widens` what the task type allows, which a child must not
(`inheritance.py`). Class and compatibility are not the same: fewer GPUs are a tightening, and lose the configurations
that ask for more; another default is breaking, and every configuration stays valid.

A field that no rule is for is breaking, loses and widens.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from pydantic import BaseModel

from enforcer import profile_probes
from enforcer.bindings import Binding
from enforcer.columns import CleaningRule, Column
from enforcer.concerns import covers, which
from enforcer.gates import Gate
from enforcer.profiles import Parameter, Profile


class ChangeClass(StrEnum):
    """Lightest first. A change of several classes is of the heaviest of them."""

    EDITORIAL = "editorial"
    COMPATIBLE = "compatible"
    TIGHTENING = "tightening"
    LOOSENING = "loosening"
    BREAKING = "breaking"


WEIGHT = {change_class: weight for weight, change_class in enumerate(ChangeClass)}


@dataclass(frozen=True)
class FieldChange:
    """One field, by its path in the profile; `before` or `after` is None where there was or is nothing."""

    path: str
    before: Any
    after: Any
    change_class: ChangeClass
    sentence: str
    loses: bool = False
    widens: bool = False


def diff(before: Profile, after: Profile) -> tuple[FieldChange, ...]:
    """Every field that changed. Raises nothing: what no rule knows is listed as breaking."""
    fields = sorted(Profile.model_fields, key=list({**RULES, **Profile.model_fields}).index)
    return tuple(
        change
        for field in fields
        if getattr(before, field) != getattr(after, field)
        for change in RULES.get(field, _no_rule)(field, before, after)
    )


def class_of(before: Profile, after: Profile) -> ChangeClass:
    """The class of the whole change."""
    return heaviest(change.change_class for change in diff(before, after))


def heaviest(classes: Iterable[ChangeClass]) -> ChangeClass:
    return max(classes, key=WEIGHT.__getitem__, default=ChangeClass.EDITORIAL)


# --- parameters -------------------------------------------------------------------------------------------------------

# The default before the lock: what a lock cuts off shows best when it closes on the new value.
PARAMETER_ORDER = ("type", "minimum", "maximum", "choices", "default", "required", "locked")
PARAMETER_WORDS = ("help",)


def _parameters(_field: str, before: Profile, after: Profile) -> Iterator[FieldChange]:
    at = before
    for name in sorted({*before.parameters, *after.parameters}):
        for path, old, new, then in _parameter_steps(name, at.parameters.get(name), after.parameters.get(name)):
            changed = {n: p for n, p in {**at.parameters, name: then}.items() if p is not None}
            following = at.model_copy(update={"parameters": changed})
            yield _parameter_change(name, path, (old, new), at, following)
            at = following


def _parameter_steps(
    name: str, before: Parameter | None, after: Parameter | None
) -> Iterator[tuple[str, Any, Any, Parameter | None]]:
    """Path, value before and after, and the parameter with this and all former steps taken."""
    if before is None or after is None:
        yield f"parameters.{name}", _plain(before), _plain(after), after
        return
    at = before
    for field in sorted(Parameter.model_fields, key=[*PARAMETER_ORDER, *Parameter.model_fields].index):
        old, new = getattr(before, field), getattr(after, field)
        if old != new:
            at = at.model_copy(update={field: new})
            yield f"parameters.{name}.{field}", old, new, at


def _parameter_change(name: str, path: str, values: tuple[Any, Any], before: Profile, after: Profile) -> FieldChange:
    field = path.removeprefix(f"parameters.{name}").removeprefix(".")
    old, new = values
    if field in PARAMETER_WORDS:
        return FieldChange(path, old, new, ChangeClass.EDITORIAL, f"`{name}`: other words in `{field}`")
    if field and field not in PARAMETER_ORDER:
        return _unknown(path, old, new)
    found = profile_probes.effect(before, after, next(g for g in profile_probes.groups(before, after) if name in g))
    added, removed = name not in before.parameters, name not in after.parameters
    said = "is new" if added else "is gone" if removed else f"`{field}` {_shown(old)} -> {_shown(new)}"
    if found.lost is not None or found.differs is not None:
        change_class = ChangeClass.BREAKING
    elif found.widened is not None and not added:
        change_class = ChangeClass.LOOSENING
    else:
        change_class = ChangeClass.COMPATIBLE if added or found.gained is not None else ChangeClass.EDITORIAL
    loses, widens = found.lost is not None, found.widened is not None
    return FieldChange(path, old, new, change_class, f"`{name}` {said}{_witness(found)}", loses, widens)


def _witness(found: profile_probes.Effect) -> str:
    if found.lost is not None:
        return f": {in_words(found.lost)} was accepted, and is refused"
    if found.differs is not None:
        return f": {in_words(found.differs)} trains something else"
    if found.gained is not None:
        return f": {in_words(found.gained)} was refused, and is accepted"
    return ""


def in_words(configuration: Mapping[str, object]) -> str:
    given = ", ".join(f"{name}={_shown(value)}" for name, value in configuration.items())
    return f"`{given}`" if given else "a run that leaves it out"


# --- columns ----------------------------------------------------------------------------------------------------------


def _columns(_field: str, before: Profile, after: Profile) -> Iterator[FieldChange]:
    for name in sorted({*before.columns, *after.columns}):
        old, new = before.columns.get(name), after.columns.get(name)
        if old is None or new is None:
            yield _column_in_or_out(name, old, new)
            continue
        for field in Column.model_fields:
            if getattr(old, field) != getattr(new, field):
                yield _column_change(name, field, getattr(old, field), getattr(new, field))


def _column_in_or_out(name: str, old: Column | None, new: Column | None) -> FieldChange:
    path = f"columns.{name}"
    if new is None:
        said = f"column `{name}` is gone: data that is mapped to it is refused"
        return _breaking(path, _plain(old), None, said, loses=True, widens=True)
    # Data may have had a column of that name that nobody read: as with JSON Schema's open content models.
    need = "every row needs it" if new.required else "data that has one is read otherwise"
    return _breaking(path, None, _plain(new), f"column `{name}` is new: {need}", loses=True, widens=not new.required)


def _column_change(name: str, field: str, old: Any, new: Any) -> FieldChange:
    path = f"columns.{name}.{field}"
    match field:
        case "help":
            return FieldChange(path, old, new, ChangeClass.EDITORIAL, f"column `{name}`: other words in `help`")
        case "required" if new:
            return _breaking(path, old, new, f"column `{name}`: rows without it are refused", loses=True)
        case "required":
            said = f"column `{name}`: rows may leave it out"
            return FieldChange(path, old, new, ChangeClass.LOOSENING, said, widens=True)
        case "type":
            said = f"column `{name}` holds {new}, and held {old}"
            return _breaking(path, old, new, said, loses=True, widens=True)
        case "when":
            now, then = (which(one) or " in every run" for one in (new, old))
            said = f"column `{name}` is read{now}, and was read{then}"
            return _breaking(path, old, new, said, loses=True, widens=True)
    return _unknown(path, old, new)


# --- gates and limits -------------------------------------------------------------------------------------------------


def _gates(_field: str, before: Profile, after: Profile) -> Iterator[FieldChange]:
    olds, news = ({(gate.metric, gate.op): gate for gate in profile.gates} for profile in (before, after))
    if olds == news:
        yield _reordered("gates", before.gates, after.gates)
    for key in sorted({*olds, *news}):
        old, new, path = olds.get(key), news.get(key), f"gates.{key[0]} {key[1]}"
        if old is None and new is not None:
            said = f"a gate is new: {gate_in_words(new)}"
            yield FieldChange(path, None, _plain(new), ChangeClass.TIGHTENING, said)
        elif new is None and old is not None:
            said = f"a gate is gone: {gate_in_words(old)}"
            yield FieldChange(path, _plain(old), None, ChangeClass.LOOSENING, said, widens=True)
        elif old is not None and new is not None:
            yield from _gate_changes(path, old, new)


def _gate_changes(path: str, old: Gate, new: Gate) -> Iterator[FieldChange]:
    """Harder is what fewer scores pass: see `gates.judge`."""
    rises = {"value": old.op == ">=", "min_n": True, "confidence": True}
    for field in Gate.model_fields:
        was, now = getattr(old, field), getattr(new, field)
        if was == now:
            continue
        if field == "when":
            yield _concerned(f"{path}.when", old, new)
            continue
        if field not in rises:
            yield _unknown(f"{path}.{field}", was, now)
            continue
        harder = ((now or 0) > (was or 0) if field != "value" else now > was) is rises[field]
        said = (
            f"the gate on `{old.metric}` is {'harder' if harder else 'easier'}: {field} {_shown(was)} -> {_shown(now)}"
        )
        change_class = ChangeClass.TIGHTENING if harder else ChangeClass.LOOSENING
        yield FieldChange(f"{path}.{field}", was, now, change_class, said, widens=not harder)


def _concerned(path: str, old: Gate, new: Gate) -> FieldChange:
    """A gate is harder where it concerns every run that it concerned, and others."""
    more = covers(new.when, old.when)
    said = f"the gate on `{old.metric}` concerns {'more' if more else 'other'} runs: {gate_in_words(new)}"
    change_class = ChangeClass.TIGHTENING if more else ChangeClass.LOOSENING
    return FieldChange(path, old.when, new.when, change_class, said, widens=not more)


def _limits(_field: str, before: Profile, after: Profile) -> Iterator[FieldChange]:
    """A configuration asks for a number of GPUs, and never for a time: that ends a run, and refuses none."""
    for field in type(before.limits).model_fields:
        old, new, path = getattr(before.limits, field), getattr(after.limits, field), f"limits.{field}"
        if old == new:
            continue
        if field not in ("max_gpus", "max_runtime_s"):
            yield _unknown(path, old, new)
            continue
        lower, asked = new < old, field == "max_gpus"
        said = f"`{field}` is {'lower' if lower else 'higher'}: {old} -> {new}"
        change_class = ChangeClass.TIGHTENING if lower else ChangeClass.LOOSENING
        yield FieldChange(path, old, new, change_class, said, loses=lower and asked, widens=not lower)


# --- the rest ---------------------------------------------------------------------------------------------------------


def _replaced(field: str, before: Profile, after: Profile) -> Iterator[FieldChange]:
    """One word that says where or by what a run is made. There is no order between two of them."""
    old, new = getattr(before, field), getattr(after, field)
    yield _breaking(field, old, new, f"`{field}` {_shown(old)} -> {_shown(new)}", widens=True)


def _serving(field: str, before: Profile, after: Profile) -> Iterator[FieldChange]:
    if before.serving is None:
        said = f"models are served at `{after.serving}`"
        yield FieldChange(field, None, after.serving, ChangeClass.COMPATIBLE, said)
    else:
        yield from _replaced(field, before, after)


def _promised(field: str, before: Profile, after: Profile) -> Iterator[FieldChange]:
    """Names of what a run leaves. More of it harms nobody; somebody may read what is gone."""
    olds, news = getattr(before, field), getattr(after, field)
    if set(olds) == set(news):
        yield _reordered(field, olds, news)
    one = field.removesuffix("s")
    for name in sorted(set(olds) - set(news)):
        yield _breaking(f"{field}.{name}", name, None, f"{one} `{name}` is gone", widens=True)
    for name in sorted(set(news) - set(olds)):
        yield FieldChange(f"{field}.{name}", None, name, ChangeClass.COMPATIBLE, f"{one} `{name}` is new")


def _bindings(field: str, before: Profile, after: Profile) -> Iterator[FieldChange]:
    olds, news = (_by_name(profile.bindings) for profile in (before, after))
    if olds == news:
        yield _reordered(field, before.bindings, after.bindings)
    for name in sorted({*olds, *news}):
        old, new = olds.get(name), news.get(name)
        if old == new:
            continue
        if old is None:
            said = f"a binding to {name} is new"
            yield FieldChange(f"{field}.{name}", None, _plain(new), ChangeClass.COMPATIBLE, said)
        else:
            said = f"the binding to {name} is {'gone' if new is None else 'another'}"
            yield _breaking(f"{field}.{name}", _plain(old), _plain(new), said, widens=True)


def _by_name(bindings: Sequence[Binding]) -> dict[str, Binding]:
    """Several for one framework and range are told apart by their place."""
    named: dict[str, Binding] = {}
    for binding in bindings:
        name = f"{binding.framework} {binding.versions}"
        taken = sum(known == name or known.startswith(f"{name} #") for known in named)
        named[f"{name} #{taken + 1}" if taken else name] = binding
    return named


def _maturity(field: str, before: Profile, after: Profile) -> Iterator[FieldChange]:
    stable = after.maturity == "stable"
    said = "the library below keeps it stable" if stable else "the library below may change or drop it in any release"
    change_class = ChangeClass.COMPATIBLE if stable else ChangeClass.LOOSENING
    yield FieldChange(field, before.maturity, after.maturity, change_class, said)


def _forms(field: str, before: Profile, after: Profile) -> Iterator[FieldChange]:
    """Each form is one more way to give a row, and a row may have more columns than it asks for; without any form the
    required columns are the only way."""
    olds, news = ({tuple(sorted(form)) for form in profile.forms} for profile in (before, after))
    if olds == news:
        yield _reordered(field, before.forms, after.forms)
    elif not news:
        said = "rows may be of any form"
        yield FieldChange(field, before.forms, after.forms, ChangeClass.LOOSENING, said, widens=True)
    else:
        for form in sorted(olds ^ news):
            yield _form_in_or_out(f"{field}.{'+'.join(form)}", form, olds, news)


def _form_in_or_out(
    path: str, form: tuple[str, ...], olds: Set[tuple[str, ...]], news: Set[tuple[str, ...]]
) -> FieldChange:
    """Where another form asks for less than this one, the same rows are taken with it and without."""
    goes, others = form in olds, news if form in olds else olds
    said = f"rows of {_joined(form)} are {'no form' if goes else 'taken'}"
    old, new = (list(form) if form in forms else None for forms in (olds, news))
    if any(set(other) < set(form) for other in others):
        return FieldChange(path, old, new, ChangeClass.EDITORIAL, f"{said}, and were taken with fewer columns")
    if goes:
        return _breaking(path, old, new, f"{said} any more", loses=True)
    if not olds:
        return _breaking(path, old, new, f"only {said}", loses=True)
    return FieldChange(path, old, new, ChangeClass.LOOSENING, said, widens=True)


def _cleaning(field: str, before: Profile, after: Profile) -> Iterator[FieldChange]:
    """What is dropped is not trained on, so it is another run, and later rules do not see it; too much of it is
    refused. What is refused raises the bar. A rule that only reports does as much as none."""
    olds, news = ({rule.looks_for: rule for rule in profile.cleaning} for profile in (before, after))
    both = {key for key, rule in olds.items() if _acts(rule) and _acts(news.get(key))}
    orders = [[key for key in rules if key in both] for rules in (olds, news)]
    if orders[0] != orders[1]:
        said = "rules are applied in another order: what one of them drops, the next does not see"
        yield _breaking(field, _plain(before.cleaning), _plain(after.cleaning), said, loses=True, widens=True)
    elif {key: _comparable(rule) for key, rule in olds.items()} == {k: _comparable(rule) for k, rule in news.items()}:
        yield _reordered(field, before.cleaning, after.cleaning)
    for key in sorted({*olds, *news}):
        old, new = olds.get(key), news.get(key)
        if _comparable(old) != _comparable(new):
            yield _rule_change(
                f"{field}.{'.'.join(key)}", old, new, any(_follows(rules, key) for rules in (olds, news))
            )


def _rule_change(path: str, old: CleaningRule | None, new: CleaningRule | None, followed: bool) -> FieldChange:
    """`followed`: rules that act come after it."""
    was, now = (rule.action if rule else "report" for rule in (old, new))
    said, before, after = f"`{path.partition('.')[2]}` rows: {was} -> {now}", _plain(old), _plain(new)
    if old is not None and new is not None and _comparable(old, "action") != _comparable(new, "action"):
        return _unknown(path, old, new)
    if was == now:
        return FieldChange(path, before, after, ChangeClass.EDITORIAL, f"{said} (said or left out)")
    if now == "refuse":
        return FieldChange(path, before, after, ChangeClass.TIGHTENING, said, loses=True)
    if was == "refuse":
        return FieldChange(path, before, after, ChangeClass.LOOSENING, said, widens=True)
    return _breaking(path, before, after, said, loses=now == "drop" or followed, widens=now == "report" or followed)


def _comparable(rule: CleaningRule | None, *but: str) -> Any:
    return rule and {**rule.model_dump(exclude={*but}), "columns": sorted(rule.columns)}


def _acts(rule: CleaningRule | None) -> bool:
    return rule is not None and rule.action != "report"


def _follows(rules: Mapping[tuple[str, ...], CleaningRule], key: tuple[str, ...]) -> bool:
    names = list(rules)
    return key in rules and any(_acts(rules[name]) for name in names[names.index(key) + 1 :])


def _max_dropped_share(field: str, before: Profile, after: Profile) -> Iterator[FieldChange]:
    old, new = before.max_dropped_share, after.max_dropped_share
    said = f"cleaning may drop {new:.0%} of the rows, and might {old:.0%}"
    if all(rule.action != "drop" for rule in after.cleaning):
        yield FieldChange(field, old, new, ChangeClass.EDITORIAL, f"{said}; no rule drops any")
        return
    change_class = ChangeClass.TIGHTENING if new < old else ChangeClass.LOOSENING
    yield FieldChange(field, old, new, change_class, said, loses=new < old, widens=new > old)


def _joined(names: Iterable[str]) -> str:
    return " and ".join(f"`{name}`" for name in names)


def _no_rule(field: str, before: Profile, after: Profile) -> Iterator[FieldChange]:
    yield _unknown(field, _plain(getattr(before, field)), _plain(getattr(after, field)))


# One rule for each field of a profile (`tests/enforcer/test_profile_changes.py` walks them), in the order of telling.
RULES: Mapping[str, Callable[[str, Profile, Profile], Iterator[FieldChange]]] = {
    "recipe": _replaced,
    "maturity": _maturity,
    "parameters": _parameters,
    "columns": _columns,
    "forms": _forms,
    "cleaning": _cleaning,
    "max_dropped_share": _max_dropped_share,
    "loss_mask": _replaced,
    "metrics": _promised,
    "gates": _gates,
    "pool": _replaced,
    "limits": _limits,
    "serving": _serving,
    "artifacts": _promised,
    "bindings": _bindings,
}


def gate_in_words(gate: Gate) -> str:
    sure = f" at {gate.confidence:g} confidence" if gate.confidence is not None else ""
    return f"{gate.metric} {gate.op} {gate.value:g} on {gate.min_n} samples{sure}{which(gate.when)}"


def _breaking(path: str, old: Any, new: Any, said: str, *, loses: bool = False, widens: bool = False) -> FieldChange:
    return FieldChange(path, old, new, ChangeClass.BREAKING, said, loses, widens)


def _unknown(path: str, old: Any, new: Any) -> FieldChange:
    said = f"`{path}` changed, and no rule says what that means"
    return _breaking(path, _plain(old), _plain(new), said, loses=True, widens=True)


def _reordered(field: str, old: Any, new: Any) -> FieldChange:
    said = f"`{field}` stand in another order"
    return FieldChange(field, _plain(old), _plain(new), ChangeClass.EDITORIAL, said)


def _plain(value: Any) -> Any:
    """As in JSON."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    return [_plain(item) for item in value] if isinstance(value, list) else value


def _shown(value: Any) -> str:
    text = "none" if value is None else f"{value:.10g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 120 else f"{text[:117]}..."
