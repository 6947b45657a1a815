"""Changes of a profile: every field has its class, and what is called compatible is what validation accepts."""

from collections.abc import Iterator
from itertools import permutations, product
from typing import Any

import pytest
from hypothesis import example, given, settings, strategies as st
from pydantic import ValidationError

from enforcer import profile_probes
from enforcer.bindings import Binding
from enforcer.columns import CleaningRule
from enforcer.compatibility import Compatibility, incompatibilities, losses
from enforcer.gates import Gate, Score, Verdict, judge
from enforcer.inheritance import inherit
from enforcer.problems import ArgumentInvalid, DatasetInvalid, ProfileInvalid
from enforcer.profile_changes import RULES, class_of, diff
from enforcer.profiles import Column, Limits, Parameter, ParameterOverride, Profile, ProfileOverrides
from trainer.inputs import columns
from trainer.inputs.cleaning import Cleaned, clean
from trainer.inputs.rows import Source

WHOLE = Profile(
    recipe="embedding",
    parameters={
        "size": Parameter(type="int", help="a size", default=8, minimum=1, maximum=64),
        "shape": Parameter(type="str", help="a shape", default="cosine", choices=["linear", "cosine"]),
        "seed": Parameter(type="int", help="a seed", default=7, locked=True),
        "name": Parameter(type="str", help="a name", required=True),
    },
    columns={
        "anchor": Column(type="text", help="the query"),
        "negative": Column(type="text", help="what does not fit", required=False),
        "left": Column(type="text", help="one of two", required=False),
        "right": Column(type="text", help="the other", required=False),
    },
    metrics=["accuracy", "recall"],
    gates=[Gate(metric="accuracy", value=0.9, min_n=100, confidence=0.95)],
    pool="t4",
    limits=Limits(max_gpus=4, max_runtime_s=3600),
    serving="/v1/embeddings",
    artifacts=["model", "metrics"],
    forms=[["left"], ["right", "left"]],
    cleaning=[
        CleaningRule(check="duplicate", action="drop"),
        CleaningRule(check="equal", columns=["left", "right"], action="report"),
        CleaningRule(check="leaked", action="drop"),
    ],
    max_dropped_share=0.2,
    bindings=[Binding(framework="ms-swift", versions=">=4.0,<5", command="sft", args={"task_type": "embedding"})],
)


def changed(**changes: Any) -> Profile:
    """WHOLE with other values; `a__b` reaches into a field, and None takes an entry away."""
    document = WHOLE.model_dump()
    for path, value in changes.items():
        *way, last = path.split("__")
        at = document
        for step in way:
            at = at[int(step) if step.isdigit() else step]
        if value is None and way in (["parameters"], ["columns"]):
            del at[last]
        else:
            at[last] = value
    return Profile.model_validate(document)


