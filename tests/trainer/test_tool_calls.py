"""A call is the right one by its name and its arguments, however the model wrote it down."""

from pathlib import Path
from typing import Any

import pytest

from trainer.tool_calls import Call, Said, matched, misfit, of_message, read, same

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string"},
                "days": {"type": "integer"},
                "unit": {"type": "string", "enum": ["c", "f"], "default": "c"},
                "at": {"type": "array", "items": {"type": "number"}},
            },
            "required": ["city"],
        },
    },
}
CLOCK = {"name": "clock", "parameters": {"type": "object", "properties": {}}}
TOOLS = [WEATHER, CLOCK]
PARIS = Call("weather", {"city": "Paris", "days": 3})
JSON = '{"name": "weather", "arguments": {"city": "Paris", "days": 3}}'


@pytest.mark.parametrize(
    "text",
    [
        f"<tool_call>\n{JSON}\n</tool_call>",
        f"Let me see. <tool_call>{JSON}</tool_call><|im_end|>",
        f"<tool_call>\n{JSON}",
        JSON,
        f"[{JSON}]",
        f"<|python_tag|>{JSON.replace('arguments', 'parameters')}<|eom_id|>",
        f"[TOOL_CALLS] [{JSON}]",
        f"<functioncall> {JSON}",
        f"```json\n{JSON}\n```",
        '{"name": "weather", "arguments": "{\\"city\\": \\"Paris\\", \\"days\\": 3}"}',
        f'{{"type": "function", "function": {JSON}}}',
        "<tool_call>\n<function=weather>\n<parameter=city>\nParis\n</parameter>\n<parameter=days>\n3\n</parameter>\n"
        "</function>\n</tool_call>",
    ],
    ids=["hermes", "after words", "cut short", "plain", "list", "llama", "mistral", "glaive", "fenced", "json text",
         "openai", "qwen coder"],
)  # fmt: skip
def test_a_call_is_read_in_every_usual_form(text: str) -> None:
    assert read(text, TOOLS) == Said([PARIS])


def test_several_calls_are_read_in_their_order() -> None:
    clock = '{"name": "clock", "arguments": {}}'
    both = Said([PARIS, Call("clock", {})])

    assert read(f"<tool_call>{JSON}</tool_call>\n<tool_call>{clock}</tool_call>") == both
    assert read(f"<tool_call>{JSON}<tool_call>{clock}") == both
    assert read(f"[{JSON}, {clock}]") == both
    assert read(f"{JSON}; {clock}") == both


def test_an_untyped_form_takes_its_types_from_the_schema() -> None:
    text = "<tool_call><function=weather><parameter=city>75001</parameter><parameter=at>[1, 2]</parameter></function>"

    assert read(text, TOOLS) == Said([Call("weather", {"city": "75001", "at": [1, 2]})])


@pytest.mark.parametrize(
    "text",
    ["", "It rains.", '{"city": "Paris"}', '{"name": "Paris", "age": 3}', "[1, 2]", "[]", "{not json}", "{" * 5_000],
)
def test_words_are_no_calls_and_no_broken_ones(text: str) -> None:
    assert read(text) == Said()


@pytest.mark.parametrize(
    ("text", "broken"),
    [
        ("<tool_call>weather(Paris)</tool_call>", "weather(Paris)"),
        ('<tool_call>{"name": "weather", "arguments": {"city": "Par', '{"name": "weather", "arguments": {"city": "Par'),
        ('{"name": "weather", "arguments": {"city": ', '{"name": "weather", "arguments": {"city": '),
        ('<tool_call>{"arguments": {}}</tool_call>', '{"arguments": {}}'),
        ('<tool_call>{"name": "weather", "arguments": [1]}</tool_call>', '{"name": "weather", "arguments": [1]}'),
        ("<tool_call>" + "[" * 100_000, "[" * 100_000),
    ],
)
def test_a_call_that_cannot_be_read_is_kept_as_it_was_written(text: str, broken: str) -> None:
    assert read(text) == Said(broken=[broken])


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ({"city": "Paris", "days": "3"}, "days: '3' is not of type 'integer'"),
        ({"days": 3}, "'city' is a required property"),
        ({"city": "Paris", "unit": "k"}, "unit: 'k' is not one of ['c', 'f']"),
        ({"city": "Paris", "at": [1, "x"]}, "at/1: 'x' is not of type 'number'"),
        ({"city": "Paris", "when": "now"}, "has no argument `when`"),
        ({"city": "Paris", "days": 3.5}, "days: 3.5 is not of type 'integer'"),
    ],
)
def test_a_call_that_fits_no_schema_is_told_why(arguments: dict[str, Any], why: str) -> None:
    assert why in (misfit(Call("weather", arguments), TOOLS) or "")


