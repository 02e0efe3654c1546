"""What a policy writes, as a server's action: one field, an object in JSON, or a tool call, as its schema wants it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gigpo_lightning.environments.tools import Tool, read_call, tool_schemas
from gigpo_lightning.suggestions import did_you_mean

TOOL = "act"
"""Name of the tool that stands for an action of several fields."""
_NOT_ASKED_FOR = ("metadata", "type")


class RefusedError(ValueError):
    """An action that no server needs to be asked about; the message is for the policy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionForm:
    """How actions are written for a server.

    Attributes:
        field: The one field that the policy's text goes into; empty for an action in JSON.
        is_text: Whether that field is a text; else the text is read as JSON.
        choices: What the field may be; none if the schema does not say.
        calls_tools: Whether an action is the call of one of the server's tools (MCP).
        tools: The tool that stands for an action in JSON.
    """

    field: str = ""
    is_text: bool = True
    choices: tuple[str, ...] = ()
    calls_tools: bool = False
    tools: tuple[Tool, ...] = ()

    @classmethod
    def of(cls, schema: Mapping[str, Any], action_field: str | None) -> "ActionForm":
        """Read it from a schema of actions, which may be empty.

        Raises:
            ValueError: If the schema does not know ``action_field``.
        """
        properties: Mapping[str, Any] = schema.get("properties", {})
        if action_field is not None and properties and action_field not in properties:
            raise ValueError(
                f"action_field must be a field of the server's actions ({', '.join(properties)}), got {action_field!r}"
                f"{did_you_mean(action_field, properties)}"
            )
        if action_field is None and {"tool_name", "arguments"} <= properties.keys():
            return cls(calls_tools=True)
        field = action_field or _only_field(schema)
        if not field:
            return cls(tools=_as_tool(schema))
        of_field = _resolved(properties.get(field, {"type": "string"}), schema)
        choices = of_field.get("enum", ())
        is_text = "string" in _types(of_field) or (bool(choices) and all(isinstance(each, str) for each in choices))
        return cls(field=field, is_text=is_text, choices=tuple(map(_as_text, choices)))

    def read(self, action: str) -> dict[str, Any]:
        """The action's data.

        Raises:
            RefusedError: If the text is not of the form.
        """
        if self.field:
            return {self.field: action if self.is_text else _value(action)}
        call = read_call(action)
        if self.calls_tools:
            if call is None:
                raise RefusedError('an action must be a tool call in JSON: {"name": ..., "arguments": {...}}')
            return {"type": "call_tool", "tool_name": call.name, "arguments": dict(call.arguments)}
        found = call.arguments if call is not None and call.name == TOOL else _value(action)
        if not isinstance(found, dict):
            raise RefusedError("an action must be an object in JSON" + self._fields())
        return found

    def _fields(self) -> str:
        named = [name for tool in self.tools for name in tool["function"]["parameters"].get("properties", {})]
        return f" with {', '.join(named)}" if named else ""


def served_tools(result: object) -> tuple[Tool, ...]:
    """The tools that a server lists, as chat templates take them; none of an answer that lists nothing.

    Raises:
        ValueError: If one cannot be used.
    """
    listed = result.get("tools") if isinstance(result, dict) else None
    return tool_schemas([_served(each) for each in listed]) if isinstance(listed, list) else ()


def _served(tool: Mapping[str, Any]) -> dict[str, Any]:
    parameters = tool.get("inputSchema") or tool.get("input_schema") or {"type": "object", "properties": {}}
    return {"name": tool.get("name"), "description": tool.get("description") or "", "parameters": parameters}


def _only_field(schema: Mapping[str, Any]) -> str:
    """The one field that is required, or the one text where nothing is required; else nothing."""
    properties = {name: each for name, each in schema.get("properties", {}).items() if name not in _NOT_ASKED_FOR}
    required = [name for name in schema.get("required", ()) if name in properties]
    if required:
        return str(required[0]) if len(required) == 1 else ""
    texts = [name for name, each in properties.items() if "string" in _types(_resolved(each, schema))]
    return texts[0] if len(texts) == 1 else ""


def string_fields(schema: Mapping[str, Any], left_out: Sequence[str]) -> list[str]:
    """The fields of a schema that are texts."""
    properties = schema.get("properties", {})
    return [
        name
        for name, each in properties.items()
        if name not in left_out and "string" in _types(_resolved(each, schema))
    ]


def _resolved(field: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """A field's own schema, which may stand under ``$defs``."""
    name = str(field.get("$ref", "")).removeprefix("#/$defs/")
    found = schema.get("$defs", {}).get(name, field)
    return found if isinstance(found, dict) else field


def _types(field: Mapping[str, Any]) -> set[str]:
    kind = field.get("type", ())
    kinds = {kind} if isinstance(kind, str) else set(kind)
    return kinds.union(*(_types(each) for each in field.get("anyOf", ()) if isinstance(each, dict)))


def _as_tool(schema: Mapping[str, Any]) -> tuple[Tool, ...]:
    """The tool whose arguments are an action's fields; none if no field is known."""
    properties = {name: each for name, each in schema.get("properties", {}).items() if name not in _NOT_ASKED_FOR}
    if not properties:
        return ()
    kept = {name: schema[name] for name in ("required", "$defs") if name in schema}
    parameters = {"type": "object", "properties": properties, **kept}
    description = str(schema.get("description") or "Act in the environment.")
    return tool_schemas([{"name": TOOL, "description": description, "parameters": parameters}])


def _value(text: str) -> Any:
    """What a text says in JSON; the text itself if it is none, for the server to refuse."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _as_text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