WORDS = Parameter(type="bool", help="new", default=False)
CASES = [
    ({"maturity": "experimental"}, "loosening", False),
    ({"loss_mask": "all"}, "breaking", False),
    ({"forms": [["right", "left"], ["left"]]}, "editorial", False),
    ({"forms": [["left"], ["left", "right"]]}, "editorial", False),
    ({"forms": [["left"]]}, "editorial", False),
    ({"forms": [["left", "right"]]}, "breaking", True),
    ({"forms": [["left"], ["right", "left"], ["right"]]}, "loosening", False),
    ({"forms": []}, "loosening", False),
    ({"cleaning": [WHOLE.cleaning[n] for n in (1, 0, 2)]}, "editorial", False),
    ({"cleaning": [WHOLE.cleaning[n] for n in (0, 2)]}, "editorial", False),
    ({"cleaning__1__columns": ["right", "left"]}, "editorial", False),
    ({"cleaning": [WHOLE.cleaning[n] for n in (2, 1, 0)]}, "breaking", True),
    ({"cleaning__1__action": "drop"}, "breaking", True),
    ({"cleaning__1__action": "refuse"}, "tightening", True),
    ({"cleaning__2__action": "refuse"}, "tightening", True),
    ({"cleaning__2__action": "report"}, "breaking", False),
    ({"cleaning__0__action": "report"}, "breaking", True),
    ({"max_dropped_share": 0.1}, "tightening", True),
    ({"max_dropped_share": 0.3}, "loosening", False),
    ({"parameters__size__help": "other words"}, "editorial", False),
    ({"metrics": ["recall", "accuracy"]}, "editorial", False),
    ({"artifacts": ["metrics", "model"]}, "editorial", False),
    ({"columns__anchor__help": "other words"}, "editorial", False),
    ({"parameters__new": WORDS}, "compatible", False),
    ({"parameters__name__default": "a"}, "compatible", False),
    ({"metrics": ["accuracy", "recall", "map"]}, "compatible", False),
    ({"artifacts": ["model", "metrics", "faiss"]}, "compatible", False),
    ({"gates__0__value": 0.95}, "tightening", False),
    ({"gates__0__min_n": 200}, "tightening", False),
    ({"gates__0__confidence": 0.99}, "tightening", False),
    ({"gates": [*WHOLE.gates, Gate(metric="recall", value=0.5, min_n=1)]}, "tightening", False),
    ({"limits__max_gpus": 2}, "tightening", True),
    ({"limits__max_runtime_s": 600}, "tightening", False),
    ({"gates__0__value": 0.8}, "loosening", False),
    ({"gates__0__min_n": 10}, "loosening", False),
    ({"gates__0__confidence": None}, "loosening", False),
    ({"gates": []}, "loosening", False),
    ({"limits__max_gpus": 8}, "loosening", False),
    ({"limits__max_runtime_s": 7200}, "loosening", False),
    ({"parameters__seed__locked": False}, "loosening", False),
    ({"parameters__size__maximum": 128}, "loosening", False),
    ({"parameters__size__minimum": None}, "loosening", False),
    ({"parameters__shape__choices": ["linear", "cosine", "step"]}, "loosening", False),
    ({"parameters__name__required": False}, "loosening", False),
    ({"columns__anchor__required": False}, "loosening", False),
    ({"parameters__size": None}, "breaking", True),
    ({"parameters__new": {"type": "int", "help": "new", "required": True}}, "breaking", True),
    ({"parameters__size__maximum": 32}, "breaking", True),
    ({"parameters__size__default": 9}, "breaking", False),
    ({"parameters__size__type": "float"}, "loosening", False),
    ({"parameters__seed__default": 8}, "breaking", True),
    ({"parameters__shape__choices": ["cosine"]}, "breaking", True),
    ({"parameters__shape__locked": True}, "breaking", True),
    ({"columns__anchor": None}, "breaking", True),
    ({"columns__negative": None}, "breaking", True),
    ({"columns__negative__required": True}, "breaking", True),
    ({"columns__new": Column(type="text", help="new")}, "breaking", True),
    ({"columns__new": Column(type="text", help="new", required=False)}, "breaking", True),
    ({"columns__anchor__type": "label"}, "breaking", True),
    ({"metrics": ["accuracy"]}, "breaking", False),
    ({"artifacts": ["model"]}, "breaking", False),
    ({"recipe": "reranker"}, "breaking", False),
    ({"pool": "a100"}, "breaking", False),
    ({"serving": "/v1/rerank"}, "breaking", False),
    ({"serving": None}, "breaking", False),
    ({"bindings": []}, "breaking", False),
    ({"bindings__0__args": {"task_type": "reranker"}}, "breaking", False),
]


@pytest.mark.parametrize(("change", "change_class", "loses"), CASES, ids=str)
def test_a_changed_field_is_one_change_of_its_class(change: dict[str, Any], change_class: str, loses: bool) -> None:
    after = changed(**change)

    (found,) = diff(WHOLE, after)

    assert (found.change_class, found.loses) == (change_class, loses), found.sentence
    assert class_of(WHOLE, after) == change_class
    assert found.path.startswith(next(iter(change)).partition("__")[0])
    assert len(found.sentence) > len(found.path) / 2


