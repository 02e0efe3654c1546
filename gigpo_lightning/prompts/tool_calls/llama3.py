"""Tool calls as Llama 3 models write them."""

import json
import re

from gigpo_lightning.environments.tools import ToolCall
from gigpo_lightning.prompts.replies import Reply
from gigpo_lightning.prompts.tool_calls.base import ToolCalls, call_of, first_value, without_thoughts

_TAG = "<|python_tag|>"
_BETWEEN = re.compile(r"[\s;]*")


class Llama3JsonToolCalls(ToolCalls):
    """``{"name": ..., "parameters": {...}}``, perhaps after ``<|python_tag|>``, and nothing else; ``;`` parts calls."""

    def read(self, reply: Reply) -> list[ToolCall]:
        """The JSON objects that the reply consists of; none if it begins with something else.

        Raises:
            MalformedCallError: If it begins with one, or with the tag, and goes on with something else.
        """
        text = without_thoughts(reply).strip()
        tagged = text.startswith(_TAG)
        text = text.removeprefix(_TAG).strip()
        if not tagged and not text.startswith("{"):
            return []
        calls, place = [], 0
        while place < len(text):
            found, place = first_value(text, place)
            calls.append(call_of(found, ("parameters", "arguments")))
            between = _BETWEEN.match(text, place)
            place = between.end() if between else place
        return calls

    def written(self, call: ToolCall) -> str:
        """The call as the JSON object that the reply is."""
        return json.dumps({"name": call.name, "parameters": dict(call.arguments)}, ensure_ascii=False)
