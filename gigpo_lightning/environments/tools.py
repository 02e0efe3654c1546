"""Functions that an environment lets the policy call: their JSON schemas, and the call that it is stepped with.

An environment gives ``info["tools"]`` after ``reset``, a list of JSON schemas or of Python functions. It is stepped
with a call as JSON, ``{"name": "search", "arguments": {"query": "..."}}``, which ``read_call`` reads. A call reaches it
only if its name and its arguments are right.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, cast

from gigpo_lightning.text import shown, well_formed

Tool = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """A function that the policy calls.

    Attributes:
        name: Its name.
        arguments: Its arguments by name.
    """

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


def write_call(call: ToolCall) -> str:
    """The action that an environment is stepped with.

    Example:
        >>> write_call(ToolCall(name="open", arguments={"door": 2}))
        '{"name": "open", "arguments": {"door": 2}}'
    """
    return well_formed(json.dumps({"name": call.name, "arguments": dict(call.arguments)}, ensure_ascii=False))


def read_call(action: str) -> ToolCall | None:
    """The call that an action is; None of any other text, such as a trial's nonsense.

    Example:
        >>> read_call('{"name": "open", "arguments": {"door": 2}}')
        ToolCall(name='open', arguments={'door': 2})
        >>> read_call("open the door") is None
        True
    """
    try:
        found = json.loads(action)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict) or not isinstance(found.get("name"), str):
        return None
    arguments = found.get("arguments")
    return ToolCall(name=found["name"], arguments=arguments) if isinstance(arguments, dict) else None


def tool_schemas(tools: object) -> tuple[Tool, ...]:
    """The JSON schemas of some tools, as chat templates take them.

    Args:
        tools: A list or tuple of JSON schemas, with or without ``{"type": "function", "function": ...}`` around them,
            or of functions with annotations and a docstring in Google's style, which Transformers makes schemas of.

    Raises:
        ValueError: If one is neither, or two share a name.
    """
    if not isinstance(tools, list | tuple):
        raise ValueError(f"tools must be a list or tuple of JSON schemas or functions, got {shown(tools)}")
    schemas = tuple(_schema(tool) for tool in tools)
    names = [schema["function"]["name"] for schema in schemas]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"tools must have names of their own, got {name!r} twice")
    return schemas


def _schema(tool: object) -> Tool:
    if callable(tool):
        return _of_function(tool)
    try:
        schema = json.loads(json.dumps(tool))
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"a tool must be a JSON schema or a function, got {shown(tool)}: {error}") from error
    if isinstance(schema, dict) and "function" not in schema:
        schema = {"type": "function", "function": schema}
    function = schema.get("function") if isinstance(schema, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(function, dict) or not isinstance(name, str) or not name:
        raise ValueError(f"a tool must be a JSON schema with a name, or a function, got {shown(tool)}")
    _check_parameters(name, function.setdefault("parameters", {"type": "object", "properties": {}}))
    return cast("Tool", schema)


def _check_parameters(name: str, parameters: object) -> None:
    """Refuse what would fail, or let anything pass, when a call is checked."""
    from jsonschema import Draft202012Validator, SchemaError  # type: ignore[import-untyped]
    from referencing import Registry
    from referencing.exceptions import Unresolvable
    from referencing.jsonschema import DRAFT202012

    if not isinstance(parameters, dict):
        raise ValueError(f"the parameters of tool {name!r} must be a JSON schema of an object, got {shown(parameters)}")
    try:
        Draft202012Validator.check_schema(parameters)
    except SchemaError as error:
        raise ValueError(f"the parameters of tool {name!r} must be a JSON schema, but: {error.message}") from error
    resolver = Registry().resolver_with_root(DRAFT202012.create_resource(parameters))
    for reference in _references(parameters):
        try:
            resolver.lookup(reference)
        except Unresolvable as error:
            raise ValueError(
                f"the parameters of tool {name!r} must hold what they refer to, got {reference!r}"
            ) from error


def _references(schema: object) -> Iterator[str]:
    """Where a schema refers to."""
    if isinstance(schema, dict) and isinstance(schema.get("$ref"), str):
        yield schema["$ref"]
    for each in schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ():
        yield from _references(each)


def _of_function(function: Callable[..., Any]) -> Tool:
    from transformers.utils import chat_template_utils as schemas

    unread = (schemas.DocstringParsingException, schemas.TypeHintParsingException)
    try:
        return cast("Tool", schemas.get_json_schema(function))
    except (*unread, ValueError, TypeError, NameError, AttributeError) as error:  # the last ones are of annotations
        name = getattr(function, "__name__", repr(function))
        raise ValueError(
            f"tool {name!r} must have annotations and a docstring that describes every argument: {error}"
        ) from error


def wrong_arguments(tool: Tool, arguments: Mapping[str, Any]) -> str:
    """What is wrong with a call's arguments, by the tool's schema; empty if nothing is.

    Arguments that the schema does not name are wrong too, unless it says that there may be others.
    """
    parameters = json.dumps(tool["function"]["parameters"], sort_keys=True)
    try:
        errors = sorted(
            _validator(parameters).iter_errors(dict(arguments)), key=lambda error: list(map(str, error.path))
        )
    except RecursionError:
        return "the arguments are nested too deeply"
    said = []
    for error in errors:
        where = ".".join(map(str, error.path))
        said.append(f"{where}: {error.message}" if where else error.message)
    return "; ".join(said)


@lru_cache(maxsize=256)
def _validator(parameters: str) -> Any:
    from jsonschema import Draft202012Validator

    schema = _with_null(json.loads(parameters))
    if "properties" in schema:
        schema.setdefault("additionalProperties", False)
    return Draft202012Validator(schema)


def _with_null(schema: Any) -> Any:
    """The schema with null among the types of what is ``nullable``, as Transformers calls a function's ``X | None``."""
    if isinstance(schema, list):
        return [_with_null(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    schema = {name: _with_null(each) for name, each in schema.items()}
    if schema.get("nullable") is True:
        schema |= {"type": [schema["type"], "null"]} if isinstance(schema.get("type"), str) else {}
        schema |= {"enum": [*schema["enum"], None]} if "enum" in schema else {}
    return schema


def names_of(tools: Sequence[Tool]) -> list[str]:
    """The names of some tools."""
    return [str(tool["function"]["name"]) for tool in tools]
