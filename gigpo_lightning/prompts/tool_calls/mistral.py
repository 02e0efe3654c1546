"""Tool calls as Mistral models write them."""

import re

from gigpo_lightning.environments.tools import ToolCall, write_call
from gigpo_lightning.prompts.replies import Reply
from gigpo_lightning.prompts.tool_calls.base import MalformedCallError, ToolCalls, call_of, loads, without_thoughts

_TAG, _ARGUMENTS = "[TOOL_CALLS]", "[ARGS]"
_NAMED = re.compile(r"\s*([^\s\[{]+)\s*(?:\[CALL_ID\]\s*\w+\s*)?\[ARGS\](.*)", re.DOTALL)


class MistralToolCalls(ToolCalls):
    """``[TOOL_CALLS] [{"name": ..., "arguments": {...}}]``, and of newer models ``[TOOL_CALLS]name[ARGS]{...}``."""

    def read(self, reply: Reply) -> list[ToolCall]:
        """The calls after the tag.

        Raises:
            MalformedCallError: If what follows the tag is no call.
        """
        _, *written = without_thoughts(reply).split(_TAG)
        return [call for each in written for call in self._read(each)]

    def written(self, call: ToolCall) -> str:
        """The call in a list after the tag."""
        return f"{_TAG} [{write_call(call)}]"

    def _read(self, written: str) -> list[ToolCall]:
        if named := _NAMED.fullmatch(written):
            return [call_of({"name": named[1], "arguments": loads(named[2])})]
        found = loads(written)
        if not isinstance(found, list):
            raise MalformedCallError(f"{_TAG} must be followed by a JSON list, or by a name, {_ARGUMENTS} and JSON")
        return [call_of(each) for each in found]
