"""Tool calls as Hermes and Qwen models write them."""

import re

from gigpo_lightning.environments.tools import ToolCall, write_call
from gigpo_lightning.prompts.replies import Reply
from gigpo_lightning.prompts.tool_calls.base import (
    MalformedCallError,
    ToolCalls,
    call_of,
    loads,
    without_thoughts,
)

_OPEN, _CLOSE = "<tool_call>", "</tool_call>"
_CALL = re.compile(f"{_OPEN}(.*?){_CLOSE}", re.DOTALL)


class HermesToolCalls(ToolCalls):
    """``<tool_call>{"name": ..., "arguments": {...}}</tool_call>``, of Hermes 2 and 3, Qwen 2.5 and Qwen 3."""

    def read(self, reply: Reply) -> list[ToolCall]:
        """The calls between tags.

        Raises:
            MalformedCallError: If a tag is left open, or what stands between is no call.
        """
        text = without_thoughts(reply)
        found = _CALL.findall(text)
        if text.count(_OPEN) > len(found):
            raise MalformedCallError(f"{_CLOSE} is missing")
        return [call_of(loads(inside)) for inside in found]

    def written(self, call: ToolCall) -> str:
        """The call between tags."""
        return f"{_OPEN}\n{write_call(call)}\n{_CLOSE}"