def test_a_field_without_a_rule_is_breaking_and_never_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(RULES, "serving")  # type: ignore[arg-type]

    (found,) = diff(WHOLE, changed(serving="/v1/rerank"))

    assert (found.path, found.change_class, found.loses, found.widens) == ("serving", "breaking", True, True)
    assert "no rule" in found.sentence


# What each part of a profile may hold, and another value for it. A field that is new here has no rule yet: give it one.
PARTS: dict[str, tuple[type[Any], Any]] = {
    "parameters__size": (Parameter, WHOLE.parameters["size"]),
    "columns__anchor": (Column, WHOLE.columns["anchor"]),
    "gates__0": (Gate, WHOLE.gates[0]),
    "limits": (Limits, WHOLE.limits),
    "cleaning__1": (CleaningRule, WHOLE.cleaning[1]),
}


def test_every_field_of_a_profile_has_a_rule() -> None:
    assert set(RULES) == set(Profile.model_fields)


@pytest.mark.parametrize("path", PARTS)
def test_every_field_of_a_part_has_a_rule(path: str) -> None:
    """A stand-in value shows whether the rule for the part knows the field, whatever it means."""
    kind, whole = PARTS[path]
    for field in kind.model_fields:
        other = whole.model_copy(update={field: _another(getattr(whole, field))})

        sentences = [change.sentence for change in diff(WHOLE, _with(path, other))]

        assert sentences, f"a change of `{path}.{field}` is not told"
        assert not any("no rule" in sentence for sentence in sentences), f"`{path}.{field}` has no rule"


def _another(value: Any) -> Any:
    match value:
        case bool():
            return not value
        case int() | float():
            return value + 1
        case str():
            return {"int": "float", "text": "label", ">=": "<=", "equal": "duplicate", "report": "drop"}.get(
                value, value + "x"
            )
        case None:
            return ["a"]
        case list():
            return [*value, "name"]
        case dict():
            return {**value, "way": ["name"]}
    raise AssertionError(f"say here what else a field of {type(value)} may hold")


def _with(path: str, part: Any) -> Profile:
    field, _, name = path.partition("__")
    if field == "limits":
        return WHOLE.model_copy(update={"limits": part})
    held = getattr(WHOLE, field)
    return WHOLE.model_copy(update={field: [part] if isinstance(held, list) else {**held, name: part}})


# --- against brute force ----------------------------------------------------------------------------------------------

LETTERS = ["a", "b", "c"]
FRESH = "zz"
NUMBERS = [-1, 0, 1, 2, 3, 4]
WHOLE_NUMBERS = [*NUMBERS, 5, -(2**53) + 1, 2**53 - 1]
LISTS = [list(words) for n in (1, 2, 3, 4) for words in permutations([*LETTERS, FRESH], n)]
DOMAIN: list[object] = [
    None, False, True, *WHOLE_NUMBERS, *(float(n) for n in WHOLE_NUMBERS), 0.5, 2.5, -1.7e308, 1.7e308,
    *LETTERS, FRESH, *LISTS, ["a", "a"], ["zz", "zz"],
]  # fmt: skip
LABEL_DOMAIN = [None, *WHOLE_NUMBERS]

bound = st.none() | st.sampled_from([-0.5, 0.0, 0.5, 1.0, 2.0, 3.0])
some_words = st.none() | st.lists(st.sampled_from(LETTERS), min_size=1, unique=True)
DEFAULTS = {
    "int": st.sampled_from(NUMBERS),
    "float": st.sampled_from([*NUMBERS, 0.5, 2.0]),
    "bool": st.booleans(),
    "str": st.sampled_from([*LETTERS, FRESH]),
    "strings": st.sampled_from([["a"], ["b"], ["a", "b"], ["b", "a"], ["a", "b", "c"]]),
}


