"""Where in a value that has parts the fault is: a JSON pointer into it (RFC 6901), and what is wrong there."""

from collections.abc import Callable
from typing import Any

from enforcer.columns import ColumnType

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
    if said is None and not turn.get("tool_calls"):
        return "/content", "is missing, and no tool is called"
    if said is not None and not isinstance(said, str):
        return "/content", f"is {kind_of(said)}, not text"
    return None


def _text(part: Any) -> tuple[str, str] | None:
    if not isinstance(part, str):
        return "", f"is {kind_of(part)}, not text"
    return None if part.strip() else ("", "is empty")


def _schema(part: Any) -> tuple[str, str] | None:
    return None if isinstance(part, dict) else ("", f"is {kind_of(part)}, not an object")


_PARTS: dict[ColumnType, Callable[[Any], tuple[str, str] | None]] = {
    "messages": _turn, "texts": _text, "labels": _text, "tools": _schema,
}  # fmt: skip


def kind_of(value: Any) -> str:
    return "missing" if value is None else f"`{type(value).__name__}`"
