"""However a conversation with tools is written, templates read one form of it."""

from typing import Any

import pytest

from enforcer.columns import Column
from enforcer.problems import DatasetInvalid
from enforcer.profiles import Limits, Profile
from trainer.inputs import conversations, rows
from trainer.inputs.columns import examples

LOOK = {"type": "function", "function": {"name": "look", "arguments": {"at": "sky"}}}
OPENAI = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Look up."},
    {"role": "assistant", "content": "", "tool_calls": [LOOK]},
    {"role": "tool", "content": '{"seen": "clouds"}'},
    {"role": "assistant", "content": "Clouds."},
]
PROFILE = Profile(
    recipe="r", parameters={}, metrics=[], pool="p", limits=Limits(max_gpus=0, max_runtime_s=60),
    columns={"messages": Column(type="messages", help="m"), "tools": Column(type="tools", help="t")},
)  # fmt: skip


def test_sharegpt_is_read_as_openai() -> None:
    turns = [
        {"from": "system", "value": "Be brief."},
        {"from": "human", "value": "Look up."},
        {"from": "function_call", "value": '{"name": "look", "arguments": {"at": "sky"}}'},
        {"from": "observation", "value": '{"seen": "clouds"}'},
        {"from": "gpt", "value": "Clouds."},
    ]

    assert conversations.turns(turns) == OPENAI


@pytest.mark.parametrize(
    "call",
    [
        {"tool_calls": [LOOK]},
        {"content": None, "tool_calls": [{"function": {"name": "look", "arguments": '{"at": "sky"}'}}]},
        {"content": "", "tool_calls": [{"name": "look", "arguments": {"at": "sky"}}]},
        {"content": None, "function_call": {"name": "look", "arguments": '{"at": "sky"}'}},
    ],
    ids=["no content", "openai", "bare", "older openai"],
)
def test_calls_become_objects_with_a_content_beside_them(call: dict[str, Any]) -> None:
    result = {"role": "function" if "function_call" in call else "tool", "content": '{"seen": "clouds"}'}

    assert conversations.turns([*OPENAI[:2], {"role": "assistant", **call}, result, OPENAI[4]]) == OPENAI


def test_several_calls_of_one_turn_and_calls_without_arguments_are_read() -> None:
    (turn,) = conversations.turns(
        [{"from": "function_call", "value": '[{"name": "a"}, {"name": "b", "arguments": ""}]'}]
    )

    assert [call["function"] for call in turn["tool_calls"]] == [
        {"name": "a", "arguments": {}},
        {"name": "b", "arguments": {}},
    ]


def test_an_id_of_a_call_stays_for_templates_that_ask_for_it() -> None:
    (turn,) = conversations.turns([{"role": "assistant", "tool_calls": [{**LOOK, "id": "call_1"}]}])

    assert turn["tool_calls"][0]["id"] == "call_1"


@pytest.mark.parametrize(
    "given", ['[{"name": "look"}]', [{"name": "look"}], [{"type": "function", "function": {"name": "look"}}]]
)
def test_tools_are_a_list_of_functions(given: Any) -> None:
    assert conversations.tools(given) == [{"type": "function", "function": {"name": "look"}}]


def test_a_file_may_hold_a_conversation_as_json_text() -> None:
    import json

    (row,) = examples(rows.hold([{"messages": json.dumps(OPENAI), "tools": "[]"}]), PROFILE, {}, {})

    assert row == {"messages": OPENAI, "tools": []}


@pytest.mark.parametrize(
    "turn",
    [
        {"from": "function_call", "value": "look(sky)"},
        {"from": "function_call", "value": '{"arguments": {}}'},
        {"from": "function_call", "value": '{"name": "look", "arguments": [1]}'},
        {"from": "function_call", "value": '{"name": "look", "arguments": "{broken"}'},
        {"from": "narrator", "value": "Later."},
        {"role": "assistant", "content": None},
        {"role": "assistant", "content": "", "tool_calls": ["look"]},
        {"role": "assistant", "content": "", "tool_calls": {"name": "look"}},
    ],
)
def test_what_is_no_turn_is_refused_with_its_row(turn: dict[str, Any]) -> None:
    good = {"messages": OPENAI, "tools": []}

    with pytest.raises(DatasetInvalid, match=r"row 2 of .*it holds a conversation") as refused:
        examples(rows.hold([good, {"messages": [OPENAI[1], turn], "tools": []}]), PROFILE, {}, {})

    assert refused.value.facts["pointer"].startswith("/messages/1")


@pytest.mark.parametrize(
    ("turn", "says"),
    [
        ({"from": "function_call", "value": '{"name": "look", "args": {"at": "sky"}}'}, "has `args` beside its `name`"),
        ({"role": "assistant", "tool_calls": [{"name": "look", "parameters": {}}]}, "has `parameters` beside"),
        (
            {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "a", "arguments": {}, "x": 1}}]},
            "has `x` beside",
        ),
        ({"from": "function_call", "value": '{"name": "look"'}, "is no call: it is not JSON"),
        ({"from": "function_call", "value": '{"name": "look", "arguments": "{broken"}'}, "the text is not JSON"),
    ],
)
def test_a_call_that_would_lose_its_arguments_is_refused(turn: dict[str, Any], says: str) -> None:
    with pytest.raises(DatasetInvalid, match=says) as refused:
        examples(rows.hold([{"messages": [OPENAI[1], turn], "tools": []}]), PROFILE, {}, {})

    assert refused.value.facts["pointer"] == "/messages/1/tool_calls/0"


def test_what_is_null_in_a_call_is_nothing() -> None:
    """Tables give every call the columns of all."""
    call = {"id": None, "type": "function", "function": {**LOOK["function"], "args": None}}  # type: ignore[dict-item]
    (turn,) = conversations.turns([{"role": "assistant", "content": "", "tool_calls": [call]}])

    assert turn["tool_calls"][0]["function"] == LOOK["function"]


def test_a_conversation_of_broken_json_is_told_as_such() -> None:
    with pytest.raises(DatasetInvalid, match="`messages` is text that is not JSON"):
        examples(rows.hold([{"messages": '[{"role": "user"', "tools": []}]), PROFILE, {}, {})