@st.composite
def parameters(draw: st.DrawFn, *types: str) -> Parameter:
    kind = draw(st.sampled_from(types or tuple(DEFAULTS)))
    rules: dict[str, Any] = {"type": kind, "help": draw(st.sampled_from(["one", "two"]))}
    if kind in ("int", "float"):
        rules |= {"minimum": draw(bound), "maximum": draw(bound)}
    if kind in ("str", "strings"):
        rules |= {"choices": draw(some_words)}
    rules |= {"default": draw(st.none() | DEFAULTS[kind]), "required": draw(st.booleans())}
    rules |= {"locked": rules["default"] is not None and draw(st.integers(0, 3)) == 0}
    try:
        return Parameter(**rules)
    except ValidationError:  # a default that breaks the rules, bounds that contradict each other
        return draw(parameters(kind))


def of(parameters: dict[str, Parameter], **changes: Any) -> Profile:
    return WHOLE.model_copy(update={"parameters": parameters, **changes})


def accepted(profile: Profile, configuration: dict[str, object]) -> bool:
    try:
        profile.resolve(configuration)
    except ArgumentInvalid:
        return False
    return True


def lost_by_force(before: Profile, after: Profile, domain: dict[str, list[Any]]) -> Iterator[dict[str, object]]:
    for values in product(*domain.values()):
        configuration = {name: value for name, value in zip(domain, values, strict=True) if value is not None}
        if accepted(before, configuration) and not accepted(after, configuration):
            yield configuration


def hold_against_force(before: Profile, after: Profile, domain: dict[str, list[Any]]) -> None:
    """Compatible means that no configuration is lost, and the witness of the contrary is one that really is."""
    found = losses(before, after)
    by_force = next(lost_by_force(before, after, domain), None)

    if not found:
        assert by_force is None, f"called compatible, and {by_force} is lost"
    for group in profile_probes.groups(before, after):
        witness = profile_probes.effect(before, after, group).lost
        if witness is not None:
            rest = _accepted_rest(before, group, domain)
            assert accepted(before, {**rest, **witness})
            assert not accepted(after, {**rest, **witness})


def _accepted_rest(profile: Profile, group: tuple[str, ...], domain: dict[str, list[Any]]) -> dict[str, object]:
    """Something for the other parameters, so that only the group can be what is refused."""
    rest: dict[str, object] = {}
    for other in profile_probes.groups(profile):
        if other != group:
            corners = profile_probes.configurations(profile, profile, other)
            part = profile.model_copy(update={"parameters": {n: profile.parameters[n] for n in other}})
            rest |= next(corner for corner in corners if accepted(part, corner))
    return rest


@settings(max_examples=250)
@given(st.none() | parameters(), st.none() | parameters())
@example(Parameter(type="float", help="x", minimum=0.5), Parameter(type="float", help="x", minimum=1))
@example(Parameter(type="float", help="x", minimum=1), Parameter(type="int", help="x", minimum=1))
@example(
    Parameter(type="strings", help="x", choices=["a"]),
    Parameter(type="strings", help="x", choices=["a"], default=["a"], locked=True),
)
@example(Parameter(type="int", help="x"), Parameter(type="int", help="x", minimum=0))
@example(Parameter(type="bool", help="x", default=False), Parameter(type="bool", help="x", default=False, locked=True))
@example(
    Parameter(type="str", help="x", default="a", choices=["a", "b"]),
    Parameter(type="str", help="x", default="a", choices=["a", "b"], locked=True),
)
def test_one_parameter_is_compatible_exactly_when_no_value_is_lost(
    before: Parameter | None, after: Parameter | None
) -> None:
    pair = [of({} if one is None else {"it": one}) for one in (before, after)]

    hold_against_force(pair[0], pair[1], {"it": DOMAIN})


labels = st.fixed_dictionaries({}, optional={"label_names": parameters("strings"), "num_labels": parameters("int")})


