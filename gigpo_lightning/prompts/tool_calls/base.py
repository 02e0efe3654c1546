"""Replies that call a tool; how a call is written is each form's own."""

import json
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gigpo_lightning.environments.tools import Tool, ToolCall, names_of, read_call, write_call, wrong_arguments
from gigpo_lightning.prompts.base import ChatTokenizer, ParsedAction, TurnView
from gigpo_lightning.prompts.replies import Reply, ReplyFormat, without_thought
from gigpo_lightning.text import well_formed

_LONGEST_ANSWER = 500  # characters

ACT: Tool = {
    "type": "function",
    "function": {
        "name": "act",
        "description": "Carry out one of the available actions.",
        "parameters": {
            "type": "object",
            "properties": {"action": {"type": "string", "description": "One of the available actions, word for word."}},
            "required": ["action"],
        },
    },
}
"""The one tool that the available actions of a text environment become."""


class MalformedCallError(ValueError):
    """A reply begins a call that cannot be read; the message is for the policy."""


class ToolCalls(ReplyFormat):
    """A reply calls one tool, and the environment is stepped with the call as JSON.

    A reply with several calls, with one that cannot be read, of an unknown tool or with wrong arguments is invalid. The
    environment does not hear of it: the next observation says what was wrong. What stands between think tags calls
    nothing.

    Args:
        offer_as_tool: Make one tool of the environment's available actions, ``act``, whose action is sent as it is.
        text_is_action: Send a reply without a call, less its thoughts; otherwise it is invalid.
        require_admissible: An action of ``act`` outside the available ones is invalid.
    """

    has_calls = True

    def __init__(
        self, offer_as_tool: bool = False, text_is_action: bool = False, require_admissible: bool = False
    ) -> None:
        self.offer_as_tool = offer_as_tool
        self.text_is_action = text_is_action
        self.require_admissible = require_admissible

    def check(self, tokenizer: ChatTokenizer) -> None:
        """Refuse a tokenizer whose chat template takes no tools.

        Raises:
            ValueError: If it is one.
        """
        tokenizer.write_chat([{"role": "user", "content": "hello"}], tools=[ACT])

    @property
    def shows_offer(self) -> bool:
        """Whether there is a tool that carries available actions out."""
        return self.offer_as_tool

    @abstractmethod
    def read(self, reply: Reply) -> list[ToolCall]:
        """The calls in a reply, none if it has none.

        Raises:
            MalformedCallError: If one cannot be read.
        """

    def tools(self, view: TurnView) -> Sequence[Tool]:
        """The environment's tools, and ``act``.

        Raises:
            ValueError: If there is no tool, or ``act`` is one of the environment's own.
        """
        tools = (*view.tools, *((ACT,) if self.offer_as_tool else ()))
        if not tools:
            raise ValueError(
                "the environment must give info['tools'] after reset for a prompt of tool calls, or offer_as_tool must "
                "be true; it gives none"
            )
        if names_of(tools).count("act") > 1:
            raise ValueError("offer_as_tool must be false for an environment that has a tool 'act'")
        return tools

    def calls(self, reply: Reply) -> Sequence[ToolCall]:
        """The calls in a reply, whether or not they are right."""
        try:
            return self.read(reply)
        except MalformedCallError:
            return ()

    def parse(self, reply: Reply, view: TurnView) -> ParsedAction:
        """Read the call, and check it against the tool's schema."""
        try:
            calls = self.read(reply)
        except MalformedCallError as error:
            return _refused("malformed tool call", f"The tool call cannot be read: {error}.")
        if not calls:
            text = without_thought(well_formed(reply.text)).strip()
            if self.text_is_action and text:
                return ParsedAction(action=text, valid=True)
            return _refused("no tool call", "The reply must call a tool, but has no tool call.")
        if len(calls) > 1:
            return _refused("several tool calls", f"The reply must call one tool, but has {len(calls)} tool calls.")
        return self._checked(calls[0], view)

    def _checked(self, call: ToolCall, view: TurnView) -> ParsedAction:
        tools = self.tools(view)
        tool = next((tool for tool in tools if tool["function"]["name"] == call.name), None)
        if tool is None:
            known = ", ".join(names_of(tools))
            return _refused("unknown tool", f"There is no tool {call.name!r}. The tools are: {known}.")
        if wrong := wrong_arguments(tool, call.arguments):
            return _refused("wrong arguments", f"The arguments of {call.name!r} are wrong: {wrong}.")
        if tool is not ACT:
            return ParsedAction(action=write_call(call), valid=True)
        action, known_actions = str(call.arguments["action"]), view.admissible_actions
        if self.require_admissible and known_actions is not None and action not in known_actions:
            return _refused("not an available action", f"{action!r} is not an available action.")
        return ParsedAction(action=well_formed(action), valid=True)

    def write(self, action: str, view: TurnView) -> str:
        """The reply of an action, which is a call as JSON, is to be carried out by ``act``, or is sent as it is.

        Raises:
            ValueError: If the form cannot write calls.
        """
        call = read_call(action)
        if self.offer_as_tool and (call is None or call.name not in names_of(view.tools)):
            call = ToolCall(name="act", arguments={"action": action})
        return action if call is None else self.written(call)

    def written(self, call: ToolCall) -> str:
        """A call in this form, for demonstrations.

        Raises:
            ValueError: If the form does not say how.
        """
        raise ValueError(f"{type(self).__name__} cannot write calls, as demonstrations need it")


def _refused(problem: str, answer: str) -> ParsedAction:
    answer = well_formed(answer)  # it may quote the reply
    answer = answer if len(answer) <= _LONGEST_ANSWER else f"{answer[:_LONGEST_ANSWER]}..."
    return ParsedAction(action="", valid=False, problem=problem, answer=answer)


def without_thoughts(reply: Reply) -> str:
    """A reply's exact text after its thoughts."""
    return without_thought(well_formed(reply.exact))


def call_of(found: object, arguments_key: Sequence[str] = ("arguments",)) -> ToolCall:
    """A call from its JSON value.

    Args:
        found: An object with a name and arguments, which may themselves be JSON in a string.
        arguments_key: Names that the arguments may have.

    Raises:
        MalformedCallError: If it is no such object.
    """
    if not isinstance(found, Mapping) or not isinstance(found.get("name"), str):
        raise MalformedCallError("it must be a JSON object with a name")
    arguments: Any = next((found[key] for key in arguments_key if key in found), {})
    if isinstance(arguments, str):
        arguments = loads(arguments)
    if not isinstance(arguments, Mapping):
        raise MalformedCallError(f"its {arguments_key[0]} must be a JSON object")
    return ToolCall(name=found["name"], arguments=arguments)


def loads(text: str) -> Any:
    """A JSON value.

    Raises:
        MalformedCallError: If the text is none.
    """
    return _decoded(_DECODER.decode, text)


def first_value(text: str, place: int) -> tuple[Any, int]:
    """The JSON value that begins at a place, and where it ends.

    Raises:
        MalformedCallError: If there is none.
    """
    value, end = _decoded(_DECODER.raw_decode, text, place)
    return value, end


def _no_number(name: str) -> None:
    raise json.JSONDecodeError(f"{name} is no JSON", name, 0)


_DECODER = json.JSONDecoder(parse_constant=_no_number)  # Python would take NaN and Infinity


def _decoded(decode: Callable[..., Any], *given: Any) -> Any:
    try:
        return decode(*given)
    except json.JSONDecodeError as error:
        raise MalformedCallError(f"it is not valid JSON: {error}") from error
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits, thousands of brackets
        raise MalformedCallError("it is not JSON of a reasonable size") from error
