"""Tool calls: read out of what a model says, checked against the tools' schemas, matched with the right ones.

The match is that of the Berkeley Function Calling Leaderboard (Patil et al. 2025, "The Berkeley Function Calling
Leaderboard", ICML; `bfcl_eval/eval_checker/ast_eval/ast_checker.py`):

name       equal
arguments  every one that the right call gives, and no other; one that only repeats the `default` of its schema may be
           there or not
values     of the type that the schema says (an integer is a number, a text is neither); texts without regard to case,
           spaces and the signs `,./-_*^`; lists in their order, objects by their keys
a turn     as many calls as are right, each matched by one, in any order (BFCL: `parallel_function_checker_no_order`)

BFCL holds a call against lists of answers that people allowed; a dataset shows one, so this is the stricter of the two.
"""

import ast
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

# What a model writes around a call, by the family of its template. Special tokens may be gone when a text comes here.
_TAGGED = re.compile(r"<tool_call>(.*?)(?:</tool_call>|(?=<tool_call>)|\Z)", re.DOTALL)
_XML_CALL = re.compile(r"\s*<function=([^>\n]+)>(.*?)(?:</function>|\Z)", re.DOTALL)
_XML_ARGUMENT = re.compile(r"<parameter=([^>\n]+)>\n?(.*?)\n?</parameter>", re.DOTALL)
_BEFORE_JSON = re.compile(r"\s*(?:<\|python_tag\|>|\[TOOL_CALLS\]|<functioncall>|```(?:json)?\s*\n)?\s*")
_BETWEEN = re.compile(r"[\s;,]*")
_BROKEN_CALL = re.compile(r'\[?\s*\{\s*"name"|.*"(?:arguments|parameters)"', re.DOTALL)
_CALL_KEYS = frozenset({"arguments", "parameters", "function"})
_UNHEARD = re.compile(r"[ ,./\-_*^]")
_JSON = json.JSONDecoder()
Tools = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Call:
    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True)
class Said:
    """What a turn of a model asks of its tools; `broken` are calls that cannot be read, as they were written."""

    calls: list[Call] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)


def of_message(message: Mapping[str, Any]) -> list[Call]:
    """The calls of an assistant's turn as `inputs.conversations` leaves it."""
    functions = [call["function"] for call in message.get("tool_calls") or ()]
    return [Call(function["name"], function["arguments"]) for function in functions]


def read(text: str, tools: Tools = ()) -> Said:
    """The calls in a model's words, in any of the usual forms.

    `<tool_call>{"name": ..., "arguments": {...}}</tool_call>` (Hermes, Qwen), with `<function=...><parameter=...>`
    inside (Qwen3-Coder), or a text that begins with the JSON of a call or of a list of them (Llama, Mistral, plain).
    Where a form has no types (Qwen3-Coder), those of the `tools` decide what is a text.
    """
    said = Said()
    tagged = _TAGGED.findall(text)
    for part in tagged:
        _take(part.strip(), said, tools)
    if not tagged:
        _take_plain(text, said)
    return said


def misfit(call: Call, tools: Tools) -> str | None:
    """Why no tool can be called like this; None where one can.

    Raises:
        ValueError: a tool's schema is no JSON schema.
    """
    schema = _schemas(tools).get(call.name)
    if schema is None:
        return f"there is no tool `{call.name}`"
    error = _first_error(schema, call.arguments)
    if error is not None:
        return f"`{call.name}`: {'/'.join(map(str, error.absolute_path)) or 'arguments'}: {error.message[:300]}"
    known = schema.get("properties")
    strange = sorted(call.arguments.keys() - known.keys()) if isinstance(known, dict) else []
    if strange and "additionalProperties" not in schema:  # BFCL: an argument that no schema speaks of is an error
        return f"`{call.name}` has no argument `{strange[0]}`"
    return None


def matched(right: Sequence[Call], given: Sequence[Call], tools: Tools) -> list[int | None]:
    """For each right call the number of the given one that matches it, each used once; None where there is none."""
    schemas, left = _schemas(tools), list(range(len(given)))
    found: list[int | None] = []
    for call in right:
        fits = (i for i in left if _same_call(call, given[i], schemas.get(call.name, {})))
        found.append(next(fits, None))
        left = [i for i in left if i != found[-1]]
    return found


def same(right: Sequence[Call], said: Said, tools: Tools) -> bool:
    """Whether a turn makes the right calls, all of them and no others."""
    return not said.broken and len(right) == len(said.calls) and None not in matched(right, said.calls, tools)


