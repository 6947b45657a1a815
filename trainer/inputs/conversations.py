"""Conversations and tools as people write them, mapped to the one form that chat templates read: OpenAI's.

turn   {"from", "value"} (ShareGPT) -> {"role", "content"}: human, user -> user; gpt, assistant -> assistant;
       system -> system; function_call -> an assistant's turn with `tool_calls`, its value being the JSON of a call
       {"name", "arguments"} or of a list of them; observation, function_response, tool -> tool
call   {"function": {"name", "arguments"}} or {"name", "arguments"}, arguments as an object or as JSON text -> an
       object: templates write it out themselves (transformers, "Tool use"). OpenAI's older `function_call` and role
       `function` are read as well
tools  a list, or JSON text of one; {"name", "parameters"} -> {"type": "function", "function": {...}}

What cannot be read stays as it is, and `columns` refuses it with row and place.
"""

import json
from collections.abc import Mapping
from typing import Any

from trainer.inputs import inside

ROLES_OF_SHAREGPT = {
    "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system",
    "function_call": "assistant", "observation": "tool", "function_response": "tool", "tool": "tool",
}  # fmt: skip


def turns(value: Any) -> Any:
    """A conversation in OpenAI's form."""
    listed = _parsed(value)
    return [_turn(turn) if isinstance(turn, dict) else turn for turn in listed] if isinstance(listed, list) else value


def words(value: Any, speaker: str) -> Any:
    """The text of one turn of `speaker`, or of a conversation of that turn alone; anything else as it is."""
    (turn,) = value if isinstance(value, list) and len(value) == 1 else (value,)
    if not isinstance(turn, dict) or {*turn} not in ({"from", "value"}, {"role", "content"}):
        return value
    read = _turn(turn)
    return read["content"] if read["role"] == speaker and isinstance(read["content"], str) else value


def tools(value: Any) -> Any:
    """The schemas of tools in OpenAI's form; none of them is an empty list."""
    listed = _parsed(value)
    if not isinstance(listed, list):
        return value
    return [{"type": "function", "function": tool} if _is_bare(tool) else tool for tool in listed]


def _turn(turn: Mapping[str, Any]) -> Mapping[str, Any]:
    if "from" in turn and "value" in turn:
        return _of_sharegpt(turn)
    read = {**turn, "role": "tool" if turn.get("role") == "function" else turn.get("role")}
    if isinstance(read.get("function_call"), dict):
        read["tool_calls"] = [read.pop("function_call")]
    if isinstance(read.get("tool_calls"), list) and read["tool_calls"]:
        read["tool_calls"] = [_call(call) for call in read["tool_calls"]]
        read["content"] = read.get("content") or ""  # a template that looks at it finds a text
    return read


def _of_sharegpt(turn: Mapping[str, Any]) -> Mapping[str, Any]:
    said = turn["value"]
    role = ROLES_OF_SHAREGPT.get(str(turn["from"]), turn["from"])
    if turn["from"] != "function_call":
        return {"role": role, "content": said if isinstance(said, str) else json.dumps(said, ensure_ascii=False)}
    calls = _parsed(said)
    return {
        "role": role,
        "content": "",
        "tool_calls": [_call(call) for call in (calls if isinstance(calls, list) else [calls])],
    }


def _call(call: Any) -> Any:
    function = call.get("function", call) if isinstance(call, dict) else None
    if not isinstance(function, dict) or "name" not in function or inside.unknown_in_call(call):
        return call
    arguments = _parsed(function.get("arguments", {}))
    return {
        **({"id": call["id"]} if "id" in call else {}),
        "type": "function",
        "function": {"name": function["name"], "arguments": arguments if arguments not in (None, "") else {}},
    }


def _is_bare(tool: Any) -> bool:
    return isinstance(tool, dict) and "name" in tool and "function" not in tool


def is_no_json(value: Any) -> bool:
    """Whether this is a text that JSON cannot be read from."""
    return isinstance(value, str) and _parsed(value) is value


def _parsed(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        return value
