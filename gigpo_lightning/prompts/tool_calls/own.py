"""Tool calls by the tokenizer's own rules for replies."""

from gigpo_lightning.environments.tools import ToolCall
from gigpo_lightning.prompts.base import ChatTokenizer
from gigpo_lightning.prompts.replies import Reply
from gigpo_lightning.prompts.tool_calls.base import MalformedCallError, ToolCalls, call_of


class OwnToolCalls(ToolCalls):
    """What the tokenizer's response template (``response_schema`` in early Transformers 5) calls a tool call."""

    reads_messages = True

    def check(self, tokenizer: ChatTokenizer) -> None:
        """Refuse a tokenizer that has no such template, or a wrong one.

        Raises:
            ValueError: If it has none, or Transformers does not take it; or the chat template takes no tools.
        """
        super().check(tokenizer)
        tokenizer.check_replies()

    def read(self, reply: Reply) -> list[ToolCall]:
        """The calls of the message.

        Raises:
            MalformedCallError: If the reply does not follow the template, or a call is none.
        """
        if reply.message is None:
            raise MalformedCallError("it does not have the form that the model was taught")
        calls = reply.message.get("tool_calls") or ()
        if not isinstance(calls, list | tuple):
            raise MalformedCallError("the tool calls must be a list")
        return [call_of(call.get("function", call) if isinstance(call, dict) else call) for call in calls]
