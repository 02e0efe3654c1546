"""Tools of an environment: their schemas, and the call that it is stepped with."""

from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gigpo_lightning.environments.answers import AnswerError, read_reset
from gigpo_lightning.environments.tools import ToolCall, read_call, tool_schemas, write_call, wrong_arguments

OPEN = {
    "name": "open",
    "parameters": {"type": "object", "properties": {"door": {"type": "integer"}}, "required": ["door"]},
}


def look(place: str, times: int = 1) -> str:
    """Look at a place.

    Args:
        place: Where to look.
        times: How often.
    """
    return place * times


class Room:
    """Something whose methods are tools."""

    def open(self, door: int) -> str:
        """Open a door.

        Args:
            door: Its number.
        """
        return str(door)


def test_a_function_s_schema_comes_from_its_annotations_and_its_docstring() -> None:
    (schema,) = tool_schemas([look])
    assert schema["function"]["description"] == "Look at a place."
    assert schema["function"]["parameters"]["required"] == ["place"]
    assert schema["function"]["parameters"]["properties"]["times"] == {"type": "integer", "description": "How often."}


def test_a_method_is_a_tool_without_its_self() -> None:
    (schema,) = tool_schemas([Room().open])
    assert list(schema["function"]["parameters"]["properties"]) == ["door"]


def test_an_argument_that_may_be_none_may_be_null() -> None:
    def wait(seconds: float | None, how: Literal["here", "there"] | None = None) -> str:
        """Wait.

        Args:
            seconds: For how long.
            how: Where.
        """
        return f"{seconds} {how}"

    (schema,) = tool_schemas([wait])
    assert wrong_arguments(schema, {"seconds": None, "how": None}) == ""
    assert wrong_arguments(schema, {"seconds": 1.5, "how": "here"}) == ""
    assert "seconds: 'long' is not of type 'number', 'null'" in wrong_arguments(schema, {"seconds": "long"})


def test_a_schema_may_refer_to_its_own_parts() -> None:
    parameters = {"properties": {"door": {"$ref": "#/$defs/door"}}, "$defs": {"door": {"type": "integer"}}}
    (schema,) = tool_schemas([{"name": "open", "parameters": parameters}])
    assert wrong_arguments(schema, {"door": 1}) == ""
    assert wrong_arguments(schema, {"door": "a"}) == "door: 'a' is not of type 'integer'"


def test_a_bare_schema_is_wrapped_as_chat_templates_take_it() -> None:
    assert tool_schemas([OPEN]) == tool_schemas([{"type": "function", "function": OPEN}])


def test_a_tool_without_parameters_takes_none() -> None:
    (schema,) = tool_schemas([{"name": "wait"}])
    assert wrong_arguments(schema, {}) == ""
    assert "'now' was unexpected" in wrong_arguments(schema, {"now": 1})


@pytest.mark.parametrize(
    ("tools", "message"),
    [
        ("search", "tools must be a list or tuple of JSON schemas or functions, got 'search'"),
        ([3], "a tool must be a JSON schema with a name, or a function, got 3"),
        ([{"parameters": {}}], "a tool must be a JSON schema with a name"),
        ([{"name": ""}], "a tool must be a JSON schema with a name"),
        ([{"name": "a", "parameters": {"type": "thing"}}], "the parameters of tool 'a' must be a JSON schema, but:"),
        (
            [{"name": "a", "parameters": True}],
            "the parameters of tool 'a' must be a JSON schema of an object, got True",
        ),
        (
            [{"name": "a", "parameters": {"properties": {"b": {"$ref": "#/nowhere"}}}}],
            "the parameters of tool 'a' must hold what they refer to, got '#/nowhere'",
        ),
        ([OPEN, OPEN], "tools must have names of their own, got 'open' twice"),
        ([lambda x: x], "tool '<lambda>' must have annotations and a docstring that describes every argument"),
        ([{"name": "a", "parameters": object()}], "a tool must be a JSON schema or a function"),
    ],
)
def test_what_is_no_tool_is_refused(tools: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        tool_schemas(tools)


def test_a_reset_gives_the_schemas_of_its_functions() -> None:
    assert read_reset(("here", {"tools": [look]})).tools == tool_schemas([look])
    assert read_reset(("here", {})).tools == ()


def test_a_reset_with_a_wrong_tool_breaks_a_rule() -> None:
    with pytest.raises(AnswerError, match=r"reset gave info\['tools'\] that cannot be used: a tool must be"):
        read_reset(("here", {"tools": [3]}))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"door": 2}, ""),
        ({}, "'door' is a required property"),
        ({"door": "two"}, "door: 'two' is not of type 'integer'"),
        ({"door": 2, "key": 1}, "Additional properties are not allowed ('key' was unexpected)"),
    ],
)
def test_arguments_are_checked_against_the_schema(arguments: dict[str, Any], said: str) -> None:
    assert wrong_arguments(tool_schemas([OPEN])[0], arguments) == said


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@pytest.mark.slow
@given(
    st.text(st.characters(exclude_categories=["Cs"])),
    st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), JSON),
)
def test_a_call_that_is_written_is_read_again(name: str, arguments: dict[str, Any]) -> None:
    call = ToolCall(name=name, arguments=arguments)
    assert read_call(write_call(call)) == call


@pytest.mark.parametrize(
    "action", ["", "open 2", "3", "[]", '{"name": 3}', '{"name": "a"}', '{"name": "a", "arguments": 3}']
)
def test_any_other_action_is_no_call(action: str) -> None:
    assert read_call(action) is None