@settings(max_examples=60)
@given(labels, labels)
@example(
    {"label_names": Parameter(type="strings", help="x", required=True, choices=LETTERS),
     "num_labels": Parameter(type="int", help="x", minimum=2)},
    {"label_names": Parameter(type="strings", help="x", required=True, choices=["a", "b"]),
     "num_labels": Parameter(type="int", help="x", minimum=2)},
)  # fmt: skip
@example(
    {"label_names": Parameter(type="strings", help="x"), "num_labels": Parameter(type="int", help="x", maximum=3)},
    {"label_names": Parameter(type="strings", help="x"), "num_labels": Parameter(type="int", help="x", maximum=2)},
)
def test_label_names_and_their_number_are_judged_together(
    before: dict[str, Parameter], after: dict[str, Parameter]
) -> None:
    pair = [of(one) for one in (before, after)]
    if any(profile_probes.accepts_nothing(one, tuple(one.parameters)) for one in pair if one.parameters):
        return

    hold_against_force(pair[0], pair[1], {"label_names": [None, *LISTS, ["a", "a"]], "num_labels": LABEL_DOMAIN})


def test_thousands_of_labels_are_few_questions() -> None:
    """Anybody signed in may ask, and a proposal asks while others wait to write."""
    choices = [f"label-{n}" for n in range(2_000)]
    pair = [
        of({"label_names": Parameter(type="strings", help="x", choices=choices[at:]),
            "num_labels": Parameter(type="int", help="x", minimum=2 + at, maximum=1_900 - at)})
        for at in (0, 1)
    ]  # fmt: skip

    assert sum(1 for _ in profile_probes.configurations(pair[0], pair[1], profile_probes.LABELS)) < 200
    assert [path for path, _ in losses(pair[0], pair[1])] == ["parameters.label_names"]


several = st.fixed_dictionaries({}, optional={"one": parameters("int", "float"), "two": parameters("str", "bool")})
SMALL_DOMAIN = {"one": [None, *NUMBERS, 0.5, 2.5, 2.0, 5], "two": [None, True, False, *LETTERS, FRESH]}


@settings(max_examples=100)
@given(several, several)
def test_several_parameters_are_compatible_exactly_when_no_configuration_is_lost(
    before: dict[str, Parameter], after: dict[str, Parameter]
) -> None:
    hold_against_force(of(before), of(after), SMALL_DOMAIN)


@st.composite
def overrides(draw: st.DrawFn, parameter: Parameter) -> ParameterOverride:
    """Anything a child may say of a parameter, much of which is refused."""
    numeric, wordy = parameter.type in ("int", "float"), parameter.type in ("str", "strings")
    return ParameterOverride(
        default=draw(st.none() | DEFAULTS[parameter.type]),
        required=draw(st.none() | st.booleans()),
        minimum=draw(bound) if numeric else None,
        maximum=draw(bound) if numeric else None,
        choices=draw(some_words) if wordy else None,
        locked=draw(st.none() | st.booleans()),
    )


@settings(max_examples=120)
@given(st.data())
def test_the_arguments_of_every_child_are_accepted_by_its_parent(data: st.DataObject) -> None:
    """By brute force, with labels and without: what a child makes of a configuration, its parent takes as it is."""
    group = data.draw(st.sampled_from([labels, st.fixed_dictionaries({"it": parameters()})]))
    parent = of(data.draw(group))
    said = {name: data.draw(overrides(parameter)) for name, parameter in parent.parameters.items()}
    try:
        child = inherit(parent, ProfileOverrides(parameters=said))
    except ProfileInvalid:
        return

    domain = {"it": DOMAIN, "label_names": [None, *LISTS], "num_labels": LABEL_DOMAIN}
    for values in product(*(domain[name] for name in parent.parameters)):
        configuration = {n: v for n, v in zip(parent.parameters, values, strict=True) if v is not None}
        if accepted(child, configuration):
            parent.resolve(child.resolve(configuration))


