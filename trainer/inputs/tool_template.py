"""Tools for chat templates that know none: the Hermes form, put in front of the model's own template.

Many chat models come with a template that reads `role` and `content` and drops `tools` and `tool_calls` in silence.
Training on such a rendering would teach a model to say nothing where it should call. So its template gets a preface
that writes tools, calls and results into the contents, in the form of NousResearch's Hermes models, which Qwen took
over and vLLM reads (`--tool-call-parser hermes`); then it goes on as it was. Without tools the preface changes nothing.
The taught template is saved with the model: what is trained is what is served.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from enforcer.problems import DatasetInvalid

PREFACE = """\
{%- set taught = namespace(turns=[], system='') -%}
{%- if tools -%}
    {%- set taught.system = '# Tools\\n\\nYou may call one or more functions to assist with the user query.\\n\\n' ~
        'You are provided with function signatures within <tools></tools> XML tags:\\n<tools>' -%}
    {%- for tool in tools -%}
        {%- set taught.system = taught.system ~ '\\n' ~ (tool | tojson) -%}
    {%- endfor -%}
    {%- set taught.system = taught.system ~ '\\n</tools>\\n\\nFor each function call, return a json object with ' ~
        'function name and arguments within <tool_call></tool_call> XML tags:\\n<tool_call>\\n' ~
        '{"name": <function-name>, "arguments": <args-json-object>}\\n</tool_call>' -%}
    {%- if not messages or messages[0].role != 'system' -%}
        {%- set taught.turns = [{'role': 'system', 'content': taught.system}] -%}
    {%- endif -%}
{%- endif -%}
{%- for turn in messages -%}
    {%- set said = namespace(text=turn.content or '') -%}
    {%- if turn.role == 'system' and loop.first and tools -%}
        {%- set said.text = said.text ~ '\\n\\n' ~ taught.system -%}
    {%- endif -%}
    {%- for call in turn.tool_calls or [] -%}
        {%- set call = call.function or call -%}
        {%- set said.text = said.text ~ ('\\n' if said.text else '') ~ '<tool_call>\\n' ~
            ({'name': call.name, 'arguments': call.arguments} | tojson) ~ '\\n</tool_call>' -%}
    {%- endfor -%}
    {%- if turn.role == 'tool' -%}
        {%- set said.text = '<tool_response>\\n' ~ said.text ~ '\\n</tool_response>' -%}
    {%- endif -%}
    {%- set role = 'user' if turn.role == 'tool' else turn.role -%}
    {%- set taught.turns = taught.turns + [{'role': role, 'content': said.text}] -%}
{%- endfor -%}
{%- set messages = taught.turns -%}
"""
_TOOL = {
    "type": "function",
    "function": {
        "name": "probe_tool",
        "description": "A probe.",
        "parameters": {"type": "object", "properties": {"place": {"type": "string", "description": "A place."}}},
    },
}
_CALL = {
    "id": "call00001",
    "type": "function",
    "function": {"name": "probe_call", "arguments": {"place": "probe_place"}},
}
_TALK = (
    {"role": "user", "content": "Look."},
    {"role": "assistant", "content": "", "tool_calls": [_CALL]},
    {"role": "tool", "name": "probe_call", "tool_call_id": "call00001", "content": "probe_result"},
    {"role": "assistant", "content": "Seen."},
)


def knows_tools(render: Callable[[Sequence[Mapping[str, Any]], Any], str]) -> bool:
    """Whether a template shows the model its tools, its calls and their results."""
    try:
        text = render(_TALK, [_TOOL])
    except DatasetInvalid:
        return False
    return all(word in text for word in ("probe_tool", "probe_call", "probe_place", "probe_result"))


def uses_tools(messages: Sequence[Mapping[str, Any]], tools: Any) -> bool:
    return bool(tools) or any(turn.get("tool_calls") or turn["role"] == "tool" for turn in messages)