def _take(written: str, said: Said, tools: Tools) -> None:
    xml = _XML_CALL.match(written)
    if xml is not None:
        types = _schemas(tools).get(xml.group(1).strip(), {}).get("properties") or {}
        arguments = {
            name: value if types.get(name, {}).get("type") == "string" else _loosely(value)
            for name, value in _XML_ARGUMENT.findall(xml.group(2))
        }
        said.calls.append(Call(xml.group(1).strip(), arguments))
        return
    try:
        document = json.loads(written)
    except (ValueError, RecursionError):
        said.broken.append(written)
        return
    _take_document(document, written, said)


def _take_plain(text: str, said: Said) -> None:
    """JSON values one after another; what is no call is words."""
    start = _end_of(_BEFORE_JSON.match(text))
    while start < len(text) and text[start] in "{[":
        try:
            document, end = _JSON.raw_decode(text, start)
        except (ValueError, RecursionError):
            if _BROKEN_CALL.match(text, start):
                said.broken.append(text[start:])
            return
        if not _looks_like_calls(document):
            return
        _take_document(document, text[start:end], said)
        start = _end_of(_BETWEEN.match(text, end))


def _take_document(document: Any, written: str, said: Said) -> None:
    for call in document if isinstance(document, list) else [document]:
        function = call.get("function", call) if isinstance(call, dict) else None
        name = function.get("name") if isinstance(function, dict) else None
        arguments = function.get("arguments", function.get("parameters", {})) if isinstance(function, dict) else None
        if isinstance(arguments, str):
            arguments = _loosely(arguments)
        if isinstance(name, str) and isinstance(arguments, dict):
            said.calls.append(Call(name, arguments))
        else:
            said.broken.append(written)


def _looks_like_calls(document: Any) -> bool:
    calls = document if isinstance(document, list) else [document]
    return bool(calls) and all(isinstance(call, dict) and _CALL_KEYS & call.keys() for call in calls)


def _loosely(text: str) -> Any:
    """JSON, or a value as Python writes it, else the text itself."""
    for parse in (json.loads, ast.literal_eval):
        try:
            return parse(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
    return text


def _end_of(found: re.Match[str] | None) -> int:
    assert found is not None, "the pattern matches nothing as well"
    return found.end()


def _schemas(tools: Tools) -> dict[str, Mapping[str, Any]]:
    """Parameters by the name of their tool, which may stand under `function` (OpenAI) or not."""
    functions = [tool.get("function", tool) for tool in tools]
    return {function["name"]: function.get("parameters") or {} for function in functions if "name" in function}


def _first_error(schema: Mapping[str, Any], arguments: Mapping[str, Any]) -> Any:
    """By JSON Schema, without what runs patterns that came with the data or fetches what it refers to."""
    from jsonschema import Draft202012Validator, validators
    from jsonschema.exceptions import SchemaError
    from referencing import Registry
    from referencing.exceptions import Unresolvable

    quiet = validators.extend(Draft202012Validator, {"pattern": _nothing, "patternProperties": _nothing})
    try:
        quiet.check_schema(schema)
        return next(quiet(schema, registry=Registry()).iter_errors(dict(arguments)), None)
    except SchemaError as error:
        raise ValueError(f"the parameters of a tool are no JSON schema: {error.message[:300]}") from error
    except Unresolvable as error:
        raise ValueError(f"the schema of a tool refers to `{error.ref}`, which is not in it") from error


def _nothing(*_: Any) -> Iterator[Any]:
    return iter(())


def _same_call(right: Call, given: Call, schema: Mapping[str, Any]) -> bool:
    if right.name != given.name:
        return False
    properties = schema.get("properties") or {}
    defaults = {name: value["default"] for name, value in properties.items() if "default" in value}
    wanted, got = ({**defaults, **call.arguments} for call in (right, given))
    return wanted.keys() == got.keys() and all(_same_value(wanted[name], got[name]) for name in wanted)


def _same_value(right: Any, given: Any) -> bool:
    match right, given:
        case (bool(), _) | (_, bool()):
            return right is given
        case int() | float(), int() | float():
            return bool(right == given)
        case str(), str():
            return _heard(right) == _heard(given)
        case list(), list():
            return len(right) == len(given) and all(map(_same_value, right, given))
        case dict(), dict():
            return right.keys() == given.keys() and all(_same_value(right[name], given[name]) for name in right)
    return bool(right == given)


def _heard(text: str) -> str:
    """`standardize_string` of BFCL."""
    return _UNHEARD.sub("", text).lower().replace("'", '"')
