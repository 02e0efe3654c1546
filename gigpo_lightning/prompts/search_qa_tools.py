"""Search QA by tool calls: a tool to search with, and one to answer with."""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from gigpo_lightning.environments.search_qa.tags import ANSWER, SEARCH
from gigpo_lightning.environments.tools import ToolCall, read_call, tool_schemas, write_call
from gigpo_lightning.prompts.base import EncodedPrompt, ParsedAction, Tokenizer, TurnView
from gigpo_lightning.prompts.chat import ChatPrompt
from gigpo_lightning.prompts.tool_calls import HermesToolCalls, ToolCalls

_ROLE = (
    "You are skilled at answering questions one step at a time, with a search engine at hand. Call one tool at a time. "
    "Search as long as you lack knowledge; once you are sure, answer, shortly and without explanation."
)
_TEXT = {SEARCH: "query", ANSWER: "answer"}
_TAG = re.compile(f"</?(?:{SEARCH}|{ANSWER})>", re.IGNORECASE)
_INFORMATION = re.compile(r"\s*<information>(.*)</information>\s*", re.DOTALL)


def _tool(name: str, description: str, argument: str) -> dict[str, Any]:
    properties = {_TEXT[name]: {"type": "string", "description": argument, "minLength": 1}}
    parameters = {"type": "object", "properties": properties, "required": [_TEXT[name]]}
    return {"name": name, "description": description, "parameters": parameters}


TOOLS = tool_schemas(
    [
        _tool(SEARCH, "Search for passages that may hold the answer.", "What to search for."),
        _tool(ANSWER, "Give the final answer, which ends the task.", "The answer alone, such as Beijing."),
    ]
)


class SearchQAToolPrompt(ChatPrompt):
    """A conversation in which the policy searches and answers by calling tools.

    The environment is the one of the tags: a call is sent to it as what it would be between tags, and what a search
    found is shown without them.

    Args:
        reply: How the model writes its calls.
        role: What the policy is told of itself.
        drop_thinking: Show earlier replies without what stands between think tags.
        last_turns: Show only so many earlier turns; default: all that there is room for.
        keep_written: Let the conversation grow also where the template would write earlier turns in another way.
        chat_template_kwargs: What the model's chat template takes beside messages and tools.

    Raises:
        ValueError: As ``ChatPrompt``.
    """

    def __init__(
        self,
        reply: ToolCalls | None = None,
        role: str = _ROLE,
        drop_thinking: bool = False,
        last_turns: int | None = None,
        keep_written: bool = False,
        chat_template_kwargs: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(
            role=role,
            reply=reply if reply is not None else HermesToolCalls(),
            drop_thinking=drop_thinking,
            last_turns=last_turns,
            keep_written=keep_written,
            chat_template_kwargs=chat_template_kwargs,
        )

    def message(self, view: TurnView, number: int, first: int) -> str:
        """The question, or what a search found."""
        message = super().message(view, number, first)
        found = _INFORMATION.fullmatch(message)
        return found[1].strip() if found else message

    def encode(self, view: TurnView, tokenizer: Tokenizer, max_tokens: int) -> EncodedPrompt:
        """Write the turn in at most ``max_tokens`` tokens, the tools among them."""
        return super().encode(_with_tools(view), tokenizer, max_tokens)

    def parse(self, response: str, view: TurnView) -> ParsedAction:
        """Read the call from a reply in words, and write it between tags."""
        return _tagged(super().parse(response, _with_tools(view)))

    def parse_tokens(
        self, completion_ids: Sequence[int], prompt_ids: Sequence[int], view: TurnView, tokenizer: Tokenizer
    ) -> ParsedAction:
        """Read the call from a reply in tokens, and write it between tags."""
        return _tagged(super().parse_tokens(completion_ids, prompt_ids, _with_tools(view), tokenizer))

    def write_reply(self, action: str, view: TurnView) -> str:
        """The call that an action between tags means."""
        for name, argument in _TEXT.items():
            if text := re.fullmatch(f"<{name}>(.*)</{name}>", action, re.DOTALL):
                return super().write_reply(write_call(ToolCall(name=name, arguments={argument: text[1].strip()})), view)
        return action


def _with_tools(view: TurnView) -> TurnView:
    return replace(view, tools=TOOLS)


def _tagged(parsed: ParsedAction) -> ParsedAction:
    call = read_call(parsed.action)
    if call is None:
        return parsed
    text = _TAG.sub(" ", str(call.arguments[_TEXT[call.name]])).strip()
    return replace(parsed, action=f"<{call.name}>{text}</{call.name}>")