def test_a_call_that_fits_is_no_misfit() -> None:
    assert misfit(PARIS, TOOLS) is None
    assert misfit(Call("clock", {}), TOOLS) is None
    assert misfit(Call("timer", {}), TOOLS) == "there is no tool `timer`"


def test_a_schema_of_others_fetches_nothing_and_runs_no_pattern(tmp_path: Path) -> None:
    import time

    slow = {"type": "string", "pattern": "^(a+)+$"}
    tool = {"name": "f", "parameters": {"type": "object", "properties": {"x": slow}}}
    started = time.perf_counter()

    assert misfit(Call("f", {"x": "a" * 40 + "!"}), [tool]) is None
    assert time.perf_counter() - started < 5
    (tmp_path / "schema.json").write_text("{}")  # jsonschema alone would open it, and addresses of the network as well
    outside = {"name": "f", "parameters": {"$ref": (tmp_path / "schema.json").as_uri()}}
    with pytest.raises(ValueError, match="refers to"):
        misfit(Call("f", {}), [outside])
    with pytest.raises(ValueError, match="no JSON schema"):
        misfit(Call("f", {}), [{"name": "f", "parameters": {"type": "dict"}}])


ANY = {"name": "any"}


@pytest.mark.parametrize(
    ("right", "given"),
    [
        ({"a": "New York, NY"}, {"a": "new york ny"}),
        ({"a": 5}, {"a": 5.0}),
        ({"a": [1, "X y"]}, {"a": [1.0, "xy"]}),
        ({"a": {"b": None, "c": "d"}}, {"a": {"c": "D", "b": None}}),
        ({"a": 1, "b": True}, {"b": True, "a": 1}),
        ({}, {}),
    ],
)
def test_values_that_mean_the_same_match(right: dict[str, Any], given: dict[str, Any]) -> None:
    assert same([Call("any", right)], Said([Call("any", given)]), [ANY])


@pytest.mark.parametrize(
    ("right", "given"),
    [
        ({"a": 5}, {"a": "5"}),
        ({"a": 1}, {"a": True}),
        ({"a": "x"}, {"a": "y"}),
        ({"a": 1}, {"a": 1, "b": 2}),
        ({"a": 1, "b": 2}, {"a": 1}),
        ({"a": [1, 2]}, {"a": [2, 1]}),
        ({"a": [1]}, {"a": 1}),
        ({"a": None}, {"a": ""}),
        ({"a": {"b": 1}}, {"a": {"c": 1}}),
    ],
)
def test_values_that_mean_another_thing_do_not(right: dict[str, Any], given: dict[str, Any]) -> None:
    assert not same([Call("any", right)], Said([Call("any", given)]), [ANY])


def test_an_argument_that_repeats_its_default_may_be_there_or_not() -> None:
    plain, spelt = Call("weather", {"city": "Paris"}), Call("weather", {"city": "Paris", "unit": "c"})
    other = Call("weather", {"city": "Paris", "unit": "f"})

    assert same([plain], Said([spelt]), TOOLS)
    assert same([spelt], Said([plain]), TOOLS)
    assert not same([plain], Said([other]), TOOLS)
    assert not same([other], Said([plain]), TOOLS)


def test_a_turn_makes_all_its_calls_in_any_order_and_no_others() -> None:
    rome, clock = Call("weather", {"city": "Rome"}), Call("clock", {})

    assert same([PARIS, rome, clock], Said([clock, rome, PARIS]), TOOLS)
    assert not same([PARIS, rome], Said([PARIS]), TOOLS)
    assert not same([PARIS], Said([PARIS, PARIS]), TOOLS)
    assert not same([PARIS], Said([PARIS], ["{broken"]), TOOLS)
    assert matched([PARIS, rome, PARIS], [PARIS, clock, PARIS], TOOLS) == [0, None, 2]


def test_the_calls_of_a_row_are_those_of_its_message() -> None:
    function = {"name": "weather", "arguments": {"city": "Paris", "days": 3}}

    assert of_message({"role": "assistant", "content": "", "tool_calls": [{"function": function}]}) == [PARIS]
    assert of_message({"role": "assistant", "content": "It rains."}) == []
