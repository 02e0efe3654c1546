"""How a policy's text becomes a server's action: as the schema of actions wants it."""

import pytest

from gigpo_lightning.environments.openenv.actions import ActionForm, RefusedError, served_tools

TEXT = {"type": "string"}
META = {"metadata": {"type": "object"}}


def schema(required=(), definitions=None, **fields):
    return {"properties": META | fields, "required": list(required), "$defs": definitions or {}}


@pytest.mark.parametrize(
    ("of", "field"),
    [
        (schema(["message"], message=TEXT), "message"),
        (schema(["code"], code=TEXT, timeout={"type": "number"}), "code"),  # what is not required has a default
        (schema(message=TEXT, count={"type": "integer"}), "message"),  # nothing is required: the one text
        (schema(message={"anyOf": [TEXT, {"type": "null"}]}), "message"),
        (schema(["move"], move={"type": "integer"}), "move"),
        (schema(["row", "column"], row={"type": "integer"}, column={"type": "integer"}), ""),
        (schema(one=TEXT, other=TEXT), ""),
        ({}, ""),
    ],
)
def test_the_one_field_that_a_policy_writes_is_found(of, field):
    assert ActionForm.of(of, None).field == field


def test_a_text_goes_into_its_field_as_it_is():
    assert ActionForm.of(schema(["message"], message=TEXT), None).read('{"a": 1}') == {"message": '{"a": 1}'}


@pytest.mark.parametrize(("said", "value"), [("3", 3), ("[1, 2]", [1, 2]), ("three", "three")])
def test_another_field_is_read_as_json_or_left_for_the_server_to_refuse(said, value):
    assert ActionForm.of(schema(["move"], move={"type": "integer"}), None).read(said) == {"move": value}


def test_a_named_field_is_taken_where_the_schema_has_several_or_says_nothing():
    assert ActionForm.of(schema(one=TEXT, other=TEXT), "other").read("x") == {"other": "x"}
    assert ActionForm.of({}, "any").read("x") == {"any": "x"}


def test_choices_of_a_definition_are_what_can_be_done():
    of = schema(["way"], {"Way": {"enum": ["up", "down"]}}, way={"$ref": "#/$defs/Way"})
    form = ActionForm.of(of, None)
    assert form.choices == ("up", "down")
    assert form.read("up") == {"way": "up"}


def test_several_fields_are_an_object_or_a_call_of_the_tool_act():
    form = ActionForm.of(schema(["row", "column"], row={"type": "integer"}, column={"type": "integer"}), None)
    (tool,) = form.tools
    assert tool["function"]["name"] == "act"
    assert list(tool["function"]["parameters"]["properties"]) == ["row", "column"]
    assert form.read('{"row": 1, "column": 2}') == {"row": 1, "column": 2}
    assert form.read('{"name": "act", "arguments": {"row": 1, "column": 2}}') == {"row": 1, "column": 2}
    with pytest.raises(RefusedError, match="an action must be an object in JSON with row, column"):
        form.read("row 1")


def test_a_server_of_tools_is_given_calls():
    form = ActionForm.of(schema(["tool_name"], tool_name=TEXT, arguments={"type": "object"}), None)
    called = {"type": "call_tool", "tool_name": "walk", "arguments": {"steps": 1}}
    assert form.read('{"name": "walk", "arguments": {"steps": 1}}') == called
    with pytest.raises(RefusedError, match="an action must be a tool call in JSON"):
        form.read('{"steps": 1}')


@pytest.mark.parametrize("key", ["inputSchema", "input_schema"])
def test_tools_are_listed_as_either_version_of_the_package_writes_them(key):
    parameters = {"type": "object", "properties": {"steps": {"type": "integer"}}}
    (tool,) = served_tools({"tools": [{"name": "walk", "description": None, key: parameters}]})
    assert tool["function"] == {"name": "walk", "description": "", "parameters": parameters}
    assert served_tools(None) == served_tools({"error": 1}) == ()