SCORES = [Score(value=v, n=n, low=v - 0.1, high=v + 0.1, confidence=c)
          for v in (0.3, 0.5, 0.7) for n in (5, 50) for c in (0.9, 0.99)]  # fmt: skip
gates = st.builds(
    Gate,
    metric=st.just("accuracy"),
    op=st.sampled_from([">=", "<="]),
    value=st.sampled_from([0.25, 0.4, 0.45, 0.6]),
    min_n=st.sampled_from([1, 10]),
    confidence=st.sampled_from([None, 0.9, 0.95]),
)


@given(
    st.lists(gates, max_size=2, unique_by=lambda gate: gate.op), st.lists(gates, max_size=2, unique_by=lambda g: g.op)
)
@example([Gate(metric="accuracy", op="<=", value=0.4, min_n=1)], [Gate(metric="accuracy", op="<=", value=0.6, min_n=1)])
def test_a_change_that_lets_more_scores_pass_is_a_loosening(before: list[Gate], after: list[Gate]) -> None:
    found = diff(of({}, gates=before), of({}, gates=after))

    eased = [score for score in SCORES if passes(after, score) and not passes(before, score)]
    assert not eased or any(change.widens and change.change_class == "loosening" for change in found)


def passes(gates: list[Gate], score: Score) -> bool:
    return all(judge(gate, score).verdict == Verdict.PASS for gate in gates)


# --- columns and limits, against what reads the data ------------------------------------------------------------------

text_columns = st.fixed_dictionaries(
    {"text": st.just(Column(type="text", help="x"))},
    optional={
        name: st.builds(Column, type=st.sampled_from(["text", "label"]), help=st.just("x"), required=st.booleans())
        for name in ("note", "mark")
    },
)
VALUES = [None, "a", 3]


def reads(profile: Profile, row: dict[str, Any], mapped: dict[str, str]) -> bool:
    source = Source(name="rows.jsonl", digest="", rows=[row])
    try:
        columns.examples(source, profile, mapped, {})
    except DatasetInvalid:
        return False
    return True


@settings(max_examples=60)
@given(text_columns, text_columns, st.integers(0, 3), st.integers(0, 3))
def test_data_and_gpus_that_were_fine_stay_fine_where_columns_and_limits_are_compatible(
    before: dict[str, Column], after: dict[str, Column], old_gpus: int, new_gpus: int
) -> None:
    old, new = (
        of({}, columns=held, forms=[], limits=Limits(max_gpus=gpus, max_runtime_s=60))
        for held, gpus in ((before, old_gpus), (after, new_gpus))
    )
    found = {path.partition(".")[0] for path, _ in losses(old, new)}

    assert ("limits" in found) == any(gpus <= old_gpus and gpus > new_gpus for gpus in range(4))
    if "columns" not in found:
        for note, mark, maps in product(VALUES, VALUES, (False, True)):
            row = {"text": "t", **{n: v for n, v in (("note", note), ("mark", mark)) if v is not None}}
            mapped = {name: name for name in row} if maps else {}
            assert reads(new, row, mapped) or not reads(old, row, mapped), (row, mapped)


# --- cleaning, against what cleans ------------------------------------------------------------------------------------

CHECKS: list[dict[str, Any]] = [{"check": "duplicate"}, {"check": "leaked"}, {"check": "equal", "columns": ["a", "b"]}]
actions = st.sampled_from(["report", "drop", "refuse"])
cleanings = st.permutations(CHECKS).flatmap(
    lambda checks: st.lists(actions, max_size=3).map(
        lambda chosen: [CleaningRule(**check, action=action) for check, action in zip(checks, chosen, strict=False)]
    )
)
shares = st.sampled_from([0, 0.2, 0.34, 0.5, 1])
some_rows = st.lists(st.fixed_dictionaries({"a": st.sampled_from("xy"), "b": st.sampled_from("xyz")}), max_size=4)


def cleaned(profile: Profile, train: list[Any], held_out: list[Any]) -> Cleaned | None:
    try:
        return clean(profile, train, held_out)
    except DatasetInvalid:
        return None


