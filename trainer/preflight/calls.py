"""Tool calls against the tools that a row offers: a name that there is, arguments that are JSON and fit its schema.

Schemas are JSON Schema 2020-12 as `jsonschema` judges it, and nothing that they refer to is fetched. What does not fit
is told and kept: a model that learns from it will make such calls, and that is for the owner of the data to decide.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

from trainer.inputs.places import Places
from trainer.job import Row
from trainer.preflight.found import Found, some


def look(rows: Sequence[Row], places: Places) -> Found:
    """Every call of every row that has `tools`.

    Raises:
        DatasetInvalid: arguments that are no JSON object, which no template renders and no tool takes.
    """
    calls, faults, kinds = 0, [], Counter[str]()
    for row in rows:
        if "tools" not in row:
            continue
        offered = {name: parameters for name, parameters in map(_tool, row["tools"]) if name}
        for pointer, name, arguments in _calls(row):
            calls += 1
            if not isinstance(arguments, dict):
                raise places.fault(row, pointer, f"the arguments of `{name}` are no JSON object")
            if fault := _fault(name, arguments, offered):
                kind, said = fault
                kinds[kind] += 1
                faults.append(f"{places.where(row)} `{pointer}`: {said}")
    found = Found(facts={"tool_calls": calls, "tool_call_faults": dict(kinds)})
    if faults:
        found.findings.append(
            f"{len(faults):,} of {calls:,} tool calls do not fit their tools: {some(faults, len(faults))}"
        )
    return found


def _calls(row: Row) -> Iterator[tuple[str, str, Any]]:
    """JSON pointer, name and arguments of each call. OpenAI writes arguments as JSON text, templates take objects."""
    for i, turn in enumerate(row.get("messages") or ()):
        for j, call in enumerate(turn.get("tool_calls") or ()):
            function = call.get("function", call) if isinstance(call, dict) else {}
            arguments = function.get("arguments", {})
            if isinstance(arguments, str):
                try:
                    arguments = json.loads(arguments or "{}")
                except ValueError:
                    arguments = None
            yield f"/messages/{i}/tool_calls/{j}", str(function.get("name", "")), arguments


def _tool(tool: Mapping[str, Any]) -> tuple[str, Any]:
    function = tool.get("function", tool)
    return (
        (str(function.get("name") or ""), function.get("parameters") or {}) if isinstance(function, dict) else ("", {})
    )


def _fault(name: str, arguments: Mapping[str, Any], offered: Mapping[str, Any]) -> tuple[str, str] | None:
    if name not in offered:
        return "unknown tool", f"`{name}` is none of its tools ({', '.join(f'`{tool}`' for tool in offered)})"
    from referencing.exceptions import Unresolvable

    validator, broken = _validator(json.dumps(offered[name], sort_keys=True))
    errors: list[Any] = []
    try:
        if validator is not None:
            errors = list(validator.iter_errors(arguments))
    except (Unresolvable, RecursionError) as error:  # it refers to what is not in it, or to itself
        broken = f"{type(error).__name__}: {error}"
    if broken:
        return "broken schema", f"the schema of `{name}` is no JSON Schema: {broken[:200]}"
    if not errors:
        return None
    first = min(errors, key=lambda error: [str(part) for part in error.absolute_path])
    place = "".join(f"/{part}" for part in first.absolute_path)
    return "schema", f"`{name}`{f' at `{place}`' if place else ''}: {first.message[:200]}"


@cache
def _validator(schema: str) -> tuple[Any, str]:
    """One for each schema, or why there is none."""
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import SchemaError
    from referencing import Registry

    document = json.loads(schema)
    try:
        Draft202012Validator.check_schema(document)
    except SchemaError as error:
        return None, str(error.message)
    return Draft202012Validator(document, registry=Registry()), ""  # an empty registry: nothing is fetched
