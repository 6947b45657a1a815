"""Where in a value that has parts the fault is: a JSON pointer into it (RFC 6901), and what is wrong there."""

from collections.abc import Callable
from typing import Any

from enforcer.columns import ColumnType

OF_A_CALL = ("name", "arguments")
ROLES = ("system", "user", "assistant", "tool")


def fault(kind: ColumnType, value: Any) -> tuple[str, str] | None:
    """None where the fault is the value as a whole: no list, or an empty one."""
    look = _PARTS.get(kind)
    if look is None or not isinstance(value, list):
        return None
    for i, part in enumerate(value):
        if (found := look(part)) is not None:
            pointer, why = found
            return f"/{i}{pointer}", why
    return None


def _turn(turn: Any) -> tuple[str, str] | None:
    if not isinstance(turn, dict):
        return "", f"is {kind_of(turn)}, not `{{role, content}}`"
    role, said = turn.get("role"), turn.get("content")
    if role not in ROLES:
        what = f"`{role}` is no role" if isinstance(role, str) else "the role is missing"
        return "/role", f"{what}; there are {', '.join(f'`{name}`' for name in ROLES)}"
    if not isinstance(said, str):
        return "/content", "is missing, and no tool is called" if said is None else f"is {kind_of(said)}, not text"
    calls = turn.get("tool_calls") or []
    for i, call in enumerate(calls if isinstance(calls, list) else [calls]):
        if (why := not_a_call(call)) is not None:
            return f"/tool_calls/{i}", why
    return None


def not_a_call(call: Any) -> str | None:
    """Why this calls no tool; None where it does."""
    if isinstance(call, str):
        return "is no call: it is not JSON"
    function = call.get("function") if isinstance(call, dict) else None
    if unknown := unknown_in_call(call):
        names = ", ".join(f"`{name}`" for name in unknown)
        return f"has {names} beside its `name`, and a call is a `name` with its `arguments`"
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        return "is no call: it has no `function` with a `name`"
    if isinstance(function.get("arguments"), str):
        return f"the arguments of `{function['name']}`: the text is not JSON"
    if not isinstance(function.get("arguments"), dict):
        return f"the arguments of `{function['name']}` are no JSON object"
    return None


def unknown_in_call(call: Any) -> list[str]:
    """What a call holds that nobody reads, as arguments by another name; what is null holds nothing."""
    if not isinstance(call, dict):
        return []
    function = call["function"] if isinstance(call.get("function"), dict) else {}
    known = {"id", "type", "index", "function"} if function else {"id", "type", "index", "function", *OF_A_CALL}
    return [
        key
        for part, keys in ((call, known), (function, {*OF_A_CALL}))
        for key, value in part.items()
        if key not in keys and value is not None
    ]


def _text(part: Any) -> tuple[str, str] | None:
    if not isinstance(part, str):
        return "", f"is {kind_of(part)}, not text"
    return None if part.strip() else ("", "is empty")


def _schema(part: Any) -> tuple[str, str] | None:
    function = part.get("function") if isinstance(part, dict) else None
    named = isinstance(function, dict) and isinstance(function.get("name"), str)
    return None if named else ("", "is no tool: it has no `name`")


_PARTS: dict[ColumnType, Callable[[Any], tuple[str, str] | None]] = {
    "messages": _turn, "texts": _text, "labels": _text, "tools": _schema,
}  # fmt: skip


def kind_of(value: Any) -> str:
    return "missing" if value is None else f"`{type(value).__name__}`"