@settings(max_examples=200)
@given(cleanings, cleanings, shares, shares, st.lists(st.tuples(some_rows, some_rows), min_size=1, max_size=8))
def test_what_cleaning_takes_and_leaves_is_told_by_the_diff(
    before: list[CleaningRule], after: list[CleaningRule], old: float, new: float, data: list[Any]
) -> None:
    columns = {name: Column(type="text", help="x") for name in "ab"}
    pair = [
        of({}, columns=columns, forms=[], cleaning=rules, max_dropped_share=share)
        for rules, share in ((before, old), (after, new))
    ]
    found = diff(*pair)

    for train, held_out in data:
        was, now = (cleaned(profile, train, held_out) for profile in pair)
        assert was is None or now is not None or any(change.loses for change in found), (train, held_out)
        assert now is None or was is not None or any(change.widens for change in found), (train, held_out)
        if was is not None and now is not None and (was.train, was.eval) != (now.train, now.eval):
            assert any(change.change_class == "breaking" for change in found), (train, held_out)


@pytest.mark.parametrize(
    "change",
    [
        {"forms": [[]]},
        {"forms": [["left"], ["left"]]},
        {"forms": [["left", "right"], ["right", "left"]]},
        {"forms": [["left", "left"]]},
        {"cleaning": [{"check": "duplicate", "action": action} for action in ("drop", "refuse")]},
        {"cleaning": [{"check": "equal", "action": "drop", "columns": ["left", "left"]}]},
        {"cleaning": [{"check": "equal", "action": "drop", "columns": list(pair)}
                      for pair in (("left", "right"), ("right", "left"))]},
    ],
    ids=str,
)  # fmt: skip
def test_forms_and_rules_that_say_nothing_or_two_things_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        changed(**change)


def test_a_new_field_of_a_cleaning_rule_is_breaking_until_there_is_a_rule_for_it() -> None:
    class Wider(CleaningRule):
        share: int = 1

    old, new = (Wider(check="duplicate", action="report", share=share) for share in (1, 2))

    (found,) = diff(of({}, cleaning=[old]), of({}, cleaning=[new]))

    assert (found.change_class, found.loses, found.widens) == ("breaking", True, True)


# --- modes ------------------------------------------------------------------------------------------------------------

NARROW, WIDE = changed(parameters__size__maximum=32), changed(parameters__size__maximum=128)


@pytest.mark.parametrize(
    ("mode", "earlier", "following", "broken"),
    [
        ("NONE", [WHOLE], NARROW, []),
        ("BACKWARD", [WHOLE], WIDE, []),
        ("BACKWARD", [WHOLE], NARROW, [("backward", 1)]),
        ("BACKWARD", [WIDE, NARROW], WHOLE, []),
        ("BACKWARD_TRANSITIVE", [WIDE, NARROW], WHOLE, [("backward", 1)]),
        ("FORWARD", [WHOLE], NARROW, []),
        ("FORWARD", [WHOLE], WIDE, [("forward", 1)]),
        ("FORWARD", [NARROW, WIDE], WHOLE, []),
        ("FORWARD_TRANSITIVE", [NARROW, WIDE], WHOLE, [("forward", 1)]),
        ("FULL", [WHOLE], WHOLE, []),
        ("FULL", [WHOLE], WIDE, [("forward", 1)]),
        ("FULL", [WHOLE], NARROW, [("backward", 1)]),
        ("FULL", [WIDE, WHOLE], WHOLE, []),
        ("FULL_TRANSITIVE", [WIDE, WHOLE], WHOLE, [("backward", 1)]),
    ],
)
def test_a_mode_protects_what_it_says(
    mode: str, earlier: list[Profile], following: Profile, broken: list[tuple[str, int]]
) -> None:
    found = incompatibilities(Compatibility(mode), dict(enumerate(earlier, start=1)), following)

    assert [(one.direction, one.version) for one in found] == broken
